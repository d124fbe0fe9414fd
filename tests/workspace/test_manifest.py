"""Manifests carry their provenance, name what changed in it, and are written whole or not at all."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import ManifestError, StorageError
from pipelines.records import FrameRow, VideoRow, rows_to_table, schema_of, table_to_rows
from pipelines.system.atomic_files import replace_atomically
from pipelines.workspace.manifest import Provenance, digest_json, read_note, read_provenance, read_table, write_table
from tests.support import temporary_files

EXTRACT = Provenance("extract-frames", 1, {"frames": 32, "format": "png", "fps": None})
DETECT = Provenance("detect-faces", 1, {"margin": 1.0, "detector_sha256": "a" * 64}, EXTRACT)
VIDEO = VideoRow("0" * 16, "0" * 64, "clip", "clip.mp4")


@pytest.mark.parametrize(
    ("now", "older", "changes"),
    [
        (EXTRACT, EXTRACT, []),
        (DETECT, DETECT, []),
        (replace(EXTRACT, settings={**EXTRACT.settings, "frames": 64}), EXTRACT, ["frames was 32 and is now 64"]),
        (
            replace(EXTRACT, settings={**EXTRACT.settings, "frames": 64, "format": "jpg"}),
            EXTRACT,
            ["format was png and is now jpg", "frames was 32 and is now 64"],
        ),
        (replace(EXTRACT, settings={**EXTRACT.settings, "new": 1}), EXTRACT, ["new was not set and is now 1"]),
        (replace(EXTRACT, version=2), EXTRACT, ["row format of extract-frames was 1 and is now 2"]),
        (DETECT, EXTRACT, ["stage was extract-frames and is now detect-faces"]),
        (
            replace(DETECT, settings={**DETECT.settings, "detector_sha256": "b" * 64}),
            DETECT,
            [f"detector_sha256 was {'a' * 12}… and is now {'b' * 12}…"],
        ),
        (
            replace(DETECT, upstream=replace(EXTRACT, settings={**EXTRACT.settings, "frames": 8})),
            DETECT,
            ["extract-frames: frames was 32 and is now 8"],
        ),
        (replace(DETECT, upstream=None), DETECT, ["upstream was extract-frames and is now nothing"]),
        (DETECT, replace(DETECT, upstream=None), ["upstream was nothing and is now extract-frames"]),
    ],
)
def test_every_change_of_provenance_is_named(now: Provenance, older: Provenance, changes: list[str]) -> None:
    assert now.changes_from(older) == changes


def test_a_table_comes_back_with_its_rows_provenance_and_notes(tmp_path: Path) -> None:
    rows = [VIDEO, replace(VIDEO, path="b\n-ü.mp4", label="fake", error="cut off", rows=3)]
    path = tmp_path / "new" / "folder" / "videos.parquet"
    write_table(rows_to_table(rows, VideoRow), path, DETECT, notes={"status": "ok", "note": "2 lost \udcff"})
    assert table_to_rows(read_table(path, VideoRow), VideoRow) == rows
    assert read_provenance(path) == DETECT
    assert read_note(path, "status") == "ok"
    assert read_note(path, "note") == "2 lost \\udcff"
    assert read_note(path, "nothing") is None
    assert temporary_files(tmp_path) == []


def test_bytes_of_a_name_that_are_no_text_become_escapes() -> None:
    table = rows_to_table([replace(VIDEO, path=os.fsdecode(b"\xff.mp4"), video_key="ü")], VideoRow)
    assert table["path"].to_pylist() == ["\\udcff.mp4"]
    assert table["video_key"].to_pylist() == ["ü"]


def test_columns_stand_in_the_published_order_with_their_types() -> None:
    schema = schema_of(FrameRow)
    assert schema.names == [
        "video_id", "frame_index", "pts", "time_base_num", "time_base_den", "pts_seconds", "width_px", "height_px",
        "rotation_degrees", "path",
    ]  # fmt: skip
    assert schema.field("pts").type == pa.int64() and not schema.field("pts").nullable
    assert schema_of(VideoRow).field("label").nullable


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "no space"), "no space left to write .*manifest.parquet; free some space"),
        (OSError(errno.EDQUOT, "quota"), "no space left"),
        (OSError(errno.EFBIG, "too big"), "reached the file size limit; raise it"),
        (OSError(errno.EACCES, "denied"), "no permission to write .*; make the folder writable or choose another"),
        (OSError(errno.EROFS, "read-only"), "no permission"),
        (OSError(errno.EIO, "Input/output error"), "could not write .*: Input/output error; check the disk"),
    ],
)
def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, failure: OSError, message: str
) -> None:
    path = tmp_path / "manifest.parquet"
    path.write_text("earlier")
    with pytest.raises(StorageError, match=message), replace_atomically(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["manifest.parquet"]


@pytest.mark.parametrize("failure", [ValueError("a bug"), KeyboardInterrupt()])
def test_any_other_end_of_a_write_leaves_nothing_half_written_and_goes_on(
    tmp_path: Path, failure: BaseException
) -> None:
    with pytest.raises(type(failure)), replace_atomically(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise failure
    assert os.listdir(tmp_path) == []


def test_what_a_kill_has_left_beside_a_file_is_gone_after_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(SystemExit), replace_atomically(path) as temporary:
        left = temporary
        raise SystemExit
    left.write_text("torn by kill -9")
    write_table(rows_to_table([VIDEO], VideoRow), path, EXTRACT)
    assert os.listdir(tmp_path) == ["manifest.parquet"]


def test_an_output_whose_folder_can_not_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not write"):
        write_table(rows_to_table([VIDEO], VideoRow), tmp_path / "file" / "manifest.parquet", EXTRACT)


def _write_foreign(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def _write_strange_provenance(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"deepfake.provenance": b"{}"}), path)


def _write_half(path: Path) -> None:
    write_table(rows_to_table([VIDEO], VideoRow), path, EXTRACT)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is not a readable Parquet file"),
        (lambda path: path.write_bytes(b""), "is not a readable Parquet file"),
        (lambda path: path.write_text("a,b\n1,2\n"), "is not a readable Parquet file .*--overwrite"),
        (_write_half, "is not a readable Parquet file .*--overwrite"),
        (_write_foreign, "holds no provenance; it was not written by deepfake"),
        (_write_strange_provenance, "holds an unreadable provenance; make it again with --overwrite"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_with_the_reason(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "manifest.parquet"
    make(path)  # type: ignore[operator]
    with pytest.raises(ManifestError, match=message):
        read_provenance(path)


def test_a_table_without_a_column_of_its_stage_is_refused_by_name(tmp_path: Path) -> None:
    write_table(rows_to_table([VIDEO], VideoRow), tmp_path / "a.parquet", EXTRACT)
    with pytest.raises(ManifestError, match="lacks the column 'frame_index'"):
        read_table(tmp_path / "a.parquet", FrameRow)
    write_table(rows_to_table([VIDEO], VideoRow).drop_columns(["identity", "sha256"]), tmp_path / "b.parquet", EXTRACT)
    with pytest.raises(ManifestError, match="lacks the column 'sha256'"):
        read_table(tmp_path / "b.parquet", VideoRow)


@pytest.mark.parametrize("absent", [["identity"], ["identity", "original", "error"]])
def test_a_nullable_column_that_an_earlier_version_did_not_know_is_read_as_null(
    tmp_path: Path, absent: list[str]
) -> None:
    path = tmp_path / "videos.parquet"
    rows = [replace(VIDEO, label="real", rows=3), replace(VIDEO, label="fake")]
    write_table(rows_to_table(rows, VideoRow).drop_columns(absent), path, EXTRACT)
    table = read_table(path, VideoRow)
    assert table.schema.remove_metadata() == schema_of(VideoRow)
    assert table_to_rows(table, VideoRow) == rows


def test_columns_that_are_not_of_the_stage_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    table = rows_to_table([VIDEO], VideoRow).drop_columns(["identity"]).append_column("more", pa.array([1]))
    write_table(table, tmp_path / "a.parquet", EXTRACT)
    names = schema_of(VideoRow).names
    assert read_table(tmp_path / "a.parquet", VideoRow).column_names == names
    assert read_table(tmp_path / "a.parquet", VideoRow, also=["more"]).column_names == [*names, "more"]


def test_the_digest_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_json({"a": 1, "b": [2, None]}) == digest_json({"b": [2, None], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 1.5})
