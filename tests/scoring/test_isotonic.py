"""The knots of an isotonic calibration are those of isotonic regression, and few."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from pipelines.scoring.calibration import MAX_KNOTS, fit_isotonic


@pytest.mark.parametrize(("decimals", "share"), [(2, 0.5), (1, 0.5), (16, 0.5), (2, 0.1), (2, 0.9)])
def test_isotonic_regression_agrees_with_scikit_learn(decimals: int, share: float) -> None:
    """With the fake at the lowest probability and the real one at the highest that keep the ends from 0 and 1."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = (rng.random(400) < share).astype(np.int64)
        probabilities = np.round(1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.5))), decimals)
        x, y = fit_isotonic(labels, probabilities)
        reference = IsotonicRegression(out_of_bounds="clip").fit(
            [*probabilities, probabilities.min(), probabilities.max()], [*labels, 1, 0]
        )
        at = np.concatenate([np.linspace(0, 1, 501), probabilities])
        assert np.interp(at, x, y) == pytest.approx(reference.predict(at), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "probabilities", "x", "y"),
    [
        ([0] * 9 + [1] * 4, [0.1] * 5 + [0.2] * 4 + [0.8] * 4, (0.1, 0.2, 0.8), (1 / 10, 1 / 10, 4 / 5)),
        ([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
         (1 / 3, 1 / 3, 1 / 2, 1 / 2, 2 / 3, 2 / 3)),
        ([1, 0, 0, 1], [0.3] * 4, (0.3,), (0.5,)),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], (0.1, 0.9), (0.5, 0.5)),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], (0.1, 0.4), (0.5, 0.5)),
    ],
)  # fmt: skip
def test_isotonic_knots_by_hand(
    labels: list[int], probabilities: list[float], x: tuple[float, ...], y: tuple[float, ...]
) -> None:
    knots = fit_isotonic(labels, probabilities)
    assert knots[0] == x and knots[1] == pytest.approx(y, rel=1e-12)


def test_many_steps_are_joined_to_few_knots_that_say_nearly_the_same() -> None:
    shares = np.arange(1, 200) / 200
    labels = np.concatenate([np.arange(200) < 200 * share for share in shares]).astype(np.int64)
    x, y = fit_isotonic(labels, np.repeat(shares, 200))
    assert 90 <= len(x) <= MAX_KNOTS
    assert np.all(np.diff(x) > 0) and np.all(np.diff(y) >= 0)
    assert np.abs(np.interp(shares, x, y) - shares).max() < 0.03
