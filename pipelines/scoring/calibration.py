"""Calibration: a monotone map from a video's score to a calibrated probability, and the thresholds of three verdicts.

Calibrated probabilities hold if fakes are as frequent as in the videos that the calibration was fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.checkpoint import read_header, save_checkpoint
from pipelines.checkpoints.weights_files import read_state
from pipelines.config import Aggregate, CalibrationMethod, check, check_choices
from pipelines.errors import CheckpointError, ConfigError, DatasetError
from pipelines.scoring.isotonic import Block, join_cheapest, pool_violators
from pipelines.scoring.metrics import PROBABILITY_CLIP, expected_calibration_error

Verdict = Literal["real", "uncertain", "fake"]
Floats = npt.NDArray[np.float64]
Knots = tuple[tuple[float, ...], tuple[float, ...]]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_KNOTS = 100
MIN_VIDEOS_PER_CLASS = 10
_HALVINGS = 60
"""Enough to bisect the interval of temperatures down to the precision of a float."""


@dataclass(frozen=True)
class Calibration:
    """The `calibration` in a checkpoint's header."""

    method: CalibrationMethod
    aggregate: Aggregate
    """The calibration applies only to probabilities aggregated this way."""
    real_below: float
    """Calibrated probability; between it and `fake_from` the verdict is `uncertain`."""
    fake_from: float
    """Calibrated probability, >= `real_below`."""
    target_fpr: float
    """Accepted share of real videos called fake; `fake_from` keeps it on videos similar to those of the fit."""
    target_fnr: float
    """Accepted share of fake videos called real, kept by `real_below`."""
    videos_real: int
    videos_fake: int
    ece_before: float
    """Expected calibration error on the videos of the fit, uncalibrated."""
    ece_after: float
    source: str
    """Name of the data it was fitted to, for display."""
    temperature: float | None = None
    """For the method `temperature`."""
    knots_x: tuple[float, ...] = ()
    """For the method `isotonic`: (K,) probabilities, increasing, 1 <= K <= 100."""
    knots_y: tuple[float, ...] = ()
    """(K,) calibrated probabilities, not decreasing."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("real_below", "fake_from", "target_fpr", "target_fnr", "ece_before", "ece_after"):
            check(0 <= getattr(self, name) <= 1, name, "must be in [0, 1]", getattr(self, name))
        check(self.real_below <= self.fake_from, "real_below", f"must be <= {self.fake_from}", self.real_below)
        check(self.videos_real >= 0, "videos_real", "must be >= 0", self.videos_real)
        check(self.videos_fake >= 0, "videos_fake", "must be >= 0", self.videos_fake)
        if self.method == "temperature":
            is_known = self.temperature is not None and MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE
            rule = f"must be in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE:g}]"
            check(is_known and not self.knots_x, "temperature", rule, self.temperature)
        else:
            check(self.temperature is None and self._has_knots(), "knots", "must rise inside 0..1", self.knots_x)

    def _has_knots(self) -> bool:
        return (
            1 <= len(self.knots_x) == len(self.knots_y) <= MAX_KNOTS
            and all(0 <= value <= 1 for value in (*self.knots_x, *self.knots_y))
            and all(left < right for left, right in pairwise(self.knots_x))
            and all(left <= right for left, right in pairwise(self.knots_y))
        )

    def apply(self, probabilities: npt.ArrayLike) -> Floats:
        """Calibrated probabilities, in [0, 1] and in the order of the given ones; any shape.

        `temperature`: sigmoid(logit(p) / T), p clipped to [1e-7, 1 - 1e-7] (Guo et al. 2017, section 4.2).
        `isotonic`: linear between the knots, constant outside.
        """
        values = np.asarray(probabilities, dtype=np.float64)
        if self.temperature is None:
            return np.asarray(np.interp(values, self.knots_x, self.knots_y))
        return _sigmoid(_logit(values) / self.temperature)

    def verdict(self, calibrated: float) -> Verdict:
        """`fake` at or above `fake_from`, `real` below `real_below`, `uncertain` between."""
        if calibrated >= self.fake_from:
            return "fake"
        return "real" if calibrated < self.real_below else "uncertain"

    def to_json(self) -> dict[str, Any]:
        return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From a checkpoint's header.

        Raises:
            CheckpointError: a field is missing, unknown or wrong.
        """
        try:
            wrong = sorted({field.name for field in fields(cls)} ^ set(value))
            if wrong:
                raise ConfigError(f"a missing or unknown field: {wrong[0]}")
            arguments: dict[str, Any] = {
                key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
            }
            return cls(**arguments)
        except (ConfigError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint's calibration is damaged ({error}); calibrate the original checkpoint again"
            ) from error


def fit_calibration(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    method: CalibrationMethod,
    target_fpr: float,
    target_fnr: float,
    aggregate: Aggregate,
    source: str,
) -> Calibration:
    """Fit map and thresholds to labels (N,) of 0 and 1 and the probabilities (N,) of videos that were not trained on.

    Raises:
        DatasetError: fewer than 10 videos of a class, or too few for a target.
    """
    is_fake, values = _check_videos(labels, probabilities)
    videos_fake, videos_real = int(is_fake.sum()), int((~is_fake).sum())
    for name, number in (("real", videos_real), ("fake", videos_fake)):
        if number < MIN_VIDEOS_PER_CLASS:
            raise DatasetError(
                f"a calibration needs at least {MIN_VIDEOS_PER_CLASS} {name} videos with a score, got {number}; add some"
            )
    is_isotonic = method == "isotonic"
    knots_x, knots_y = fit_isotonic(is_fake, values) if is_isotonic else ((), ())
    before = expected_calibration_error(is_fake, values)
    fitted = Calibration(
        method=method,
        aggregate=aggregate,
        real_below=0.5,
        fake_from=0.5,
        target_fpr=target_fpr,
        target_fnr=target_fnr,
        videos_real=videos_real,
        videos_fake=videos_fake,
        ece_before=before,
        ece_after=before,
        source=source,
        temperature=None if is_isotonic else fit_temperature(is_fake, values),
        knots_x=knots_x,
        knots_y=knots_y,
    )
    calibrated = fitted.apply(values)
    real_below, fake_from = choose_thresholds(is_fake, calibrated, target_fpr=target_fpr, target_fnr=target_fnr)
    after = expected_calibration_error(is_fake, calibrated)
    return replace(fitted, real_below=real_below, fake_from=fake_from, ece_after=after)


def fit_temperature(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The temperature in [0.05, 20] with the least log loss.

    The loss is convex in b = 1/T, so the zero of its slope, mean((sigmoid(b z) - y) z) at logits z, is found by bisection.
    """
    is_fake, values = _check_videos(labels, probabilities)
    logits = _logit(values)
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = float(np.mean((_sigmoid(middle * logits) - is_fake) * logits))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return min(max(2 / (low + high), MIN_TEMPERATURE), MAX_TEMPERATURE)


def fit_isotonic(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Knots:
    """Knots x, y of the monotone step function with the least squared error, by pool adjacent violators.

    Equal probabilities are one point. A fake is added at the lowest probability and a real one at the highest, so no
    outcome gets probability 0, and an end that rests on n videos is no more certain than 1 / (n + 1). To keep to 100
    knots, the neighbours whose merging costs least are merged.
    """
    is_fake, values = _check_videos(labels, probabilities)
    values = np.concatenate([values, [values.min(), values.max()]])
    points, inverse, videos = np.unique(values, return_inverse=True, return_counts=True)
    fakes = np.bincount(inverse, weights=np.concatenate([is_fake, [1, 0]]))
    columns = zip(points.tolist(), fakes.tolist(), videos.tolist(), strict=True)
    blocks = pool_violators(Block(x, x, round(fake), number) for x, fake, number in columns)
    blocks = join_cheapest(blocks, MAX_KNOTS // 2)
    knots = [(x, block.share) for block in blocks for x in dict.fromkeys((block.first, block.last))]
    return tuple(x for x, _ in knots), tuple(y for _, y in knots)


def choose_thresholds(
    labels: npt.ArrayLike, calibrated: npt.ArrayLike, *, target_fpr: float, target_fnr: float
) -> tuple[float, float]:
    """`real_below` and `fake_from`, each halfway between two neighbouring probabilities of the given videos (N,).

    `fake_from` is the smallest with k of the n real videos above it, (k + 1) / (n + 1) <= `target_fpr`: so a new real video
    of the same kind is called fake with at most that chance (the quantile of split conformal prediction; with k / n the
    chance would be greater). `real_below` is the largest with so few of the fake videos below it. Where the two cross,
    every threshold between them keeps both targets: both are the one nearest to 0.5.

    Raises:
        DatasetError: too few videos for a target, or no fake video scores above that share of the real ones.
    """
    is_fake, values = _check_videos(labels, calibrated)
    reals, fakes = np.sort(values[~is_fake]), np.sort(values[is_fake])
    _check_target("target_fpr", target_fpr, "real", len(reals))
    _check_target("target_fnr", target_fnr, "fake", len(fakes))
    edges = np.concatenate([[0.0], np.unique(values), [1.0]])
    candidates = (edges[1:] + edges[:-1]) / 2
    false_positives = len(reals) - np.searchsorted(reals, candidates, side="left")
    false_negatives = np.searchsorted(fakes, candidates, side="left")
    fake_from = float(candidates[(false_positives + 1) / (len(reals) + 1) <= target_fpr][0])
    real_below = float(candidates[(false_negatives + 1) / (len(fakes) + 1) <= target_fnr][-1])
    if not (fakes >= fake_from).any():
        raise DatasetError(
            f"no threshold detects a fake and calls only {target_fpr:g} of the real videos fake: these reach as high as the "
            "fakes; raise target_fpr, or choose the method temperature if isotonic makes them equal"
        )
    if real_below > fake_from:
        real_below = fake_from = min(max(0.5, fake_from), real_below)
    return real_below, fake_from


def write_calibrated_copy(checkpoint_path: Path, output: Path, calibration: Calibration) -> None:
    """Write the same tensors with the calibration, its aggregation, and `fake_from` as the threshold in the header.

    It replaces an earlier calibration, so it must be fitted to the network's uncalibrated probabilities.

    Raises:
        CheckpointError: no checkpoint.
        ConfigError: the output is the checkpoint itself, or not named .safetensors.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(f"{output} must end in .safetensors")
    header = read_header(checkpoint_path)
    if output.exists() and output.samefile(checkpoint_path):
        raise ConfigError(f"{output} is the checkpoint to calibrate; choose another name")
    contract = replace(header.preprocessing, threshold=calibration.fake_from, aggregate=calibration.aggregate)
    copy = replace(header, preprocessing=contract, calibration=calibration.to_json())
    save_checkpoint(output, read_state(checkpoint_path), copy)


def _check_videos(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which videos (N,) are fake, and their probabilities (N,)."""
    is_fake, values = np.asarray(labels) == 1, np.asarray(probabilities, dtype=np.float64)
    if is_fake.shape != values.shape or not values.size:
        raise DatasetError(f"there must be one probability for each label, got {values.size} for {is_fake.size}")
    wrong = values[~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise DatasetError(f"probabilities must be in [0, 1], got {wrong[0]}; leave out videos without a score")
    return is_fake, values


def _check_target(name: str, target: float, label: str, videos: int) -> None:
    check(0 < target < 1, name, "must be between 0 and 1", target)
    if 1 / (videos + 1) > target:
        needed = math.ceil(1 / target) - 1
        raise DatasetError(
            f"{videos} {label} videos are too few for a {name} of {target:g}, which needs {needed}; "
            f"add {label} videos or raise {name}"
        )


def _logit(probabilities: Floats) -> Floats:
    clipped = np.clip(probabilities, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))
