"""DeepFakeDetection: rows and mismatches of miniature trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.datasets.dfd import DFD, list_dfd
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

REALS = "original_sequences/actors"
FAKES = "manipulated_sequences/DeepFakeDetection"
NAMES = [
    f"{REALS}/c23/videos/07__kitchen_pan.mp4",
    f"{REALS}/c23/videos/12__kitchen_pan.mp4",
    f"{FAKES}/c23/videos/07_12__kitchen_pan__0AB1CD2E.mp4",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_videos(tmp_path, NAMES)
    return tmp_path


def test_actors_are_real_and_a_fake_shows_two_of_them(root: Path) -> None:
    make_videos(root, [f"{FAKES}/masks/videos/07_12__kitchen_pan__0AB1CD2E.mp4"])
    listing = list_dfd(root)
    assert not listing.has_official_split and not listing.mismatches
    fake, real, other = listing.videos
    assert fake == VideoRow(
        video_id="",
        sha256="",
        video_key="dfd/DeepFakeDetection/c23/07_12__kitchen_pan__0AB1CD2E",
        path=(root / NAMES[2]).as_posix(),
        label="fake",
        original="dfd/actors/c23/07__kitchen_pan",
        identity="dfd:07;dfd:12",
        dataset="dfd",
        method="DeepFakeDetection",
        compression="c23",
        mask=(root / FAKES / "masks/videos/07_12__kitchen_pan__0AB1CD2E.mp4").as_posix(),
    )
    assert real == VideoRow(
        video_id="",
        sha256="",
        video_key="dfd/actors/c23/07__kitchen_pan",
        path=(root / NAMES[0]).as_posix(),
        label="real",
        identity="dfd:07",
        dataset="dfd",
        compression="c23",
    )
    assert (other.video_key, other.identity) == ("dfd/actors/c23/12__kitchen_pan", "dfd:12")


def test_every_compression_has_its_own_keys_and_originals_and_raw_goes_by_c0(tmp_path: Path) -> None:
    stem = "07_12__hall__0AB1CD2E"
    make_videos(tmp_path, [f"{FAKES}/{folder}/videos/{stem}.mp4" for folder in ("raw", "c23", "c40")])
    videos = list_dfd(tmp_path).videos
    assert [(row.video_key, row.original, row.compression, row.mask) for row in videos] == [
        (f"dfd/DeepFakeDetection/{name}/{stem}", f"dfd/actors/{name}/07__hall", name, None)
        for name in ("c0", "c23", "c40")
    ]


def test_recordings_of_one_pair_in_one_scene_are_told_apart(root: Path) -> None:
    make_videos(root, [f"{FAKES}/c23/videos/07_12__kitchen_pan__ZZZZZZZZ.mp4"])
    fakes = [row for row in list_dfd(root).videos if row.label == "fake"]
    assert len({row.video_key for row in fakes}) == 2 and len({row.original for row in fakes}) == 1


def test_letter_case_of_folders_does_not_matter_and_the_root_may_be_the_folder_above(tmp_path: Path) -> None:
    make_videos(tmp_path / "ff", [NAMES[0].replace("actors/c23", "Actors/C23"), NAMES[2].replace("videos", "VIDEOS")])
    listing = list_dfd(tmp_path)
    assert [row.label for row in listing.videos] == ["fake", "real"] and not listing.mismatches


def test_videos_of_faceforensics_under_the_same_root_are_passed_over_in_silence(root: Path) -> None:
    expected = list_dfd(root)
    make_videos(root, ["original_sequences/youtube/c23/videos/071.mp4"])
    make_videos(root, ["manipulated_sequences/Deepfakes/c23/videos/071_054.mp4"])
    (root / REALS / "c23/videos/._07__kitchen_pan.mp4").touch()
    assert list_dfd(root) == expected


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (REALS, "071.mp4"),
        (REALS, "7__kitchen_pan.mp4"),
        (REALS, "07_kitchen_pan.mp4"),
        (REALS, "07_12__kitchen_pan__0AB1CD2E.mp4"),
        (REALS, "07__kitchen_pan (1).mp4"),
        (REALS, "07__kitchen_pan__0AB1CD2E.mp4"),
        (FAKES, "07__kitchen_pan.mp4"),
        (FAKES, "07_12__kitchen_pan.mp4"),
        (FAKES, "07_12__kitchen_pan__0AB1CD2.mp4"),
        (FAKES, "07__kitchen_pan__0AB1CD2E.mp4"),
    ],
)
def test_a_name_that_does_not_parse_is_told_and_left_out(root: Path, folder: str, name: str) -> None:
    expected = list_dfd(root).videos
    make_videos(root, [f"{folder}/c23/videos/{name}"])
    listing = list_dfd(root)
    assert listing.videos == expected
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("layout", f"{folder}/c23/videos")
    assert name in mismatch.message and "kitchen_pan" in mismatch.message


def test_another_layout_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    make_videos(tmp_path, ["original_sequences/youtube/c23/videos/071.mp4"])
    with pytest.raises(DatasetError, match=rf"{REALS} and no {FAKES}; .*index dfd --download-help"):
        list_dfd(tmp_path)


def test_published_counts_are_per_label_and_compression(root: Path) -> None:
    videos = list_dfd(root).videos
    counts = {count.what: (count.count, sum(map(count.selects, videos))) for count in DFD.published}
    assert counts == {
        **{f"actors {name}": (363, 2 if name == "c23" else 0) for name in ("c0", "c23", "c40")},
        **{f"DeepFakeDetection {name}": (3068, 1 if name == "c23" else 0) for name in ("c0", "c23", "c40")},
    }


def test_the_help_tells_where_to_ask_and_how_to_lay_out() -> None:
    assert DFD.name == "dfd" and DFD.list_videos is list_dfd and not DFD.is_cropped
    assert "github.com/ondyari/FaceForensics" in DFD.request
    assert all(part in DFD.layout for part in (REALS, FAKES, "masks/videos"))
