"""Scores of a workspace's faces with and without perturbations: each crop is read once, perturbed in memory and classified."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.checkpoints.preprocessing import Preprocessing, cut_input
from pipelines.config import EvaluateConfig, PredictConfig, RunOptions
from pipelines.evaluation.perturbations import CLEAN, Perturbation, perturb_image
from pipelines.evaluation.scores import FaceColumns, Floats, Integers, RawScores, Source, Texts
from pipelines.records import FaceRow, table_to_rows
from pipelines.scoring.detector import Detector, in_batches
from pipelines.scoring.settings import resolve_settings
from pipelines.system.image_files import Image, read_image
from pipelines.system.prefetch import read_ahead
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.manifest import read_table

TASK = "robustness"
MAX_WORKERS = 4


@dataclass(frozen=True)
class PerturbedFaces:
    """F faces under one condition; arrays of length F, in the order of the manifest."""

    video_ids: Texts
    frames: Integers
    """`frame_index`."""
    faces: Integers
    """`face_index`."""
    tracks: Integers
    areas: Floats
    """Of the box, in square pixels; NaN where there is no box."""
    probabilities: Floats


def score_perturbed_faces(
    source: Source,
    perturbations: Sequence[Perturbation],
    config: EvaluateConfig,
    options: RunOptions,
    *,
    on_progress: ProgressCallback,
) -> dict[str, RawScores]:
    """By condition, the source with the scores of its perturbed faces; the videos are not aggregated yet."""
    assert source.workspace is not None
    found = score_perturbed(
        source.workspace,
        config.checkpoint,
        perturbations,
        options,
        splits=source.scored_splits,
        seed=config.seed,
        on_progress=on_progress,
    )
    return {name: _with_faces(source.raw, faces) for name, faces in found.items()}


def score_perturbed(
    workspace: Path,
    checkpoint: str,
    perturbations: Sequence[Perturbation],
    options: RunOptions,
    *,
    splits: Sequence[str] = (),
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, PerturbedFaces]:
    """By condition, `clean` first, the probabilities of all faces of a workspace's `detect-faces` stage.

    The stored, aligned crop is perturbed. Small faces are enlarged there and large ones reduced, so pixels of the crop are
    not pixels of the video. Only probabilities are kept. Noise depends on (seed, video, frame, face, condition) alone:
    batches, threads and other faces or conditions change a value by no more than rounding.

    Args:
        splits: only the faces of videos in these splits.

    Raises:
        ManifestError: no finished stage, or faces of another geometry than the checkpoint's.
        CheckpointError: the checkpoint cannot be loaded.
        InputError: a crop is missing or damaged.
    """
    folder, provenance = open_upstream(workspace, "detect-faces")
    settings = resolve_settings(PredictConfig(checkpoint=checkpoint), provenance)
    rows = _read_rows(folder, splits)
    conditions = {CLEAN: None} | {perturbation.name: perturbation for perturbation in perturbations}
    crops = _Crops(folder.root, settings.contract, tuple(conditions.values()), seed)
    detector = Detector.from_settings(settings, options)
    probabilities = np.full((len(rows), len(conditions)), np.nan)
    num_scored = 0
    on_progress(Progress(TASK, 0, len(rows), "face"))
    inputs = read_ahead(crops.make_all(rows, options.workers), depth=options.batch_size)
    for batch in in_batches(inputs, options.batch_size):
        probabilities.flat[num_scored : num_scored + len(batch)] = detector.classify(batch)
        num_scored += len(batch)
        on_progress(Progress(TASK, num_scored // len(conditions), len(rows), "face"))
    return {name: _describe(rows, column) for name, column in zip(conditions, probabilities.T, strict=True)}


def _with_faces(raw: RawScores, faces: PerturbedFaces) -> RawScores:
    """The source's videos with new scores of their faces, not aggregated yet."""
    position: dict[str, int] = {}
    for index, digest in enumerate(raw.digests):
        position.setdefault(digest[:16], index)
    columns = FaceColumns(
        sources=np.array([position[video_id] for video_id in faces.video_ids], dtype=np.int64),
        frames=faces.frames,
        tracks=faces.tracks,
        areas=faces.areas,
        probabilities=faces.probabilities,
    )
    return replace(raw, probabilities=np.full(len(raw.videos), np.nan), faces=columns)


def _read_rows(folder: StageFolder, splits: Sequence[str]) -> list[FaceRow]:
    wanted = {video.video_id for video in folder.read_videos_of(splits)}
    rows = table_to_rows(read_table(folder.manifest_path, FaceRow), FaceRow)
    return [row for row in rows if row.video_id in wanted]


@dataclass(frozen=True)
class _Crops:
    """Makes network inputs from stored crops."""

    folder: Path
    contract: Preprocessing
    conditions: Sequence[Perturbation | None]
    seed: int

    def make_all(self, rows: Sequence[FaceRow], num_workers: int) -> Iterator[Image]:
        """Every face under every condition, face by face; one thread per face."""
        num_workers = num_workers or min(MAX_WORKERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(num_workers) as pool:
            for together in in_batches(rows, num_workers):
                for inputs in pool.map(self._make, together):
                    yield from inputs

    def _make(self, row: FaceRow) -> list[Image]:
        crop = read_image(self.folder / row.crop_path)
        return [cut_input(self._perturb(crop, row, condition), self.contract) for condition in self.conditions]

    def _perturb(self, crop: Image, row: FaceRow, condition: Perturbation | None) -> Image:
        if condition is None:
            return crop
        names = (int.from_bytes(name.encode()) for name in (row.video_id, condition.name))
        return perturb_image(
            crop, condition, np.random.default_rng((self.seed, *names, row.frame_index, row.face_index))
        )


def _describe(rows: Sequence[FaceRow], probabilities: Floats) -> PerturbedFaces:
    return PerturbedFaces(
        video_ids=np.array([row.video_id for row in rows], dtype=object),
        frames=np.array([row.frame_index for row in rows], dtype=np.int64),
        faces=np.array([row.face_index for row in rows], dtype=np.int64),
        tracks=np.array([row.track for row in rows], dtype=np.int64),
        areas=np.array([_box_area(row) for row in rows], dtype=np.float64),
        probabilities=probabilities.copy(),
    )


def _box_area(row: FaceRow) -> float:
    if row.x0_px is None or row.y0_px is None or row.x1_px is None or row.y1_px is None:
        return float("nan")
    return (row.x1_px - row.x0_px) * (row.y1_px - row.y0_px)
