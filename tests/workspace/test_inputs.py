"""From what a user names to rows: files, folders, lists, labels, keys, copies and the digest cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError, DatasetError, StorageError
from pipelines.records import VideoRow
from pipelines.workspace.inputs import DigestCache, InputFile, describe_inputs, find_inputs, make_video_keys
from tests.support import make_noise
from tests.synthetic import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files that count as inputs and three that do not."""
    root = tmp_path / "collection"
    (root / "deep" / "er").mkdir(parents=True)
    write_video(root / "b.mp4", num_frames=3)
    write_video(root / "deep" / "a.mkv", num_frames=4)
    shutil.copy(write_video(tmp_path / "video.mp4", num_frames=5), root / "deep" / "er" / "no-suffix")
    (root / "broken.MP4").write_bytes(b"\0" * 50)
    (root / "still.png").write_bytes(make_noise(0))
    (root / "broken.jpg").write_bytes(b"text")
    (root / "notes.txt").write_text("b.mp4\n")
    (root / "scores.csv").write_text("video,score\n")
    (root / "playlist.m3u8").write_text("#EXTM3U\nb.mp4\n")
    return root


def _rows(named: Sequence[str | Path], labels: Path | None = None) -> list[VideoRow]:
    return describe_inputs(find_inputs(named).files, labels=labels)


def _write_clip(path: Path, num_frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, num_frames=num_frames)


def test_a_folder_gives_known_suffixes_and_whatever_opens_as_video_and_counts_the_rest(folder: Path) -> None:
    found = find_inputs([folder])
    assert sorted(file.name for file in found.files) == [
        "b.mp4", "broken.MP4", "broken.jpg", "deep/a.mkv", "deep/er/no-suffix", "still.png",
    ]  # fmt: skip
    assert found.num_ignored == 3


def test_a_named_file_gets_a_row_whatever_it_is(folder: Path, tmp_path: Path) -> None:
    rows = _rows([folder / "scores.csv", folder / "playlist.m3u8", tmp_path / "missing.mp4"])
    assert [(Path(row.path).name, row.status) for row in rows] == [
        ("playlist.m3u8", "ok"),
        ("scores.csv", "ok"),
        ("missing.mp4", "unreadable"),
    ]
    missing = rows[-1]
    assert (missing.video_id, missing.sha256) == ("", "")
    assert missing.error == "missing.mp4 does not exist; check the path"


def test_a_list_names_files_and_folders_one_a_line(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"\ufeff{folder / 'b.mp4'}\n\n  {folder / 'deep'}  \r\n", "utf-8")
    assert [file.name for file in find_inputs([listed]).files] == ["b.mp4", "a.mkv", "er/no-suffix"]


def test_a_file_named_twice_gets_one_row(folder: Path) -> None:
    clip = folder / "b.mp4"
    assert len(find_inputs([clip, str(clip), f"{folder}/./b.mp4", folder]).files) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no videos found; pass video files or folders"), (b"\xff\xfe\x00\x80", "is not a readable list of paths")],
)
def test_a_list_without_paths_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        find_inputs([tmp_path / "list.txt"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/videos.parquet", "gone/videos.parquet does not exist; check the path"),
        ("x" * 300, "x does not exist; check the path"),
        ("videos", "videos has no splits to choose from; name a videos manifest made by: deepfake index"),
    ],
)
def test_splits_of_what_has_none_are_refused_with_the_reason(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ConfigError, match=message):
        find_inputs([tmp_path / name], splits=["test"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no videos found"):
        find_inputs([tmp_path])


def test_what_a_stage_has_written_inside_a_named_folder_is_no_input(folder: Path) -> None:
    work = folder / "work" / "extract-frames"
    work.mkdir(parents=True)
    shutil.copy(folder / "still.png", work / "00000000.png")
    assert len(find_inputs([folder], workspace=folder / "work").files) == 6
    assert len(find_inputs([folder]).files) == 7
    assert len(find_inputs([work], workspace=folder / "work").files) == 1


def _write_workspace(root: Path, picture: Path) -> None:
    frames = root / "extract-frames" / "frames" / "0123"
    frames.mkdir(parents=True)
    shutil.copy(picture, frames / "00000000.png")
    (root / "extract-frames" / "digests.jsonl").touch()


def test_any_workspace_in_a_named_folder_is_skipped_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write_workspace(folder / "deep" / "work", folder / "still.png")
    (folder / "deep" / "work" / "roc.png").write_bytes(make_noise(5))
    assert len(find_inputs([folder]).files) == 6
    assert caplog.messages == [
        f"{folder / 'deep' / 'work'} is skipped: it holds frames and faces written by deepfake, not videos"
    ]
    caplog.clear()
    assert len(find_inputs([folder], workspace=folder / "deep" / "work").files) == 6
    assert caplog.messages == []


@pytest.mark.parametrize("mark_of_a_run", ["manifest.parquet", "attention"])
def test_a_named_folder_that_is_a_workspace_gives_the_videos_next_to_its_stages(
    folder: Path, mark_of_a_run: str
) -> None:
    """Also while a run of `train` is unfinished: it has pictures of attention maps, and no manifest yet."""
    _write_workspace(folder, folder / "still.png")
    _write_workspace(folder / "detect-faces" / "no", folder / "still.png")
    (folder / "detect-faces" / "manifest.parquet").touch()
    (folder / "train" / "run").mkdir(parents=True)
    shutil.copy(folder / "still.png", folder / "train" / "run")
    assert len(find_inputs([folder]).files) == 7
    (folder / "train" / "run" / mark_of_a_run).touch()
    assert len(find_inputs([folder]).files) == len(find_inputs([folder], workspace=folder).files) == 6


def test_hidden_files_and_folders_are_ignored_and_counted(folder: Path) -> None:
    shutil.copy(folder / "b.mp4", folder / "._b.mp4")
    (folder / ".trash").mkdir()
    shutil.copy(folder / "b.mp4", folder / ".trash")
    found = find_inputs([folder])
    assert (len(found.files), found.num_ignored) == (6, 5)
    assert len(find_inputs([folder / "._b.mp4", folder / ".trash"]).files) == 2


def test_what_a_folder_holds_and_cannot_be_read_gets_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_clip(tmp_path / "in" / "a.mp4", 3)
    _write_clip(tmp_path / "in" / "sub" / "hidden.mp4", 4)
    (tmp_path / "in" / "broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    rows = {row.video_key: row for row in _rows([tmp_path / "in"])}
    assert {key: row.status for key, row in rows.items()} == {"a": "ok", "broken": "unreadable", "sub": "unreadable"}
    assert rows["sub"].error == "sub cannot be read: Permission denied; check its name and permissions"
    assert rows["broken"].error == "broken.mp4 does not exist; check the path"


def test_a_link_to_a_place_that_may_not_be_looked_at_gets_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_clip(tmp_path / "a.mp4", 3)
    (tmp_path / "b.mp4").symlink_to("/proc/1/cwd/b.mp4")
    stat = os.stat

    def refuse(path: str | Path, *args: Any, **options: Any) -> object:
        if Path(path).name == "b.mp4" and options.get("follow_symlinks", True):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert [row.status for row in _rows([tmp_path])] == ["ok", "unreadable"]


def test_linked_folders_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    _write_clip(tmp_path / "in" / "sub" / "a.mp4", 3)
    _write_clip(tmp_path / "disk2" / "b.mp4", 4)
    for name, target in (("disk2", tmp_path / "disk2"), ("again", tmp_path / "in" / "sub"), ("circle", tmp_path)):
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "disk2" / "back").symlink_to(tmp_path / "in")
    names = [file.name for file in find_inputs([tmp_path / "in"]).files]
    assert "sub/a.mp4" in names and "disk2/b.mp4" in names and not any("again" in name for name in names)


def test_copies_in_folders_named_real_and_fake_do_not_conflict_where_no_labels_are_wanted(tmp_path: Path) -> None:
    clip = _write_clip(tmp_path / "real" / "a.mp4", 3)
    (tmp_path / "fake").mkdir()
    shutil.copy(clip, tmp_path / "fake" / "b.mp4")
    rows = describe_inputs(find_inputs(tmp_path).files, with_labels=False)
    assert [(row.video_key, row.label) for row in rows] == [("fake/b", None), ("real/a", None)]


def test_rows_carry_digest_and_key_and_are_ordered_by_path(folder: Path) -> None:
    rows = _rows([folder / "still.png", folder / "deep", folder / "b.mp4"])
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    assert all(row.video_id == row.sha256[:16] and len(row.sha256) == 64 for row in rows)
    assert {row.video_key for row in rows} == {"still", "a", "er/no-suffix", "b"}


@pytest.mark.parametrize(
    ("files", "keys"),
    [
        ([("x/a.mp4", "a.mp4"), ("x/b.mp4", "b.mp4")], ["a", "b"]),
        ([("x/m1/a.mp4", "m1/a.mp4"), ("x/m2/a.mp4", "m2/a.mp4")], ["m1/a", "m2/a"]),
        ([("x/a.mp4", "a.mp4"), ("x/a.mkv", "a.mkv")], ["a.mp4", "a.mkv"]),
        ([("x/a.mp4", "a.mp4"), ("y/a.mp4", "a.mp4")], ["x/a.mp4", "y/a.mp4"]),
        ([("x/a.mp4", "a.mp4"), ("x/a.mkv", "a.mkv"), ("x/a.mp4.avi", "a.mp4.avi")], None),
        ([("a", "a"), ("x/a", "a"), ("root/x/a.mp4", "x/a.mp4")], None),
    ],
)
def test_video_keys_are_short_and_unique(files: list[tuple[str, str]], keys: list[str] | None) -> None:
    made = make_video_keys([InputFile(Path(path), name) for path, name in files])
    assert len(set(made)) == len(files)
    if keys is not None:
        assert made == keys


def test_copies_share_an_id_and_get_a_row_each(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", num_frames=3)
    shutil.copy(clip, tmp_path / "copy.mp4")
    rows = _rows([tmp_path])
    assert [row.video_key for row in rows] == ["a", "copy"]
    assert rows[0].video_id == rows[1].video_id


def test_copies_with_different_labels_are_refused_by_name(tmp_path: Path) -> None:
    clip = _write_clip(tmp_path / "real" / "a.mp4", 3)
    (tmp_path / "fake").mkdir()
    shutil.copy(clip, tmp_path / "fake" / "b.mp4")
    with pytest.raises(DatasetError, match=r"b\.mp4 and .*a\.mp4 are the same video, labelled fake and real; correct"):
        _rows([tmp_path])


def test_two_files_that_can_not_be_read_are_no_copies_of_each_other(tmp_path: Path) -> None:
    rows = _rows([tmp_path / "real" / "a.mp4", tmp_path / "fake" / "b.mp4"])
    assert [row.status for row in rows] == ["unreadable", "unreadable"]


@pytest.mark.parametrize(
    ("path", "named", "expected"),
    [
        ("data/real/a.mp4", "data", ("real", None)),
        ("data/Fake/x/a.mp4", "data", ("fake", None)),
        ("data/train/fake/a.mp4", "data", ("fake", "train")),
        ("data/real/test/a.mp4", "data", ("real", "test")),
        ("data/real/a.mp4", "data/real", ("real", None)),
        ("data/other/a.mp4", "data", (None, None)),
        ("data/realistic/a.mp4", "data", (None, None)),
        ("data/train/a.mp4", "data", (None, None)),
        ("data/train/real/a.mp4", "data/train/real", ("real", "train")),
        ("data/test/fake/x/a.mp4", "data/test/fake", ("fake", "test")),
        ("data/real/val/a.mp4", "data/real/val", ("real", "val")),
        ("data/train/real/x/a.mp4", "data/train/real/x/a.mp4", ("real", "train")),
        ("test/data/real/a.mp4", "test/data", ("real", None)),
    ],
)
def test_folders_named_real_and_fake_label_what_they_hold(
    tmp_path: Path, path: str, named: str, expected: tuple[str | None, str | None]
) -> None:
    _write_clip(tmp_path / path, 3)
    (row,) = _rows([tmp_path / named])
    assert (row.label, row.split) == expected


def test_two_named_folders_label_files_of_the_same_name_each_for_itself(tmp_path: Path) -> None:
    for number, label in enumerate(("real", "fake")):
        _write_clip(tmp_path / label / "clip.mp4", 3 + number)
    rows = _rows([tmp_path / "real", tmp_path / "fake"])
    assert {Path(row.path).parent.name: row.label for row in rows} == {"real": "real", "fake": "fake"}
    assert len({row.video_key for row in rows}) == 2


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    root = tmp_path / "collection"
    for number, name in enumerate(("m1/a.mp4", "m2/a.mp4", "m2/b.mp4")):
        _write_clip(root / name, 3 + number)
    return root


def _write_labels(collection: Path, text: str) -> Path:
    path = collection / "labels.csv"
    path.write_text(text, "utf-8")
    return path


def test_a_labels_file_names_videos_by_relative_path_or_by_a_file_name_that_is_unique(collection: Path) -> None:
    labels = _write_labels(
        collection,
        "\ufeffvideo,label,split,original,identity\nm1/a.mp4,real,train,,\nb.mp4,fake,test,m1/a,Anna; Ben\n",
    )
    rows = {row.video_key: row for row in _rows([collection], labels)}
    assert (rows["m1/a"].label, rows["m1/a"].split, rows["m1/a"].original) == ("real", "train", None)
    assert (rows["m2/b"].label, rows["m2/b"].split, rows["m2/b"].original) == ("fake", "test", "m1/a")
    assert [rows[key].identities for key in ("m1/a", "m2/b")] == [(), ("Anna", "Ben")]
    assert rows["m2/a"].label is None


@pytest.mark.parametrize(
    ("others", "warning"),
    [
        ([], None),
        (["c.mp4"], "1 of its rows match no input: 'c.mp4'"),
        (["c", "d", "e", "", "f"], "5 of its rows match no input: 'c', 'd', 'e', …"),
    ],
)
def test_rows_of_a_labels_file_that_match_no_input_are_counted_and_named(
    collection: Path, caplog: pytest.LogCaptureFixture, others: list[str], warning: str | None
) -> None:
    text = "".join(f"{name},real\n" for name in ("b.mp4", *others))
    labels = _write_labels(collection, f"video,label\n{text}")
    _rows([collection], labels)
    assert caplog.messages == ([f"{labels}: {warning}"] if warning else [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "video,label\na.mp4,real\n",
            r"'a.mp4' could be .*m1/a.mp4 or .*m2/a.mp4; give the path relative to the folder",
        ),
        ("video,label\nb.mp4,maybe\n", r"line 2: unknown label 'maybe'; use real or fake"),
        ("video,label,split\nb.mp4,real,dev\n", r"unknown split 'dev'; use train, val or test"),
        (
            "video,class\nb.mp4,real\n",
            r"lacks the column 'label'; it needs video,label\[,split,original,identity,group,dataset",
        ),
        ("name,label\nb.mp4,real\n", r"lacks the column 'video'"),
        ("", r"lacks the column 'label'"),
        ("video,label\nc.mp4,real\n", r"names none of the 3 inputs; `video` must be their path relative to the folder"),
        ('video,label\n"b.mp4,real\nm1/a.mp4,fake\n', r"is not a readable CSV file: unexpected end of data"),
        ("video,label\n" + "x" * 200_000 + ",real\n", r"is not a readable CSV file: field larger than field limit"),
        ("video,label\nb.mp4,real\nm2/b.mp4,fake\n", r"'m2/b.mp4' is labelled twice, differently; keep one row"),
        ("video,label,identity\nb.mp4,real,A\nm2/b.mp4,real,B\n", r"'m2/b.mp4' is labelled twice, differently"),
    ],
)
def test_a_labels_file_that_does_not_fit_is_refused_with_the_reason(collection: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _rows([collection], _write_labels(collection, text))


def test_a_labels_file_can_not_tell_apart_equal_names_in_two_named_folders(collection: Path) -> None:
    labels = _write_labels(collection, "video,label\na.mp4,real\n")
    with pytest.raises(DatasetError, match=r"'a.mp4' could be .*m1/a.mp4 or .*m2/a.mp4"):
        _rows([collection / "m1", collection / "m2"], labels)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x81"])
def test_a_labels_file_that_can_not_be_read_is_refused(collection: Path, content: bytes | None) -> None:
    path = collection / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not a readable CSV file"):
        _rows([collection], path)


def _change_in_secret(path: Path) -> None:
    """Other content of the same size and modification time."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_digest_is_trusted_while_path_size_and_time_are_the_same_unless_it_is_verified(tmp_path: Path) -> None:
    video, cache = tmp_path / "a.mp4", tmp_path / "digests.jsonl"
    video.write_bytes(b"first")
    first = DigestCache(cache).digest_of(video)
    _change_in_secret(video)
    assert DigestCache(cache).digest_of(video) == first
    verified = DigestCache(cache, verify=True).digest_of(video)
    assert verified != first
    assert DigestCache(cache).digest_of(video) == verified


def test_a_changed_time_makes_the_digest_new(tmp_path: Path) -> None:
    video, cache = tmp_path / "a.mp4", tmp_path / "digests.jsonl"
    video.write_bytes(b"first")
    first = DigestCache(cache).digest_of(video)
    _change_in_secret(video)
    os.utime(video, ns=(0, 0))
    assert DigestCache(cache).digest_of(video) != first


def test_a_digest_is_known_of_a_file_that_was_hashed_and_is_the_same_and_nothing_is_hashed(tmp_path: Path) -> None:
    video, cache = tmp_path / "a.mp4", tmp_path / "digests.jsonl"
    video.write_bytes(b"first")
    assert DigestCache(cache).known_digest(video) is None and not cache.exists()
    digest = DigestCache(cache).digest_of(video)
    assert DigestCache(cache).known_digest(tmp_path / "." / "a.mp4") == digest
    others = (tmp_path / "b.mp4", tmp_path, Path("a\0b.mp4"), Path("x" * 300))
    assert [DigestCache(cache).known_digest(path) for path in others] == [None] * 4
    assert DigestCache(cache, verify=True).known_digest(video) is None
    os.utime(video, ns=(0, 0))
    assert DigestCache(cache).known_digest(video) is None


def test_a_torn_line_of_the_digest_cache_is_ignored(tmp_path: Path) -> None:
    video, cache = tmp_path / "a.mp4", tmp_path / "digests.jsonl"
    video.write_bytes(b"first")
    first = DigestCache(cache).digest_of(video)
    cache.write_text(cache.read_text() + '{"path": "/b", "si')
    _change_in_secret(video)
    assert DigestCache(cache).digest_of(video) == first


def test_a_digest_cache_that_can_not_be_written_does_not_pass_for_an_unreadable_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", num_frames=3)
    cache = DigestCache(tmp_path / "missing" / "digests.jsonl")
    with pytest.raises(StorageError, match=r"could not write .*digests\.jsonl"):
        describe_inputs(find_inputs([video]).files, digest_of=cache.digest_of)


def test_named_files_are_labelled_by_the_folders_they_lie_in(tmp_path: Path) -> None:
    files = []
    for label in ("real", "fake"):
        (tmp_path / label).mkdir()
        files.append(tmp_path / label / "clip.mp4")
        files[-1].write_bytes(label.encode())
    assert [row.label for row in describe_inputs(find_inputs(files).files)] == ["fake", "real"]


def test_pipes_and_impossible_names_are_unreadable_inputs_and_no_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    rows = describe_inputs(find_inputs([pipe, "a\0b.mp4", "x" * 300]).files)
    assert {row.status for row in rows} == {"unreadable"}
    assert any("pipe.mp4 is not a regular file" in str(row.error) for row in rows)
