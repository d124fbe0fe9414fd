"""Writes small files of scores, details and labels as `predict` and a person would, and reads reports back."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines import EvaluateConfig, evaluate
from pipelines.evaluation.report import Report
from pipelines.records import FaceScoreRow, ScoreRow, rows_to_table
from pipelines.scoring.score_files import write_scores
from pipelines.workspace.manifest import Provenance, write_table

MODEL_SHA256 = "a" * 64
QUICK = EvaluateConfig(bootstrap=0)
"""Without intervals."""
Planted = list[tuple[str, str, float]]
"""Video, label, probability."""


def digest(name: str) -> str:
    """A digest that is like no other name's."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def score_row(video: str, probability: float | None, **changes: Any) -> ScoreRow:
    """A row of scores; without a probability its status is `no_face`."""
    values: dict[str, Any] = {
        "video": video,
        "video_key": video.rpartition(".")[0] or video,
        "sha256": digest(video),
        "status": "no_face" if probability is None else "ok",
        "fake_probability": probability,
        "verdict": None,
        "threshold": 0.5,
        "frames": 4,
        "faces": 4,
        "tracks": 1,
        "model": "tiny.safetensors",
        "model_sha256": MODEL_SHA256,
        "settings_sha256": "b" * 64,
        "error": None,
    }
    return ScoreRow(**values | changes)


def face_row(video: str, frame: int, probability: float, **changes: Any) -> FaceScoreRow:
    """A row of details: the first face of a frame, ten pixels wide and high."""
    values: dict[str, Any] = {
        "video": video,
        "video_key": video.rpartition(".")[0] or video,
        "sha256": digest(video),
        "frame_index": frame,
        "pts_seconds": frame / 25,
        "face_index": 0,
        "track": 0,
        "fake_probability": probability,
    }
    box = {"x0_px": 0.0, "y0_px": 0.0, "x1_px": 10.0, "y1_px": 10.0}
    return FaceScoreRow(**values | box | changes)


def wide(side_px: float) -> dict[str, float]:
    """The changes of `face_row` that make the face so wide and high."""
    return {"x1_px": side_px, "y1_px": side_px}


def write_score_file(path: Path, rows: Iterable[ScoreRow]) -> Path:
    write_scores(path, list(rows))
    return path


def write_plain_details(path: Path, faces: Iterable[FaceScoreRow], *, drop: Sequence[str] = ()) -> Path:
    """One Parquet file that knows nothing of `predict`."""
    pq.write_table(rows_to_table(faces, FaceScoreRow).drop_columns(list(drop)), path)
    return path


def write_details_folder(
    folder: Path, faces: Iterable[FaceScoreRow], *, model_sha256: str = MODEL_SHA256, **notes: str
) -> Path:
    """As `predict --details` leaves it: a file for each video, with what it was made by."""
    of_video: dict[str, list[FaceScoreRow]] = {}
    for face in faces:
        of_video.setdefault(face.sha256, []).append(face)
    made_by = Provenance("predict", 2, {"checkpoint": "tiny.safetensors", "checkpoint_sha256": model_sha256})
    for sha256, rows in of_video.items():
        table = rows_to_table(rows, FaceScoreRow)
        write_table(table, folder / f"{sha256[:16]}.parquet", made_by, notes={"threshold": "0.5"} | notes)
    return folder


def write_labels(path: Path, rows: Iterable[Mapping[str, str] | tuple[str, str]]) -> Path:
    """A CSV of `video,label` and of whatever else a row names."""
    records = [dict(zip(("video", "label"), row, strict=True)) if isinstance(row, tuple) else row for row in rows]
    columns = list(dict.fromkeys(["video", "label", *(name for record in records for name in record)]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(records)
    return path


def plant(num_videos: int, seed: int = 0, *, sharpness: float = 1.0) -> Planted:
    """As many real as fake videos whose probabilities overlap; those of sharpness 1 mean what they say, larger ones too much."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, num_videos)
    labels = rng.random(num_videos) < 1 / (1 + np.exp(-logits))
    probabilities = 1 / (1 + np.exp(-sharpness * logits))
    names = ("fake" if label else "real" for label in labels)
    return [(f"{n:04d}.mp4", name, float(p)) for n, (name, p) in enumerate(zip(names, probabilities, strict=True))]


def write_planted(folder: Path, planted: Planted, **changes: Any) -> tuple[Path, Path]:
    """A file of scores and one of labels."""
    scores = write_score_file(folder / "scores.csv", [score_row(video, p, **changes) for video, _, p in planted])
    return scores, write_labels(folder / "labels.csv", [(video, label) for video, label, _ in planted])


def figures(
    source: Path | Sequence[Path], labels: Path | None = None, config: EvaluateConfig = QUICK
) -> dict[str, Any]:
    """What the report says, as JSON."""
    return report_of(source, labels, config).to_json()


def report_of(source: Path | Sequence[Path], labels: Path | None = None, config: EvaluateConfig = QUICK) -> Report:
    return evaluate(source, config, labels=labels)
