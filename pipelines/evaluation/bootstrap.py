"""Confidence intervals of metrics: a cluster bootstrap, because faces of one video are not independent evidence.

A round draws as many clusters as there are, with replacement; all rows of a drawn cluster come with it. No row is copied:
how often a cluster is drawn is the weight of its rows. Metrics that are means over rows need only the sums per cluster;
those that depend on the order of the scores need the weights in that order, which is determined once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.scoring.metrics import (
    EVEN_THRESHOLD,
    METRICS,
    log_losses,
    measure,
    measure_ranks,
    residuals,
    right_calls,
)
from pipelines.scoring.ranking import RankCounts, Ranking

MAX_WORKERS = 4
"""More threads wait for each other, and each needs some 8 bytes per row."""
WITH_INTERVAL = tuple(name for name in METRICS if name != "ece")
"""The calibration error is a mean of absolute values: chance alone makes it larger, and resampling adds that once more. The
percentiles of its rounds lie above the estimate, and on calibrated data they exclude the true value, 0."""
UNDEFINED = float("nan"), float("nan")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A metric and its interval; NaN where undefined."""

    value: float
    low: float
    high: float


def measure_with_intervals(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    threshold: float | None = None,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    workers: int = 0,
) -> dict[str, Estimate]:
    """`measure`, with percentile intervals of a cluster bootstrap for all metrics in `WITH_INTERVAL`.

    labels (N,) 0 real or 1 fake, probabilities (N,) in [0, 1] without NaN, clusters (N,) of any sortable values. Rounds in
    which a metric is undefined do not count towards its interval. The interval is NaN if more than half of the rounds are
    undefined, without rounds, and with fewer than two clusters. Equal seeds give equal results for any number of workers (0:
    one per core, up to 4).
    """
    values = measure(labels, probabilities, threshold=threshold)
    names, rows_to_clusters = np.unique(np.asarray(clusters), return_inverse=True)
    intervals: dict[str, tuple[float, float]] = {}
    if rounds >= 1 and len(names) >= 2:
        sample = _Sample.of(labels, probabilities, rows_to_clusters, len(names), threshold)
        draws = _measure_rounds(sample, rounds, seed, workers or min(MAX_WORKERS, os.cpu_count() or 1))
        intervals = {
            name: _percentiles(column, confidence) for name, column in zip(WITH_INTERVAL, draws.T, strict=True)
        }
    return {name: Estimate(value, *intervals.get(name, UNDEFINED)) for name, value in values.items()}


def means_with_intervals(
    values: npt.ArrayLike, clusters: npt.ArrayLike, *, rounds: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[Estimate]:
    """The mean of each column of values (N, K) without NaN, with the intervals of the same cluster bootstrap.

    The draws are those of `measure_with_intervals` with as many clusters. NaN without rows; intervals are NaN without
    rounds and with fewer than two clusters.
    """
    table = np.asarray(values, dtype=np.float64)
    if not len(table):
        return [Estimate(float("nan"), *UNDEFINED)] * table.shape[1]
    means = table.mean(axis=0).tolist()
    names, rows_to_clusters = np.unique(np.asarray(clusters), return_inverse=True)
    if rounds < 1 or len(names) < 2:
        return [Estimate(mean, *UNDEFINED) for mean in means]
    terms = np.column_stack([np.ones(len(table)), table])
    sums = np.zeros((len(names), terms.shape[1]))
    np.add.at(sums, rows_to_clusters, terms)
    drawn = np.array([_draw(len(names), seed, number) @ sums for number in range(rounds)])
    columns = (drawn[:, 1:] / drawn[:, :1]).T
    return [Estimate(mean, *_percentiles(column, confidence)) for mean, column in zip(means, columns, strict=True)]


@dataclass(frozen=True)
class _Sample:
    """What all rounds share of N rows in G clusters."""

    ranking: Ranking
    fake_clusters: Integers
    """Cluster of each fake of the ranking, highest score first."""
    real_clusters: Integers
    sums: Floats
    """(G, columns of `_row_terms`) over the rows of each cluster."""

    @classmethod
    def of(
        cls,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        clusters: Integers,
        num_clusters: int,
        threshold: float | None,
    ) -> _Sample:
        ranking = Ranking.of(labels, probabilities)
        terms = _row_terms(labels, probabilities, float("nan") if threshold is None else threshold)
        sums = [np.bincount(clusters, weights=term, minlength=num_clusters) for term in terms]
        return cls(ranking, clusters[ranking.fakes], clusters[ranking.reals], np.column_stack(sums))

    @property
    def num_clusters(self) -> int:
        return len(self.sums)

    def measure(self, weights: Integers, memory: _Memory) -> dict[str, float]:
        """The metrics in `WITH_INTERVAL`, each cluster counted as often as weights (G,) say."""
        _cumulate(weights, self.fake_clusters, memory.fakes)
        _cumulate(weights, self.real_clusters, memory.reals)
        sums = np.einsum("g,gc->c", weights, self.sums)  # not @, whose threads compete with those of the rounds
        return measure_ranks(RankCounts(self.ranking, memory.fakes, memory.reals)) | _measure_sums(sums)


class _Memory(threading.local):
    """The buffers of a thread: allocating them in each round would take as long as the round itself."""

    def __init__(self, ranking: Ranking) -> None:
        self.fakes = np.zeros(len(ranking.fakes) + 1, np.int64)
        self.reals = np.zeros(len(ranking.reals) + 1, np.int64)


def _cumulate(weights: Integers, clusters: Integers, sums: Integers) -> None:
    """Cumulative weights of rows in these clusters (N,), written after the leading 0 of sums (N + 1,)."""
    np.take(weights, clusters, out=sums[1:], mode="clip")  # the mode avoids a copy; all indices are in range
    np.cumsum(sums[1:], out=sums[1:])


def _row_terms(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> Iterator[Floats]:
    """What each row (N,) adds to the sums that `_measure_sums` takes."""
    is_fake = (np.asarray(labels) == 1).astype(np.float64)
    yield is_fake
    yield 1 - is_fake
    for cut in (EVEN_THRESHOLD, threshold):
        are_right = right_calls(labels, probabilities, cut)
        yield are_right * is_fake
        yield are_right * (1 - is_fake)
    yield log_losses(labels, probabilities)
    yield np.square(residuals(labels, probabilities))


def _measure_sums(sums: Floats) -> dict[str, float]:
    """The metrics that follow from sums over rows."""
    fakes, reals, right_fakes, right_reals, right_fakes_own, right_reals_own, loss, square = sums.tolist()
    rows = fakes + reals
    return {
        "accuracy": (right_fakes + right_reals) / rows,
        "balanced_accuracy": (_ratio(right_fakes, fakes) + _ratio(right_reals, reals)) / 2,
        "accuracy_at_threshold": (right_fakes_own + right_reals_own) / rows,
        "balanced_accuracy_at_threshold": (_ratio(right_fakes_own, fakes) + _ratio(right_reals_own, reals)) / 2,
        "log_loss": loss / rows,
        "brier": square / rows,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _measure_rounds(sample: _Sample, rounds: int, seed: int, workers: int) -> Floats:
    """(rounds, metrics) in the order of `WITH_INTERVAL`."""
    memory = _Memory(sample.ranking)

    def measure_round(number: int) -> Sequence[float]:
        values = sample.measure(_draw(sample.num_clusters, seed, number), memory)
        return [values[name] for name in WITH_INTERVAL]

    if workers == 1:
        return _as_table(map(measure_round, range(rounds)))
    with ThreadPoolExecutor(workers, "bootstrap") as pool:
        return _as_table(pool.map(measure_round, range(rounds)))


def _as_table(rows: Iterable[Sequence[float]]) -> Floats:
    return np.array(list(rows), dtype=np.float64)


def _draw(num_clusters: int, seed: int, number: int) -> Integers:
    """(G,) how often each cluster is drawn. Each round has its own generator, so rounds may run in any order."""
    drawn = np.random.default_rng((seed, number)).integers(num_clusters, size=num_clusters)
    return np.bincount(drawn, minlength=num_clusters)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    """The ends of the middle part of values (rounds,), ignoring NaN; NaN if more than half of them are NaN."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return UNDEFINED
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
