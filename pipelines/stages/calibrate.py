"""`calibrate`: a copy of a checkpoint with calibrated probabilities and thresholds for real and fake."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from pipelines.checkpoints.checkpoint import CheckpointHeader, read_header
from pipelines.checkpoints.weights_files import WeightsFile, resolve_weights
from pipelines.config import Aggregate, CalibrateConfig, PredictConfig, RunOptions, refuse_shard
from pipelines.errors import CheckpointError, ConfigError
from pipelines.evaluation.joining import join, merge
from pipelines.evaluation.protocols import aggregate_videos
from pipelines.evaluation.scores import Floats, Integers, RawScores, ScoredVideos, Source
from pipelines.scoring.calibration import (
    Calibration,
    fit_calibration,
    fit_isotonic,
    fit_temperature,
    write_calibrated_copy,
)
from pipelines.scoring.metrics import expected_calibration_error
from pipelines.scoring.settings import resolve_settings
from pipelines.stages.evaluate import Loader
from pipelines.system.progress import ProgressCallback, ignore_progress

FOLDS = 5
VERDICTS = ("real", "uncertain", "fake")


@dataclass(frozen=True)
class CalibrateSummary:
    """What was fitted and written."""

    path: Path
    calibration: Calibration
    ece_held_out: float
    """Expected calibration error of held-out videos, in five folds of groups. NaN with too few groups."""
    shares: dict[str, dict[str, float]]
    """Shares of the verdicts on the fitted videos, by label."""
    groups: int
    """Groups of videos that are not independent: a few large groups carry less information than their videos suggest."""

    def lines(self) -> list[str]:
        """Lines of text to print."""
        fit = self.calibration
        kind = f"temperature {fit.temperature:.3f}" if fit.temperature else f"isotonic, {len(fit.knots_x)} knots"
        lines = [
            f"{self.path}: {kind}, fitted to {fit.videos_real} real and {fit.videos_fake} fake videos "
            f"in {self.groups} groups of {fit.source}",
            f"expected calibration error: {fit.ece_before:.3f} before, {fit.ece_after:.3f} after; {self._held_out()}",
            f"real below {fit.real_below:.4f}, fake from {fit.fake_from:.4f}",
        ]
        for label, shares in self.shares.items():
            lines.append(
                f"{label} videos in the fit: "
                + ", ".join(f"{share:.1%} {verdict}" for verdict, share in shares.items())
            )
        return lines

    def _held_out(self) -> str:
        if math.isnan(self.ece_held_out):
            return "too few groups for a held-out estimate"
        return f"{self.ece_held_out:.3f} on held-out videos"


def calibrate(
    source: Path | str,
    output: Path | str,
    config: CalibrateConfig | None = None,
    options: RunOptions | None = None,
    *,
    labels: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> CalibrateSummary:
    """Fit the probabilities of videos, and two thresholds, on labelled videos that were not used for training.

    An earlier calibration of the checkpoint is ignored and replaced.

    Args:
        source: scores or details made by the checkpoint, a workspace, or a Parquet of face crops.
        output: the calibrated copy.
        labels: as for `evaluate`.

    Raises:
        CheckpointError: the scores were made by another checkpoint, or are calibrated already.
        ConfigError: the output exists and `overwrite` is off, or is the checkpoint itself.
        DatasetError: too few videos for the targets, or labels that do not fit.
    """
    config, options, output = config or CalibrateConfig(), options or RunOptions(), Path(output)
    refuse_shard(options, "calibrate")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file that ends in .safetensors")
    if output.exists() and not options.overwrite:
        raise ConfigError(f"{output} exists; pass --overwrite to replace it, or choose another name")
    if output.suffix != ".safetensors":
        raise ConfigError(f"{output} must end in .safetensors")
    checkpoint = resolve_weights(config.checkpoint, kind="checkpoint")
    if output.exists() and output.samefile(checkpoint.path):
        raise ConfigError(f"{output} is the checkpoint to calibrate; choose another name")
    header = read_header(checkpoint.path)
    predict = PredictConfig(checkpoint=config.checkpoint, aggregate=config.aggregate)
    loader = Loader(predict, options, Path(labels) if labels else None, config.split, "val", on_progress)
    with ExitStack() as stack:
        opened = loader.open(Path(source), stack)
    _refuse_scores_of_others(opened, checkpoint)
    if header.calibration is not None and opened.raw.faces is None:
        raise CheckpointError(
            f"{opened.raw.name} holds probabilities that {checkpoint.name} has already calibrated; pass the details or the "
            "workspace, which hold the uncalibrated ones"
        )
    aggregate = _choose_aggregate(opened.raw, config, header)
    videos = _videos_with_scores(opened, aggregate)
    fit = fit_calibration(
        videos.labels,
        videos.probabilities,
        method=config.method,
        target_fpr=config.target_fpr,
        target_fnr=config.target_fnr,
        aggregate=aggregate,
        source=f"{opened.raw.name}, {'all videos' if opened.split == 'all' else opened.split}",
    )
    write_calibrated_copy(checkpoint.path, output, fit)
    groups = len(np.unique(videos.clusters))
    return CalibrateSummary(
        output, fit, _held_out_error(fit, videos, config.seed), _verdict_shares(fit, videos), groups
    )


def _refuse_scores_of_others(source: Source, checkpoint: WeightsFile) -> None:
    raw = source.raw
    if source.workspace is None and raw.model_sha256 != checkpoint.sha256:
        named = (
            f"the weights {raw.model_sha256[:12]}, not {checkpoint.sha256[:12]}" if raw.model_sha256 else "no weights"
        )
        raise CheckpointError(
            f"{raw.name} was not made by {checkpoint.name}: it names {named}; pass the checkpoint that made it with "
            "--checkpoint, or pass a workspace"
        )


def _choose_aggregate(raw: RawScores, config: CalibrateConfig, header: CheckpointHeader) -> Aggregate:
    """How face scores became video scores; scores of videos show it by the digest of their settings, if those are defaults.

    Raises:
        ConfigError: the scores were made in another way, or in an unknown one.
    """
    if raw.faces is not None:
        return config.aggregate or header.preprocessing.aggregate  # type: ignore[return-value]
    settings = {name: PredictConfig(config.checkpoint, aggregate=name) for name in get_args(Aggregate)}
    made = next((name for name, each in settings.items() if resolve_settings(each).sha256 == raw.settings_sha256), None)
    if made is None and config.aggregate is None:
        raise ConfigError(
            f"{raw.name} does not say how face scores became video scores, as it was made from a workspace or with other "
            "settings; pass --aggregate, the workspace or the details"
        )
    if made and config.aggregate not in (None, made):
        raise ConfigError(f"{raw.name} was made with --aggregate {made}, not {config.aggregate}; leave the option out")
    chosen = made or config.aggregate
    assert chosen is not None
    return chosen


def _videos_with_scores(source: Source, aggregate: Aggregate) -> ScoredVideos:
    scored = merge([join(source.raw, source.labelled, source.split)])
    if scored.faces is not None:
        scored = aggregate_videos(scored, aggregate)
    return scored.videos.select(~np.isnan(scored.videos.probabilities))


def _held_out_error(fit: Calibration, videos: ScoredVideos, seed: int) -> float:
    """Calibration error of all videos, each under a fit without its group."""
    fold_of = np.random.default_rng(seed).integers(0, FOLDS, videos.clusters.max() + 1)[videos.clusters]
    calibrated = np.full(len(videos), np.nan)
    for fold in range(FOLDS):
        out = fold_of == fold
        if out.any() and len(np.unique(videos.labels[~out])) == 2:
            calibrated[out] = _refit(fit, videos.labels[~out], videos.probabilities[~out]).apply(
                videos.probabilities[out]
            )
    known = ~np.isnan(calibrated)
    return expected_calibration_error(videos.labels[known], calibrated[known])


def _refit(fit: Calibration, labels: Integers, probabilities: Floats) -> Calibration:
    if fit.method == "temperature":
        return replace(fit, temperature=fit_temperature(labels, probabilities))
    knots_x, knots_y = fit_isotonic(labels, probabilities)
    return replace(fit, knots_x=knots_x, knots_y=knots_y)


def _verdict_shares(fit: Calibration, videos: ScoredVideos) -> dict[str, dict[str, float]]:
    verdicts = np.array([fit.verdict(value) for value in fit.apply(videos.probabilities)])
    return {
        label: {verdict: float((verdicts[videos.labels == number] == verdict).mean()) for verdict in VERDICTS}
        for number, label in enumerate(("real", "fake"))
    }
