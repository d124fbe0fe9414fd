"""Metrics of scores against labels; fake is the positive class.

Labels (N,) are 0 for real and 1 for fake; scores (N,) are any numbers, probabilities (N,) lie in [0, 1]; none may be NaN.
A metric that is undefined, such as one that needs both classes where there is one, is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.scoring.ranking import RankCounts, Ranking, count_from_the_top

PROBABILITY_CLIP = 1e-7
EVEN_THRESHOLD = 0.5
CALIBRATION_BINS = 15
MAX_FPRS = (0.01, 0.001)
METRICS = (
    "auc",
    "ap",
    "eer",
    "accuracy",
    "balanced_accuracy",
    "accuracy_at_threshold",
    "balanced_accuracy_at_threshold",
    "log_loss",
    "brier",
    "ece",
    *(f"tpr_at_fpr_{limit}" for limit in MAX_FPRS),
)
"""The names of `measure`, in the order of reports."""
Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RocCurve:
    """The operating points from (0, 0) to (1, 1); arrays of one length."""

    false_positive_rates: Array
    """NaN without real rows."""
    true_positive_rates: Array
    """NaN without fakes."""
    thresholds: Array
    """Falling, from infinity: a score at or above it is called fake."""


@dataclass(frozen=True)
class ReliabilityBins:
    """Predicted and true shares of fakes in bins of equal width; arrays of length `bins`."""

    mean_probabilities: Array
    """NaN in an empty bin, as is the next."""
    shares_of_fakes: Array
    counts: Integers


def measure(labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, threshold: float | None) -> dict[str, float]:
    """All `METRICS` by name; the two `_at_threshold` are NaN without a threshold."""
    own_threshold = float("nan") if threshold is None else threshold
    values = measure_ranks(Ranking.of(labels, probabilities).count()) | {
        "accuracy": accuracy(labels, probabilities, EVEN_THRESHOLD),
        "balanced_accuracy": balanced_accuracy(labels, probabilities, EVEN_THRESHOLD),
        "accuracy_at_threshold": accuracy(labels, probabilities, own_threshold),
        "balanced_accuracy_at_threshold": balanced_accuracy(labels, probabilities, own_threshold),
        "log_loss": log_loss(labels, probabilities),
        "brier": brier_score(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
    }
    return {name: values[name] for name in METRICS}


def measure_ranks(counts: RankCounts) -> dict[str, float]:
    """The `METRICS` that depend only on the order of the scores."""
    return {
        "auc": counts.roc_auc(),
        "ap": counts.average_precision(),
        "eer": counts.equal_error_rate(),
        **{f"tpr_at_fpr_{limit}": counts.tpr_at_fpr(limit) for limit in MAX_FPRS},
    }


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> RocCurve:
    """All operating points; equal scores form one step."""
    order, num_fakes, num_reals = count_from_the_top(labels, scores)
    last_rows = order[(num_fakes + num_reals)[1:] - 1]
    thresholds = np.append(np.inf, np.asarray(scores, dtype=np.float64)[last_rows])
    return RocCurve(_as_rates(num_reals), _as_rates(num_fakes), thresholds)


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a fake scores above a real one, ties counting half; NaN if a class is missing."""
    return Ranking.of(labels, scores).count().roc_auc()


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Sum of (R_n - R_n-1) P_n over the operating points, without interpolation; NaN if a class is missing."""
    return Ranking.of(labels, scores).count().average_precision()


def equal_error_rate(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The rate at which false positive rate and miss rate are equal, interpolated linearly; NaN if a class is missing."""
    return Ranking.of(labels, scores).count().equal_error_rate()


def tpr_at_fpr(labels: npt.ArrayLike, scores: npt.ArrayLike, max_fpr: float) -> float:
    """The largest true positive rate of an operating point with a false positive rate of at most `max_fpr`.

    Some threshold gives exactly this rate: nothing is interpolated. NaN if a class is missing.
    """
    return Ranking.of(labels, scores).count().tpr_at_fpr(max_fpr)


def accuracy(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> float:
    """Share of correct calls, fake at or above `threshold`; NaN if the threshold is."""
    return _mean(right_calls(labels, probabilities, threshold))


def balanced_accuracy(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> float:
    """Mean of the shares of correct calls among fakes and among real rows; NaN if a class is missing."""
    is_fake, are_right = np.asarray(labels) == 1, right_calls(labels, probabilities, threshold)
    return (_mean(are_right[is_fake]) + _mean(are_right[~is_fake])) / 2


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """-mean(y ln p + (1 - y) ln(1 - p)), p clipped to [1e-7, 1 - 1e-7]."""
    return _mean(log_losses(labels, probabilities))


def brier_score(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """mean((p - y)²)."""
    return _mean(np.square(residuals(labels, probabilities)))


def expected_calibration_error(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = CALIBRATION_BINS
) -> float:
    """|mean probability - share of fakes| of bins of equal width, averaged by their rows (Guo et al. 2017, equation 3).

    The confidence is the probability of fake, anywhere in [0, 1], and not that of the likelier class.
    """
    errors = residuals(labels, probabilities)
    gaps = np.bincount(calibration_bins(probabilities, bins), weights=errors)
    return float(np.abs(gaps).sum()) / len(errors) if len(errors) else float("nan")


def reliability_bins(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = CALIBRATION_BINS
) -> ReliabilityBins:
    """The bins of `expected_calibration_error`, for a reliability diagram."""
    indices = calibration_bins(probabilities, bins)
    counts = np.bincount(indices, minlength=bins)
    divisors = np.where(counts, counts, np.nan)
    sums = np.bincount(indices, weights=np.asarray(probabilities, dtype=np.float64), minlength=bins)
    fakes = np.bincount(indices, weights=np.asarray(labels, dtype=np.float64), minlength=bins)
    return ReliabilityBins(sums / divisors, fakes / divisors, counts)


def right_calls(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> Array:
    """(N,) 1 for a fake with p >= threshold and a real one below, else 0; NaN if the threshold is."""
    called_fake = np.asarray(probabilities, dtype=np.float64) >= threshold
    return np.where(np.isnan(threshold), np.nan, called_fake == (np.asarray(labels) == 1))


def log_losses(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Array:
    """(N,) the terms of `log_loss`."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(probabilities, dtype=np.float64), PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def residuals(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Array:
    """(N,) p - y."""
    return np.asarray(probabilities, dtype=np.float64) - np.asarray(labels, dtype=np.float64)


def calibration_bins(probabilities: npt.ArrayLike, bins: int) -> Integers:
    """(N,) the index b of the bin (b / bins, (b + 1) / bins] that holds each probability; 0 is in the first."""
    return np.searchsorted(np.arange(1, bins) / bins, np.asarray(probabilities, dtype=np.float64), side="left")


def mean_by_group(groups: npt.ArrayLike, values: npt.ArrayLike) -> tuple[npt.NDArray[np.str_], Array]:
    """Group names, sorted, and the mean of each group's values."""
    names, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
    return names, sums / counts


def _as_rates(counts: Integers) -> Array:
    return counts / counts[-1] if counts[-1] else np.full(len(counts), np.nan)


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
