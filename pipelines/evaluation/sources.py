"""Reading what is to be measured: scores of videos, details of faces, and the labels of both."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from pipelines.data.cropped_sources import IMAGE_COLUMNS
from pipelines.errors import ConfigError, DatasetError
from pipelines.evaluation.scored import Floats, Integers
from pipelines.evaluation.tables import (
    encode,
    find_maker,
    read_frame,
    read_probabilities,
    read_texts,
    read_threshold,
    refuse_faces_without_score,
    refuse_other_tables,
    single_value,
)
from pipelines.records import FaceScoreRow, ScoreRow, VideoRow, schema_of, table_to_rows
from pipelines.scoring.calibration import Calibration
from pipelines.workspace.labels import VideoLabel, label_and_split_in, read_label_rows, slashed
from pipelines.workspace.manifest import read_table

SourceKind = Literal["scores", "details", "workspace", "crops"]
FACE_COLUMNS = ("video", "video_key", "sha256", "frame_index", "track", "x0_px", "y0_px", "x1_px", "y1_px",
                "fake_probability")  # fmt: skip
DETAILS_NOTE = "details do not list videos without a face, nor copies; pass --labels to count them"


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
    path: str = ""
    """Where it lies, absolute: tells sources of one name apart. Empty text where nobody has said."""
    note: str | None = None
    """What people must know if the labels come from the scores' own folders."""


@dataclass(frozen=True)
class LabelledVideo:
    """One row of a labels file or videos manifest."""

    name: str
    """`video` of a CSV; the path of a manifest."""
    key: str
    about: VideoLabel = field(default_factory=lambda: VideoLabel(None))
    sha256: str = ""
    file: str = ""
    """The labels file that it stands in, which sources may share; empty text for what a source says itself."""


@dataclass(frozen=True)
class Source:
    """Scores and the labels that may fit them."""

    raw: RawScores
    labelled: Sequence[LabelledVideo]
    split: str
    """Which of the labelled videos are meant; `all`, or a side."""
    workspace: Path | None = None
    """Where its faces lie, if they can be scored again."""
    scored_splits: Sequence[str] = ()
    """Of the workspace's videos only these were scored; none: all."""


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
    table = read_frame(path)
    for name in ("video", "status", "fake_probability"):
        if name not in table:
            raise ConfigError(f"{path} has no column {name!r}; pass a file of scores made by: deepfake predict -o")
    if table.empty:
        raise ConfigError(f"{path} holds no rows")
    return RawScores(
        name=_absolute(path).name,
        path=_absolute(path).as_posix(),
        videos=read_texts(table, "video"),
        keys=read_texts(table, "video_key"),
        digests=read_texts(table, "sha256"),
        statuses=read_texts(table, "status"),
        probabilities=read_probabilities(table["fake_probability"], path),
        threshold=read_threshold(table["threshold"], path) if "threshold" in table else None,
        model=single_value(table["model"]) if "model" in table else None,
        model_sha256=single_value(table["model_sha256"]) if "model_sha256" in table else None,
        settings_sha256=single_value(table["settings_sha256"]) if "settings_sha256" in table else None,
    )


def read_details(path: Path, *, may_be_empty: bool = False) -> RawScores:
    """Scored faces: a `--details` folder, or one Parquet file with the rows of many.

    Raises:
        ConfigError: no such table, a face without a probability, or faces scored by several checkpoints.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        schemas = {file: pq.read_schema(file) for file in files}
        refuse_other_tables(schemas)
        schema = pa.schema([schema_of(FaceScoreRow).field(name) for name in FACE_COLUMNS])
        rows = pyarrow.dataset.dataset(files, schema=schema, format="parquet")
        table = rows.to_table(columns=list(FACE_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} does not hold details made by: deepfake predict --details ({error})") from error
    if not table.num_rows and not may_be_empty:
        raise ConfigError(f"{path} holds no scored face")
    codes, videos = encode(table.column("video"))
    first = np.full(len(videos), -1)
    first[codes[::-1]] = np.arange(table.num_rows)[::-1]
    named = table.select(["video_key", "sha256"]).take(first)
    probabilities = read_probabilities(table.column("fake_probability").to_pandas(), path)
    refuse_faces_without_score(files, probabilities)
    threshold, model, model_sha256, fit = find_maker(schemas)
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
    """Rows of videos with the faces that their scores rest on. Faces of a content with copies are listed once."""
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


def read_labelled(path: Path) -> list[LabelledVideo]:
    """The rows of a labels CSV, equal ones once, or of a videos manifest.

    Raises:
        DatasetError: no readable CSV, an unknown label, a video labelled twice, or no rows.
        ManifestError: no manifest.
    """
    if path.suffix.lower() == ".parquet":
        rows = [describe_row(row) for row in table_to_rows(read_table(path, VideoRow), VideoRow)]
        found = [replace(row, file=str(path)) for row in rows]
    else:
        about_of = _labels_by_video(path)
        found = [
            LabelledVideo(video, without_suffix(video), about, file=str(path)) for video, about in about_of.items()
        ]
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
    found: dict[LabelledVideo, None] = {}
    for video, key, digest in zip(scores.videos, scores.keys, scores.digests, strict=True):
        label, split = label_and_split_in(PurePath(slashed(video)).parent)
        if label:
            found[LabelledVideo(video, key or video, VideoLabel(label, split), digest)] = None
    if not found:
        raise DatasetError(
            f"{scores.name}: nothing says which videos are real; pass --labels with a CSV (video,label) or the "
            "videos.parquet of a stage"
        )
    return list(found)


def without_suffix(name: str) -> str:
    """A path as a video_key is made from it."""
    path = PurePath(name)
    return path.with_suffix("").as_posix() if path.name else name


def _absolute(path: Path) -> Path:
    """So that `.` has a name; symbolic links keep theirs."""
    return Path(os.path.abspath(path))


def _labels_by_video(path: Path) -> dict[str, VideoLabel]:
    """What a CSV says of each video."""
    about_of: dict[str, VideoLabel] = {}
    for video, about in read_label_rows(path):
        if not video and about.label:
            raise DatasetError(f"{path} has a label without a video; name the video, or remove the row")
        if about_of.setdefault(video, about) != about:
            raise DatasetError(f"{path}: {video!r} is labelled twice, differently; keep one row")
    return about_of
