"""Celeb-DF: labels from folders, sides from a list whose digits mean the opposite of what one expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.datasets.celebdf import CELEBDF_V1, CELEBDF_V2, list_celebdf_v1, list_celebdf_v2
from pipelines.datasets.dataset import Dataset, Mismatch
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

REALS = ("Celeb-real/id0_0000", "Celeb-real/id1_0003", "YouTube-real/00000", "YouTube-real/00007")
FAKES = ("Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/id1_id20_0003")
STEMS = (*REALS, *FAKES)
LIST = "List_of_testing_videos.txt"
GOOD_LINES = ("1 Celeb-real/id1_0003.mp4", "1 YouTube-real/00007.mp4", "0 Celeb-synthesis/id1_id20_0003.mp4")


def _make(root: Path, *, lines: Sequence[str] | None = GOOD_LINES, stems: Sequence[str] = STEMS) -> Path:
    make_videos(root, [f"{stem}.mp4" for stem in stems])
    if lines is not None:
        (root / LIST).write_text("\n".join(lines) + "\n")
    return root


def _row(root: Path, stem: str, dataset: str = "celebdf-v2", **fields: str | None) -> VideoRow:
    path = (root / f"{stem}.mp4").as_posix()
    return VideoRow(video_id="", sha256="", video_key=f"{dataset}/{stem}", path=path, dataset=dataset, **fields)


def _kinds(mismatches: Sequence[Mismatch]) -> list[tuple[str, str]]:
    return [(mismatch.kind, mismatch.where) for mismatch in mismatches]


@pytest.mark.parametrize("dataset", [CELEBDF_V1, CELEBDF_V2], ids=lambda dataset: dataset.name)
def test_every_row_says_label_side_people_and_original(tmp_path: Path, dataset: Dataset) -> None:
    name = dataset.name
    listing = dataset.list_videos(_make(tmp_path))
    swap = {"label": "fake", "method": "Celeb-synthesis"}
    assert listing.videos == [
        _row(tmp_path, "Celeb-real/id0_0000", name, label="real", split="train", identity=f"{name}:id0"),
        _row(tmp_path, "Celeb-real/id1_0003", name, label="real", split="test", identity=f"{name}:id1"),
        _row(
            tmp_path,
            "Celeb-synthesis/id0_id1_0000",
            name,
            split="train",
            original=f"{name}/Celeb-real/id0_0000",
            identity=f"{name}:id0;{name}:id1",
            **swap,
        ),
        _row(
            tmp_path,
            "Celeb-synthesis/id1_id20_0003",
            name,
            split="test",
            original=f"{name}/Celeb-real/id1_0003",
            identity=f"{name}:id1;{name}:id20",
            **swap,
        ),
        _row(tmp_path, "YouTube-real/00000", name, label="real", split="train"),
        _row(tmp_path, "YouTube-real/00007", name, label="real", split="test"),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], True)


def test_videos_one_folder_deeper_and_folders_in_other_letter_case_give_the_same_rows(tmp_path: Path) -> None:
    flat = list_celebdf_v2(_make(tmp_path / "flat"))
    deep = tmp_path / "deep"
    names = [f"{stem}.mp4".replace("YouTube", "Youtube").replace("/", "/videos/") for stem in STEMS]
    make_videos(deep / "Celeb-DF-v2", names)
    (deep / "Celeb-DF-v2" / LIST).write_text("\r\n".join(line.replace("YouTube", "youtube") for line in GOOD_LINES))
    listing = list_celebdf_v2(deep)
    assert [dataclasses.replace(row, path="") for row in listing.videos] == [
        dataclasses.replace(row, path="") for row in flat.videos
    ]
    assert all(Path(row.path).is_file() for row in listing.videos)
    assert listing.mismatches == []


def test_a_contradicting_line_is_reported_and_the_folder_believed(tmp_path: Path) -> None:
    listing = list_celebdf_v2(_make(tmp_path, lines=[GOOD_LINES[0].replace("1", "0", 1), *GOOD_LINES[1:]]))
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("label", f"{LIST} line 1")
    assert "says that Celeb-real/id1_0003 is fake" in mismatch.message
    assert "the folder counts" in mismatch.message
    labels = {row.video_key.removeprefix("celebdf-v2/"): row.label for row in listing.videos}
    assert labels == {**dict.fromkeys(REALS, "real"), **dict.fromkeys(FAKES, "fake")}


def test_a_list_that_is_inverted_is_one_mismatch(tmp_path: Path) -> None:
    turned = [line.translate(str.maketrans("01", "10"))[0] + line[1:] for line in GOOD_LINES]
    listing = list_celebdf_v2(_make(tmp_path, lines=turned))
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("label", LIST)
    assert "every one of the 3 lines" in mismatch.message
    assert [row.split for row in listing.videos if row.label == "fake"] == ["train", "test"]


def test_listed_videos_that_are_not_there_are_counted_by_folder_and_get_no_row(tmp_path: Path) -> None:
    more = [f"1 Celeb-real/id9_000{number}.mp4" for number in range(5)] + ["0 Celeb-synthesis/id9_id8_0000.mp4"]
    listing = list_celebdf_v2(_make(tmp_path, lines=[*GOOD_LINES, *more]))
    assert _kinds(listing.mismatches) == [
        ("missing", f"{LIST}: Celeb-real"),
        ("missing", f"{LIST}: Celeb-synthesis"),
    ]
    assert "5 of 6 listed videos are missing: id9_0000, id9_0001, id9_0002 and 2 more" in listing.mismatches[0].message
    assert len(listing.videos) == len(STEMS)


def test_the_list_without_the_videos_of_youtube_is_recognised(tmp_path: Path) -> None:
    lines = [line for line in GOOD_LINES if "YouTube" not in line]
    (mismatch,) = list_celebdf_v2(_make(tmp_path / "v2", lines=lines)).mismatches
    assert mismatch.kind == "layout"
    assert "names no video of YouTube-real (2 lines; the official list has 518" in mismatch.message
    without = [stem for stem in STEMS if "YouTube" not in stem]
    assert list_celebdf_v2(_make(tmp_path / "without", lines=lines, stems=without)).mismatches == []
    assert list_celebdf_v1(_make(tmp_path / "v1", lines=lines)).mismatches == []


def test_without_the_list_nothing_has_a_side(tmp_path: Path) -> None:
    listing = list_celebdf_v2(_make(tmp_path, lines=None))
    assert _kinds(listing.mismatches) == [("layout", LIST)]
    assert not listing.has_official_split
    assert {row.split for row in listing.videos} == {None}
    assert len(listing.videos) == len(STEMS)


MALFORMED = ("2 Celeb-real/id0_0000.mp4", "Celeb-real/id0_0000.mp4", "1 id0_0000.mp4", "1", "1 v2/Celeb-real/id0_0000")


@pytest.mark.parametrize("line", MALFORMED)
def test_a_line_of_another_form_may_hide_a_test_video_and_fails_the_check(tmp_path: Path, line: str) -> None:
    listing = list_celebdf_v2(_make(tmp_path, lines=[GOOD_LINES[1], line]))
    assert _kinds(listing.mismatches) == [("label", f"{LIST} line 2")]
    assert "get the list again" in listing.mismatches[0].message
    assert listing.has_official_split
    assert {row.video_key: row.split for row in listing.videos}["celebdf-v2/Celeb-real/id0_0000"] == "train"


@pytest.mark.parametrize("lines", [(), ("", " "), MALFORMED])
def test_a_list_without_a_single_sound_line_gives_no_sides(tmp_path: Path, lines: Sequence[str]) -> None:
    listing = list_celebdf_v2(_make(tmp_path, lines=lines))
    malformed = [("label", f"{LIST} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    assert _kinds(listing.mismatches) == [*malformed, ("layout", LIST)]
    assert "names no video, so nothing is known to be for testing" in listing.mismatches[-1].message
    assert not listing.has_official_split
    assert {row.split for row in listing.videos} == {None}
    assert len(listing.videos) == len(STEMS)


@pytest.mark.parametrize("between", ["\t", " \t ", "   "])
def test_digit_and_path_may_stand_any_blanks_apart(tmp_path: Path, between: str) -> None:
    lines = [line.replace(" ", between, 1) for line in GOOD_LINES]
    listing = list_celebdf_v2(_make(tmp_path, lines=lines))
    assert listing.mismatches == []
    assert [row.split for row in listing.videos] == ["train", "test"] * 3


def test_a_video_that_is_there_twice_gets_one_row(tmp_path: Path) -> None:
    make_videos(_make(tmp_path), ["Celeb-real/videos/id0_0000.mp4"])
    listing = list_celebdf_v2(tmp_path)
    assert [row.path for row in listing.videos if "id0_0000" in row.path] == [f"{tmp_path}/Celeb-real/id0_0000.mp4"]
    (mismatch,) = listing.mismatches
    assert "Celeb-real/videos/id0_0000.mp4" in mismatch.message


def test_names_of_another_form_keep_their_label_and_name_no_person(tmp_path: Path) -> None:
    listing = list_celebdf_v2(
        _make(tmp_path, lines=None, stems=["Celeb-synthesis/swap", "Celeb-real/clip", "YouTube-real/id0_0001"])
    )
    assert [(row.label, row.original, row.identity) for row in listing.videos] == [
        ("real", None, None),
        ("fake", None, None),
        ("real", None, None),
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_another_folder_is_refused_and_the_help_named(tmp_path: Path, exists: bool) -> None:
    root = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(DatasetError, match="deepfake index celebdf-v1 --download-help"):
        list_celebdf_v1(root)


@pytest.mark.parametrize(
    ("dataset", "counts", "found"),
    [
        (CELEBDF_V2, (590, 300, 5639, 108, 70, 340), [2, 2, 2, 1, 1, 1]),
        (CELEBDF_V1, (158, 250, 795, 38, 62), [2, 2, 2, 2, 1]),
    ],
)
def test_published_counts_count_the_right_videos(
    tmp_path: Path, dataset: Dataset, counts: tuple[int, ...], found: list[int]
) -> None:
    videos = dataset.list_videos(_make(tmp_path)).videos
    assert tuple(published.count for published in dataset.published) == counts
    assert [sum(map(published.selects, videos)) for published in dataset.published] == found
