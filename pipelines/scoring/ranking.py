"""Metrics that depend only on the order of the scores, for any number of weightings of the rows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

STEPS_AT_ONCE = 2**15
"""Small enough for intermediate results to stay in the processor's cache and in memory the process keeps."""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Rows by falling score, sorted once.

    A step is one of the S distinct scores that fakes have. The ROC curve rises there and is level in between, so its area and
    its crossings need no other points.
    """

    fakes: Integers
    """Rows of the fakes, highest score first."""
    reals: Integers
    fakes_through: Integers
    """(S,) number of fakes that score at or above the step."""
    reals_before: Integers
    """(S,) number of real rows that score above it."""
    reals_through: Integers
    """(S,) number of real rows that score at or above it."""

    @classmethod
    def of(cls, labels: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
        order, num_fakes, num_reals = count_from_the_top(labels, scores)
        is_fake = np.asarray(labels)[order] == 1
        rises = np.flatnonzero(np.diff(num_fakes))
        return cls(order[is_fake], order[~is_fake], num_fakes[rises + 1], num_reals[rises], num_reals[rises + 1])

    def count(self) -> RankCounts:
        """Each row counts once."""
        return RankCounts(self, np.arange(len(self.fakes) + 1), np.arange(len(self.reals) + 1))


@dataclass(frozen=True)
class RankCounts:
    """Weighted counts along a `Ranking`; every metric is NaN if a class is missing."""

    ranking: Ranking
    fakes: Integers
    """(F + 1,) summed weights of the first 0 ... F fakes."""
    reals: Integers
    """(R + 1,) the same for the real rows."""

    @property
    def num_fakes(self) -> int:
        return int(self.fakes[-1])

    @property
    def num_reals(self) -> int:
        return int(self.reals[-1])

    def roc_auc(self) -> float:
        """Probability that a fake scores above a real one, ties counting half (Mann-Whitney U)."""
        if self._lacks_a_class:
            return float("nan")
        return 1 - self._sums[0] / (2 * self.num_fakes * self.num_reals)

    def average_precision(self) -> float:
        """Sum of (R_n - R_n-1) P_n over the steps, without interpolation."""
        if self._lacks_a_class:
            return float("nan")
        return self._sums[1] / self.num_fakes

    def equal_error_rate(self) -> float:
        """The rate at which false positive rate and miss rate are equal, interpolated linearly between operating points."""
        if self._lacks_a_class:
            return float("nan")
        step = bisect_left(range(self._num_steps), 0, key=self._surplus)
        num_missed = self.num_fakes - (self._true_positives(step - 1) if step else 0)
        alarms_before, alarms = int(self.reals[self.ranking.reals_before[step]]), self._false_positives(step)
        deficit = num_missed * self.num_reals - alarms_before * self.num_fakes
        if deficit <= 0:  # they meet above the step, where the curve is level
            return num_missed / self.num_fakes
        share_of_step = deficit / (deficit + self._surplus(step))
        return (alarms_before + share_of_step * (alarms - alarms_before)) / self.num_reals

    def tpr_at_fpr(self, max_fpr: float) -> float:
        """The largest true positive rate of an operating point with a false positive rate of at most `max_fpr`."""
        if self._lacks_a_class:
            return float("nan")
        num_reals = self.num_reals
        allowed = bisect_right(
            range(self._num_steps), max_fpr, key=lambda step: self._false_positives(step) / num_reals
        )
        return self._true_positives(allowed - 1) / self.num_fakes if allowed else 0.0

    @property
    def _lacks_a_class(self) -> bool:
        return not self.num_fakes or not self.num_reals

    @property
    def _num_steps(self) -> int:
        return len(self.ranking.fakes_through)

    def _true_positives(self, step: int) -> int:
        return int(self.fakes[self.ranking.fakes_through[step]])

    def _false_positives(self, step: int) -> int:
        return int(self.reals[self.ranking.reals_through[step]])

    def _surplus(self, step: int) -> int:
        """False positive rate less miss rate at a step, times fakes and reals; rises from step to step."""
        num_missed = self.num_fakes - self._true_positives(step)
        return self._false_positives(step) * self.num_fakes - num_missed * self.num_reals

    @cached_property
    def _sums(self) -> tuple[int, float]:
        """Over all fakes: twice the real ones above them, one of equal score counting half; and the precisions at them."""
        twice_above, precisions, gained = 0, 0.0, 0
        for start in range(0, self._num_steps, STEPS_AT_ONCE):
            steps = slice(start, start + STEPS_AT_ONCE)
            hits = self.fakes[self.ranking.fakes_through[steps]]
            alarms = self.reals[self.ranking.reals_through[steps]]
            gains = np.diff(hits, prepend=gained)
            twice_above += int(gains @ (self.reals[self.ranking.reals_before[steps]] + alarms))
            # where only rows of weight 0 are called fake, nothing is gained either
            precisions += float(np.sum(gains * hits / np.maximum(hits + alarms, 1)))
            gained = int(hits[-1])
        return twice_above, precisions


def count_from_the_top(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Integers, Integers, Integers]:
    """Rows by falling score (N,), and the fakes and the real ones at or above the 0 ... T highest distinct scores (T + 1,)."""
    is_fake, values = np.asarray(labels) == 1, np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values)
    ranked = values[order]
    ends = 1 + np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    num_rows = np.append(0, ends)
    num_fakes = np.append(0, np.cumsum(is_fake[order]))[num_rows]
    return order, num_fakes, num_rows - num_fakes
