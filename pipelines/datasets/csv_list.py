"""Your own data set: a CSV with the path and label of each video, and optional details."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.datasets.dataset import Dataset, Listing, Mismatch
from pipelines.datasets.layout import absolute
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from pipelines.system.csv_text import read_lines
from pipelines.workspace.inputs import InputFile, make_video_keys
from pipelines.workspace.labels import LABEL_FIELDS, VideoLabel, to_label

NAME = "csv"
COLUMNS = f"path,label[,{','.join(LABEL_FIELDS[1:])}]"


def list_csv(root: Path) -> Listing:
    """The videos that a CSV names; `root` is the file, and the paths in it start at its folder.

    `original` is a path or a file name, with suffix or without, and becomes the key of the video that it fits; one that
    fits none is reported and stays as it is given. `dataset` is the CSV's name where the column says nothing. The split is
    official if every video has one. A `mask` that is not there is reported and left out. A backslash may stand for a slash.

    Raises:
        DatasetError: no readable CSV, a missing column, a line without path or label, an unknown label or split, a video
            that is named twice, none that is there, or an original that fits several.
    """
    lines = _read_lines(root)
    _refuse_repeated(lines, root)
    there = [line for line in lines if line.path.is_file()]
    if not there:
        raise DatasetError(f"{root} names no video that is there; its paths must start at the folder {root.parent}")
    files = [InputFile(line.path, _name_below(root.parent, line.path)) for line in there]
    mismatches = [line.missing(line.given) for line in lines if not line.path.is_file()]
    key_of = dict(zip(there, make_video_keys(files), strict=True))
    original_of = _find_originals(lines, root)
    videos: list[VideoRow] = []
    for line, key in key_of.items():
        about = replace(line.about, dataset=line.about.dataset or root.stem)
        if about.original:
            original = original_of.get(line)
            mismatches += [] if original else [line.missing_original()]
            about = replace(about, original=key_of.get(original, original.given) if original else about.original)
        if about.mask:
            mask = _resolve(root.parent, about.mask)
            mismatches += [] if mask.is_file() else [line.missing(about.mask)]
            about = replace(about, mask=absolute(mask) if mask.is_file() else None)
        videos.append(VideoRow(video_id="", sha256="", video_key=key, path=absolute(line.path), **vars(about)))
    return Listing(videos, mismatches, has_official_split=all(video.split for video in videos))


@dataclass(frozen=True)
class _Line:
    """A line of the CSV."""

    number: int
    given: str
    """Its path as written."""
    path: Path
    about: VideoLabel

    def missing(self, name: str) -> Mismatch:
        """A mismatch: something that the line names is missing."""
        return Mismatch("missing", f"line {self.number}", f"{name} is not there; correct the path or remove the line")

    def missing_original(self) -> Mismatch:
        """A mismatch: its original is not listed."""
        message = (
            f"original {self.about.original} of {self.given} is in no line; fakes of one original are kept together all "
            "the same"
        )
        return Mismatch("unlisted", f"line {self.number}", message)


def _read_lines(path: Path) -> list[_Line]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(read_lines(file))
            fields, records = reader.fieldnames or (), [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} is not a readable CSV file ({error}); pass one with the columns {COLUMNS}"
        ) from error
    missing = {"path", "label"} - set(fields)
    if missing:
        raise DatasetError(f"{path} lacks the column {sorted(missing)[0]!r}; it needs {COLUMNS}")
    return [_make_line(path, number, record) for number, record in records]


def _make_line(source: Path, number: int, record: Mapping[str, Any]) -> _Line:
    where = f"{source} line {number}"
    about = to_label(record, where)
    if not record["path"] or about.label is None:
        raise DatasetError(f"{where} lacks the path or the label; complete or remove the line")
    return _Line(number, record["path"], _resolve(source.parent, record["path"]), about)


def _resolve(folder: Path, name: str) -> Path:
    """The path of that name, with slashes instead of backslashes if only then a file exists."""
    path, slashed = folder / name, folder / name.replace("\\", "/")
    return slashed if not path.is_file() and slashed.is_file() else path


def _refuse_repeated(lines: Sequence[_Line], source: Path) -> None:
    first: dict[str, _Line] = {}
    for line in lines:
        before = first.setdefault(absolute(line.path), line)
        if before is not line:
            raise DatasetError(
                f"{source} names {line.given} in line {before.number} and in line {line.number}; keep one of them"
            )


def _find_originals(lines: Sequence[_Line], source: Path) -> dict[_Line, _Line]:
    """For each line whose original is listed too, the original's line.

    Raises:
        DatasetError: an original fits several lines.
    """
    lines_of: dict[tuple[str, str], list[_Line]] = {}
    for line in lines:
        for name in _names_of(line.path):
            lines_of.setdefault(name, []).append(line)
    originals: dict[_Line, _Line] = {}
    for line in lines:
        wanted = _spellings(line.about.original, source.parent) if line.about.original else ()
        fitting = next((lines_of[name] for name in wanted if name in lines_of), [])
        if len(fitting) > 1:
            raise DatasetError(
                f"{source} line {line.number}: original {line.about.original} could be {fitting[0].given} or "
                f"{fitting[1].given}; give the path as it stands in its line"
            )
        if fitting:
            originals[line] = fitting[0]
    return originals


def _names_of(path: Path) -> list[tuple[str, str]]:
    """The names by which a video may be given as an original: path or file name, with or without suffix."""
    full = Path(absolute(path))
    return [
        ("path", str(full)),
        ("path without suffix", str(full.parent / full.stem)),
        ("name", full.name),
        ("stem", full.stem),
    ]


def _spellings(original: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The names to look up an original by, most specific first."""
    for name in dict.fromkeys((original, original.replace("\\", "/"))):
        full = Path(absolute(folder / name))
        yield from (("path", str(full)), ("path without suffix", str(full)))
        if len(Path(name).parts) == 1:
            yield from (("name", full.name), ("stem", full.name), ("stem", full.stem))
        yield "path without suffix", str(full.parent / full.stem)


def _name_below(folder: Path, path: Path) -> str:
    """The path relative to the folder, or the name of a video that is elsewhere."""
    base, full = Path(absolute(folder)), Path(absolute(path))
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else full.name


CSV = Dataset(
    name=NAME,
    title="Videos of your own in a CSV",
    list_videos=list_csv,
    request="Nothing to request: these are your own videos.",
    layout=f"""\
ROOT is a CSV file with the columns {COLUMNS}:
  path,label,split,original,identity
  clips/a.mp4,real,train,,anna
  clips/b.mp4,fake,train,clips/a.mp4,anna;ben
Paths start at the folder of the CSV; real or fake, and train, val or test or nothing.""",
)
