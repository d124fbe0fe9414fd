"""Metrics agree with their definitions and with scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.scoring.metrics import (
    METRICS,
    accuracy,
    average_precision,
    balanced_accuracy,
    brier_score,
    equal_error_rate,
    expected_calibration_error,
    log_loss,
    mean_by_group,
    measure,
    reliability_bins,
    roc_auc,
    roc_curve,
    tpr_at_fpr,
)

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
NOT_DEFINED_BY_ORDER = {"accuracy", "balanced_accuracy", "log_loss", "brier", "ece"}

AUC_CASES: dict[str, tuple[list[int], list[float], float]] = {
    "perfect": ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1.0),
    "inverted": ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.0),
    "one pair of four wrong": ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.75),
    "all tied": ([0, 1, 0, 1, 1], [0.5] * 5, 0.5),
    "one tie counts half": ([0, 1], [0.5, 0.5], 0.5),
    "a tie among others": ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9], 0.875),
    "negative scores": ([0, 1], [-3.0, -2.0], 1.0),
    "unequal classes": ([1, 0, 0, 0], [0.5, 0.1, 0.6, 0.2], 2 / 3),
}


@pytest.mark.parametrize("case", AUC_CASES)
def test_auc_is_the_chance_that_a_fake_scores_above_a_real_one(case: str) -> None:
    labels, scores, expected = AUC_CASES[case]
    assert roc_auc(labels, scores) == pytest.approx(expected, abs=1e-12)


def make_case(seed: int, decimals: int, share_of_fakes: float, size: int = 300) -> tuple[Labels, Array]:
    """Both classes, probabilities that tell something, and ties if there are few decimals; 0 and 1 are among them."""
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.random(size) < share_of_fakes).astype(np.int64)
    return labels, np.clip(rng.normal(0.4, 0.3, len(labels)) + 0.2 * labels, 0, 1).round(decimals)


def _interpolated_equal_error_rate(labels: Labels, scores: Array) -> float:
    rates, hits, _ = _sklearn_curve(labels, scores)
    return float(np.interp(0, rates + hits - 1, rates))


def _best_allowed_rate(labels: Labels, scores: Array, max_fpr: float) -> float:
    rates, hits, _ = _sklearn_curve(labels, scores)
    return float(hits[rates <= max_fpr].max())


def _sklearn_curve(labels: Labels, scores: Array) -> tuple[Array, Array, Array]:
    metrics = pytest.importorskip("sklearn.metrics")
    return metrics.roc_curve(labels, scores, drop_intermediate=False)


def _weighted_gaps(labels: Labels, probabilities: Array, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = (probabilities > b / bins) & (probabilities <= (b + 1) / bins) | (b == 0) & (probabilities == 0)
        if inside.any():
            total += inside.sum() * abs(probabilities[inside].mean() - labels[inside].mean())
    return total / len(labels)


def _sklearn(name: str) -> Callable[..., Any]:
    return getattr(pytest.importorskip("sklearn.metrics"), name)


GOLDEN: dict[str, tuple[Callable[[Labels, Array], float], Callable[[Labels, Array], float]]] = {
    "auc": (roc_auc, lambda y, p: _sklearn("roc_auc_score")(y, p)),
    "ap": (average_precision, lambda y, p: _sklearn("average_precision_score")(y, p)),
    "eer": (equal_error_rate, _interpolated_equal_error_rate),
    "tpr at 10 %": (lambda y, p: tpr_at_fpr(y, p, 0.1), lambda y, p: _best_allowed_rate(y, p, 0.1)),
    "tpr at 0 %": (lambda y, p: tpr_at_fpr(y, p, 0.0), lambda y, p: _best_allowed_rate(y, p, 0.0)),
    "brier": (brier_score, lambda y, p: _sklearn("brier_score_loss")(y, p)),
    "log loss": (log_loss, lambda y, p: _sklearn("log_loss")(y, np.clip(p, 1e-7, 1 - 1e-7))),
    "accuracy": (lambda y, p: accuracy(y, p, 0.4), lambda y, p: _sklearn("accuracy_score")(y, p >= 0.4)),
    "balanced accuracy": (
        lambda y, p: balanced_accuracy(y, p, 0.4),
        lambda y, p: _sklearn("balanced_accuracy_score")(y, p >= 0.4),
    ),
    "ece": (expected_calibration_error, lambda y, p: _weighted_gaps(y, p, 15)),
    "ece of 4 bins": (lambda y, p: expected_calibration_error(y, p, 4), lambda y, p: _weighted_gaps(y, p, 4)),
}


@pytest.mark.parametrize("share_of_fakes", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("decimals", [1, 2, 15])
@pytest.mark.parametrize("name", GOLDEN)
def test_metrics_agree_with_scikit_learn_or_their_definition(name: str, decimals: int, share_of_fakes: float) -> None:
    metric, reference = GOLDEN[name]
    for seed in range(4):
        labels, probabilities = make_case(seed, decimals, share_of_fakes)
        assert metric(labels, probabilities) == pytest.approx(reference(labels, probabilities), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 15])
def test_operating_points_are_those_of_scikit_learn(decimals: int) -> None:
    labels, probabilities = make_case(0, decimals, 0.3)
    curve = roc_curve(labels, probabilities)
    rates, hits, thresholds = _sklearn_curve(labels, probabilities)
    np.testing.assert_allclose(curve.false_positive_rates, rates, rtol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rates, hits, rtol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert curve.thresholds[0] == math.inf and curve.true_positive_rates[0] == curve.false_positive_rates[0] == 0


def test_a_missing_class_leaves_the_rates_of_the_other() -> None:
    curve = roc_curve([1, 1, 1], [0.2, 0.7, 0.2])
    assert curve.true_positive_rates.tolist() == [0, pytest.approx(1 / 3), 1]
    assert curve.thresholds.tolist() == [math.inf, 0.7, 0.2]
    assert np.isnan(curve.false_positive_rates).all()


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5])
def test_two_normal_distributions_have_their_known_curve(distance: float) -> None:
    rng, normal = np.random.default_rng(0), NormalDist()
    scores = np.concatenate((rng.normal(size=100_000), rng.normal(distance, size=150_000)))
    labels = (np.arange(len(scores)) >= 100_000).astype(np.int64)
    assert roc_auc(labels, scores) == pytest.approx(normal.cdf(distance / math.sqrt(2)), abs=0.004)
    assert equal_error_rate(labels, scores) == pytest.approx(normal.cdf(-distance / 2), abs=0.004)
    assert tpr_at_fpr(labels, scores, 0.01) == pytest.approx(normal.cdf(distance - normal.inv_cdf(0.99)), abs=0.01)
    assert roc_auc(labels, scores) == pytest.approx(_sklearn("roc_auc_score")(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        _sklearn("average_precision_score")(labels, scores), abs=1e-12
    )


def test_calibrated_probabilities_have_their_known_losses() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(200_000)
    labels = (rng.random(len(probabilities)) < probabilities).astype(np.int64)
    assert brier_score(labels, probabilities) == pytest.approx(1 / 6, abs=0.003)
    assert log_loss(labels, probabilities) == pytest.approx(1 / 2, abs=0.005)
    assert expected_calibration_error(labels, probabilities) < 0.005
    assert expected_calibration_error(labels, probabilities**2) == pytest.approx(1 / 6, abs=0.005)


ORDERS: dict[str, tuple[list[int], list[float], float, float]] = {
    "perfect": ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1.0, 0.0),
    "inverted": ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 5 / 12, 1.0),
    "constant": ([0, 1, 0, 1, 1], [0.3] * 5, 0.6, 0.5),
    # level at a miss rate of 1/2 from a false positive rate of 1/3 to 2/3: no operating point has equal rates
    "met on the level": ([0, 1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5], (1 / 2 + 2 / 5) / 2, 1 / 2),
    # upright at a false positive rate of 1/2
    "met on the upright": ([1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5], (1 + 2 / 3 + 3 / 4) / 3, 1 / 2),
    # from (0, 1/2) to (1/4, 1) in one step: met after two thirds of it, where the nearest operating point says 1/4
    "met within a tie": ([1, 1, 0, 0, 0, 0], [0.9, 0.5, 0.5, 0.1, 0.1, 0.2], (1 + 2 / 3) / 2, 1 / 6),
    "met within the first tie": ([1, 1, 0, 1, 0], [0.9, 0.9, 0.9, 0.2, 0.1], (2 / 3 * 2 + 3 / 4) / 3, 3 / 7),
    "met at an operating point": ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6], (1 + 2 / 3) / 2, 1 / 2),
}


@pytest.mark.parametrize("case", ORDERS)
def test_precision_and_equal_error_rate_of_small_orders_are_those_by_hand(case: str) -> None:
    labels, scores, precision, error = ORDERS[case]
    assert average_precision(labels, scores) == pytest.approx(precision, abs=1e-12)
    assert equal_error_rate(labels, scores) == pytest.approx(error, abs=1e-12)


def test_equal_error_rate_is_not_the_nearest_operating_point() -> None:
    labels, scores, _, error = ORDERS["met within a tie"]
    curve = roc_curve(labels, scores)
    nearest = np.abs(1 - curve.true_positive_rates - curve.false_positive_rates).argmin()
    assert curve.false_positive_rates[nearest] == 0.25 and error == 1 / 6


@pytest.mark.parametrize(
    ("max_fpr", "expected"), [(0, 0.25), (0.09, 0.25), (0.1, 0.5), (0.29, 0.5), (0.3, 1.0), (1, 1.0)]
)
def test_the_true_positive_rate_is_that_of_a_threshold_that_exists(max_fpr: float, expected: float) -> None:
    scores = [0.9, 0.8, 0.7, 0.5, 0.5, 0.5, 0.5, *[0.1] * 7]
    labels = [1, 0, 1, 1, 1, 0, 0, *[0] * 7]
    assert tpr_at_fpr(labels, scores, max_fpr) == expected


def test_the_highest_score_being_real_allows_no_true_positive() -> None:
    assert tpr_at_fpr([0, 1, 0], [0.9, 0.8, 0.1], 0.4) == 0.0


def test_a_probability_at_the_threshold_is_called_fake() -> None:
    assert accuracy([1, 0, 1, 0], [0.5, 0.5, 0.49, 0.51], 0.5) == 0.25
    assert balanced_accuracy([1, 0, 0, 0], [0.5, 0.1, 0.9, 0.2], 0.5) == pytest.approx((1 + 2 / 3) / 2)
    assert accuracy([1], np.array([0.7], np.float32), 0.7) == 0.0


def test_bins_are_closed_above_and_hold_their_means() -> None:
    bins = reliability_bins([0, 1, 0, 1, 1, 1], [0.0, 0.25, 0.1, 0.26, 0.5, 1.0], bins=4)
    assert bins.counts.tolist() == [3, 2, 0, 1]
    np.testing.assert_allclose(bins.mean_probabilities, [0.35 / 3, 0.38, np.nan, 1], rtol=1e-12)
    np.testing.assert_allclose(bins.shares_of_fakes, [1 / 3, 1, np.nan, 1], rtol=1e-12)


def test_bins_are_those_of_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    labels, probabilities = make_case(1, 2, 0.3)
    shares, means = calibration.calibration_curve(labels, probabilities, n_bins=15)
    bins = reliability_bins(labels, probabilities)
    np.testing.assert_allclose(bins.shares_of_fakes[bins.counts > 0], shares, rtol=1e-12)
    np.testing.assert_allclose(bins.mean_probabilities[bins.counts > 0], means, rtol=1e-12)
    gaps = np.abs(bins.shares_of_fakes - bins.mean_probabilities)
    assert np.nansum(gaps * bins.counts) / len(labels) == pytest.approx(
        expected_calibration_error(labels, probabilities)
    )


@pytest.mark.parametrize("scale", [np.sqrt, lambda p: p / 2, np.expm1])
def test_a_rising_map_of_the_scores_leaves_what_depends_on_their_order(scale: Callable[[Array], Array]) -> None:
    labels, probabilities = make_case(2, 2, 0.4)
    before = measure(labels, probabilities, threshold=0.3)
    after = measure(labels, scale(probabilities), threshold=float(scale(np.array(0.3))))
    for name in set(METRICS) - NOT_DEFINED_BY_ORDER:
        assert after[name] == pytest.approx(before[name], abs=1e-12), name


def test_the_order_of_rows_says_nothing() -> None:
    labels, probabilities = make_case(3, 2, 0.4)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    before = measure(labels, probabilities, threshold=0.3)
    assert measure(labels[shuffled], probabilities[shuffled], threshold=0.3) == pytest.approx(before, abs=1e-12)


def test_swapping_the_classes_mirrors_area_and_equal_error_rate() -> None:
    labels, probabilities = make_case(4, 2, 0.4)
    assert roc_auc(1 - labels, probabilities) == pytest.approx(1 - roc_auc(labels, probabilities))
    assert roc_auc(labels, -probabilities) == pytest.approx(1 - roc_auc(labels, probabilities))
    assert equal_error_rate(1 - labels, -probabilities) == pytest.approx(equal_error_rate(labels, probabilities))


def test_all_metrics_are_measured_under_their_names() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 3000)
    probabilities = rng.beta(1 + labels, 2)
    values = measure(labels, probabilities, threshold=0.3)
    assert tuple(values) == METRICS
    assert list(values.values()) == [
        roc_auc(labels, probabilities),
        average_precision(labels, probabilities),
        equal_error_rate(labels, probabilities),
        accuracy(labels, probabilities, 0.5),
        balanced_accuracy(labels, probabilities, 0.5),
        accuracy(labels, probabilities, 0.3),
        balanced_accuracy(labels, probabilities, 0.3),
        log_loss(labels, probabilities),
        brier_score(labels, probabilities),
        expected_calibration_error(labels, probabilities),
        tpr_at_fpr(labels, probabilities, 0.01),
        tpr_at_fpr(labels, probabilities, 0.001),
    ]
    assert len(set(values.values())) == len(METRICS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "threshold", "defined"),
    [
        ([], 0.5, set()),
        ([1, 1], 0.5, {"accuracy", "accuracy_at_threshold", "log_loss", "brier", "ece"}),
        ([0], None, {"accuracy", "log_loss", "brier", "ece"}),
        ([0, 1], None, set(METRICS) - {"accuracy_at_threshold", "balanced_accuracy_at_threshold"}),
        ([0, 1], 0.5, set(METRICS)),
    ],
)
def test_what_is_undefined_is_nan(labels: list[int], threshold: float | None, defined: set[str]) -> None:
    values = measure(labels, [0.5] * len(labels), threshold=threshold)
    assert {name for name, value in values.items() if not math.isnan(value)} == defined


def test_log_loss_is_its_closed_form() -> None:
    assert log_loss([1], [0.25]) == pytest.approx(math.log(4))
    assert log_loss([0], [0.25]) == pytest.approx(-math.log(0.75))
    assert log_loss([0, 1, 0, 1], [0.5] * 4) == pytest.approx(math.log(2))
    assert log_loss([1, 0], [0.9, 0.2]) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)


def test_log_loss_of_a_wrong_certainty_is_cut_at_ten_to_the_minus_seven() -> None:
    assert log_loss([1], [0.0]) == pytest.approx(7 * math.log(10))
    assert log_loss([0], [1.0]) == pytest.approx(7 * math.log(10), rel=1e-6)
    assert log_loss([1, 0], [1.0, 0.0]) == pytest.approx(1e-7, rel=1e-3)
    assert log_loss([1], [1e-6]) == pytest.approx(6 * math.log(10))


def test_groups_are_averaged_and_sorted_by_name() -> None:
    names, means = mean_by_group(["b", "a", "b", "c", "b"], [1, 5, 2, -1, 6])
    assert names.tolist() == ["a", "b", "c"] and means.tolist() == [5, 3, -1]


def test_groups_of_labels_and_of_scores_have_one_order() -> None:
    videos = ["z", "a", "z", "m"]
    names, scores = mean_by_group(videos, [0.9, 0.1, 0.7, 0.3])
    again, labels = mean_by_group(videos, [1, 0, 1, 0])
    assert names.tolist() == again.tolist()
    assert dict(zip(names.tolist(), zip(labels, scores, strict=True), strict=True)) == {
        "a": (0, 0.1),
        "m": (0, 0.3),
        "z": (1, pytest.approx(0.8)),
    }
