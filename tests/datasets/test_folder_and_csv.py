"""Data sets of one's own: folders named real and fake, or a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.datasets.csv_list import CSV, list_csv
from pipelines.datasets.folder import FOLDER, list_folder
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from tests.datasets.trees import make_videos


def _row(path: Path, key: str, **fields: str | None) -> VideoRow:
    return VideoRow(video_id="", sha256="", video_key=key, path=path.as_posix(), **fields)


def _make_folder(root: Path, names: Sequence[str]) -> Path:
    make_videos(root, names)
    return root


def test_folders_give_label_side_and_a_short_key(tmp_path: Path) -> None:
    root = _make_folder(tmp_path / "mine", ["train/real/a.mp4", "Test/day1/FAKE/b.MP4", "fake/val/c.mp4"])
    listing = list_folder(root)
    assert listing.videos == [
        _row(root / "Test/day1/FAKE/b.MP4", "Test/day1/FAKE/b", label="fake", split="test", dataset="mine"),
        _row(root / "fake/val/c.mp4", "fake/val/c", label="fake", split="val", dataset="mine"),
        _row(root / "train/real/a.mp4", "train/real/a", label="real", split="train", dataset="mine"),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], True)


@pytest.mark.parametrize("names", [["real/a.mp4", "fake/b.mp4"], ["train/real/a.mp4", "fake/b.mp4"]])
def test_sides_are_official_only_if_every_video_has_one(tmp_path: Path, names: list[str]) -> None:
    listing = list_folder(_make_folder(tmp_path, names))
    assert not listing.has_official_split
    assert [row.split for row in listing.videos if "real" in row.path] == ["train" if "train" in names[0] else None]


def test_videos_under_neither_are_one_mismatch_and_do_not_decide_about_the_sides(tmp_path: Path) -> None:
    names = ["train/real/a.mp4", "val/fake/b.mp4", *[f"other/{letter}.mp4" for letter in "cdefg"]]
    listing = list_folder(_make_folder(tmp_path, names))
    assert (len(listing.videos), listing.has_official_split) == (2, True)
    (mismatch,) = listing.mismatches
    assert mismatch.kind == "unlisted"
    assert "5 videos not in any list: other/c.mp4, other/d.mp4, other/e.mp4 and 2 more" in mismatch.message


def test_links_to_folders_are_followed_and_keep_their_names(tmp_path: Path) -> None:
    _make_folder(tmp_path / "store", ["reals/a.mp4", "swaps/b.mp4"])
    root = _make_folder(tmp_path / "mine", ["fake/c.mp4"])
    (root / "real").symlink_to(tmp_path / "store/reals")
    (root / "fake/more").symlink_to(tmp_path / "store/swaps")
    listing = list_folder(root)
    assert [(row.video_key, row.label, row.path) for row in listing.videos] == [
        ("fake/c", "fake", f"{root}/fake/c.mp4"),
        ("fake/more/b", "fake", f"{root}/fake/more/b.mp4"),
        ("real/a", "real", f"{root}/real/a.mp4"),
    ]
    assert listing.mismatches == []


@pytest.mark.parametrize(
    ("links", "more"),
    [
        ({"real/up": "../..", "fake/self": "."}, []),
        ({"real/other": "../fake", "fake/other": "../real"}, ["fake/other/a", "real/other/b"]),
        ({"real/deep/er/back": "../../deep", "real/deep/er/top": "../../.."}, []),
    ],
)
def test_links_are_not_followed_in_a_circle(tmp_path: Path, links: dict[str, str], more: list[str]) -> None:
    root = _make_folder(tmp_path / "mine", ["real/a.mp4", "fake/b.mp4"])
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    listing = list_folder(root)
    assert [row.video_key for row in listing.videos] == sorted(["fake/b", "real/a", *more])
    assert listing.mismatches == []


@pytest.mark.parametrize("link", ["real/latest", "real/b"])
def test_a_file_that_a_link_shows_again_is_listed_once_and_reported(tmp_path: Path, link: str) -> None:
    root = _make_folder(tmp_path, ["real/day/a.mp4", "fake/b.mp4"])
    (root / link).symlink_to("day")
    listing = list_folder(root)
    assert len(listing.videos) == 2
    (mismatch,) = listing.mismatches
    assert mismatch.kind == "layout"
    assert "1 video that a link shows a second time" in mismatch.message


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("train/fake", [("fake", "train"), ("real", "train")]),
        ("test/real", [("real", "test"), ("real", "train")]),
    ],
)
def test_a_link_that_contradicts_what_it_shows_is_left_for_the_check(
    tmp_path: Path, link: str, expected: list[tuple[str, str]]
) -> None:
    root = _make_folder(tmp_path, ["train/real/a.mp4"])
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(root / "train/real")
    listing = list_folder(root)
    assert [(row.label, row.split) for row in listing.videos] == expected
    assert listing.mismatches == []


def test_a_store_inside_the_root_is_not_passed_over_where_a_link_labels_it(tmp_path: Path) -> None:
    root = _make_folder(tmp_path, ["all/a.mp4", "all/more/b.mp4", "rest/c.mp4"])
    (root / "z").mkdir()
    (root / "z/real").symlink_to("../all")
    listing = list_folder(root)
    assert [row.video_key for row in listing.videos] == ["z/real/a", "z/real/more/b"]
    (mismatch,) = listing.mismatches
    assert mismatch.message.endswith("1 video not in any list: rest/c.mp4")


def test_equal_stems_get_longer_keys(tmp_path: Path) -> None:
    listing = list_folder(_make_folder(tmp_path, ["real/a.mp4", "real/a.avi", "fake/a.mp4"]))
    assert [row.video_key for row in listing.videos] == ["fake/a", "real/a.avi", "real/a.mp4"]


def test_the_name_of_the_data_set_is_that_of_the_folder_even_if_it_is_named_by_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _make_folder(tmp_path / "mine", ["real/a.mp4"])
    monkeypatch.chdir(root)
    assert list_folder(Path()).videos == list_folder(root).videos


@pytest.mark.parametrize("name", ["videos/a.mp4", "a.mp4"])
def test_a_folder_without_labels_is_refused(tmp_path: Path, name: str) -> None:
    root = _make_folder(tmp_path / "real", [name])
    with pytest.raises(DatasetError, match="below a folder named real or fake.*deepfake index folder --download-help"):
        list_folder(root)


def _make_csv(folder: Path, *lines: str, columns: str = "path,label", videos: Sequence[str] = ()) -> Path:
    make_videos(folder, videos)
    path = folder / "list.csv"
    path.write_text("\n".join([columns, *lines]) + "\n")
    return path


def test_a_csv_gives_everything_that_is_known(tmp_path: Path) -> None:
    path = _make_csv(
        tmp_path,
        "clips/a.mp4,real,train,,anna,day1,,,c23,",
        "clips/b.mp4,fake,test,clips/a.mp4,anna;ben,day2,other,swap,,masks/b.mp4",
        columns="path,label,split,original,identity,group,dataset,method,compression,mask",
        videos=["clips/a.mp4", "clips/b.mp4", "masks/b.mp4"],
    )
    listing = list_csv(path)
    assert listing.videos == [
        _row(
            tmp_path / "clips/a.mp4",
            "clips/a",
            label="real",
            split="train",
            identity="anna",
            group="day1",
            dataset="list",
            compression="c23",
        ),
        _row(
            tmp_path / "clips/b.mp4",
            "clips/b",
            label="fake",
            split="test",
            original="clips/a",
            identity="anna;ben",
            group="day2",
            dataset="other",
            method="swap",
            mask=f"{tmp_path}/masks/b.mp4",
        ),
    ]
    assert (listing.mismatches, listing.has_official_split) == ([], True)


def test_paths_start_at_the_folder_of_the_csv_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_videos(tmp_path, ["elsewhere/c.mp4"])
    lines = ("a.mp4,real", "./sub/../b.mp4,fake", f"{tmp_path}/elsewhere/c.mp4,fake", "../elsewhere/../other.mp4,fake")
    path = _make_csv(tmp_path / "mine", *lines, videos=["a.mp4", "b.mp4", "sub/d.mp4", "../other.mp4"])
    monkeypatch.chdir(path.parent)
    listing = list_csv(Path(path.name))
    assert listing.videos == list_csv(path).videos
    assert [(row.video_key, row.path) for row in listing.videos] == [
        ("a", f"{tmp_path}/mine/a.mp4"),
        ("b", f"{tmp_path}/mine/b.mp4"),
        ("c", f"{tmp_path}/elsewhere/c.mp4"),
        ("other", f"{tmp_path}/other.mp4"),
    ]
    assert not listing.has_official_split


ORIGINALS = ("a.mp4", "a.avi", "in/b.mp4", "in/c.d.mp4", "more/b.mp4", "../far/e.mp4", "more/c.d.mp4.avi")
"""Their keys: a.mp4, a.avi, in/b, in/c.d, more/b, e, more/c.d.mp4."""


def _make_fakes(folder: Path, *originals: str) -> Path:
    """A CSV whose last lines, from line 9 on, are fakes of these."""
    fakes = [f"fake{number}.mp4" for number in range(len(originals))]
    lines = [f"{name},fake,{original}" for name, original in zip(fakes, originals, strict=True)]
    reals = [f"{name},real," for name in ORIGINALS]
    return _make_csv(folder, *reals, *lines, columns="path,label,original", videos=[*ORIGINALS, *fakes])


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("a.mp4", "a.mp4"),
        ("./in/../a.avi", "a.avi"),
        ("in/b.mp4", "in/b"),
        ("in/b", "in/b"),
        ("in/c.d", "in/c.d"),
        ("in/b.mov", "in/b"),
        ("in\\b.mp4", "in/b"),
        ("c.d.mp4", "in/c.d"),
        ("c.d", "in/c.d"),
        ("c.d.mov", "in/c.d"),
        ("../far/e.mp4", "e"),
        ("e", "e"),
        ("ROOT/in/b.mp4", "in/b"),
        ("fake0.mp4", "fake0"),
    ],
)
def test_an_original_becomes_the_key_of_the_video_that_it_fits(tmp_path: Path, given: str, key: str) -> None:
    path = _make_fakes(tmp_path / "mine", given.replace("ROOT", f"{tmp_path}/mine"))
    listing = list_csv(path)
    assert listing.videos[-1].original == key
    assert key in [row.video_key for row in listing.videos]
    assert listing.mismatches == []


@pytest.mark.parametrize(
    ("given", "first", "second"),
    [
        ("b.mp4", "in/b.mp4", "more/b.mp4"),
        ("b", "in/b.mp4", "more/b.mp4"),
        ("b.mov", "in/b.mp4", "more/b.mp4"),
        ("a", "a.mp4", "a.avi"),
    ],
)
def test_an_original_that_fits_several_videos_is_refused(tmp_path: Path, given: str, first: str, second: str) -> None:
    path = _make_fakes(tmp_path / "mine", "in/b.mp4", given)
    message = f"list.csv line 10: original {given} could be {first} or {second}; give the path"
    with pytest.raises(DatasetError, match=message):
        list_csv(path)
    (path.parent / second).unlink()
    with pytest.raises(DatasetError, match=message):
        list_csv(path)


@pytest.mark.parametrize("given", ["no.mp4", "elsewhere/b.mp4", "elsewhere\\no.mp4", "in", "/", ".."])
def test_an_original_that_is_in_no_line_is_told_and_stays_as_it_is_given(tmp_path: Path, given: str) -> None:
    listing = list_csv(_make_fakes(tmp_path / "mine", "in/b.mp4", given))
    assert [row.original for row in listing.videos[-2:]] == ["in/b", given]
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("unlisted", "line 10")
    assert mismatch.message.startswith(f"original {given} of fake1.mp4 is in no line; fakes of one original are kept")


def test_fakes_of_a_listed_original_that_is_not_there_name_it_alike(tmp_path: Path) -> None:
    path = _make_fakes(tmp_path / "mine", "in/c.d.mp4", "c.d")
    (path.parent / "in/c.d.mp4").unlink()
    listing = list_csv(path)
    assert [row.original for row in listing.videos[-2:]] == ["in/c.d.mp4", "in/c.d.mp4"]
    assert [mismatch.where for mismatch in listing.mismatches] == ["line 5"]


def test_backslashes_stand_for_slashes_unless_a_file_is_named_so(tmp_path: Path) -> None:
    path = _make_csv(
        tmp_path,
        "in\\a.mp4,real,",
        "in\\b.mp4,fake,masks\\b.mp4",
        "in\\no.mp4,fake,",
        columns="path,label,mask",
        videos=["in/a.mp4", "in/b.mp4", "in\\b.mp4", "masks/b.mp4"],
    )
    listing = list_csv(path)
    assert [(row.path, row.mask) for row in listing.videos] == [
        (f"{tmp_path}/in/a.mp4", None),
        (f"{tmp_path}/in\\b.mp4", f"{tmp_path}/masks/b.mp4"),
    ]
    assert [(mismatch.where, mismatch.message.split(" ")[0]) for mismatch in listing.mismatches] == [
        ("line 4", "in\\no.mp4")
    ]


def test_keys_of_equal_names_become_longer(tmp_path: Path) -> None:
    path = _make_csv(tmp_path, "a.mp4,real", "a.avi,fake", videos=["a.mp4", "a.avi"])
    assert [row.video_key for row in list_csv(path).videos] == ["a.mp4", "a.avi"]


def test_a_video_or_mask_that_is_not_there_is_reported(tmp_path: Path) -> None:
    path = _make_csv(
        tmp_path,
        "a.mp4,real,",
        "b.mp4,fake,",
        "c.mp4,fake,no.mp4",
        columns="path,label,mask",
        videos=["a.mp4", "c.mp4"],
    )
    listing = list_csv(path)
    assert [(row.video_key, row.mask) for row in listing.videos] == [("a", None), ("c", None)]
    assert [(mismatch.kind, mismatch.where) for mismatch in listing.mismatches] == [
        ("missing", "line 3"),
        ("missing", "line 4"),
    ]
    assert [mismatch.message.split(" ")[0] for mismatch in listing.mismatches] == ["b.mp4", "no.mp4"]


@pytest.mark.parametrize(
    ("columns", "lines", "message"),
    [
        ("path,label", ["a.mp4,Fake"], "list.csv line 2: unknown label 'Fake'"),
        ("path,label", ["a.mp4,real", "b.mp4,"], "line 3 lacks the path or the label"),
        ("path,label", [",real"], "line 2 lacks the path or the label"),
        ("path,label,split", ["a.mp4,real,dev"], "unknown split 'dev'"),
        ("path,label", ["a.mp4,real", "b.mp4,fake", "./a.mp4,real"], r"./a.mp4 in line 2 and in line 4"),
        ("path,label", ["./a.mp4,real", ".\\a.mp4,real"], r"in line 2 and in line 3"),
        ("video,label", ["a.mp4,real"], "lacks the column 'path'"),
        ("path,label", ["c.mp4,real"], "names no video that is there"),
    ],
)
def test_a_csv_that_is_wrong_is_refused(tmp_path: Path, columns: str, lines: list[str], message: str) -> None:
    path = _make_csv(tmp_path, *lines, columns=columns, videos=["a.mp4", "b.mp4"])
    with pytest.raises(DatasetError, match=message):
        list_csv(path)


@pytest.mark.parametrize("name", ["", "nowhere.csv", "latin.csv"])
def test_what_is_no_csv_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "latin.csv").write_bytes("path,label\nä.mp4,real\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="is not a readable CSV file"):
        list_csv(tmp_path / name)


@pytest.mark.parametrize(("dataset", "name"), [(FOLDER, "folder"), (CSV, "csv")])
def test_the_data_sets_go_by_their_names(dataset: object, name: str) -> None:
    assert getattr(dataset, "name", None) == name
