"""Reading scores of videos and details of faces, written by `predict` or by hand."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from pipelines.data.face_crop_sources import IMAGE_COLUMNS
from pipelines.errors import ConfigError, ManifestError
from pipelines.evaluation.scores import FaceColumns, Floats, RawScores
from pipelines.records import FaceScoreRow, ScoreRow, schema_of
from pipelines.scoring.calibration import Calibration
from pipelines.system.csv_text import restore
from pipelines.workspace.manifest import note_in, provenance_in

SCORE_COLUMNS = ("video", "video_key", "sha256", "status", "fake_probability", "threshold", "model",
                 "model_sha256", "settings_sha256")  # fmt: skip
TEXT_COLUMNS = tuple(name for name in SCORE_COLUMNS if name not in ("fake_probability", "threshold"))
NESTED = {dict, list}
EMPTY_CELLS = ("", "nan", "none", "null")
NEEDED_FACE_COLUMNS = ("video", "frame_index", "track", "fake_probability")
SourceKind = Literal["scores", "details", "workspace", "crops"]
FACE_COLUMNS = ("video", "video_key", "sha256", "frame_index", "track", "x0_px", "y0_px", "x1_px", "y1_px",
                "fake_probability")  # fmt: skip
DETAILS_NOTE = "details do not list videos without a face, nor copies; pass --labels to count them"


def kind_of(path: Path) -> SourceKind:
    """What a path holds.

    Raises:
        ConfigError: not there, or none of the four kinds.
    """
    wanted = "pass scores (.csv, .parquet, .json), a --details folder, a workspace, or a Parquet of cropped faces"
    if path.is_dir():
        if (path / "detect-faces").is_dir():
            return "workspace"
        if any(path.glob("*.parquet")):
            return "details"
        raise ConfigError(f"{path} holds neither a detect-faces stage nor details of predict; {wanted}")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; {wanted}")
    if path.suffix.lower() in (".csv", ".json"):
        return "scores"
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path} is not a readable Parquet file ({error}); {wanted}") from error
    if "frame_index" in names and "fake_probability" in names:
        return "details"
    if "fake_probability" in names:
        return "scores"
    if names & set(IMAGE_COLUMNS):
        return "crops"
    raise ConfigError(f"{path} holds no scores, no details and no pictures; {wanted}")


def read_score_file(path: Path) -> RawScores:
    """Scores of videos, as `predict -o` writes them; columns that are not needed may be missing.

    Raises:
        ConfigError: no table, or without `video`, `status` or `fake_probability`.
    """
    table = _read_frame(path)
    for name in ("video", "status", "fake_probability"):
        if name not in table:
            raise ConfigError(f"{path} has no column {name!r}; pass a file of scores made by: deepfake predict -o")
    if table.empty:
        raise ConfigError(f"{path} holds no rows")
    return RawScores(
        name=_absolute(path).name,
        path=_absolute(path).as_posix(),
        videos=_read_texts(table, "video"),
        keys=_read_texts(table, "video_key"),
        digests=_read_texts(table, "sha256"),
        statuses=_read_texts(table, "status"),
        probabilities=_read_probabilities(table["fake_probability"], path),
        threshold=_read_threshold(table["threshold"], path) if "threshold" in table else None,
        model=_single_value(table["model"]) if "model" in table else None,
        model_sha256=_single_value(table["model_sha256"]) if "model_sha256" in table else None,
        settings_sha256=_single_value(table["settings_sha256"]) if "settings_sha256" in table else None,
    )


def read_details(path: Path, *, may_be_empty: bool = False) -> RawScores:
    """Scored faces: a `--details` folder, or one Parquet file with the rows of many.

    Raises:
        ConfigError: no such table, a face without a probability, or faces scored by several checkpoints.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        schemas = {file: pq.read_schema(file) for file in files}
        _refuse_other_tables(schemas)
        schema = pa.schema([schema_of(FaceScoreRow).field(name) for name in FACE_COLUMNS])
        rows = pyarrow.dataset.dataset(files, schema=schema, format="parquet")
        table = rows.to_table(columns=list(FACE_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} does not hold details made by: deepfake predict --details ({error})") from error
    if not table.num_rows and not may_be_empty:
        raise ConfigError(f"{path} holds no scored face")
    codes, videos = _encode(table.column("video"))
    first = np.full(len(videos), -1)
    first[codes[::-1]] = np.arange(table.num_rows)[::-1]
    named = table.select(["video_key", "sha256"]).take(first)
    probabilities = _read_probabilities(table.column("fake_probability").to_pandas(), path)
    _refuse_faces_without_score(files, probabilities)
    threshold, model, model_sha256, fit = _find_maker(schemas)
    calibration = Calibration.from_json(json.loads(fit)) if fit else None
    boxes = [table.column(name).to_numpy() for name in ("x0_px", "y0_px", "x1_px", "y1_px")]
    return RawScores(
        name=_absolute(path).name,
        path=_absolute(path).as_posix(),
        videos=videos,
        keys=[key or "" for key in named.column("video_key").to_pylist()],
        digests=[digest or "" for digest in named.column("sha256").to_pylist()],
        statuses=["ok"] * len(videos),
        probabilities=np.full(len(videos), np.nan),
        faces=FaceColumns(
            sources=codes,
            frames=table.column("frame_index").to_numpy(),
            tracks=table.column("track").to_numpy(),
            areas=(boxes[2] - boxes[0]) * (boxes[3] - boxes[1]),
            probabilities=probabilities,
        ),
        threshold=float(threshold) if threshold else None,
        model=model,
        model_sha256=model_sha256,
        aggregate=calibration.aggregate if calibration else None,
        calibration=calibration,
        note=DETAILS_NOTE,
    )


def join_rows(name: str, rows: Sequence[ScoreRow], details: RawScores) -> RawScores:
    """Scores of videos with those of their faces. Faces of several copies of a video are listed once."""
    position: dict[str, int] = {}
    for index, row in enumerate(rows):
        position.setdefault(row.sha256, index)
    assert details.faces is not None
    of_details = np.array([position[digest] for digest in details.digests], dtype=np.int64)
    return RawScores(
        name=name,
        videos=[row.video for row in rows],
        keys=[row.video_key for row in rows],
        digests=[row.sha256 for row in rows],
        statuses=[row.status for row in rows],
        probabilities=np.array([np.nan if row.fake_probability is None else row.fake_probability for row in rows]),
        faces=replace(details.faces, sources=of_details[details.faces.sources]),
        threshold=rows[0].threshold,
        model=rows[0].model,
        model_sha256=rows[0].model_sha256,
        calibration=details.calibration,
    )


def _absolute(path: Path) -> Path:
    """Absolute, so that `.` has a name; symbolic links keep their names."""
    return Path(os.path.abspath(path))


def _read_frame(path: Path) -> pd.DataFrame:
    """A CSV, JSON or Parquet file of scores, its cells as they are written.

    Raises:
        ConfigError: not readable.
    """
    try:
        if path.suffix.lower() == ".json":
            frame = pd.DataFrame(json.loads(path.read_text("utf-8", errors="surrogateescape")), dtype=object)
        elif path.suffix.lower() == ".csv":
            frame = _read_csv(path)
        else:
            frame = _read_parquet(path)
    except (ValueError, OSError, RecursionError, pa.ArrowException, pd.errors.ParserWarning) as error:
        raise ConfigError(
            f"{path} is not a readable table of scores: {error}; pass a file made by: deepfake predict -o"
        ) from error
    for name in frame.columns.intersection(list(SCORE_COLUMNS)):
        kinds = set(map(type, frame[name])) & NESTED if frame[name].dtype == object else ()
        if kinds:
            raise ConfigError(
                f"{path} holds {kinds.pop().__name__} in the column {name!r}, not text or numbers; correct it"
            )
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # cells behind the last column
        frame = pd.read_csv(
            path,
            dtype=object,  # not str: pandas would keep that as UTF-8, which cannot hold every file name
            keep_default_na=False,
            index_col=False,  # else cells behind the last column shift all others
            encoding_errors="surrogateescape",
            quoting=csv.QUOTE_MINIMAL,
        )
    for name in frame.columns.intersection(list(TEXT_COLUMNS)):
        frame[name] = pd.Series([restore(cell) for cell in frame[name]], frame.index, dtype=object)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [name for name in SCORE_COLUMNS if name in schema.names]
        for name in names:
            if schema.names.count(name) > 1:
                raise ValueError(f"the column {name!r} stands there twice")
            if pa.types.is_nested(schema.field(name).type):
                raise ValueError(f"the column {name!r} holds {schema.field(name).type}")
        table = file.read(columns=names)
    table.validate(full=True)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _read_texts(table: pd.DataFrame, name: str) -> list[str]:
    """A column; empty text where it or its cell is missing."""
    if name not in table:
        return [""] * len(table)
    return ["" if value is None or value != value else str(value) for value in table[name].tolist()]


def _read_probabilities(column: Any, path: Path) -> Floats:
    """A column as numbers in 0..1, NaN where empty."""
    values: Floats = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for cell in column[np.isnan(values)].dropna().unique():
        if str(cell).strip().lower() not in EMPTY_CELLS:
            raise ConfigError(
                f"{path} holds the probability {cell!r}, which is not a number; write it as in 0.93, or leave it empty"
            )
    known = values[~np.isnan(values)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise ConfigError(f"{path} holds probabilities outside 0..1, such as {known[(known < 0) | (known > 1)][0]:g}")
    return values


def _read_threshold(column: Any, path: Path) -> float | None:
    """The threshold of all rows, or None.

    Raises:
        ConfigError: outside 0..1.
    """
    values: Floats = pd.to_numeric(column, errors="coerce").dropna().to_numpy(dtype=np.float64)
    wrong = values[(values < 0) | (values > 1)]
    if len(wrong):
        raise ConfigError(f"{path} holds the threshold {wrong[0]:g}; it must be between 0 and 1")
    return float(values[0]) if len(np.unique(values)) == 1 else None


def _single_value(column: Any) -> Any:
    """The common value of all rows, or None."""
    values = column.dropna().unique()
    return values[0] if len(values) == 1 else None


def _encode(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A column as integer codes, and the value of each code."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _refuse_other_tables(schemas: Mapping[Path, pa.Schema]) -> None:
    """Refuse files without a needed column: missing columns would be read as empty.

    Raises:
        ConfigError: a file lacks one.
    """
    for file, schema in schemas.items():
        missing = sorted(set(NEEDED_FACE_COLUMNS) - set(schema.names))
        if missing:
            raise ConfigError(f"{file} has no column {missing[0]!r}; pass what was made by: deepfake predict --details")


def _refuse_faces_without_score(files: Sequence[Path], probabilities: Floats) -> None:
    """Refuse missing probabilities; they are those of all rows of the files, in order.

    Raises:
        ConfigError: a face has no probability.
    """
    missing = np.flatnonzero(np.isnan(probabilities))
    if not len(missing):
        return
    row = int(missing[0])
    for file in files:
        rows = pq.read_metadata(file).num_rows
        if row < rows:
            raise ConfigError(
                f"{file}: the face in row {row + 1} has no probability; make it again by: deepfake predict --details"
            )
        row -= rows


def _find_maker(schemas: Mapping[Path, pa.Schema]) -> tuple[str | None, str | None, str | None, str | None]:
    """Threshold, model, digest of the model and calibration shared by all files; None where they differ.

    Raises:
        ConfigError: they were made by several checkpoints.
    """
    maker_of = {file: _maker_of(schema.metadata or {}, file) for file, schema in schemas.items()}
    by_weights = {maker[2]: (file, maker[1]) for file, maker in maker_of.items() if maker[2]}
    if len(by_weights) > 1:
        (first, (file, model)), (second, (other, other_model)) = list(by_weights.items())[:2]
        raise ConfigError(
            f"{file.parent} holds details of several checkpoints: {file.name} was made by {model} ({first[:12]}), "
            f"{other.name} by {other_model} ({second[:12]}); use a separate folder for each checkpoint"
        )
    makers = set(maker_of.values())
    return makers.pop() if len(makers) == 1 else (None,) * 4


def _maker_of(metadata: Mapping[bytes, bytes], details: Path) -> tuple[str | None, str | None, str | None, str | None]:
    """Threshold, model, digest of the model and calibration of a file written by `predict`; all None for other files."""
    try:
        settings = provenance_in(metadata, details).settings
        model, sha256 = settings.get("checkpoint"), settings.get("checkpoint_sha256")
        return note_in(metadata, "threshold"), model, sha256, note_in(metadata, "calibration")
    except ManifestError:
        return (None,) * 4
