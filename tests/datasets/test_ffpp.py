"""FaceForensics++: rows, sides and mismatches of miniature trees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.leaks import find_leaks
from pipelines.datasets.dataset import Listing, Mismatch
from pipelines.datasets.ffpp import FFPP, METHODS, list_ffpp
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos

LISTS = {"train": [["071", "054"]], "val": [["003", "000"]], "test": [["953", "974"]]}
REALS = "original_sequences/youtube"
FAKES = "manipulated_sequences"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs at c23: every real, both fakes of two methods."""
    pairs = [pair for pairs in LISTS.values() for pair in pairs]
    names = [f"{REALS}/c23/videos/{name}.mp4" for pair in pairs for name in pair]
    for method in ("Deepfakes", "Face2Face"):
        names += [f"{FAKES}/{method}/c23/videos/{a}_{b}.mp4" for pair in pairs for a, b in (pair, pair[::-1])]
    make_videos(tmp_path, names)
    return tmp_path


def write_lists(folder: Path, lists: dict[str, Any] = LISTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in lists.items():
        (folder / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def rows_of(listing: Listing) -> dict[str, VideoRow]:
    rows = {row.video_key: row for row in listing.videos}
    assert [row.video_key for row in listing.videos] == sorted(rows), "a key stands twice, or not in its order"
    return rows


def only_mismatch(listing: Listing) -> Mismatch:
    (mismatch,) = listing.mismatches
    return mismatch


@pytest.mark.parametrize("folder", [".", "splits", "dataset/splits"])
def test_a_pair_of_the_lists_decides_two_reals_and_two_fakes_of_every_method(root: Path, folder: str) -> None:
    write_lists(root / folder)
    make_videos(root, [f"{FAKES}/Deepfakes/masks/videos/071_054.mp4"])
    listing = list_ffpp(root)
    rows = rows_of(listing)
    assert listing.has_official_split and not listing.mismatches
    assert len(rows) == 6 + 2 * 6
    assert {key.rsplit("/", 1)[1]: row.split for key, row in rows.items()} == {
        **dict.fromkeys(("071", "054", "071_054", "054_071"), "train"),
        **dict.fromkeys(("003", "000", "003_000", "000_003"), "val"),
        **dict.fromkeys(("953", "974", "953_974", "974_953"), "test"),
    }
    assert rows["ffpp/Deepfakes/c23/071_054"] == VideoRow(
        video_id="",
        sha256="",
        video_key="ffpp/Deepfakes/c23/071_054",
        path=(root / FAKES / "Deepfakes/c23/videos/071_054.mp4").as_posix(),
        label="fake",
        split="train",
        original="ffpp/youtube/c23/071",
        group="054_071",
        dataset="ffpp",
        method="Deepfakes",
        compression="c23",
        mask=(root / FAKES / "Deepfakes/masks/videos/071_054.mp4").as_posix(),
    )
    assert rows["ffpp/youtube/c23/054"] == VideoRow(
        video_id="",
        sha256="",
        video_key="ffpp/youtube/c23/054",
        path=(root / REALS / "c23/videos/054.mp4").as_posix(),
        label="real",
        split="train",
        group="054_071",
        dataset="ffpp",
        compression="c23",
    )
    assert [key for key, row in rows.items() if row.mask] == ["ffpp/Deepfakes/c23/071_054"]


def test_official_sides_do_not_leak(root: Path) -> None:
    write_lists(root)
    videos = list_ffpp(root).videos
    sides = {split: [row for row in videos if row.split == split] for split in LISTS}
    assert all(sides.values()) and not find_leaks(sides)


def test_one_stem_in_every_method_and_compression_makes_as_many_keys(tmp_path: Path) -> None:
    places = [f"{method}/{folder}" for method in METHODS for folder in ("raw", "c23", "c40")]
    make_videos(tmp_path, [f"{FAKES}/{place}/videos/071_054.mp4" for place in places])
    rows = rows_of(list_ffpp(tmp_path))
    assert set(rows) == {f"ffpp/{place.replace('raw', 'c0')}/071_054" for place in places}
    assert {row.original for row in rows.values()} == {f"ffpp/youtube/{name}/071" for name in ("c0", "c23", "c40")}


@pytest.mark.parametrize("folder", ["raw", "c0", "RAW"])
def test_raw_goes_by_c0(tmp_path: Path, folder: str) -> None:
    make_videos(tmp_path, [f"{REALS}/{folder}/videos/071.mp4"])
    assert set(rows_of(list_ffpp(tmp_path))) == {"ffpp/youtube/c0/071"}


def test_raw_beside_c0_is_passed_over(tmp_path: Path) -> None:
    make_videos(tmp_path, [f"{REALS}/{folder}/videos/{name}.mp4" for folder, name in (("c0", "071"), ("raw", "054"))])
    write_lists(tmp_path, LISTS | {"val": [], "test": []})
    listing = list_ffpp(tmp_path)
    assert set(rows_of(listing)) == {"ffpp/youtube/c0/071"}
    layout, missing = listing.mismatches
    assert (layout.kind, layout.where) == ("layout", f"{REALS}/raw/videos") and f"{REALS}/c0/videos" in layout.message
    assert (missing.kind, missing.where) == ("missing", f"{REALS}/c0/videos")


def test_letter_case_of_folders_does_not_matter(tmp_path: Path) -> None:
    make_videos(
        tmp_path, ["Original_Sequences/YouTube/C23/Videos/071.MP4", f"{FAKES.upper()}/deepfakes/C23/videos/071_054.mp4"]
    )
    make_videos(tmp_path, [f"{FAKES.upper()}/deepfakes/Masks/Videos/071_054.mp4"])
    write_lists(tmp_path / "Splits", LISTS)
    rows = rows_of(list_ffpp(tmp_path))
    assert set(rows) == {"ffpp/youtube/c23/071", "ffpp/Deepfakes/c23/071_054"}
    assert rows["ffpp/Deepfakes/c23/071_054"].mask and rows["ffpp/Deepfakes/c23/071_054"].split == "train"


def test_the_root_may_be_the_folder_above(root: Path, tmp_path: Path) -> None:
    below = tmp_path / "above" / "FaceForensics++"
    make_videos(below, [f"{REALS}/c23/videos/071.mp4"])
    listing = list_ffpp(below.parent)
    assert set(rows_of(listing)) == {"ffpp/youtube/c23/071"}
    assert only_mismatch(listing).where == "FaceForensics++"


def test_a_root_with_two_copies_is_refused(tmp_path: Path) -> None:
    make_videos(tmp_path, [f"{name}/{REALS}/c23/videos/071.mp4" for name in ("old", "new")])
    with pytest.raises(DatasetError, match="new, old; give one"):
        list_ffpp(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "a_file", "absent"])
def test_another_layout_is_refused_with_what_was_looked_for(tmp_path: Path, name: str) -> None:
    make_videos(tmp_path, ["nothing/original_sequences/actors/c23/videos/01__hall.mp4"])
    (tmp_path / "a_file").touch()
    with pytest.raises(DatasetError, match=r"index ffpp --download-help") as error:
        list_ffpp(tmp_path / name)
    assert ("is not a folder" in str(error.value)) == (name != "nothing")
    assert (f"{REALS} and no {FAKES}/METHOD" in str(error.value)) == (name == "nothing")


def test_without_lists_nothing_has_a_split_and_names_of_fakes_say_what_stays_together(root: Path) -> None:
    make_videos(root, [f"{REALS}/c23/videos/500.mp4"])
    listing = list_ffpp(root)
    rows = rows_of(listing)
    assert not listing.has_official_split and {row.split for row in rows.values()} == {None}
    for source in ("youtube", "Deepfakes", "Face2Face"):
        stems = ("054", "071") if source == "youtube" else ("054_071", "071_054")
        assert {rows[f"ffpp/{source}/c23/{stem}"].group for stem in stems} == {"054_071"}
    assert rows["ffpp/youtube/c23/500"].group is None
    mismatch = only_mismatch(listing)
    assert (mismatch.kind, mismatch.where) == ("layout", ".") and "github.com/ondyari/FaceForensics" in mismatch.message


def test_pairs_that_share_a_clip_become_one_group(tmp_path: Path) -> None:
    names = ["001_002", "003_004", "002_003", "008_009"]
    make_videos(tmp_path, [f"{FAKES}/Deepfakes/c23/videos/{name}.mp4" for name in names])
    groups = [row.group for row in list_ffpp(tmp_path).videos]
    assert groups == [*["001_002_003_004"] * 3, "008_009"]


def test_listed_videos_that_are_not_there_are_told_once_a_folder(root: Path) -> None:
    pairs = [["071", "054"], ["100", "101"], ["102", "103"]]
    write_lists(root, LISTS | {"train": pairs})
    listing = list_ffpp(root)
    assert len(listing.videos) == 18
    assert [mismatch.kind for mismatch in listing.mismatches] == ["missing"] * 3
    assert {mismatch.where for mismatch in listing.mismatches} == {
        f"{folder}/c23/videos" for folder in (REALS, f"{FAKES}/Deepfakes", f"{FAKES}/Face2Face")
    }
    (of_reals,) = [mismatch for mismatch in listing.mismatches if mismatch.where.startswith(REALS)]
    assert "4 of 10" in of_reals.message and "100, 101, 102 and 1 more" in of_reals.message


def test_videos_that_no_list_names_stay_without_a_split(root: Path) -> None:
    make_videos(root, [f"{REALS}/c23/videos/500.mp4", f"{FAKES}/Deepfakes/c23/videos/071_953.mp4"])
    write_lists(root)
    listing = list_ffpp(root)
    rows = rows_of(listing)
    assert listing.has_official_split
    assert [key for key, row in rows.items() if row.split is None] == [
        "ffpp/Deepfakes/c23/071_953",
        "ffpp/youtube/c23/500",
    ]
    fake = rows["ffpp/Deepfakes/c23/071_953"]
    assert (fake.original, fake.group) == ("ffpp/youtube/c23/071", "953_974"), "not tied to both of its clips"
    assert [(found.kind, found.where) for found in listing.mismatches] == [
        ("unlisted", f"{REALS}/c23/videos"),
        ("unlisted", f"{FAKES}/Deepfakes/c23/videos"),
    ]
    assert "500" in listing.mismatches[0].message and "071_953" in listing.mismatches[1].message


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "[["}, "train.json is not readable JSON"),
        ({"train": [["071"]]}, r"train.json must be a list of pairs .* got \['071'\]"),
        ({"train": {"071": "054"}}, "train.json must be a list of pairs"),
        ({"train": [[71, 54]]}, r"got \[71, 54\]"),
        ({"train": [["071", "71"]]}, "must be a list of pairs"),
        ({"train": [["071", "071"]]}, "must be a list of pairs"),
        ({"train": [["071", "003"]]}, r"'003' is in two pairs \(.*train.json and .*val.json\)"),
        ({"test": [["953", "974"], ["953", "111"]]}, r"'953' is in two pairs \(.*test.json and .*test.json\)"),
    ],
)
def test_lists_that_can_not_be_right_are_refused(root: Path, lists: dict[str, Any], message: str) -> None:
    write_lists(root, LISTS | lists)
    with pytest.raises(DatasetError, match=message):
        list_ffpp(root)


def test_some_of_the_lists_are_not_taken_for_all(root: Path) -> None:
    write_lists(root, {"train": LISTS["train"], "test": LISTS["test"]})
    with pytest.raises(DatasetError, match=r"val.json is missing"):
        list_ffpp(root)


@pytest.mark.parametrize(
    ("planted", "where", "message"),
    [
        (f"{REALS}/c23/videos/71.mp4", f"{REALS}/c23/videos", "71.mp4: a name has to be like 071.mp4"),
        (f"{REALS}/c23/videos/071_054.mp4", f"{REALS}/c23/videos", "071_054.mp4: a name has to be like 071.mp4"),
        (f"{FAKES}/Deepfakes/c23/videos/071.mp4", f"{FAKES}/Deepfakes/c23/videos", "be like 071_054.mp4"),
        (f"{REALS}/c23/videos/071.ts", f"{REALS}/c23/videos", "071.ts: the same name is there with another suffix"),
        (f"{REALS}/c40/071.mp4", f"{REALS}/c40", "no folder `videos`"),
        (f"{FAKES}/Mine/c23/videos/071_054.mp4", f"{FAKES}/Mine", "neither of FaceForensics++"),
    ],
)
def test_what_does_not_fit_is_passed_over_and_told(root: Path, planted: str, where: str, message: str) -> None:
    write_lists(root)
    expected = rows_of(list_ffpp(root))
    make_videos(root, [planted])
    listing = list_ffpp(root)
    assert rows_of(listing) == expected
    mismatch = only_mismatch(listing)
    assert (mismatch.kind, mismatch.where) == ("layout", where) and message in mismatch.message


@pytest.mark.parametrize(
    "planted",
    [
        "original_sequences/actors/c23/videos/01__hall.mp4",
        f"{FAKES}/DeepFakeDetection/c23/videos/01_02__hall__ABCDEFGH.mp4",
        f"{FAKES}/Deepfakes/models/071.mp4",
        f"{REALS}/c23/images/071.mp4",
        f"{REALS}/c40",
        f"{REALS}/c23/videos/notes.txt",
        f"{REALS}/c23/videos/._054.mp4",
    ],
)
def test_what_belongs_to_others_is_passed_over_in_silence(root: Path, planted: str) -> None:
    write_lists(root)
    expected = list_ffpp(root)
    (root / planted).parent.mkdir(parents=True, exist_ok=True)
    (root / planted).touch()
    assert list_ffpp(root) == expected


def test_published_counts_select_a_method_a_compression_and_a_side(root: Path) -> None:
    write_lists(root)
    make_videos(root, [f"{REALS}/c40/videos/071.mp4"])
    videos = list_ffpp(root).videos
    published = {count.what: count for count in FFPP.published}
    assert len(published) == len(FFPP.published) == 6 * 3 * 4
    found = {what: sum(map(count.selects, videos)) for what, count in published.items()}
    assert {what: (published[what].count, number) for what, number in found.items() if number} == {
        "youtube c23": (1000, 6),
        "youtube c23, train": (720, 2),
        "youtube c23, val": (140, 2),
        "youtube c23, test": (140, 2),
        "youtube c40": (1000, 1),
        "youtube c40, train": (720, 1),
        **{
            f"{method} c23{side}": (count, number)
            for method in ("Deepfakes", "Face2Face")
            for side, count, number in (("", 1000, 6), (", train", 720, 2), (", val", 140, 2), (", test", 140, 2))
        },
    }


def test_the_help_tells_where_to_ask_and_how_to_lay_out() -> None:
    assert FFPP.name == "ffpp" and FFPP.list_videos is list_ffpp and not FFPP.is_cropped
    assert "github.com/ondyari/FaceForensics" in FFPP.request
    assert all(part in FFPP.layout for part in (REALS, FAKES, "masks/videos", "train.json", *METHODS))
