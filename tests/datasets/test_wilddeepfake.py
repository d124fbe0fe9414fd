"""WildDeepfake: folders of pictures in place of videos, and archives that nobody has unpacked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipelines.data.face_crop_sources import read_source
from pipelines.datasets.wilddeepfake import UNPACK, WILDDEEPFAKE, list_wilddeepfake
from pipelines.errors import DatasetError
from pipelines.records import VideoRow, rows_to_table
from pipelines.workspace.manifest import Provenance, write_table
from tests.support import make_noise

SEQUENCES = (
    "real_train/1/real/103",
    "real_train/1/real/104",
    "real_test/0/real/7",
    "fake_train/12/fake/131",
    "fake_test/3/fake/9",
)


def _make(root: Path, sequences: Iterable[str] = SEQUENCES) -> Path:
    for seed, name in enumerate(sequences):
        (root / name).mkdir(parents=True)
        for frame in (0, 12):
            (root / name / f"{frame}.png").write_bytes(make_noise(100 * seed + frame, 16))
    return root


def _row(folder: Path, side: str, archive: str, key: str) -> VideoRow:
    split, label = side.split("/")
    return VideoRow(
        video_id="",
        sha256="",
        video_key=f"wilddeepfake/{side}/{key}",
        path=folder.as_posix(),
        label=label,
        split=split,
        group=f"wilddeepfake/{side}/{archive}",
        dataset="wilddeepfake",
    )


def test_a_row_is_a_folder_of_pictures_with_its_archive_as_group(tmp_path: Path) -> None:
    listing = list_wilddeepfake(_make(tmp_path))
    assert listing.videos == [
        _row(tmp_path / "fake_test/3/fake/9", "test/fake", "3", "3/fake/9"),
        _row(tmp_path / "real_test/0/real/7", "test/real", "0", "0/real/7"),
        _row(tmp_path / "fake_train/12/fake/131", "train/fake", "12", "12/fake/131"),
        _row(tmp_path / "real_train/1/real/103", "train/real", "1", "1/real/103"),
        _row(tmp_path / "real_train/1/real/104", "train/real", "1", "1/real/104"),
    ]
    assert (listing.mismatches, listing.has_official_split, WILDDEEPFAKE.is_cropped) == ([], True, True)


@pytest.mark.parametrize(
    "folder",
    [
        "real_train",
        "Real Train",
        "real-train",
        "train_real",
        "real/train",
        "train/real",
        "deepfake_in_the_wild/real_train",
        "deepfake_in_the_wild/real/train",
    ],
)
def test_label_and_side_are_found_in_any_spelling(tmp_path: Path, folder: str) -> None:
    listing = list_wilddeepfake(_make(tmp_path, [f"{folder}/1/real/103"]))
    assert listing.videos == [_row(tmp_path / folder / "1/real/103", "train/real", "1", "1/real/103")]


@pytest.mark.parametrize(
    ("below", "archive"), [("extracted/5/real/8", "5"), ("5/8", "5"), ("real/8", "8"), ("clip", "clip")]
)
def test_the_group_is_the_outermost_number(tmp_path: Path, below: str, archive: str) -> None:
    listing = list_wilddeepfake(_make(tmp_path, [f"real_test/{below}"]))
    assert listing.videos == [_row(tmp_path / "real_test" / below, "test/real", archive, below)]


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    store, root = _make(tmp_path / "store", ["1/real/103", "2/real/104"]), tmp_path / "root"
    (root / "real_train").mkdir(parents=True)
    (root / "real_train/1").symlink_to(store / "1")
    (root / "real_test").symlink_to(store / "2")
    (store / "1/real/103/again").symlink_to(root / "real_train")
    assert list_wilddeepfake(root).videos == [
        _row(root / "real_test/real/104", "test/real", "104", "real/104"),
        _row(root / "real_train/1/real/103", "train/real", "1", "1/real/103"),
    ]


def test_only_folders_that_hold_pictures_themselves_become_rows(tmp_path: Path) -> None:
    _make(tmp_path, ["fake_test/3/fake/9"])
    for name in ("fake_test/3/notes.txt", "fake_test/4/._1.png", "fake_test/5/1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(row.path).name for row in list_wilddeepfake(tmp_path).videos] == ["9"]


def test_archives_that_are_not_unpacked_are_one_mismatch_whose_command_works(tmp_path: Path) -> None:
    packed = _make(tmp_path / "packed", ["5/fake/1", "6/fake/2"])
    side = tmp_path / "root" / "fake_test"
    _make(tmp_path / "root", ["fake_test/3/fake/9"])
    subprocess.run(["tar", "-C", packed, "-cf", side / "5.tar.gz", "./5"], check=True)
    subprocess.run(["tar", "-C", packed, "-czf", side / "6.tar.gz", "./6"], check=True)
    shutil.copy(side / "5.tar.gz", side / "3.tar.gz")
    listing = list_wilddeepfake(tmp_path / "root")
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("layout", "fake_test")
    assert "2 packed archives: 5.tar.gz, 6.tar.gz" in mismatch.message
    assert mismatch.message.endswith(UNPACK)
    assert len(listing.videos) == 1
    subprocess.run(UNPACK, shell=True, cwd=side, check=True)
    listing = list_wilddeepfake(tmp_path / "root")
    assert [row.video_key for row in listing.videos] == [
        f"wilddeepfake/test/fake/{name}" for name in ("3/fake/9", "5/fake/1", "6/fake/2")
    ]
    assert listing.mismatches == []


def test_a_folder_of_the_other_label_is_reported_and_the_outer_one_believed(tmp_path: Path) -> None:
    listing = list_wilddeepfake(_make(tmp_path, ["real_train/1/fake/3", "real_train/1/real/4", "real_train/unfaked/5"]))
    assert [row.label for row in listing.videos] == ["real", "real", "real"]
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("label", "real_train")
    assert "1 sequences lie in a folder of the other label: 1/fake/3; the outer folder (real)" in mismatch.message


def test_pictures_outside_a_sequence_are_reported(tmp_path: Path) -> None:
    _make(tmp_path, ["fake_train", "fake_train/1/fake/131"])
    listing = list_wilddeepfake(tmp_path)
    assert [row.group for row in listing.videos] == ["wilddeepfake/train/fake/1"]
    (mismatch,) = listing.mismatches
    assert (mismatch.kind, mismatch.where) == ("layout", "fake_train")


def test_a_sequence_that_is_there_twice_gets_one_row(tmp_path: Path) -> None:
    listing = list_wilddeepfake(_make(tmp_path, ["real/train/1/real/2", "real_train/1/real/2", "real_train/1/real/3"]))
    assert [row.video_key[-8:] for row in listing.videos] == ["1/real/2", "1/real/3"]
    (mismatch,) = listing.mismatches
    assert "real_train/1/real/2" in mismatch.message


def test_an_index_of_the_rows_is_read_as_cropped_faces(tmp_path: Path) -> None:
    videos = list_wilddeepfake(_make(tmp_path)).videos
    manifest = tmp_path / "index.parquet"
    write_table(rows_to_table(videos, VideoRow), manifest, Provenance("index", 1, {}))
    faces = list(read_source(manifest))
    assert len(faces) == 2 * len(SEQUENCES)
    assert {(face.video, face.about.label) for face in faces} == {(row.video_key, row.label) for row in videos}
    assert all(face.read() for face in faces)


@pytest.mark.parametrize("folder", ["real/1", "train/1", "real_fake_train/1", "a/b/c/real_train/1"])
def test_folders_that_do_not_say_both_are_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DatasetError, match="deepfake index wilddeepfake --download-help"):
        list_wilddeepfake(_make(tmp_path, [folder]))


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        list_wilddeepfake(tmp_path / "nowhere")


def test_published_counts_count_the_right_sequences(tmp_path: Path) -> None:
    videos = list_wilddeepfake(_make(tmp_path, [*SEQUENCES, "real_test/0/real/8"])).videos
    assert {item.what: (item.count, sum(map(item.selects, videos))) for item in WILDDEEPFAKE.published} == {
        "train": (6508, 3),
        "test, real": (396, 2),
        "test, fake": (410, 1),
    }
