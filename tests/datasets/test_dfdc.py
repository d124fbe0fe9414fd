"""DFDC: parts with metadata.json, and validation and test sets with labels.csv."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.datasets.dataset import Mismatch
from pipelines.datasets.dfdc import DFDC, list_dfdc
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

ENTRIES: dict[str, Any] = {
    "swap.mp4": {"label": "FAKE", "split": "train", "original": "scene.mp4"},
    "scene.mp4": {"label": "REAL", "split": "train"},
    "orphan.mp4": {"label": "FAKE", "split": "train", "original": "elsewhere.mp4"},
    "voice.mp4": {"label": "FAKE", "split": "train", "original": None},
}
PART = "dfdc_train_part_3"


def _make_part(folder: Path, entries: Mapping[str, Any] = ENTRIES, *, videos: str = ".") -> Path:
    make_videos(folder / videos, entries)
    (folder / "metadata.json").write_text(json.dumps(entries))
    return folder


def _make_set(folder: Path, labels: Mapping[str, str], *, videos: str = ".") -> Path:
    make_videos(folder / videos, labels)
    lines = [f"{name},{label}" for name, label in labels.items()]
    (folder / "labels.csv").write_text("\n".join(["filename,label", *lines]))
    return folder


def _row(path: Path, key: str, label: str, **fields: str | None) -> VideoRow:
    return VideoRow(
        video_id="", sha256="", video_key=f"dfdc/{key}", path=path.as_posix(), label=label, dataset="dfdc", **fields
    )


def _only(mismatches: list[Mismatch]) -> Mismatch:
    (mismatch,) = mismatches
    return mismatch


@pytest.mark.parametrize("place", [PART, f"train/dfdc_train_part_03/{PART}"])
@pytest.mark.parametrize("videos", [".", "videos"])
def test_a_part_gives_labels_originals_and_its_name_as_group(tmp_path: Path, place: str, videos: str) -> None:
    folder = _make_part(tmp_path / place, videos=videos) / videos
    listing = list_dfdc(tmp_path)
    key = f"dfdc/{PART}"
    assert listing.videos == [
        _row(folder / "orphan.mp4", f"{PART}/orphan", "fake", original=f"{key}/elsewhere", group=PART),
        _row(folder / "scene.mp4", f"{PART}/scene", "real", group=PART),
        _row(folder / "swap.mp4", f"{PART}/swap", "fake", original=f"{key}/scene", group=PART),
        _row(folder / "voice.mp4", f"{PART}/voice", "fake", group=PART),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], False)


def test_the_root_may_be_a_part_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_make_part(tmp_path / PART))
    listing = list_dfdc(Path())
    assert [row.group for row in listing.videos] == [PART] * 4
    assert listing.videos[1].path == f"{tmp_path}/{PART}/scene.mp4"


def test_labelled_sets_are_for_validation_and_test_and_the_parts_for_training(tmp_path: Path) -> None:
    _make_part(tmp_path / PART, {"scene.mp4": {"label": "REAL"}})
    _make_set(tmp_path / "validation", {"4000.mp4": "1", "4001.mp4": "0"})
    _make_set(tmp_path / "test", {"swap.mp4": "1", "scene.mp4": "0"}, videos="videos")
    listing = list_dfdc(tmp_path)
    assert listing.videos == [
        _row(tmp_path / PART / "scene.mp4", f"{PART}/scene", "real", split="train", group=PART),
        _row(tmp_path / "test/videos/scene.mp4", "test/scene", "real", split="test"),
        _row(tmp_path / "test/videos/swap.mp4", "test/swap", "fake", split="test"),
        _row(tmp_path / "validation/4000.mp4", "val/4000", "fake", split="val"),
        _row(tmp_path / "validation/4001.mp4", "val/4001", "real", split="val"),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], True)


@pytest.mark.parametrize(
    ("folder", "split"),
    [(".", "test"), ("test", "test"), ("evaluation", "test"), ("dfdc_val", "val"), ("validation/test_videos", "test")],
)
def test_the_innermost_name_tells_validation_from_test(tmp_path: Path, folder: str, split: str) -> None:
    root = tmp_path / "DFDC"
    _make_set(root / folder, {"clip.mp4": "1"})
    assert [(row.video_key, row.split) for row in list_dfdc(root).videos] == [(f"dfdc/{split}/clip", split)]


def test_a_list_whose_videos_are_not_there_gives_no_sides(tmp_path: Path) -> None:
    _make_part(tmp_path / PART)
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "labels.csv").write_text("filename,label\nclip.mp4,1\n")
    listing = list_dfdc(tmp_path)
    assert {row.split for row in listing.videos} == {None}
    assert not listing.has_official_split
    assert _only(listing.mismatches).where == "test/labels.csv"


def test_beside_labels_csv_a_metadata_json_is_not_read(tmp_path: Path) -> None:
    folder = _make_set(tmp_path / "test", {"clip.mp4": "0"})
    (folder / "metadata.json").write_text(json.dumps({"clip.mp4": {"is_fake": 1}}))
    listing = list_dfdc(tmp_path)
    assert [(row.video_key, row.label) for row in listing.videos] == [("dfdc/test/clip", "real")]
    assert listing.mismatches == []


def test_missing_videos_of_a_part_are_one_mismatch(tmp_path: Path) -> None:
    folder = _make_part(tmp_path / PART)
    for name in ("scene", "swap"):
        (folder / f"{name}.mp4").unlink()
    listing = list_dfdc(tmp_path)
    mismatch = _only(listing.mismatches)
    assert (mismatch.kind, mismatch.where) == ("missing", f"{PART}/metadata.json")
    assert "2 of 4 listed videos are missing: scene.mp4, swap.mp4" in mismatch.message
    assert [row.video_key for row in listing.videos] == [f"dfdc/{PART}/orphan", f"dfdc/{PART}/voice"]


def test_names_in_other_letter_case_are_found(tmp_path: Path) -> None:
    folder = _make_set(tmp_path / "test", {"aa.mp4": "1", "Bb.MP4": "0", "cc.mp4": "0"})
    (folder / "aa.mp4").rename(folder / "AA.MP4")
    (folder / "Bb.MP4").rename(folder / "bb.mp4")
    listing = list_dfdc(tmp_path)
    assert [(row.video_key, row.label, Path(row.path).name) for row in listing.videos] == [
        ("dfdc/test/Bb", "real", "bb.mp4"),
        ("dfdc/test/aa", "fake", "AA.MP4"),
        ("dfdc/test/cc", "real", "cc.mp4"),
    ]
    assert listing.mismatches == []


@pytest.mark.parametrize(
    ("listed", "there", "found", "missing", "unlisted"),
    [
        (["a.mp4"], ["a.mp4", "A.mp4"], {"a": "a.mp4"}, [], ["A.mp4"]),
        (["a.mp4", "A.mp4"], ["A.mp4"], {"A": "A.mp4"}, ["a.mp4"], []),
        (["a.mp4", "A.mp4"], ["A.MP4"], {}, ["A.mp4", "a.mp4"], ["A.MP4"]),
        (["a.mp4"], ["A.mp4", "A.MP4"], {}, ["a.mp4"], ["A.MP4", "A.mp4"]),
    ],
)
def test_where_letter_case_leaves_a_choice_nothing_is_guessed(
    tmp_path: Path, listed: list[str], there: list[str], found: dict[str, str], missing: list[str], unlisted: list[str]
) -> None:
    make_videos(tmp_path / "test", ["other.mp4", *there])
    (tmp_path / "test/labels.csv").write_text("\n".join(["filename,label", "other.mp4,0", *(f"{n},1" for n in listed)]))
    listing = list_dfdc(tmp_path)
    assert {row.video_key[10:]: Path(row.path).name for row in listing.videos} == {"other": "other.mp4", **found}
    told = {mismatch.kind: mismatch.message.split(": ")[-1].split(";")[0] for mismatch in listing.mismatches}
    expected = {"missing": missing, "unlisted": unlisted}
    assert told == {kind: ", ".join(names) for kind, names in expected.items() if names}


def test_videos_that_no_list_names_are_one_mismatch_a_folder(tmp_path: Path) -> None:
    make_videos(_make_part(tmp_path / PART), ["more.mp4", "most.mp4", "._scene.mp4"])
    make_videos(tmp_path / "test_videos", ["unknown.mp4"])
    make_videos(tmp_path / ".trash", ["removed.mp4"])
    listing = list_dfdc(tmp_path)
    assert [(mismatch.kind, mismatch.where) for mismatch in listing.mismatches] == [
        ("unlisted", PART),
        ("unlisted", "test_videos"),
    ]
    assert "2 videos not in any list: more.mp4, most.mp4" in listing.mismatches[0].message
    assert len(listing.videos) == len(ENTRIES)


@pytest.mark.parametrize("entry", [{"label": "real"}, {"label": None}, {"label": ["REAL"]}, {"is_fake": 1}, "REAL"])
def test_an_entry_without_a_known_label_is_passed_over(tmp_path: Path, entry: Any) -> None:
    _make_part(tmp_path / PART, {"odd.mp4": entry, "scene.mp4": {"label": "REAL"}})
    listing = list_dfdc(tmp_path)
    assert [row.video_key for row in listing.videos] == [f"dfdc/{PART}/scene"]
    mismatch = _only(listing.mismatches)
    assert (mismatch.kind, mismatch.where) == ("layout", f"{PART}/metadata.json")
    assert "1 video without a known label: odd.mp4" in mismatch.message


def test_a_label_in_the_csv_that_is_neither_0_nor_1_is_passed_over(tmp_path: Path) -> None:
    _make_set(tmp_path / "test", {"a.mp4": "0.5", "b.mp4": "", "c.mp4": "1"})
    listing = list_dfdc(tmp_path)
    assert [row.video_key for row in listing.videos] == ["dfdc/test/c"]
    assert "a.mp4, b.mp4" in _only(listing.mismatches).message


def test_parts_of_equal_name_get_longer_keys(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        _make_part(tmp_path / parent / PART, {"clip.mp4": {"label": "FAKE", "original": "scene.mp4"}})
    listing = list_dfdc(tmp_path)
    assert [(row.video_key, row.original, row.group) for row in listing.videos] == [
        (f"dfdc/{parent}/{PART}/clip", f"dfdc/{parent}/{PART}/scene", f"{parent}/{PART}") for parent in ("one", "two")
    ]


def test_two_test_sets_get_longer_keys(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        _make_set(tmp_path / parent, {"clip.mp4": "1"})
    assert [row.video_key for row in list_dfdc(tmp_path).videos] == ["dfdc/test/one/clip", "dfdc/test/two/clip"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", "{", "is not readable JSON"),
        ("metadata.json", "[1]", "is no table of videos"),
        ("labels.csv", "name,label\n", "lacks the column 'filename'"),
        ("readme.txt", "", "--download-help"),
    ],
)
def test_what_can_not_be_read_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        list_dfdc(tmp_path)


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        list_dfdc(tmp_path / "nowhere")


def test_published_counts_count_the_right_videos(tmp_path: Path) -> None:
    _make_part(tmp_path / PART)
    _make_set(tmp_path / "val", {"a.mp4": "1", "b.mp4": "1", "c.mp4": "0"})
    _make_set(tmp_path / "test", {"a.mp4": "1", "b.mp4": "0", "c.mp4": "0"})
    videos = list_dfdc(tmp_path).videos
    assert {item.what: (item.count, sum(map(item.selects, videos))) for item in DFDC.published} == {
        "train, real": (19154, 1),
        "train, fake": (100000, 3),
        "val, real": (2000, 1),
        "val, fake": (2000, 2),
        "test, real": (2500, 2),
        "test, fake": (2500, 1),
    }
