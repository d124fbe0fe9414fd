"""DeeperForensics-1.0: rows, sides and mismatches of miniature trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.data.leaks import find_leaks
from pipelines.datasets.dataset import Listing
from pipelines.datasets.deeperforensics import DEEPERFORENSICS, VARIANTS, list_deeperforensics
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

LISTS = {"train": ["000_M101.mp4", "001_W004.mp4"], "val": ["002_M005.mp4"], "test": ["003_W006.mp4"]}
STEMS = [name.removesuffix(".mp4") for names in LISTS.values() for name in names]
REALS = "original_sequences/youtube"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four clips at c23, two variants of the fakes made from them, the lists, and the actors."""
    names = [f"{REALS}/c23/videos/{stem[:3]}.mp4" for stem in STEMS]
    names += [f"manipulated_videos/{variant}/{stem}.mp4" for variant in VARIANTS[:2] for stem in STEMS]
    make_videos(tmp_path, names)
    make_videos(tmp_path, ["source_videos/M101/light_up/happy/camera_front/M101_light_up_happy_camera_front.mp4"])
    write_lists(tmp_path)
    return tmp_path


def write_lists(root: Path, lists: dict[str, list[str]] = LISTS) -> None:
    (root / "lists/splits").mkdir(parents=True, exist_ok=True)
    for split, lines in lists.items():
        (root / f"lists/splits/{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def rows_of(listing: Listing) -> dict[str, VideoRow]:
    rows = {row.video_key: row for row in listing.videos}
    assert [row.video_key for row in listing.videos] == sorted(rows), "a key stands twice, or not in its order"
    return rows


def test_clips_of_faceforensics_are_real_and_take_the_side_of_their_fakes(root: Path) -> None:
    listing = list_deeperforensics(root)
    rows = rows_of(listing)
    assert listing.has_official_split and not listing.mismatches
    assert {key: row.split for key, row in rows.items() if row.label == "real"} == {
        "deeperforensics/youtube/c23/000": "train",
        "deeperforensics/youtube/c23/001": "train",
        "deeperforensics/youtube/c23/002": "val",
        "deeperforensics/youtube/c23/003": "test",
    }
    assert {key: row.split for key, row in rows.items() if row.label == "fake"} == {
        f"deeperforensics/DeeperForensics/{variant}/{stem}": split
        for variant in ("end_to_end", "end_to_end_level_1")
        for stem, split in zip(STEMS, ("train", "train", "val", "test"), strict=True)
    }
    assert rows["deeperforensics/DeeperForensics/end_to_end_level_1/001_W004"] == VideoRow(
        video_id="",
        sha256="",
        video_key="deeperforensics/DeeperForensics/end_to_end_level_1/001_W004",
        path=(root / "manipulated_videos/end_to_end_level_1/001_W004.mp4").as_posix(),
        label="fake",
        split="train",
        original="deeperforensics/youtube/c23/001",
        identity="deeperforensics:W004",
        group="deeperforensics:001",
        dataset="deeperforensics",
        method="DeeperForensics",
        compression="end_to_end_level_1",
    )
    assert rows["deeperforensics/youtube/c23/001"] == VideoRow(
        video_id="",
        sha256="",
        video_key="deeperforensics/youtube/c23/001",
        path=(root / REALS / "c23/videos/001.mp4").as_posix(),
        label="real",
        split="train",
        group="deeperforensics:001",
        dataset="deeperforensics",
        compression="c23",
    )


def test_official_sides_do_not_leak(root: Path) -> None:
    videos = list_deeperforensics(root).videos
    sides = {split: [row for row in videos if row.split == split] for split in LISTS}
    assert all(sides.values()) and not find_leaks(sides)


def test_actors_are_never_real(root: Path) -> None:
    shutil.rmtree(root / "original_sequences")
    listing = list_deeperforensics(root)
    assert {row.label for row in listing.videos} == {"fake"}
    assert {row.original for row in listing.videos} == {f"deeperforensics/youtube/c23/00{n}" for n in range(4)}
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("layout", ".")
    assert all(
        part in mismatch.message for part in ("FaceForensics++", "not source_videos", "original_sequences", "link")
    )


@pytest.mark.parametrize(
    ("compressions", "original"), [(["c0", "c23", "c40"], "c23"), (["c40"], "c40"), (["raw", "c40"], "c0")]
)
def test_the_original_is_the_clip_at_c23_where_that_is_there(
    root: Path, compressions: list[str], original: str
) -> None:
    shutil.rmtree(root / "original_sequences")
    make_videos(root, [f"{REALS}/{name}/videos/000.mp4" for name in compressions])
    rows = list_deeperforensics(root).videos
    of_clip = [row for row in rows if row.group == "deeperforensics:000"]
    assert [row.label for row in of_clip].count("real") == len(compressions)
    assert {row.split for row in of_clip} == {"train"}
    assert {row.original for row in of_clip if row.label == "fake"} == {f"deeperforensics/youtube/{original}/000"}


def test_both_data_sets_may_lie_beside_each_other(root: Path, tmp_path: Path) -> None:
    expected = {key: row.split for key, row in rows_of(list_deeperforensics(root)).items()}
    above = tmp_path / "above"
    for name, folders in (("DeeperForensics-1.0", ["manipulated_videos", "lists"]), ("FF", ["original_sequences"])):
        for folder in folders:
            shutil.copytree(root / folder, above / name / folder)
    listing = list_deeperforensics(above)
    assert {key: row.split for key, row in rows_of(listing).items()} == expected and not listing.mismatches


def test_letter_case_of_folders_does_not_matter(tmp_path: Path) -> None:
    make_videos(
        tmp_path, ["Manipulated_Videos/End_to_End/000_M101.mp4", "Original_Sequences/Youtube/C23/Videos/000.mp4"]
    )
    write_lists(tmp_path, {"train": ["000_M101.mp4"], "val": [], "test": []})
    (tmp_path / "lists").rename(tmp_path / "Lists")
    listing = list_deeperforensics(tmp_path)
    assert {key: row.split for key, row in rows_of(listing).items()} == {
        "deeperforensics/DeeperForensics/end_to_end/000_M101": "train",
        "deeperforensics/youtube/c23/000": "train",
    }


@pytest.mark.parametrize("line", ["000_M101", "end_to_end/000_M101.mp4", "  000_M101.mp4  "])
def test_a_line_may_have_a_folder_or_no_suffix(root: Path, line: str) -> None:
    write_lists(root, {"train": [line, "", LISTS["train"][1]]})
    assert list_deeperforensics(root).has_official_split and not list_deeperforensics(root).mismatches


def test_without_lists_nothing_has_a_split_and_a_clip_stays_with_its_fakes(root: Path) -> None:
    shutil.rmtree(root / "lists")
    listing = list_deeperforensics(root)
    assert not listing.has_official_split and {row.split for row in listing.videos} == {None}
    groups = {
        row.group: sorted(other.compression or "" for other in listing.videos if other.group == row.group)
        for row in listing.videos
    }
    assert groups == {f"deeperforensics:00{n}": ["c23", "end_to_end", "end_to_end_level_1"] for n in range(4)}
    (mismatch,) = listing.mismatches
    assert mismatch.kind == "layout" and "lists/splits" in mismatch.message


def test_listed_and_unlisted_videos_are_told_once_a_folder(root: Path) -> None:
    (root / "manipulated_videos/end_to_end/000_M101.mp4").unlink()
    (root / REALS / "c23/videos/003.mp4").unlink()
    make_videos(root, ["manipulated_videos/end_to_end/000_M102.mp4", f"{REALS}/c23/videos/999.mp4"])
    listing = list_deeperforensics(root)
    rows = rows_of(listing)
    assert {key for key, row in rows.items() if row.split is None} == {
        "deeperforensics/DeeperForensics/end_to_end/000_M102",
        "deeperforensics/youtube/c23/999",
    }
    fakes, reals = "manipulated_videos/end_to_end", f"{REALS}/c23/videos"
    told = {(found.kind, found.where): found.message for found in listing.mismatches}
    assert set(told) == {("missing", fakes), ("unlisted", fakes), ("missing", reals), ("unlisted", reals)}
    assert len(listing.mismatches) == 4
    assert "1 of 4" in told["missing", fakes] and "000_M101" in told["missing", fakes]
    assert "000_M102" in told["unlisted", fakes] and "999" in told["unlisted", reals]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": ["000_M101.mp4"]}, r"'000_M101' is in .*train.txt and in .*val.txt"),
        ({"val": ["000_M005.mp4"]}, r"'000' is in .*train.txt and in .*val.txt"),
        ({"test": ["[1, 2]"]}, r"test.txt must have names such as 000_M101.mp4, got '\[1, 2\]'"),
        ({"test": ["000.mp4"]}, "test.txt must have names"),
    ],
)
def test_lists_that_can_not_be_right_are_refused(root: Path, lists: dict[str, list[str]], message: str) -> None:
    write_lists(root, lists)
    with pytest.raises(DatasetError, match=message):
        list_deeperforensics(root)


def test_some_of_the_lists_are_not_taken_for_all(root: Path) -> None:
    (root / "lists/splits/test.txt").unlink()
    with pytest.raises(DatasetError, match="test.txt is missing"):
        list_deeperforensics(root)


@pytest.mark.parametrize(
    ("planted", "where", "message"),
    [
        ("manipulated_videos/end_to_end/000.mp4", "manipulated_videos/end_to_end", "000.mp4: a name has to be like"),
        ("manipulated_videos/end_to_end/000_X101.mp4", "manipulated_videos/end_to_end", "000_X101.mp4"),
        ("manipulated_videos/my_own/000_M101.mp4", "manipulated_videos/my_own", "reenact_postprocess"),
        (f"{REALS}/c23/videos/M101.mp4", f"{REALS}/c23/videos", "be like 071.mp4"),
    ],
)
def test_what_does_not_fit_is_passed_over_and_told(root: Path, planted: str, where: str, message: str) -> None:
    expected = rows_of(list_deeperforensics(root))
    make_videos(root, [planted])
    (root / "manipulated_videos/end_to_end/._000_M101.mp4").touch()
    listing = list_deeperforensics(root)
    assert rows_of(listing) == expected
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("layout", where) and message in mismatch.message


def test_a_download_that_is_not_unpacked_is_told(tmp_path: Path) -> None:
    (tmp_path / "manipulated_videos").mkdir()
    (tmp_path / "manipulated_videos/end_to_end.zip").touch()
    listing = list_deeperforensics(tmp_path)
    assert not listing.videos and any("unzip.sh" in mismatch.message for mismatch in listing.mismatches)


@pytest.mark.parametrize("name", ["nothing", "absent"])
def test_another_layout_is_refused_with_what_was_looked_for(tmp_path: Path, name: str) -> None:
    make_videos(tmp_path, ["nothing/source_videos/M101/M101_BlendShape_camera_up.mp4"])
    with pytest.raises(DatasetError, match="index deeperforensics --download-help") as error:
        list_deeperforensics(tmp_path / name)
    assert ("no manipulated_videos" in str(error.value)) == (name == "nothing")


def test_published_counts_select_a_variant_and_a_side(root: Path) -> None:
    videos = list_deeperforensics(root).videos
    published = {count.what: count for count in DEEPERFORENSICS.published}
    assert len(published) == len(DEEPERFORENSICS.published) == (11 + 1) * 4
    found = {what: (count.count, sum(map(count.selects, videos))) for what, count in published.items()}
    parts = ("youtube c23", "DeeperForensics end_to_end", "DeeperForensics end_to_end_level_1")
    assert {what: numbers for what, numbers in found.items() if numbers[1]} == {
        f"{part}{side}": numbers
        for part in parts
        for side, numbers in (("", (1000, 4)), (", train", (703, 2)), (", val", (96, 1)), (", test", (201, 1)))
    }


def test_the_help_tells_where_to_ask_and_how_to_lay_out() -> None:
    dataset = DEEPERFORENSICS
    assert dataset.name == "deeperforensics" and dataset.list_videos is list_deeperforensics and not dataset.is_cropped
    assert "github.com/EndlessSora/DeeperForensics-1.0" in dataset.request and "ffpp" in dataset.request
    assert all(part in dataset.layout for part in ("manipulated_videos", "lists/splits", REALS, "source_videos"))
