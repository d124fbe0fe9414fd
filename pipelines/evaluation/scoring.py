"""Scores of a workspace's faces or of its videos under a perturbation, made on the spot in the form that `sources` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.checkpoints.checkpoint import read_header
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.config import ImportConfig, PredictConfig, RunOptions
from pipelines.errors import DatasetError
from pipelines.evaluation.sources import RawScores, read_details
from pipelines.records import ScoreRow
from pipelines.stages.import_faces import import_faces
from pipelines.stages.predict import predict_faces
from pipelines.system.progress import ProgressCallback


@contextmanager
def imported(crops: Path, options: RunOptions, on_progress: ProgressCallback) -> Iterator[Path]:
    """A temporary workspace with the faces of a Parquet of crops."""
    with TemporaryDirectory(prefix="deepfake-") as folder:
        workspace = Path(folder) / crops.stem
        import_faces(crops, workspace, ImportConfig(), options, on_progress=on_progress)
        yield workspace


def score_workspace(
    workspace: Path,
    config: PredictConfig,
    options: RunOptions,
    *,
    splits: Sequence[str] = (),
    on_progress: ProgressCallback,
) -> RawScores:
    """Every video of the workspace with the scores of its faces.

    Raises:
        DatasetError: no face could be scored.
    """
    with TemporaryDirectory(prefix="deepfake-") as folder:
        details = Path(folder)
        summary = predict_faces(workspace, config, options, splits=splits, details=details, on_progress=on_progress)
        if not any(row.faces for row in summary.rows):
            raise DatasetError(
                f"{workspace} has no face that could be scored; look at: deepfake inspect {workspace}/detect-faces"
            )
        raw = join_rows(workspace.resolve().name, summary.rows, read_details(details))
    contract = read_header(resolve_weights(config.checkpoint, kind="checkpoint").path).preprocessing
    return replace(raw, aggregate=config.aggregate or contract.aggregate)


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
