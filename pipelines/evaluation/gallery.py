"""Which pictures a report gets, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from pipelines.evaluation.pictures import (
    RobustnessCurve,
    Series,
    draw_calibration,
    draw_histograms,
    draw_robustness,
    draw_roc,
)
from pipelines.evaluation.protocols import Level, ScoredFrames
from pipelines.evaluation.report import Report, RobustnessRow
from pipelines.evaluation.scored import Scored

CURVES_MAX = 6


def draw_report(folder: Path, report: Report, scored: Scored, frames: ScoredFrames | None) -> list[Path]:
    """Write roc.png, scores.png, calibration.png and, with perturbations, robustness.png; of the level that is quoted.

    Raises:
        StorageError: a picture could not be written.
    """
    level: Level = report.protocol.level if report.protocol else "video"
    series = make_series(report, scored, frames, level)
    paths = [folder / f"{name}.png" for name in ("roc", "scores", "calibration")]
    draw_roc(paths[0], series)
    draw_histograms(paths[1], series[:1], report.threshold)
    draw_calibration(paths[2], series[:1])
    if report.robustness:
        paths.append(folder / "robustness.png")
        draw_robustness(paths[3], make_curves(report.robustness, level))
    return paths


def make_series(report: Report, scored: Scored, frames: ScoredFrames | None, level: Level) -> list[Series]:
    """All first, then the data sets, or of one data set its methods, while they are few enough to be told apart."""
    videos = scored.videos
    if level == "frame" and frames is not None:
        owners, probabilities = frames.videos, frames.probabilities
    else:
        owners, probabilities = np.arange(len(videos)), videos.probabilities
    labels, datasets, methods = videos.labels[owners], videos.datasets[owners], videos.methods[owners]
    name = "all videos" if level == "video" else "all frames"
    found = [Series(name, labels, probabilities)]
    kinds = [(str(name), datasets == name) for name in np.unique(datasets) if name]
    if len(kinds) < 2:
        fakes = np.unique(methods[labels == 1])
        kinds = [(str(name), (labels == 0) | (methods == name)) for name in fakes if name]
    if 2 <= len(kinds) < CURVES_MAX:
        found += [Series(name, labels[mask], probabilities[mask]) for name, mask in kinds]
    return found


def make_curves(rows: Sequence[RobustnessRow], level: Level) -> list[RobustnessCurve]:
    """A curve for each kind of perturbation."""
    clean = rows[0].levels[level].value
    curves = []
    for kind, members in groupby(rows[1:], lambda row: row.perturbation.kind if row.perturbation else ""):
        graded = list(members)
        estimates = [row.levels[level] for row in graded]
        curves.append(
            RobustnessCurve(
                kind=kind,
                strengths=np.array([row.perturbation.strength for row in graded if row.perturbation]),
                aucs=np.array([estimate.value for estimate in estimates]),
                lows=np.array([estimate.low for estimate in estimates]),
                highs=np.array([estimate.high for estimate in estimates]),
                clean=clean,
            )
        )
    return curves
