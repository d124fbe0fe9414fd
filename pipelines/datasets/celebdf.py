"""Celeb-DF, first and second version: interviews of celebrities from YouTube, and swaps of their faces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.datasets.layout import (
    absolute,
    find_base,
    find_folder,
    keep_first,
    no_layout,
    not_there,
    read_lines,
    videos_in,
)
from pipelines.records import Label, VideoRow

V1, V2 = "celebdf-v1", "celebdf-v2"
CELEB_REAL, YOUTUBE_REAL, SYNTHESIS = "Celeb-real", "YouTube-real", "Celeb-synthesis"
FOLDERS: dict[str, Label] = {CELEB_REAL: "real", YOUTUBE_REAL: "real", SYNTHESIS: "fake"}
TEST_LIST = "List_of_testing_videos.txt"
LABEL_OF_DIGIT: dict[str, Label] = {"1": "real", "0": "fake"}
"""In the list of testing videos 1 is real, the reverse of most other data sets."""
SWAP_NAME = re.compile(r"(id\d+)_(id\d+)_(\d+)")
"""Whose interview it is, whose face was put in, number of the interview."""
INTERVIEW_NAME = re.compile(r"(id\d+)_(\d+)")


def list_celebdf_v1(root: Path) -> Listing:
    """The videos of Celeb-DF v1; see `list_celebdf_v2`.

    Raises:
        DatasetError: none of the three folders is there, or several folders hold them.
    """
    return _list_celebdf(root, V1)


def list_celebdf_v2(root: Path) -> Listing:
    """The videos of Celeb-DF v2: labels from the folders, `test` as listed, everything else `train`.

    That all videos that are not listed are for training is how the authors use the list. A line that contradicts the
    folder of its video is reported, and the folder counts. Without the list, or if no line of it names a video of the
    three folders, nothing has a split.

    Raises:
        DatasetError: none of the three folders is there, or several folders hold them.
    """
    return _list_celebdf(root, V2)


@dataclass(frozen=True)
class _TestLine:
    """A line of the list of testing videos."""

    number: int
    label: Label
    folder: str
    """As in `FOLDERS`."""
    stem: str


def _list_celebdf(root: Path, dataset: str) -> Listing:
    base = find_base(root, *((name,) for name in FOLDERS))
    if base is None:
        raise no_layout(root, dataset, f"folder {CELEB_REAL}, {YOUTUBE_REAL} or {SYNTHESIS}")
    found = {name: folder for name in FOLDERS if (folder := find_folder(base, name))}
    videos, mismatches = keep_first(_make_rows(found, dataset), root)
    is_there = (base / TEST_LIST).is_file()
    lines, malformed = _read_test_list(base / TEST_LIST) if is_there else ([], [])
    if not lines:
        cause = f"{TEST_LIST} {'names no video' if is_there else 'is not there'}"
        message = f"{cause}, so nothing is known to be for testing; get it from the data set's page"
        return Listing(
            videos, [*mismatches, *malformed, Mismatch("layout", TEST_LIST, message)], has_official_split=False
        )
    listed = {_make_key(dataset, line.folder, line.stem) for line in lines}
    videos = [_with_split(video, listed) for video in videos]
    mismatches += malformed + _find_contradictions(lines) + _find_missing(lines, videos, dataset)
    if dataset == V2:
        mismatches += _find_short_list(lines, found)
    return Listing(videos, mismatches, has_official_split=True)


def _make_rows(folders: Mapping[str, Path], dataset: str) -> Iterator[VideoRow]:
    for name, folder in folders.items():
        inner = find_folder(folder, "videos")
        for path in videos_in(folder) + (videos_in(inner) if inner else []):
            original, identity = _read_name(name, path.stem, dataset)
            yield VideoRow(
                video_id="",
                sha256="",
                video_key=_make_key(dataset, name, path.stem),
                path=absolute(path),
                label=FOLDERS[name],
                original=original,
                identity=identity,
                dataset=dataset,
                method=SYNTHESIS if name == SYNTHESIS else None,
            )


def _make_key(dataset: str, folder: str, stem: str) -> str:
    return f"{dataset}/{folder}/{stem}"


def _read_name(folder: str, stem: str, dataset: str) -> tuple[str | None, str | None]:
    """The key of the original, and the people seen; whether an id is the same person in both versions is not documented."""
    if folder == SYNTHESIS and (swap := SWAP_NAME.fullmatch(stem)):
        target, source, number = swap.groups()
        return _make_key(dataset, CELEB_REAL, f"{target}_{number}"), f"{dataset}:{target};{dataset}:{source}"
    if folder == CELEB_REAL and (interview := INTERVIEW_NAME.fullmatch(stem)):
        return None, f"{dataset}:{interview[1]}"
    return None, None


def _with_split(video: VideoRow, listed: set[str]) -> VideoRow:
    return replace(video, split="test" if video.video_key in listed else "train")


def _read_test_list(path: Path) -> tuple[list[_TestLine], list[Mismatch]]:
    """The lines `<digit> <folder>/<file>`, and malformed lines, each of which may name a test video."""
    names = {name.casefold(): name for name in FOLDERS}
    lines: list[_TestLine] = []
    malformed: list[Mismatch] = []
    for number, text in enumerate(read_lines(path), start=1):
        digit, *rest = text.split(maxsplit=1)
        video = PurePosixPath(*rest)
        folder = names.get(video.parts[0].casefold()) if len(video.parts) > 1 else None
        if digit not in LABEL_OF_DIGIT or folder is None:
            message = (
                f"{text!r} is not of the form '1 {CELEB_REAL}/id0_0000.mp4', so its video is not known to be for testing; "
                "get the list again from the data set's page"
            )
            malformed.append(Mismatch("label", f"{TEST_LIST} line {number}", message))
            continue
        lines.append(_TestLine(number, LABEL_OF_DIGIT[digit], folder, video.stem))
    return lines, malformed


def _find_contradictions(lines: list[_TestLine]) -> list[Mismatch]:
    wrong = [line for line in lines if FOLDERS[line.folder] != line.label]
    if wrong and len(wrong) == len(lines):
        message = (
            f"every one of the {len(lines)} lines contradicts the folder of its video, so the list has been inverted "
            "(in the original 1 is real); the labels are those of the folders"
        )
        return [Mismatch("label", TEST_LIST, message)]
    return [
        Mismatch(
            "label",
            f"{TEST_LIST} line {line.number}",
            f"says that {line.folder}/{line.stem} is {line.label} (1 is real here); the folder counts",
        )
        for line in wrong
    ]


def _find_missing(lines: list[_TestLine], videos: list[VideoRow], dataset: str) -> list[Mismatch]:
    """The missing videos of each folder in the list."""
    known = {video.video_key for video in videos}
    listed: dict[str, list[str]] = {}
    for line in lines:
        listed.setdefault(line.folder, []).append(line.stem)
    mismatches: list[Mismatch] = []
    for folder, stems in listed.items():
        missing = [stem for stem in stems if _make_key(dataset, folder, stem) not in known]
        mismatches += not_there(f"{TEST_LIST}: {folder}", missing, len(stems))
    return mismatches


def _find_short_list(lines: list[_TestLine], folders: Mapping[str, Path]) -> list[Mismatch]:
    """A list without the 70 lines of YouTube-real is in circulation: with it, test videos would count as training videos."""
    if YOUTUBE_REAL not in folders or any(line.folder == YOUTUBE_REAL for line in lines):
        return []
    message = (
        f"names no video of {YOUTUBE_REAL} ({len(lines)} lines; the official list has 518, 70 of them there), so those "
        "for testing count as train; get the official list"
    )
    return [Mismatch("layout", TEST_LIST, message)]


def _count(what: str, count: int, *, folder: str | None = None, **fields: str) -> PublishedCount:
    """Count the videos in a folder with these fields."""

    def selects(video: VideoRow) -> bool:
        in_folder = folder is None or video.video_key.split("/")[1] == folder
        return in_folder and all(getattr(video, name) == value for name, value in fields.items())

    return PublishedCount(what, count, selects)


_REQUEST = (
    "Fill in the form that https://github.com/yuezunli/celeb-deepfakeforensics links to and accept the Terms to Use "
    "Celeb-DF; a link comes by e-mail."
)
_LAYOUT = f"""\
ROOT/
  {CELEB_REAL}/id0_0000.mp4 ...
  {YOUTUBE_REAL}/00000.mp4 ...
  {SYNTHESIS}/id0_id1_0000.mp4 ...
  {TEST_LIST}
The videos may also lie one folder deeper, in {CELEB_REAL}/videos/ and so on."""

CELEBDF_V1 = Dataset(
    name=V1,
    title="Celeb-DF (v1), Li et al. 2019",
    list_videos=list_celebdf_v1,
    request=_REQUEST,
    layout=_LAYOUT,
    published=(
        _count("Celeb-real", 158, folder=CELEB_REAL),
        _count("YouTube-real", 250, folder=YOUTUBE_REAL),
        _count("Celeb-synthesis", 795, folder=SYNTHESIS),
        _count("test, real", 38, split="test", label="real"),
        _count("test, fake", 62, split="test", label="fake"),
    ),
)
CELEBDF_V2 = Dataset(
    name=V2,
    title="Celeb-DF (v2), Li et al. 2020",
    list_videos=list_celebdf_v2,
    request=_REQUEST,
    layout=_LAYOUT,
    published=(
        _count("Celeb-real", 590, folder=CELEB_REAL),
        _count("YouTube-real", 300, folder=YOUTUBE_REAL),
        _count("Celeb-synthesis", 5639, folder=SYNTHESIS),
        _count("test, Celeb-real", 108, folder=CELEB_REAL, split="test"),
        _count("test, YouTube-real", 70, folder=YOUTUBE_REAL, split="test"),
        _count("test, Celeb-synthesis", 340, folder=SYNTHESIS, split="test"),
    ),
)
