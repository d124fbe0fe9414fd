"""Intervals are those of drawing whole clusters, and cover what they say they cover."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.evaluation.bootstrap import WITH_INTERVAL, Estimate, measure_with_intervals
from pipelines.scoring.metrics import METRICS, measure

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = tuple[Integers, Array, Integers]


def make_rows(
    seed: int, clusters: int, rows: int, *, decimals: int = 15, share: float = 0.5, mixed: bool = False
) -> Rows:
    """Labels, probabilities and clusters (numbered with gaps) of clusters of unequal size that share a part of the score."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(10 * clusters, clusters, replace=False)
    members = rng.choice(clusters, rows, p=rng.dirichlet(np.full(clusters, 3.0)))
    labels = np.zeros(clusters, np.int64)
    labels[: max(1, round(share * clusters))] = 1
    row_labels = rng.integers(0, 2, rows) if mixed else labels[members]
    logits = row_labels - 0.5 + rng.normal(size=clusters)[members] + rng.normal(size=rows)
    return row_labels, (1 / (1 + np.exp(-logits))).round(decimals), numbers[members]


CASES: dict[str, Rows] = {
    "many ties": make_rows(0, 12, 150, decimals=1),
    "no ties": make_rows(1, 12, 150),
    "both classes in a cluster": make_rows(2, 10, 120, decimals=2, mixed=True),
    "hardly a fake, so some rounds have none": make_rows(3, 12, 90, decimals=2, share=0.1),
    "two clusters": make_rows(4, 2, 40, decimals=1, mixed=True),
    "a cluster for every row": (*make_rows(5, 30, 60, decimals=1)[:2], np.arange(60)),
}


def repeat_rows(
    labels: Integers, probabilities: Array, clusters: Integers, *, threshold: float | None, rounds: int, seed: int
) -> dict[str, Array]:
    """Each metric of every round, with the same draws but rows that are really repeated."""
    names = np.unique(clusters)
    values = []
    for number in range(rounds):
        drawn = np.random.default_rng((seed, number)).integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(clusters == names[index]) for index in drawn])
        values.append(measure(labels[rows], probabilities[rows], threshold=threshold))
    return {name: np.array([row[name] for row in values]) for name in METRICS}


@pytest.mark.parametrize("threshold", [0.37, None])
@pytest.mark.parametrize("case", CASES)
def test_intervals_are_those_of_rows_that_are_repeated(case: str, threshold: float | None) -> None:
    expected = repeat_rows(*CASES[case], threshold=threshold, rounds=60, seed=3)
    for confidence in (0.95, 0.6, 0.1):
        estimates = measure_with_intervals(
            *CASES[case], threshold=threshold, rounds=60, seed=3, confidence=confidence, workers=1
        )
        for name in WITH_INTERVAL:
            defined = expected[name][~np.isnan(expected[name])]
            ends = (1 - confidence) / 2, (1 + confidence) / 2
            interval = np.quantile(defined, ends) if len(defined) >= 30 else [math.nan, math.nan]
            assert [estimates[name].low, estimates[name].high] == pytest.approx(interval, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("threshold", [0.37, None])
@pytest.mark.parametrize("case", CASES)
def test_values_are_those_without_intervals(case: str, threshold: float | None) -> None:
    labels, probabilities, clusters = CASES[case]
    estimates = measure_with_intervals(labels, probabilities, clusters, threshold=threshold, rounds=3)
    values = {name: estimate.value for name, estimate in estimates.items()}
    assert tuple(values) == METRICS
    assert values == pytest.approx(measure(labels, probabilities, threshold=threshold), abs=0, nan_ok=True)


def test_more_steps_than_are_computed_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = measure_with_intervals(*CASES["many ties"], threshold=0.4, rounds=20)
    monkeypatch.setattr("pipelines.scoring.ranking.STEPS_AT_ONCE", 4)
    in_pieces = measure_with_intervals(*CASES["many ties"], threshold=0.4, rounds=20)
    for name in METRICS:
        assert vars(in_pieces[name]) == pytest.approx(vars(at_once[name]), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", ["auc", "ap", "eer", "accuracy", "log_loss", "brier"])
def test_rows_that_repeat_each_other_are_no_evidence(name: str) -> None:
    labels, probabilities, _ = make_rows(0, 60, 60)
    videos = np.repeat(np.arange(60), 25)
    once = _width(measure_with_intervals(labels, probabilities, np.arange(60), rounds=400)[name])
    clustered = _width(measure_with_intervals(labels[videos], probabilities[videos], videos, rounds=400)[name])
    independent = _width(
        measure_with_intervals(labels[videos], probabilities[videos], np.arange(len(videos)), rounds=400)[name]
    )
    assert clustered == pytest.approx(once, rel=1e-9)
    assert clustered == pytest.approx(math.sqrt(25) * independent, rel=0.25)


def test_the_interval_of_an_accuracy_has_the_width_of_the_normal_one() -> None:
    labels = np.ones(400, np.int64)
    probabilities = np.where(np.arange(400) < 280, 0.9, 0.1)
    accuracy = measure_with_intervals(labels, probabilities, np.arange(400), rounds=2000)["accuracy"]
    assert _width(accuracy) == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 400), rel=0.08)
    assert (accuracy.low + accuracy.high) / 2 == pytest.approx(0.7, abs=0.006)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(80), 3)
    covered = 0
    for seed in range(100):
        probabilities = np.where(rng.random(80) < 0.7, 0.9, 0.1)[videos]
        estimate = measure_with_intervals(np.ones(240), probabilities, videos, rounds=150, seed=seed, workers=1)
        covered += estimate["accuracy"].low <= 0.7 <= estimate["accuracy"].high
    assert 90 <= covered <= 99


def test_the_calibration_error_of_calibrated_data_has_no_interval_that_leaves_out_the_truth() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(400)
    labels = rng.random(400) < probabilities  # the true calibration error is 0
    found = measure_with_intervals(labels, probabilities, np.arange(400), rounds=200)
    assert found["ece"].value > 0
    assert math.isnan(found["ece"].low) and math.isnan(found["ece"].high)
    assert all(found[name].low <= found[name].value <= found[name].high for name in ("auc", "log_loss", "brier"))


def test_a_seed_gives_one_result_whatever_the_workers() -> None:
    rows = CASES["both classes in a cluster"]
    alone = measure_with_intervals(*rows, threshold=0.4, rounds=150, seed=5, workers=1)
    assert measure_with_intervals(*rows, threshold=0.4, rounds=150, seed=5, workers=2) == alone
    assert measure_with_intervals(*rows, threshold=0.4, rounds=150, seed=5) == alone
    assert measure_with_intervals(*rows, threshold=0.4, rounds=150, seed=6, workers=2) != alone


def test_clusters_may_be_named_by_texts() -> None:
    labels, probabilities, clusters = CASES["no ties"]
    names = np.array([f"{number:05d}" for number in clusters], dtype=object)
    by_number = measure_with_intervals(labels, probabilities, clusters, threshold=0.4, rounds=20)
    assert measure_with_intervals(labels, probabilities, names, threshold=0.4, rounds=20) == by_number


@pytest.mark.parametrize(("rounds", "clusters"), [(0, [0, 1, 2, 3]), (50, [7, 7, 7, 7])])
def test_without_rounds_or_with_one_cluster_there_is_no_interval(rounds: int, clusters: list[int]) -> None:
    estimates = measure_with_intervals([0, 1, 0, 1], [0.1, 0.7, 0.4, 0.3], clusters, threshold=0.5, rounds=rounds)
    assert estimates["auc"].value == 0.75
    assert all(math.isnan(estimate.low) and math.isnan(estimate.high) for estimate in estimates.values())


@pytest.mark.filterwarnings("error")
def test_nothing_has_no_interval() -> None:
    estimates = measure_with_intervals([], [], [])
    assert all(math.isnan(value) for estimate in estimates.values() for value in vars(estimate).values())


@pytest.mark.filterwarnings("error")
def test_one_class_has_intervals_of_what_needs_but_one() -> None:
    estimates = measure_with_intervals([1, 1, 1, 1], [0.1, 0.7, 0.4, 0.8], [0, 1, 2, 3], threshold=0.3, rounds=50)
    with_interval = {name for name, estimate in estimates.items() if not math.isnan(estimate.low)}
    assert with_interval == {"accuracy", "accuracy_at_threshold", "log_loss", "brier"}


def test_there_is_an_interval_if_at_least_half_of_the_rounds_have_both_classes() -> None:
    has_interval: dict[int, set[bool]] = {}
    for seed in range(30):
        draws = [np.random.default_rng((seed, number)).integers(2, size=2) for number in range(6)]
        num_defined = sum(len(set(draw.tolist())) == 2 for draw in draws)
        auc = measure_with_intervals([0, 1], [0.2, 0.7], [0, 1], rounds=6, seed=seed)["auc"]
        has_interval.setdefault(num_defined, set()).add((auc.low, auc.high) == (1, 1))
    assert {2, 3, 4} <= set(has_interval)
    assert all(outcome == {num_defined >= 3} for num_defined, outcome in has_interval.items())


def _width(estimate: Estimate) -> float:
    return estimate.high - estimate.low
