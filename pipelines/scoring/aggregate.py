"""From the probabilities of a video's faces to the probability of the video."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipelines.config import Aggregate

Array = npt.NDArray[np.float64]
MIN_TRACK_SHARE = 0.25
"""Least share of the longest track's faces that a track needs to count."""


def aggregate_video(probabilities: npt.ArrayLike, tracks: npt.ArrayLike, method: Aggregate) -> float:
    """One probability from those of the faces (F,) and their track numbers (F,), F >= 1; the order does not matter."""
    values = np.asarray(probabilities, dtype=np.float64)
    if not len(values):
        raise ValueError("a video without faces has no probability")
    return float(np.clip(_METHODS[method](values, np.asarray(tracks)), 0.0, 1.0))


def counted_tracks(tracks: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Track numbers with at least a quarter as many faces as the longest track."""
    numbers, counts = np.unique(np.asarray(tracks), return_counts=True)
    longest = int(np.max(counts)) if len(counts) else 0
    return numbers[counts >= MIN_TRACK_SHARE * longest]


def _mean(values: Array, _tracks: npt.NDArray[np.int64]) -> float:
    return _order_free_mean(values)


def _max_track(values: Array, tracks: npt.NDArray[np.int64]) -> float:
    """The most suspicious person: mean per track, then the maximum."""
    return max(_order_free_mean(values[tracks == track]) for track in counted_tracks(tracks))


def _order_free_mean(values: Array) -> float:
    """Summed in sorted order, so a permutation gives the same bits."""
    return float(np.sort(values).mean())


_METHODS: dict[Aggregate, Callable[[Array, npt.NDArray[np.int64]], float]] = {
    "max-track": _max_track,
    "mean": _mean,
}
