"""DFDCP: one list of all videos, and copies that put a folder in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.datasets.dfdcp import DFDCP, list_dfdcp
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

ENTRIES: dict[str, dict[str, Any]] = {
    "original_videos/643049/643049_A_001.mp4": {"label": "real", "set": "train", "target_id": "643049"},
    "original_videos/1224068/1224068_C.mp4": {"label": "real", "set": "test", "augmentations": []},
    "method_A/643049/643049_A/swap.mp4": {
        "label": "fake",
        "set": "train",
        "target_id": 643049,
        "swapped_id": "1224068",
    },
    "method_B/1224068/1224068_C/swap.mp4": {"label": "fake", "set": "test", "target_id": "7", "swapped_id": "7"},
}


def _make(root: Path, entries: Mapping[str, Any] = ENTRIES, *, between: str = "") -> Path:
    make_videos(root, [name.replace("/", between or "/", 1) for name in entries])
    (root / "dataset.json").write_text(json.dumps(entries))
    return root


def _row(root: Path, stem: str, **fields: str | None) -> VideoRow:
    path = (root / f"{stem}.mp4").as_posix()
    return VideoRow(video_id="", sha256="", video_key=f"dfdcp/{stem}", path=path, dataset="dfdcp", **fields)


def test_every_row_says_label_side_people_and_method(tmp_path: Path) -> None:
    listing = list_dfdcp(_make(tmp_path))
    assert listing.videos == [
        _row(
            tmp_path,
            "method_A/643049/643049_A/swap",
            label="fake",
            split="train",
            identity="dfdcp:643049;dfdcp:1224068",
            method="method_A",
        ),
        _row(
            tmp_path,
            "method_B/1224068/1224068_C/swap",
            label="fake",
            split="test",
            identity="dfdcp:7",
            method="method_B",
        ),
        _row(tmp_path, "original_videos/1224068/1224068_C", label="real", split="test"),
        _row(tmp_path, "original_videos/643049/643049_A_001", label="real", split="train", identity="dfdcp:643049"),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], True)


def test_a_folder_videos_in_between_changes_only_the_paths(tmp_path: Path) -> None:
    listing = list_dfdcp(_make(tmp_path, between="/videos/"))
    assert [row.video_key for row in listing.videos] == sorted(f"dfdcp/{name[:-4]}" for name in ENTRIES)
    assert listing.videos[0].path == f"{tmp_path}/method_A/videos/643049/643049_A/swap.mp4"
    assert listing.mismatches == []


def test_the_listed_path_counts_before_the_file_name(tmp_path: Path) -> None:
    _make(tmp_path, {"method_A/2/clip.mp4": {"label": "fake", "set": "test"}})
    make_videos(tmp_path, ["method_A/1/clip.mp4"])
    listing = list_dfdcp(tmp_path)
    assert [row.path for row in listing.videos] == [f"{tmp_path}/method_A/2/clip.mp4"]
    assert [mismatch.kind for mismatch in listing.mismatches] == ["unlisted"]


FAKE = {"label": "fake", "set": "test"}


def test_a_video_is_not_taken_for_another_one_of_its_name(tmp_path: Path) -> None:
    _make(tmp_path, {"method_A/1/clip.mp4": FAKE, "method_A/2/clip.mp4": FAKE})
    (tmp_path / "method_A/2/clip.mp4").unlink()
    listing = list_dfdcp(tmp_path)
    assert [(row.video_key, row.path) for row in listing.videos] == [
        ("dfdcp/method_A/1/clip", f"{tmp_path}/method_A/1/clip.mp4")
    ]
    (mismatch,) = listing.mismatches
    assert mismatch.kind == "missing"
    assert "1 of 2 listed videos are missing: method_A/2/clip.mp4" in mismatch.message


def test_a_name_that_is_listed_twice_is_looked_for_at_its_path_only(tmp_path: Path) -> None:
    _make(tmp_path, {"method_A/1/clip.mp4": FAKE, "method_A/2/clip.mp4": FAKE}, between="/videos/")
    (tmp_path / "method_A/videos/2/clip.mp4").unlink()
    listing = list_dfdcp(tmp_path)
    assert listing.videos == []
    assert [mismatch.kind for mismatch in listing.mismatches] == ["missing", "unlisted"]


def test_a_file_name_that_could_be_several_videos_counts_as_missing(tmp_path: Path) -> None:
    _make(tmp_path, {"method_A/1/clip.mp4": {"label": "fake", "set": "test"}}, between="/videos/")
    make_videos(tmp_path, ["method_A/copy/clip.mp4"])
    listing = list_dfdcp(tmp_path)
    assert listing.videos == []
    assert [mismatch.kind for mismatch in listing.mismatches] == ["missing", "unlisted"]


@pytest.mark.parametrize(
    ("name", "label", "method"),
    [("original_videos/1/clip.mp4", "fake", None), ("method_A/1/clip.mp4", "real", None)],
)
def test_a_label_that_contradicts_the_folder_is_reported_and_believed(
    tmp_path: Path, name: str, label: str, method: str | None
) -> None:
    listing = list_dfdcp(_make(tmp_path, {name: {"label": label, "set": "train"}}))
    assert [(row.label, row.method) for row in listing.videos] == [(label, method)]
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("label", name)
    assert "the list counts" in mismatch.message


def test_missing_and_unlisted_videos_are_one_mismatch_each(tmp_path: Path) -> None:
    _make(tmp_path)
    (tmp_path / "method_A/643049/643049_A/swap.mp4").unlink()
    make_videos(tmp_path, ["method_B/more.mp4", "extra/most.mp4"])
    listing = list_dfdcp(tmp_path)
    missing, unlisted = listing.mismatches
    assert (missing.kind, missing.where) == ("missing", "dataset.json")
    assert "1 of 4 listed videos are missing: method_A/643049/643049_A/swap.mp4" in missing.message
    assert unlisted.kind == "unlisted"
    assert "2 videos not in any list: extra/most.mp4, method_B/more.mp4" in unlisted.message
    assert len(listing.videos) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a/b.mp4": {"label": "FAKE", "set": "train"}}, "'a/b.mp4' has label 'FAKE' and set 'train'"),
        ({"a/b.mp4": {"label": "fake"}}, "set None"),
        ({"": {"label": "fake", "set": "train"}}, "get it again"),
        ({"a/b.mp4": "fake"}, "is no table of videos"),
        (["a/b.mp4"], "is no table of videos"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        list_dfdcp(tmp_path)


def test_another_folder_is_refused_and_the_help_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no dataset\.json.*deepfake index dfdcp --download-help"):
        list_dfdcp(tmp_path)


def test_published_counts_count_the_right_videos(tmp_path: Path) -> None:
    more = {"method_A/1/a.mp4": {"label": "fake", "set": "test"}}
    videos = list_dfdcp(_make(tmp_path, {**ENTRIES, **more})).videos
    assert {item.what: (item.count, sum(map(item.selects, videos))) for item in DFDCP.published} == {
        "real": (1131, 2),
        "fake": (4113, 3),
        "test, real": (276, 1),
        "test, fake": (504, 2),
    }
