"""Metrics agree with their definitions and with scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.scoring.metrics import log_loss, mean_by_group, roc_auc

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


@pytest.mark.parametrize("decimals", [1, 2, 15])
@pytest.mark.parametrize("seed", range(5))
def test_auc_agrees_with_scikit_learn(seed: int, decimals: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 300)
    scores = np.round(rng.normal(size=300) + 0.5 * labels, decimals)
    assert roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_auc_needs_only_the_order_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 100), rng.normal(size=100).round(1)
    shuffled = rng.permutation(100)
    assert roc_auc(labels[shuffled], scores[shuffled]) == pytest.approx(roc_auc(labels, scores))
    assert roc_auc(labels, np.exp(scores)) == pytest.approx(roc_auc(labels, scores))
    assert roc_auc(labels, -scores) == pytest.approx(1 - roc_auc(labels, scores))


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1, 1]])
def test_auc_of_one_class_is_nan(labels: list[int]) -> None:
    assert math.isnan(roc_auc(labels, [0.5] * len(labels)))


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


def test_log_loss_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 200), rng.uniform(0.001, 0.999, 200)
    assert log_loss(labels, probabilities) == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-12)


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
