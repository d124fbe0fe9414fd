"""DFDC: the parts of the Deepfake Detection Challenge's training set, its public validation set and its test set."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.datasets.layout import (
    absolute,
    count,
    find_folder,
    folders_in,
    keep_first,
    name_some,
    no_layout,
    not_listed,
    not_there,
    read_json,
    read_text,
    videos_in,
)
from pipelines.errors import DatasetError
from pipelines.records import Label, VideoRow

NAME = "dfdc"
PART_LIST = "metadata.json"
LABEL_LIST = "labels.csv"
MAX_DEPTH = 3
"""Such as train/dfdc_train_part_00/dfdc_train_part_0."""
VALIDATION = re.compile(r"(?<![a-z])val")
"""Matches the folder names validation and dfdc_val, but not evaluation."""
LABEL_OF: dict[str, Label] = {"REAL": "real", "FAKE": "fake"}
LABEL_OF_DIGIT: dict[str, Label] = {"0": "real", "1": "fake"}


def list_dfdc(root: Path) -> Listing:
    """The videos of parts (folders with `metadata.json`) and of labelled sets (folders with `labels.csv`).

    A labelled set is for validation if its path says so (`validation`, `val`), else for testing. Where one holds videos, the
    parts are for training, as in the challenge; else nothing has a split, and `group`, the part, says what a split that
    is dealt must keep together: actors appear again within a part. Beside `labels.csv` a `metadata.json` is not read.

    Raises:
        DatasetError: no such folder is there, or a list is not readable.
    """
    folders = list(_walk(root, MAX_DEPTH)) if root.is_dir() else []
    labelled = [folder for folder in folders if (folder / LABEL_LIST).is_file()]
    parts = [folder for folder in folders if folder not in labelled and (folder / PART_LIST).is_file()]
    if not labelled and not parts:
        raise no_layout(root, NAME, f"folder with {PART_LIST} (a part) or {LABEL_LIST} (validation or test set)")
    rows: list[VideoRow] = []
    mismatches: list[Mismatch] = []
    for folder, split, name in _name_sets(labelled, root):
        of_set, found = _list_set(folder, root, name, split)
        rows, mismatches = rows + of_set, mismatches + found
    has_sides = bool(rows)
    for folder, name in _name_parts(parts, root):
        of_part, found = _list_part(folder, root, name, "train" if has_sides else None)
        rows, mismatches = rows + of_part, mismatches + found
    videos, repeated = keep_first(rows, root)
    unlisted = _find_unlisted(folders, [*parts, *labelled], root)
    return Listing(videos, [*mismatches, *repeated, *unlisted], has_official_split=has_sides)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, down to a depth."""
    yield folder
    for child in folders_in(folder) if depth else ():
        yield from _walk(child, depth - 1)


def _where(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _name_parts(folders: Sequence[Path], root: Path) -> list[tuple[Path, str]]:
    """Each part with its name, extended by the folders above it where two would be equal."""
    names = [Path(absolute(folder)).name for folder in folders]
    counts = Counter(names)
    return [
        (folder, name if counts[name] == 1 else _where(folder, root))
        for folder, name in zip(folders, names, strict=True)
    ]


def _name_sets(folders: Sequence[Path], root: Path) -> list[tuple[Path, str, str]]:
    """Each labelled set with its split and a name: the split, and the path if several have the same split."""
    splits = [_split_of(folder, root) for folder in folders]
    return [
        (folder, split, split if splits.count(split) == 1 else f"{split}/{_where(folder, root)}")
        for folder, split in zip(folders, splits, strict=True)
    ]


def _split_of(folder: Path, root: Path) -> str:
    for part in reversed((Path(absolute(root)).name, *folder.relative_to(root).parts)):
        if VALIDATION.search(part.casefold()):
            return "val"
        if "test" in part.casefold():
            return "test"
    return "test"


def _videos_of(folder: Path) -> dict[str, Path]:
    """The videos in the folder, and in `videos` below it, by file name."""
    inner = find_folder(folder, "videos")
    return {path.name: path for path in (videos_in(inner) if inner else []) + videos_in(folder)}


def _list_part(folder: Path, root: Path, part: str, split: str | None) -> tuple[list[VideoRow], list[Mismatch]]:
    entries = read_json(folder / PART_LIST)
    if not isinstance(entries, dict):
        raise DatasetError(f"{folder / PART_LIST} is no table of videos; get it again from the data set's page")
    labels = {name: LABEL_OF.get(_field(entry, "label") or "") for name, entry in entries.items()}
    originals = {
        name: f"{NAME}/{part}/{PurePosixPath(original).stem}"
        for name, entry in entries.items()
        if (original := _field(entry, "original"))
    }
    return _make_rows(folder, root, PART_LIST, labels, originals, part, group=part, split=split)


def _field(entry: Any, name: str) -> str | None:
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if isinstance(value, str) else None


def _list_set(folder: Path, root: Path, name: str, split: str) -> tuple[list[VideoRow], list[Mismatch]]:
    path = folder / LABEL_LIST
    reader = csv.DictReader(StringIO(read_text(path)))
    missing = {"filename", "label"} - set(reader.fieldnames or ())
    if missing:
        raise DatasetError(f"{path} lacks the column {sorted(missing)[0]!r}; get it again from the data set's page")
    labels = {record["filename"]: LABEL_OF_DIGIT.get(record["label"] or "") for record in reader if record["filename"]}
    return _make_rows(folder, root, LABEL_LIST, labels, {}, name, group=None, split=split)


def _make_rows(
    folder: Path,
    root: Path,
    list_name: str,
    labels: Mapping[str, Label | None],
    originals: Mapping[str, str],
    name: str,
    *,
    group: str | None,
    split: str | None,
) -> tuple[list[VideoRow], list[Mismatch]]:
    """Rows of the listed videos that are there and have a label, and mismatches about all others."""
    there = _videos_of(folder)
    videos = _match_names(labels, there)
    rows = [
        VideoRow(
            video_id="",
            sha256="",
            video_key=f"{NAME}/{name}/{PurePosixPath(file_name).stem}",
            path=absolute(videos[file_name]),
            label=label,
            split=split,
            original=originals.get(file_name),
            group=group,
            dataset=NAME,
        )
        for file_name, label in labels.items()
        if label and file_name in videos
    ]
    where = _where(folder / list_name, root)
    mismatches = not_there(where, sorted(labels.keys() - videos.keys()), len(labels))
    taken = set(videos.values())
    mismatches += not_listed(_where(folder, root), sorted(name for name, path in there.items() if path not in taken))
    unlabelled = sorted(file_name for file_name, label in labels.items() if label is None)
    if unlabelled:
        message = f"skipped {count(unlabelled)} without a known label: {name_some(unlabelled)}"
        mismatches.append(Mismatch("layout", where, message))
    return rows, mismatches


def _match_names(listed: Collection[str], there: Mapping[str, Path]) -> dict[str, Path]:
    """The file of each listed name, else the only one whose name differs just in case."""
    exact = {name: there[name] for name in listed if name in there}
    folded_listed = _by_folded_name(name for name in listed if name not in there)
    folded_there = _by_folded_name(name for name in there if name not in exact)
    alike = {
        names[0]: there[folded_there[folded][0]]
        for folded, names in folded_listed.items()
        if len(names) == len(folded_there.get(folded, ())) == 1
    }
    return exact | alike


def _by_folded_name(names: Iterable[str]) -> dict[str, list[str]]:
    by_folded: dict[str, list[str]] = {}
    for name in names:
        by_folded.setdefault(name.casefold(), []).append(name)
    return by_folded


def _find_unlisted(folders: Sequence[Path], listed: Sequence[Path], root: Path) -> list[Mismatch]:
    """Folders that hold videos but no list."""
    mismatches: list[Mismatch] = []
    for folder in folders:
        is_inner = folder.name.casefold() == "videos" and folder.parent in listed
        if folder not in listed and not is_inner:
            mismatches += not_listed(_where(folder, root), [path.name for path in videos_in(folder)])
    return mismatches


def _in_part(label: Label) -> PublishedCount:
    count = {"real": 19_154, "fake": 100_000}[label]
    return PublishedCount(f"train, {label}", count, lambda video: video.group is not None and video.label == label)


def _in_set(split: str, label: Label, count: int) -> PublishedCount:
    return PublishedCount(
        f"{split}, {label}",
        count,
        lambda video: video.split == split and video.label == label,
    )


DFDC = Dataset(
    name=NAME,
    title="Deepfake Detection Challenge (full), Dolhansky et al. 2020",
    list_videos=list_dfdc,
    request=(
        "Register at https://ai.meta.com/datasets/dfdc (an AWS account is needed) and accept the licence; the training "
        "parts are also at https://www.kaggle.com/c/deepfake-detection-challenge/data, under the rules of the challenge."
    ),
    layout=f"""\
ROOT/
  dfdc_train_part_0/{PART_LIST}, aaaaaaaaaa.mp4 ...
  dfdc_train_part_1/ ... dfdc_train_part_49/
  validation/{LABEL_LIST}, 4000.mp4 ...
  test/{LABEL_LIST}, aaaaaaaaaa.mp4 ...
Any of these alone is enough, ROOT may also be one of them. The parts may lie deeper (train/dfdc_train_part_00/
dfdc_train_part_0), the videos in a folder videos next to the list.""",
    published=(
        _in_part("real"),
        _in_part("fake"),
        _in_set("val", "real", 2000),
        _in_set("val", "fake", 2000),
        _in_set("test", "real", 2500),
        _in_set("test", "fake", 2500),
    ),
)
