"""Reading what is to be measured: scores of videos, details of faces, and the labels of both."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from pipelines.data.cropped_sources import IMAGE_COLUMNS
from pipelines.data.labels import VideoLabel, label_and_split_in, read_label_rows
from pipelines.errors import ConfigError, DatasetError, ManifestError
from pipelines.evaluation.scored import Floats, Integers
from pipelines.manifest import read_note, read_provenance, read_table
from pipelines.records import FaceScoreRow, VideoRow, schema_of, table_to_rows
from pipelines.scoring.calibration import Calibration

SourceKind = Literal["scores", "details", "workspace", "crops"]
SCORE_COLUMNS = ("video", "video_key", "sha256", "status", "fake_probability", "threshold", "model",
                 "model_sha256", "settings_sha256")  # fmt: skip
FACE_COLUMNS = ("video", "video_key", "sha256", "frame_index", "track", "x0_px", "y0_px", "x1_px", "y1_px",
                "fake_probability")  # fmt: skip
EMPTY_CELLS = ("", "nan", "none", "null")
NEEDED_FACE_COLUMNS = ("video", "frame_index", "track", "fake_probability")


@dataclass(frozen=True)
class FaceColumns:
    """F scored faces as they were read."""

    sources: Integers
    """(F,), index into the videos of the `RawScores`."""
    frames: Integers
    tracks: Integers
    areas: Floats
    probabilities: Floats


@dataclass(frozen=True)
class RawScores:
    """Scores without labels: V videos and, where known, their faces."""

    name: str
    """What they were read from."""
    videos: Sequence[str]
    """The `video` column: a path, or the source's name for imported faces."""
    keys: Sequence[str]
    """`video_key`; empty text where the file does not know it."""
    digests: Sequence[str]
    statuses: Sequence[str]
    probabilities: Floats
    """(V,), NaN without a score. All NaN for details: the faces are aggregated later."""
    faces: FaceColumns | None = None
    threshold: float | None = None
    model: str | None = None
    model_sha256: str | None = None
    settings_sha256: str | None = None
    aggregate: str | None = None
    """How the videos' probabilities came from their faces, where that is known."""
    calibration: Calibration | None = None
    """What `predict` makes of the aggregated faces; the faces themselves are as the network scores them."""


@dataclass(frozen=True)
class LabelledVideo:
    """One row of a labels file or videos manifest."""

    name: str
    """`video` of a CSV; the path of a manifest."""
    key: str
    about: VideoLabel = field(default_factory=lambda: VideoLabel(None))
    sha256: str = ""


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
    """Scores of videos, as `predict -o` writes them; other columns than the needed ones may be missing.

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
        name=path.name,
        videos=_texts(table, "video"),
        keys=_texts(table, "video_key"),
        digests=_texts(table, "sha256"),
        statuses=_texts(table, "status"),
        probabilities=_probabilities(table["fake_probability"], path),
        threshold=_single(pd.to_numeric(table["threshold"], errors="coerce")) if "threshold" in table else None,
        model=_single(table["model"]) if "model" in table else None,
        model_sha256=_single(table["model_sha256"]) if "model_sha256" in table else None,
        settings_sha256=_single(table["settings_sha256"]) if "settings_sha256" in table else None,
    )


def read_details(path: Path, *, may_be_empty: bool = False) -> RawScores:
    """Scored faces: a `--details` folder, or one Parquet file with the rows of many.

    Raises:
        ConfigError: no such table.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        _refuse_other_tables(files)
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
    made_by = {_maker_of(file) for file in files}
    threshold, model, model_sha256, fit = made_by.pop() if len(made_by) == 1 else (None,) * 4
    calibration = Calibration.from_json(json.loads(fit)) if fit else None
    boxes = [table.column(name).to_numpy() for name in ("x0_px", "y0_px", "x1_px", "y1_px")]
    return RawScores(
        name=path.name,
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
            probabilities=_probabilities(table.column("fake_probability").to_pandas(), path),
        ),
        threshold=float(threshold) if threshold else None,
        model=model,
        model_sha256=model_sha256,
        aggregate=calibration.aggregate if calibration else None,
        calibration=calibration,
    )


def read_labelled(path: Path) -> list[LabelledVideo]:
    """The rows of a labels CSV or of a videos manifest.

    Raises:
        DatasetError: no readable CSV, an unknown label, or no rows.
        ManifestError: no manifest.
    """
    if path.suffix.lower() == ".parquet":
        found = [describe_row(row) for row in table_to_rows(read_table(path, VideoRow), VideoRow)]
    else:
        found = [LabelledVideo(video, without_suffix(video), about) for video, about in read_label_rows(path)]
    if not found:
        raise DatasetError(f"{path} holds no rows; name the videos and their labels in it")
    return found


def describe_row(row: VideoRow) -> LabelledVideo:
    """A row of a manifest as a labelled video."""
    return LabelledVideo(row.path, row.video_key, VideoLabel.of(row), row.sha256)


def labels_from_folders(scores: RawScores) -> list[LabelledVideo]:
    """What folders named real, fake, train, val and test say of the scored videos; none at all is an error.

    Raises:
        DatasetError: no folder says anything.
    """
    found = []
    for video, key, digest in zip(scores.videos, scores.keys, scores.digests, strict=True):
        label, split = label_and_split_in(PurePath(video).parent)
        if label:
            found.append(LabelledVideo(video, key or video, VideoLabel(label, split), digest))
    if not found:
        raise DatasetError(
            f"{scores.name}: nothing says which videos are real; pass --labels with a CSV (video,label) or the "
            "videos.parquet of a stage"
        )
    return found


def without_suffix(name: str) -> str:
    """A path as a video_key is made from it."""
    path = PurePath(name)
    return path.with_suffix("").as_posix() if path.name else name


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".json":
            return pd.DataFrame(json.loads(path.read_text("utf-8", errors="surrogateescape")), dtype=object)
        if path.suffix.lower() == ".csv":
            # not str: pandas would keep that as UTF-8, which can not hold every file name
            return pd.read_csv(
                path, dtype=object, keep_default_na=False, encoding_errors="surrogateescape", quoting=csv.QUOTE_MINIMAL
            )
        names = [name for name in SCORE_COLUMNS if name in pq.read_schema(path).names]
        frame: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
        return frame
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is not a readable table of scores: {error}") from error


def _refuse_other_tables(files: Sequence[Path]) -> None:
    """Columns that a file lacks are read as empty, which these must not be."""
    for file in files:
        missing = sorted(set(NEEDED_FACE_COLUMNS) - set(pq.read_schema(file).names))
        if missing:
            raise ConfigError(f"{file} has no column {missing[0]!r}; pass what was made by: deepfake predict --details")


def _maker_of(details: Path) -> tuple[str | None, str | None, str | None, str | None]:
    """Threshold, model, its digest and calibration, of a file that `predict` has written; of another, nothing is known."""
    try:
        settings = read_provenance(details).settings
        model, sha256 = settings.get("checkpoint"), settings.get("checkpoint_sha256")
        return read_note(details, "threshold"), model, sha256, read_note(details, "calibration")
    except ManifestError:
        return (None,) * 4


def _texts(table: pd.DataFrame, name: str) -> list[str]:
    if name not in table:
        return [""] * len(table)
    return ["" if value is None or value != value else str(value) for value in table[name].tolist()]


def _probabilities(column: Any, path: Path) -> Floats:
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


def _single(column: Any) -> Any:
    """The value that all rows have, or None."""
    values = column.dropna().unique()
    return values[0] if len(values) == 1 else None


def _encode(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
