"""How far metrics may lie from the truth by chance: a bootstrap over clusters, because faces of one video are no new evidence.

A round draws as many clusters as there are, with replacement, and all rows of a drawn cluster come along. No row is copied:
a drawn cluster weighs its rows. Metrics that are means over rows need only the sums of each cluster; those of the order of
scores need the weights in that order, which is found once.
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
    CALIBRATION_BINS,
    EVEN_THRESHOLD,
    METRICS,
    calibration_bins,
    log_losses,
    measure,
    measure_ranks,
    residuals,
    right_calls,
)
from pipelines.scoring.ranking import RankCounts, Ranking

MAX_WORKERS = 4
"""More would wait for each other, and each holds some 8 bytes per row."""
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A metric and its interval; NaN what is undefined."""

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
    """`measure`, with percentile intervals of a cluster bootstrap.

    labels (N,) 0 real or 1 fake, probabilities (N,) in [0, 1] without NaN, clusters (N,) of any values that can be sorted.
    Rounds in which a metric is undefined are left out of its interval. The interval is NaN if more than half of them are,
    without rounds, and with fewer than two clusters. Equal for equal seeds, whatever the workers (0: one per core, up to 4).
    """
    values = measure(labels, probabilities, threshold=threshold)
    names, rows_to_clusters = np.unique(np.asarray(clusters), return_inverse=True)
    if rounds < 1 or len(names) < 2:
        return {name: Estimate(value, float("nan"), float("nan")) for name, value in values.items()}
    sample = _Sample.of(labels, probabilities, rows_to_clusters, len(names), threshold)
    draws = _measure_rounds(sample, rounds, seed, workers or min(MAX_WORKERS, os.cpu_count() or 1))
    intervals = (_percentiles(column, confidence) for column in draws.T)
    return {name: Estimate(values[name], *interval) for name, interval in zip(METRICS, intervals, strict=True)}


@dataclass(frozen=True)
class _Sample:
    """What of N rows in G clusters all rounds share."""

    ranking: Ranking
    fake_clusters: Integers
    """Of the ranking's fakes, the highest score first."""
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
        cells = clusters * CALIBRATION_BINS + calibration_bins(probabilities, CALIBRATION_BINS)
        gaps = np.bincount(cells, residuals(labels, probabilities), num_clusters * CALIBRATION_BINS)
        return cls(
            ranking,
            fake_clusters=clusters[ranking.fakes],
            real_clusters=clusters[ranking.reals],
            sums=np.column_stack([*sums, gaps.reshape(num_clusters, CALIBRATION_BINS)]),
        )

    @property
    def num_clusters(self) -> int:
        return len(self.sums)

    def measure(self, weights: Integers, memory: _Memory) -> dict[str, float]:
        """All `METRICS` if each cluster counts as often as weights (G,) say."""
        _cumulate(weights, self.fake_clusters, memory.fakes)
        _cumulate(weights, self.real_clusters, memory.reals)
        sums = np.einsum(
            "g,gc->c", weights, self.sums
        )  # not @, whose own threads stand in the way of those of the rounds
        return measure_ranks(RankCounts(self.ranking, memory.fakes, memory.reals)) | _measure_sums(sums)


class _Memory(threading.local):
    """What a thread writes to in each of its rounds: to allocate it anew costs as much as the round."""

    def __init__(self, ranking: Ranking) -> None:
        self.fakes = np.zeros(len(ranking.fakes) + 1, np.int64)
        self.reals = np.zeros(len(ranking.reals) + 1, np.int64)


def _cumulate(weights: Integers, clusters: Integers, sums: Integers) -> None:
    """Sums of the first 0 ... N weights of rows in these clusters (N,), written behind the 0 that sums (N + 1,) begin with."""
    np.take(weights, clusters, out=sums[1:], mode="clip")  # the mode spares a copy; all are in range
    np.cumsum(sums[1:], out=sums[1:])


def _row_terms(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> Iterator[Floats]:
    """What each row (N,) adds to the sums that `_measure_sums` takes, but those of calibration."""
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
    """Those of `METRICS` that follow from sums over rows."""
    fakes, reals, right_fakes, right_reals, right_fakes_own, right_reals_own, loss, square, *gaps = sums.tolist()
    rows = fakes + reals
    return {
        "accuracy": (right_fakes + right_reals) / rows,
        "balanced_accuracy": (_ratio(right_fakes, fakes) + _ratio(right_reals, reals)) / 2,
        "accuracy_at_threshold": (right_fakes_own + right_reals_own) / rows,
        "balanced_accuracy_at_threshold": (_ratio(right_fakes_own, fakes) + _ratio(right_reals_own, reals)) / 2,
        "log_loss": loss / rows,
        "brier": square / rows,
        "ece": sum(map(abs, gaps)) / rows,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _measure_rounds(sample: _Sample, rounds: int, seed: int, workers: int) -> Floats:
    """(rounds, metrics) in the order of `METRICS`."""
    memory = _Memory(sample.ranking)

    def measure_round(number: int) -> Sequence[float]:
        values = sample.measure(_draw(sample.num_clusters, seed, number), memory)
        return [values[name] for name in METRICS]

    if workers == 1:
        return _as_table(map(measure_round, range(rounds)))
    with ThreadPoolExecutor(workers, "bootstrap") as pool:
        return _as_table(pool.map(measure_round, range(rounds)))


def _as_table(rows: Iterable[Sequence[float]]) -> Floats:
    return np.array(list(rows), dtype=np.float64)


def _draw(num_clusters: int, seed: int, number: int) -> Integers:
    """(G,) how often each cluster is drawn in a round, which has its own generator and so needs no order of rounds."""
    drawn = np.random.default_rng((seed, number)).integers(num_clusters, size=num_clusters)
    return np.bincount(drawn, minlength=num_clusters)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    """The ends of the middle part of values (rounds,) without NaN; NaN if fewer than half of them are left."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
