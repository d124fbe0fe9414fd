"""Tables of scores and of faces, as `predict` or a person has written them: their columns, and what made them."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ConfigError, ManifestError
from pipelines.evaluation.scored import Floats
from pipelines.system.csv_text import restore
from pipelines.workspace.manifest import note_in, provenance_in

SCORE_COLUMNS = ("video", "video_key", "sha256", "status", "fake_probability", "threshold", "model",
                 "model_sha256", "settings_sha256")  # fmt: skip
TEXT_COLUMNS = tuple(name for name in SCORE_COLUMNS if name not in ("fake_probability", "threshold"))
NESTED = {dict, list}
EMPTY_CELLS = ("", "nan", "none", "null")
NEEDED_FACE_COLUMNS = ("video", "frame_index", "track", "fake_probability")


def read_frame(path: Path) -> pd.DataFrame:
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
            dtype=object,  # not str: pandas would keep that as UTF-8, which can not hold every file name
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


def read_texts(table: pd.DataFrame, name: str) -> list[str]:
    """A column; empty text where it or its cell is missing."""
    if name not in table:
        return [""] * len(table)
    return ["" if value is None or value != value else str(value) for value in table[name].tolist()]


def read_probabilities(column: Any, path: Path) -> Floats:
    """As numbers in 0..1, NaN where empty."""
    values: Floats = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for cell in column[np.isnan(values)].dropna().unique():
        if str(cell).strip().lower() not in EMPTY_CELLS:
            raise ConfigError(
                f"{path} holds the probability {cell!r}, which is no number; write it as in 0.93, or not at all"
            )
    known = values[~np.isnan(values)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise ConfigError(f"{path} holds probabilities outside 0..1, such as {known[(known < 0) | (known > 1)][0]:g}")
    return values


def read_threshold(column: Any, path: Path) -> float | None:
    """The one that all rows have, or None.

    Raises:
        ConfigError: outside 0..1.
    """
    values: Floats = pd.to_numeric(column, errors="coerce").dropna().to_numpy(dtype=np.float64)
    wrong = values[(values < 0) | (values > 1)]
    if len(wrong):
        raise ConfigError(f"{path} holds the threshold {wrong[0]:g}; it must lie between 0 and 1")
    return float(values[0]) if len(np.unique(values)) == 1 else None


def single_value(column: Any) -> Any:
    """The value that all rows have, or None."""
    values = column.dropna().unique()
    return values[0] if len(values) == 1 else None


def encode(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A number for each value, and the values that they stand for."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def refuse_other_tables(schemas: Mapping[Path, pa.Schema]) -> None:
    """Columns that a file of faces lacks are read as empty, which these must not be.

    Raises:
        ConfigError: a file lacks one.
    """
    for file, schema in schemas.items():
        missing = sorted(set(NEEDED_FACE_COLUMNS) - set(schema.names))
        if missing:
            raise ConfigError(f"{file} has no column {missing[0]!r}; pass what was made by: deepfake predict --details")


def refuse_faces_without_score(files: Sequence[Path], probabilities: Floats) -> None:
    """The probabilities are those of all rows of the files.

    Raises:
        ConfigError: one is not there.
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


def find_maker(schemas: Mapping[Path, pa.Schema]) -> tuple[str | None, str | None, str | None, str | None]:
    """Threshold, model, its digest and calibration that all files were made by; nothing where they do not agree.

    Raises:
        ConfigError: they were made by several checkpoints.
    """
    maker_of = {file: _maker_of(schema.metadata or {}, file) for file, schema in schemas.items()}
    by_weights = {maker[2]: (file, maker[1]) for file, maker in maker_of.items() if maker[2]}
    if len(by_weights) > 1:
        (first, (file, model)), (second, (other, other_model)) = list(by_weights.items())[:2]
        raise ConfigError(
            f"{file.parent} holds details of several checkpoints: {file.name} was made by {model} ({first[:12]}), "
            f"{other.name} by {other_model} ({second[:12]}); give each checkpoint a folder of its own"
        )
    makers = set(maker_of.values())
    return makers.pop() if len(makers) == 1 else (None,) * 4


def _maker_of(metadata: Mapping[bytes, bytes], details: Path) -> tuple[str | None, str | None, str | None, str | None]:
    """Threshold, model, its digest and calibration, of a file that `predict` has written; of another, nothing is known."""
    try:
        settings = provenance_in(metadata, details).settings
        model, sha256 = settings.get("checkpoint"), settings.get("checkpoint_sha256")
        return note_in(metadata, "threshold"), model, sha256, note_in(metadata, "calibration")
    except ManifestError:
        return (None,) * 4
