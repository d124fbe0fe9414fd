"""Tables of strangers (Parquet, CSV, JSON) are checked before they are used, and refused in one line."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import ConfigError, DatasetError, ManifestError
from pipelines.evaluation.labels import read_labelled
from pipelines.evaluation.reading import read_score_file
from pipelines.records import ScoreRow, VideoRow, rows_to_table, table_to_rows
from pipelines.scoring.score_files import read_scores, write_scores
from pipelines.workspace import table_checks
from pipelines.workspace.manifest import Provenance, read_provenance, read_table, write_table
from tests.conftest import Deepfake
from tests.strangers.tampering import change_column, error_line
from tests.support import make_noise, write_faces_parquet
from tests.synthetic import write_video

DIGEST = "0" * 64
SCORE = ScoreRow("a.mp4", "a", DIGEST, "ok", 0.25, "real", 0.5, 4, 4, 1, "m", DIGEST, DIGEST, None)
VIDEO = VideoRow(DIGEST[:16], DIGEST, "a", "a.mp4", label="real", rows=3)
HEADER, LINE = ",".join(asdict(SCORE)), f"a.mp4,a,{DIGEST},ok,0.25,real,0.5,4,4,1,m,{DIGEST},{DIGEST},"
BAD_UTF8 = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A videos manifest of one row."""
    path = tmp_path / "videos.parquet"
    write_table(rows_to_table([VIDEO], VideoRow), path, Provenance("index", 1, {}))
    return path


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("path", pa.array([5]), "holds int64 in the column 'path', not string"),
        ("path", pa.array([b"a.mp4"]), "holds binary in the column 'path', not string"),
        ("path", pa.array([["a.mp4"]]), "holds list<.*string> in the column 'path'"),
        ("path", pa.array([{"a": "b"}]), "holds struct<.*> in the column 'path'"),
        ("path", pa.array([None], pa.string()), "lacks the path of row 1"),
        ("path", pa.array([None]), "lacks the path of row 1"),
        ("path", BAD_UTF8, "is not a readable Parquet file .*UTF8"),
        ("rows", pa.array(["3"]), "holds string in the column 'rows', not int64"),
        ("rows", pa.array([3.0]), "holds double in the column 'rows', not int64"),
        ("rows", pa.array([2**64 - 1], pa.uint64()), "is not a readable Parquet file .*not in range"),
        ("label", pa.array([True]), "holds bool in the column 'label', not string"),
    ],
)
def test_a_column_of_another_kind_is_refused_by_name(videos: Path, column: str, cells: Any, message: str) -> None:
    change_column(videos, column, cells)
    with pytest.raises(ManifestError, match=message):
        read_table(videos, VideoRow)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("path", pa.array(["a.mp4"], pa.large_string())),
        ("path", pa.array(["a.mp4"]).dictionary_encode()),
        ("rows", pa.array([3], pa.int16())),
        ("rows", pa.array([3], pa.uint64())),
        ("error", pa.array([None])),
    ],
)
def test_the_types_of_other_programs_are_read_alike(videos: Path, column: str, cells: Any) -> None:
    change_column(videos, column, cells)
    assert table_to_rows(read_table(videos, VideoRow), VideoRow) == [VIDEO]


def test_a_column_that_stands_there_twice_is_refused(videos: Path) -> None:
    table = pq.read_table(videos)
    pq.write_table(table.append_column("path", pa.array(["b.mp4"])), videos)
    with pytest.raises(ManifestError, match="has the column 'path' 2 times"):
        read_table(videos, VideoRow)


def test_rows_without_end_are_refused_from_the_footer_alone(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_checks, "MAX_ROWS", 999)
    pq.write_table(pa.concat_tables([pq.read_table(videos)] * 1000), videos)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_arguments, **_options: pytest.fail("the rows were read"))
    with pytest.raises(ManifestError, match="claims 1000 rows, and more than 999 are not read"):
        read_table(videos, VideoRow)


def test_a_manifest_that_is_damaged_anywhere_is_read_or_refused(videos: Path) -> None:
    whole = videos.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place : place + 3] = bytes(value ^ 0xA5 for value in content[place : place + 3])
        videos.write_bytes(content)
        try:
            table_to_rows(read_table(videos, VideoRow), VideoRow)
        except ManifestError as error:
            assert str(videos) in str(error)
            refused += 1
    assert refused > 50


def test_a_damaged_manifest_is_one_line(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    videos.write_bytes(videos.read_bytes()[:-1])
    line = error_line(deepfake("extract-frames", videos, "-w", tmp_path / "work"))
    assert f"{videos} is not a readable Parquet file" in line and "make it again with --overwrite" in line


@pytest.mark.parametrize("name", ["a\0b.mp4", "x" * 5000, "/dev/zero", "", "\x1b[31m.mp4", "http://localhost/a.mp4"])
def test_a_listed_video_that_is_none_costs_its_row_only(
    deepfake: Deepfake, videos: Path, tmp_path: Path, name: str
) -> None:
    good = write_video(tmp_path / "good.mp4", num_frames=3, size=(64, 48))
    rows = [replace(VIDEO, path=name), replace(VIDEO, path=str(good), video_key="good")]
    write_table(rows_to_table(rows, VideoRow), videos, Provenance("index", 1, {}))
    result = deepfake("extract-frames", videos, "-w", tmp_path / "work", "--frames", 1)
    if name == "":  # the folder that the command runs in
        assert "lists folders of cropped faces" in error_line(result)
        return
    assert result.exit_code == 3 and "1 ok, 1 unreadable" in result.stdout, result.stderr


def _parquet(path: Path, **columns: Any) -> Path:
    table = rows_to_table([SCORE], ScoreRow)
    for name, cells in columns.items():
        table = table.set_column(table.column_names.index(name), name, cells)
    pq.write_table(table, path)
    return path


SCORES: dict[str, Callable[[Path], Path]] = {
    "text for a probability": lambda p: _parquet(p / "s.parquet", fake_probability=pa.array(["abc"])),
    "a list for a probability": lambda p: _parquet(p / "s.parquet", fake_probability=pa.array([[0.5]])),
    "a struct for a probability": lambda p: _parquet(p / "s.parquet", fake_probability=pa.array([{"a": 0.5}])),
    "no finite probability": lambda p: _parquet(p / "s.parquet", fake_probability=pa.array([np.inf])),
    "a struct for a threshold": lambda p: _parquet(p / "s.parquet", threshold=pa.array([{"a": 0.5}])),
    "a list for a name": lambda p: _parquet(p / "s.parquet", video=pa.array([["a.mp4"]])),
    "a list for a model": lambda p: _parquet(p / "s.parquet", model=pa.array([["m"]])),
    "no UTF-8": lambda p: _parquet(p / "s.parquet", video=BAD_UTF8),
    "CSV: text for a probability": lambda p: _text(p / "s.csv", f"{HEADER}\n{LINE.replace('0.25', 'abc')}\n"),
    "CSV: too large a probability": lambda p: _text(p / "s.csv", f"{HEADER}\n{LINE.replace('0.25', '1e400')}\n"),
    "CSV: cells behind the last column": lambda p: _text(p / "s.csv", f"{HEADER}\n{LINE},x,y\n"),
    "CSV: UTF-16": lambda p: _text(p / "s.csv", f"{HEADER}\n{LINE}\n".encode("utf-16")),
    "CSV: an open quote": lambda p: _text(p / "s.csv", f'{HEADER}\n"{LINE}\n{LINE}\n'),
    "JSON: an object": lambda p: _text(p / "s.json", '{"a": 1}'),
    "JSON: numbers": lambda p: _text(p / "s.json", "[1, 2]"),
    "JSON: without end": lambda p: _text(p / "s.json", "[" * 100_000),
    "JSON: a name within": lambda p: _text(p / "s.json", json.dumps([asdict(SCORE) | {"video": {"a": 1}}])),
    "JSON: a list for a probability": lambda p: _text(
        p / "s.json", json.dumps([asdict(SCORE) | {"fake_probability": [1]}])
    ),
    "JSON: a long number": lambda p: _text(p / "s.json", '[{"video": ' + "9" * 5000 + "}]"),
}


def _text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("case", SCORES)
def test_what_are_no_scores_is_refused_by_evaluate_and_by_a_batch_that_goes_on(tmp_path: Path, case: str) -> None:
    path = SCORES[case](tmp_path)
    with pytest.raises(ConfigError, match=f"{path.name} (is not a readable table|holds|has no column)"):
        read_score_file(path)
    if case != "CSV: cells behind the last column":
        with pytest.raises(ConfigError, match="exists and is not a file of scores; choose another name"):
            read_scores(path)


def test_cells_behind_the_last_column_do_not_shift_the_others(tmp_path: Path) -> None:
    path = _text(tmp_path / "s.csv", f"{HEADER}\n{LINE},x,y\n")
    with pytest.raises(ConfigError, match="is not a readable table of scores: .*header.*; pass a file made by"):
        read_score_file(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("fake_probability", "nan"), ("fake_probability", "-0.1"), ("threshold", "nan"), ("threshold", ""), ("frames", "inf"),
     ("frames", ""), ("status", "great"), ("video", None), ("fake_probability", [0.5]), ("frames", float("inf"))],
)  # fmt: skip
def test_a_batch_does_not_go_on_with_rows_that_predict_never_wrote(tmp_path: Path, column: str, value: Any) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps([asdict(SCORE) | {column: value}]))
    with pytest.raises(ConfigError, match="exists and is not a file of scores"):
        read_scores(path)


def test_a_batch_goes_on_with_the_rows_of_every_format(tmp_path: Path) -> None:
    rows = [SCORE, replace(SCORE, status="no_face", fake_probability=None, verdict=None, error="x")]
    for suffix in ("csv", "json", "parquet"):
        write_scores(tmp_path / f"s.{suffix}", rows)
        assert read_scores(tmp_path / f"s.{suffix}") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"video,label\na.mp4,\xe9\n", "is not a readable CSV file: .*utf-8.*; save it as CSV in UTF-8"),
        ("video,label\na.mp4,real\n".encode("utf-16"), "is not a readable CSV file"),
        (b"video,label\n" + b"x" * 1_100_000, "a line is longer than 1000000 characters; save it as CSV"),
        (b"x" * 1_100_000, "a line is longer than 1000000 characters"),
        (b'video,label\n"' + b"x\n" * 200_000, "is not a readable CSV file: (field larger|unexpected end)"),
        (b"video,label\n" + b"x" * 200_000 + b",real\n", "is not a readable CSV file: field larger"),
        (b"video,label\na.mp4\n,real\n", "has a label without a video"),
        (b"video,label\na.mp4,maybe\n", "line 2: unknown label 'maybe'"),
        (b"video,label\na.mp4,re\0al\n", "line 2: unknown label"),
        (b"label\nreal\n", "lacks the column 'video'"),
        (b"\0\0\0\0", "lacks the column"),
        (b"", "lacks the column"),
    ],
)
def test_a_labels_file_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = _text(tmp_path / "labels.csv", content)
    with pytest.raises(DatasetError, match=message):
        read_labelled(path)


def test_labels_with_a_mark_at_the_start_short_and_long_rows_are_read(tmp_path: Path) -> None:
    path = _text(tmp_path / "labels.csv", "\ufeffvideo,label,split\na.mp4,real\nb\0.mp4,fake,test,more,cells\n")
    assert [(row.name, row.about.label, row.about.split) for row in read_labelled(path)] == [
        ("a.mp4", "real", None), ("b\0.mp4", "fake", "test")]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": pa.array(["text"])}, "'image' holds string; it must hold encoded pictures as bytes"),
        (
            {"image": pa.array([b"x"]), "video": pa.array([["a"]])},
            "'video' holds list<.*>; it must hold text or numbers",
        ),
        (
            {"image": pa.array([b"x"]), "label": pa.array([{"a": 1}])},
            "'label' holds struct<.*>; it must hold text or numbers",
        ),
        (
            {"image": pa.array([b"x"]), "identity": pa.array([b"3"])},
            "'identity' holds binary; it must hold text or numbers",
        ),
        ({"image": pa.array([b"x"]), "video": BAD_UTF8}, "is not a whole Parquet file"),
    ],
)
def test_pictures_with_other_columns_than_text_are_refused(
    deepfake: Deepfake, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    line = error_line(deepfake("import-faces", tmp_path / "f.parquet", "-w", tmp_path / "work", "--as-is"))
    assert re.search(message, line), line


@pytest.mark.parametrize("place", [100, 3000])
def test_a_parquet_of_pictures_with_a_damaged_page_is_one_line(deepfake: Deepfake, tmp_path: Path, place: int) -> None:
    path = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(n), "label": "real"} for n in range(3)])
    content = bytearray(path.read_bytes())
    content[4:place] = bytes(value ^ 0xA5 for value in content[4:place])
    path.write_bytes(content)
    line = error_line(deepfake("import-faces", path, "-w", tmp_path / "work", "--as-is"))
    assert "is not a whole Parquet file" in line and "get it again" in line


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b.png", "x" * 5000, "."])
def test_a_listed_picture_that_is_no_file_costs_its_row_only(deepfake: Deepfake, tmp_path: Path, name: str) -> None:
    (tmp_path / "good.png").write_bytes(make_noise(0))
    source = _text(tmp_path / "faces.csv", f"path,label\n{name},real\ngood.png,fake\n")
    result = deepfake("import-faces", source, "-w", tmp_path / "work", "--as-is")
    assert result.exit_code == 3 and "1 ok, 1 unreadable" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "provenance",
    [
        "[]",
        "{}",
        "5",
        "{" * 9,
        '{"stage": 5, "version": 1, "settings": {}}',
        '{"stage": "index", "version": 1, "settings": []}',
        '{"stage": "index", "version": 1, "settings": {}, "upstream": 5}',
        '{"upstream": ' * 50_000,
    ],
)
def test_a_provenance_that_is_none_is_one_line(deepfake: Deepfake, videos: Path, provenance: str) -> None:
    pq.write_table(pq.read_table(videos).replace_schema_metadata({"deepfake.provenance": provenance}), videos)
    assert "holds an unreadable provenance; make it again with --overwrite" in error_line(deepfake("inspect", videos))


@pytest.mark.parametrize(("column", "cells"), [("video_id", pa.array([["a"]])), ("status", pa.array([{"a": 1}]))])
def test_inspect_shows_tables_of_any_kind(deepfake: Deepfake, videos: Path, column: str, cells: Any) -> None:
    change_column(videos, column, cells)
    assert deepfake("inspect", videos).exit_code == 0


@pytest.mark.parametrize("name", ["margin", "detector", "detector_sha256", "max_side"])
@pytest.mark.parametrize("value", [None, [1.0]])
def test_faces_that_do_not_say_how_they_were_made_are_refused(
    deepfake: Deepfake, faces_workspace: Path, checkpoint: Path, tmp_path: Path, name: str, value: Any
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    path = work / "detect-faces" / "manifest.parquet"
    made = read_provenance(path)
    changed = replace(made, settings=dict(made.settings) | {name: value})
    write_table(pq.read_table(path), path, changed)
    line = error_line(deepfake("predict", "--faces", work, "--checkpoint", checkpoint))
    assert f"{path} does not say with which {name} its faces were made; make it again" in line
