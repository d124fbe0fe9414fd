"""Every planted fault is found, named and weighed, and a sound data set has none."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import ImportConfig
from pipelines.datasets.checks import CheckReport, CheckResult, check_dataset, inspect_files
from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.errors import StorageError
from pipelines.records import VideoRow, rows_to_table
from pipelines.stages.import_faces import import_faces
from pipelines.system.file_digest import file_digest
from pipelines.system.progress import Progress
from pipelines.workspace.manifest import Provenance, write_table
from tests.datasets.trees import make_video
from tests.support import encode_png, make_noise

DATASET = Dataset("toy", "Toy data set", lambda root: Listing([], [], True), "Ask nobody.", "ROOT/")
"""Its listing is given to the function directly: a check sees nothing else of a data set's module."""


def _video(key: str, label: str = "real", **fields: str | None) -> VideoRow:
    sha256 = fields.pop("sha256", f"sha-{key}") or ""
    return VideoRow(sha256[:16], sha256, key, f"/data/{key}.mp4", label, **fields)  # type: ignore[arg-type]


SOUND = [
    _video("a", split="train", identity="Anna", group="g"),
    _video("a-fake", "fake", split="train", original="a", identity="Anna;Ben", group="g"),
    _video("b", split="val", identity="Cleo"),
    _video("c", "fake", split="test", identity="Dora"),
    _video("d"),
]


def _check(
    videos: Sequence[VideoRow], *, mismatches: Sequence[Mismatch] = (), published: Sequence[PublishedCount] = ()
) -> CheckReport:
    listing = Listing(list(videos), list(mismatches), has_official_split=True)
    return check_dataset(replace(DATASET, published=published), listing, videos)


def _named(report: CheckReport, name: str) -> CheckResult:
    (check,) = [check for check in report.checks if check.name == name]
    return check


def test_a_sound_data_set_passes_every_check() -> None:
    report = _check(SOUND)
    assert [check.name for check in report.checks] == [
        "labels against folders", "missing files", "unlisted files", "layout", "readable files", "copies with one label",
        "copies with two labels", "leaks by content", "leaks by original", "leaks by group", "leaks by identity",
    ]  # fmt: skip
    assert {(check.outcome, check.detail) for check in report.checks} == {("ok", "")}
    assert _named(report, "readable files") == CheckResult("readable files", "ok", "5", "5")
    assert not report.has_contradiction and not report.is_incomplete


@pytest.mark.parametrize(
    ("added", "name", "detail"),
    [
        ([_video("x", split="test", sha256="sha-b")], "leaks by content", "content sha-b: b (val), x (test)"),
        (
            [_video("x", "fake", split="val", original="a")],
            "leaks by original",
            "original 'a': a and 1 more (train), x (val)",
        ),
        ([_video("x", split="val", group="g")], "leaks by group", "group 'g': a and 1 more (train), x (val)"),
        ([_video("x", split="test", identity="Ben")], "leaks by identity", "identity 'Ben': a-fake (train), x (test)"),
        (
            [_video(f"x{n}", split="val", identity=who) for n, who in enumerate(("Anna", "Ben", "Dora"))],
            "leaks by identity",
            "identity 'Anna': a and 1 more (train), x0 (val); identity 'Ben': a-fake (train), x1 (val); and 1 more",
        ),
    ],
)
def test_a_leak_fails_its_check_with_examples_and_the_cure(added: list[VideoRow], name: str, detail: str) -> None:
    report = _check([*SOUND, *added])
    assert _named(report, name) == CheckResult(
        name, "failed", "0", str(len(added)), f"{detail}; remedy: --drop-leaks or --split deal, with --overwrite"
    )
    assert {check.name for check in report.checks if check.outcome == "failed"} == {name}
    assert report.has_contradiction and not report.is_incomplete


def test_a_video_on_no_side_tells_who_is_in_its_fakes() -> None:
    fake = _video("x", "fake", split="train", original="alone")
    videos = [*SOUND, _video("alone", identity="Dora"), fake]
    assert "identity 'Dora': x (train), c (test)" in _named(_check(videos), "leaks by identity").detail


@pytest.mark.parametrize(
    ("kind", "name", "outcome"),
    [
        ("label", "labels against folders", "failed"),
        ("missing", "missing files", "failed"),
        ("unlisted", "unlisted files", "note"),
        ("layout", "layout", "note"),
    ],
)
def test_mismatches_of_the_listing_are_weighed_by_kind(kind: str, name: str, outcome: str) -> None:
    mismatches = [Mismatch(kind, f"list{n}.txt", f"fault {n}") for n in range(3)]  # type: ignore[arg-type]
    report = _check(SOUND, mismatches=mismatches)
    expected = "list0.txt: fault 0; list1.txt: fault 1; and 1 more"
    assert _named(report, name) == CheckResult(name, outcome, "0", "3 places", expected)  # type: ignore[arg-type]
    assert _named(_check(SOUND, mismatches=mismatches[:1]), name).found == "1 place"
    assert (report.has_contradiction, report.is_incomplete) == (kind == "label", kind == "missing")


def test_counts_are_held_against_those_published_of_the_parts_that_are_there() -> None:
    published = [
        PublishedCount("train, real", 1, lambda video: (video.split, video.label) == ("train", "real")),
        PublishedCount("fakes", 5, lambda video: video.label == "fake"),
        PublishedCount("all", 3, lambda video: True),
        PublishedCount("c40", 1000, lambda video: video.compression == "c40"),
    ]
    report = _check(SOUND, published=published)
    assert report.checks[:3] == (
        CheckResult("videos of train, real", "ok", "1", "1"),
        CheckResult("videos of fakes", "note", "5", "2", "3 fewer than published"),
        CheckResult("videos of all", "note", "3", "5", "2 more than published"),
    )
    assert not any("c40" in check.name for check in report.checks)
    assert not report.has_contradiction and not report.is_incomplete


def test_counts_are_those_of_the_official_splits_wherever_the_videos_are_used() -> None:
    published = [PublishedCount("test", 1, lambda video: video.split == "test")]
    listing = Listing(SOUND, [], has_official_split=True)
    used = [replace(video, split="train") for video in SOUND]
    assert check_dataset(replace(DATASET, published=published), listing, used).checks[0].outcome == "ok"


def test_copies_are_noted_and_contradict_where_their_labels_differ() -> None:
    same, other = _video("x", split="train", sha256="sha-a"), _video("y", "fake", split="train", sha256="sha-a")
    report = _check([*SOUND, same])
    assert _named(report, "copies with one label") == CheckResult("copies with one label", "note", "0", "1", "a and x")
    assert not report.has_contradiction
    report = _check([*SOUND, other])
    assert _named(report, "copies with two labels").detail == "a (real) and y (fake) are one file; correct one"
    assert report.has_contradiction and _named(report, "copies with one label").outcome == "ok"


def test_files_that_were_not_hashed_are_no_copies() -> None:
    lost = [_video(key, label, sha256=None, split=side) for key, label, side in
            (("x", "real", "train"), ("y", "fake", "val"), ("z", "real", "val"))]  # fmt: skip
    report = _check([*SOUND, *lost])
    assert {check.outcome for check in report.checks} == {"ok"}


def test_a_file_that_does_not_open_is_incomplete_and_no_contradiction() -> None:
    report = _check([*SOUND, replace(_video("x"), status="unreadable", error="x.mp4 is empty; copy it again")])
    expected = CheckResult("readable files", "failed", "6", "5", "x: x.mp4 is empty; copy it again")
    assert _named(report, "readable files") == expected
    assert report.is_incomplete and not report.has_contradiction


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[VideoRow]:
    """A sound video, a truncated, an empty and a missing one, a text, a folder and a picture."""
    folder = tmp_path_factory.mktemp("videos")
    sound = make_video(folder / "sound.mp4", seed=1)
    content = sound.read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"not a video\n" * 50)
    (folder / "picture.png").write_bytes(make_noise(0))
    (folder / "folder.mp4").mkdir()
    names = ("sound.mp4", "cut.mp4", "empty.mp4", "missing.mp4", "text.mp4", "folder.mp4", "picture.png")
    return [VideoRow("", "", name, str(folder / name), "real", split="train") for name in names]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_file_is_hashed_and_opened_in_order(videos: list[VideoRow], workers: int) -> None:
    events: list[Progress] = []
    rows = inspect_files(videos, file_digest, workers=workers, on_progress=events.append)
    assert [row.video_key for row in rows] == [video.video_key for video in videos]
    readable = {row.video_key for row in rows if row.status == "ok"}
    assert readable == {"sound.mp4", "picture.png"}
    for video, row in zip(videos, rows, strict=True):
        path = Path(video.path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        assert row.sha256 == sha256 and row.video_id == sha256[:16]
        changed = {"sha256", "video_id", "status", "error"}
        assert {name: value for name, value in vars(row).items() if name not in changed} == {
            name: value for name, value in vars(video).items() if name not in changed
        }
        if row.video_key not in readable:
            assert row.status == "unreadable" and row.error and video.video_key in row.error
    assert [(event.done, event.total, event.unit) for event in events] == [(n, 7, "video") for n in range(1, 8)]


def test_a_header_is_not_enough(tmp_path: Path) -> None:
    """The index of the file is whole, and no frame decodes."""
    path = make_video(tmp_path / "zeros.mp4", seed=2)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    (row,) = inspect_files([VideoRow("", "", "zeros", str(path), "real")], file_digest)
    assert row.status == "unreadable" and row.sha256 == file_digest(path)
    assert row.error is not None and "none of the frames can be decoded" in row.error


def test_digests_that_can_not_be_kept_end_the_check(videos: list[VideoRow]) -> None:
    def digest_of(_path: Path) -> str:
        raise StorageError("no space left")

    with pytest.raises(StorageError, match="no space left"):
        inspect_files(videos, digest_of, workers=1)


def test_a_bug_of_a_reader_fails_one_row(videos: list[VideoRow], caplog: pytest.LogCaptureFixture) -> None:
    def digest_of(path: Path) -> str:
        if path.name == "cut.mp4":
            raise ZeroDivisionError("strange")
        return file_digest(path)

    rows = inspect_files(videos, digest_of)
    assert [(row.status, row.error) for row in rows][:2] == [("ok", None), ("failed", "ZeroDivisionError: strange")]


def _sequences(root: Path, pictures: Callable[[int], bytes]) -> list[VideoRow]:
    rows = []
    for number, count in enumerate((3, 1, 0)):
        folder = root / f"{number}"
        folder.mkdir(parents=True)
        for index in range(count):
            (folder / f"{index}.png").write_bytes(pictures(10 * number + index))
        (folder / "notes.txt").write_text("no picture")
        label = ("real", "fake")[number % 2]
        rows.append(VideoRow("", "", f"toy/{number}", str(folder), label, split="train"))
    return rows


def test_sequences_of_faces_have_the_digests_that_import_faces_gives_them(tmp_path: Path) -> None:
    videos = _sequences(tmp_path / "faces", make_noise)
    rows = inspect_files(videos, file_digest, is_cropped=True)
    assert [row.status for row in rows] == ["ok", "ok", "unreadable"]
    assert rows[2].error == "2 holds no pictures; unpack its archive again"
    manifest = tmp_path / "videos.parquet"
    write_table(rows_to_table(videos, VideoRow), manifest, Provenance("index", 1, {}))
    imported = import_faces(manifest, tmp_path / "work", ImportConfig(as_is=True)).videos
    assert [row.sha256 for row in rows[:2]] == [row.sha256 for row in imported if row.status == "ok"]
    shutil.rmtree(videos[1].path)
    assert inspect_files(videos[1:2], file_digest, is_cropped=True)[0].status == "unreadable"


def test_a_sequence_whose_first_picture_does_not_decode_is_unreadable(tmp_path: Path) -> None:
    grey = encode_png(np.full((8, 8, 3), 99, np.uint8))
    videos = _sequences(tmp_path, lambda number: b"broken" if number == 0 else grey)
    rows = inspect_files(videos, file_digest, is_cropped=True)
    assert [row.status for row in rows[:2]] == ["unreadable", "ok"]
    assert rows[0].error == "0/0.png is not a readable picture; unpack its archive again"
