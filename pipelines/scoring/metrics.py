"""Metrics of scores against labels; fake is the positive class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PROBABILITY_CLIP = 1e-7
Array = npt.NDArray[np.float64]


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Chance that a fake scores above a real one, ties counting half; NaN if a class is missing.

    By ranks (Mann-Whitney U): labels (N,) of 0 and 1, scores (N,).
    """
    is_fake = np.asarray(labels) == 1
    values = np.asarray(scores, dtype=np.float64)
    num_fake, num_real = int(is_fake.sum()), int((~is_fake).sum())
    if not num_fake or not num_real:
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    u = mean_ranks[inverse][is_fake].sum() - num_fake * (num_fake + 1) / 2
    return float(u / (num_fake * num_real))


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """-mean(y ln p + (1 - y) ln(1 - p)), p clipped to [1e-7, 1 - 1e-7]."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(probabilities, dtype=np.float64), PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def mean_by_group(groups: npt.ArrayLike, values: npt.ArrayLike) -> tuple[npt.NDArray[np.str_], Array]:
    """Group names, sorted, and the mean of each group's values."""
    names, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
    return names, sums / counts
