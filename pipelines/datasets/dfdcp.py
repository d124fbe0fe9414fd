"""DFDCP: the preview of the Deepfake Detection Challenge's data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.datasets.layout import absolute, keep_first, no_layout, not_listed, not_there, read_json, videos_in
from pipelines.errors import DatasetError
from pipelines.records import LABELS, Label, VideoRow

NAME = "dfdcp"
LIST = "dataset.json"
REAL_FOLDER = "original_videos"
OFFICIAL_SPLITS = ("train", "test")
PEOPLE = ("target_id", "swapped_id")


def list_dfdcp(root: Path) -> Listing:
    """The videos that `dataset.json` names, with its labels and sides.

    A video that is not at its listed path is looked for by its file name below the first folder of that path: copies put a
    folder `videos` in between. For that it has to be the only one of its name there, in the list as among the files. A
    label that contradicts the folder is reported and the list counts, since results are reported on it.

    Raises:
        DatasetError: no `dataset.json`, or it has another form.
    """
    if not (root / LIST).is_file():
        raise no_layout(root, NAME, LIST)
    entries = _read_entries(root / LIST)
    files = _Files.below(root, entries)
    paths = {name: path for name in entries if (path := files.find(name))}
    rows = [_make_row(name, path, entries[name]) for name, path in paths.items()]
    videos, mismatches = keep_first(rows, root)
    mismatches += _find_contradictions({name: entries[name] for name in paths})
    mismatches += not_there(LIST, sorted(entries.keys() - paths.keys()), len(entries))
    taken = set(paths.values())
    others = [name for name, path in files.by_path.items() if path not in taken]
    return Listing(videos, mismatches + not_listed(".", others), has_official_split=True)


@dataclass(frozen=True)
class _Files:
    """The videos below the root."""

    by_path: Mapping[str, Path]
    """By path relative to the root."""
    by_name: Mapping[tuple[str, str], Path]
    """By first folder and file name, where one listed path and one file have these."""

    @classmethod
    def below(cls, root: Path, listed: Collection[str]) -> _Files:
        by_path = {path.relative_to(root).as_posix(): path for path in videos_in(root, recursive=True)}
        num_listed, num_there = Counter(map(_ends_of, listed)), Counter(map(_ends_of, by_path))
        by_name = {_ends_of(name): path for name, path in by_path.items()}
        return cls(by_path, {ends: by_name[ends] for ends in by_name if num_listed[ends] == num_there[ends] == 1})

    def find(self, listed: str) -> Path | None:
        """The video of a listed path; None if it is not there or could be several."""
        return self.by_path.get(listed) or self.by_name.get(_ends_of(listed))


def _ends_of(name: str) -> tuple[str, str]:
    return _method_folder(name), PurePosixPath(name).name


def _method_folder(name: str) -> str:
    return PurePosixPath(name).parts[0]


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DatasetError(f"{path} is no table of videos; get it again from the data set's page")
    for name, entry in entries.items():
        if not PurePosixPath(name).name or entry.get("label") not in LABELS or entry.get("set") not in OFFICIAL_SPLITS:
            raise DatasetError(
                f"{path}: {name!r} has label {entry.get('label')!r} and set {entry.get('set')!r}, expected real or fake and "
                "train or test; get it again from the data set's page"
            )
    return entries


def _make_row(name: str, path: Path, entry: Mapping[str, Any]) -> VideoRow:
    folder = _method_folder(name)
    people = dict.fromkeys(f"{NAME}:{entry[key]}" for key in PEOPLE if entry.get(key) not in (None, ""))
    return VideoRow(
        video_id="",
        sha256="",
        video_key=f"{NAME}/{PurePosixPath(name).with_suffix('')}",
        path=absolute(path),
        label=entry["label"],
        split=entry["set"],
        identity=";".join(people) or None,
        dataset=NAME,
        method=folder if entry["label"] == "fake" and folder != REAL_FOLDER else None,
    )


def _find_contradictions(entries: Mapping[str, Mapping[str, Any]]) -> list[Mismatch]:
    mismatches: list[Mismatch] = []
    for name, entry in entries.items():
        folder = _method_folder(name)
        if (folder == REAL_FOLDER) != (entry["label"] == "real"):
            message = f"{LIST} says {entry['label']}, but it lies in {folder}; the list counts"
            mismatches.append(Mismatch("label", name, message))
    return mismatches


def _count(what: str, count: int, label: Label, split: str | None = None) -> PublishedCount:
    return PublishedCount(what, count, lambda video: video.label == label and (split is None or video.split == split))


DFDCP = Dataset(
    name=NAME,
    title="Deepfake Detection Challenge (preview), Dolhansky et al. 2019",
    list_videos=list_dfdcp,
    request=(
        "Register at https://ai.meta.com/datasets/dfdc (an AWS account is needed) and accept the licence; the file is "
        "dfdc_preview_set.zip."
    ),
    layout=f"""\
ROOT/
  {LIST}
  {REAL_FOLDER}/643049/*.mp4 ...
  method_A/643049/643049_A/*.mp4 ...
  method_B/1224068/1224068_C/*.mp4 ...
There may be a folder videos below {REAL_FOLDER}, method_A and method_B.""",
    published=(
        _count("real", 1131, "real"),
        _count("fake", 4113, "fake"),
        _count("test, real", 276, "real", "test"),
        _count("test, fake", 504, "fake", "test"),
    ),
)
