"""A calibrated probability is as often right as it says, keeps the order, and meets thresholds that keep their targets."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.config import CalibrationMethod
from pipelines.errors import CheckpointError, ConfigError, DatasetError
from pipelines.scoring.calibration import Calibration, choose_thresholds, fit_calibration, fit_temperature
from pipelines.scoring.metrics import log_loss

Floats = npt.NDArray[np.float64]
BY_TEMPERATURE = Calibration(
    method="temperature",
    aggregate="max-track",
    real_below=0.25,
    fake_from=0.75,
    target_fpr=0.05,
    target_fnr=0.1,
    videos_real=30,
    videos_fake=20,
    ece_before=0.2,
    ece_after=0.1,
    source="val of ÄÖ",
    temperature=2.0,
)
BY_KNOTS = replace(BY_TEMPERATURE, method="isotonic", temperature=None, knots_x=(0.2, 0.6), knots_y=(0.1, 0.9))
METHODS = typing.get_args(CalibrationMethod)


def _sigmoid(logits: Any) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits))))


def _sample(temperature: float, num: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], Floats]:
    """Labels that follow sigmoid(z / T), and the probabilities sigmoid(z) that claim otherwise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, num)
    return (rng.random(num) < _sigmoid(logits / temperature)).astype(np.int64), _sigmoid(logits)


@pytest.mark.parametrize(
    ("calibration", "probability", "expected"),
    [
        (BY_TEMPERATURE, 0.5, 0.5),
        (BY_TEMPERATURE, 0.9, 0.75),
        (BY_TEMPERATURE, 0.1, 0.25),
        (replace(BY_TEMPERATURE, temperature=0.5), 0.75, 0.9),
        (replace(BY_TEMPERATURE, temperature=1.0), 0.0, 1e-7),
        (replace(BY_TEMPERATURE, temperature=1.0), 1.0, 1 - 1e-7),
        (BY_KNOTS, 0.0, 0.1),
        (BY_KNOTS, 0.2, 0.1),
        (BY_KNOTS, 0.3, 0.3),
        (BY_KNOTS, 0.4, 0.5),
        (BY_KNOTS, 1.0, 0.9),
        (replace(BY_KNOTS, knots_x=(0.4,), knots_y=(0.3,)), 0.9, 0.3),
    ],
)
def test_a_probability_becomes_what_the_closed_form_says(
    calibration: Calibration, probability: float, expected: float
) -> None:
    assert float(calibration.apply(probability)) == pytest.approx(expected, rel=1e-9)
    assert calibration.apply([[probability], [probability]]) == pytest.approx(np.full((2, 1), expected), rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_a_calibration_keeps_the_order_and_the_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.random((2, 20)))
    probabilities = np.sort(np.concatenate([[0.0, 1.0, 1e-300, 0.5], x, rng.random(2000)]))
    for calibration in (
        replace(BY_TEMPERATURE, temperature=float(np.exp(rng.uniform(np.log(0.05), np.log(20))))),
        replace(BY_KNOTS, knots_x=tuple(x.tolist()), knots_y=tuple(y.tolist())),
    ):
        calibrated = calibration.apply(probabilities)
        assert calibrated.shape == probabilities.shape
        assert np.all((calibrated >= 0) & (calibrated <= 1))
        assert np.all(np.diff(calibrated) >= -1e-15)


@pytest.mark.parametrize(
    ("real_below", "fake_from", "calibrated", "verdict"),
    [
        (0.25, 0.75, 0.0, "real"),
        (0.25, 0.75, 0.2499, "real"),
        (0.25, 0.75, 0.25, "uncertain"),
        (0.25, 0.75, 0.7499, "uncertain"),
        (0.25, 0.75, 0.75, "fake"),
        (0.6, 0.6, 0.5999, "real"),
        (0.6, 0.6, 0.6, "fake"),
    ],
)
def test_the_band_begins_at_its_lower_threshold_and_ends_below_its_upper(
    real_below: float, fake_from: float, calibrated: float, verdict: str
) -> None:
    assert replace(BY_TEMPERATURE, real_below=real_below, fake_from=fake_from).verdict(calibrated) == verdict


@pytest.mark.parametrize(("claimed", "share", "temperature"), [(0.9, 0.75, 2.0), (0.75, 0.9, 0.5), (0.7, 0.7, 1.0)])
def test_the_temperature_of_two_scores_is_the_closed_form(claimed: float, share: float, temperature: float) -> None:
    fakes = round(share * 20)
    labels = [1] * fakes + [0] * (20 - fakes) + [0] * fakes + [1] * (20 - fakes)
    assert fit_temperature(labels, [claimed] * 20 + [1 - claimed] * 20) == pytest.approx(temperature, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    labels, probabilities = _sample(temperature, 100_000)
    assert fit_temperature(labels, probabilities) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_beside_the_fitted_one_has_a_lower_log_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, probabilities = rng.integers(0, 2, 60), rng.random(60) ** 3
    labels[probabilities > 0.6] = 1
    fitted = fit_temperature(labels, probabilities)
    assert 0.05 < fitted < 20
    at_best = log_loss(labels, replace(BY_TEMPERATURE, temperature=fitted).apply(probabilities))
    for other in np.exp(np.linspace(np.log(0.05), np.log(20), 50)):
        assert at_best <= log_loss(labels, replace(BY_TEMPERATURE, temperature=float(other)).apply(probabilities))


@pytest.mark.parametrize(("labels", "bound"), [([0, 0, 1, 1], 0.05), ([1, 1, 0, 0], 20.0)])
def test_scores_that_are_all_right_or_all_wrong_meet_a_bound(labels: list[int], bound: float) -> None:
    assert fit_temperature(labels, [0.0, 0.2, 0.8, 1.0]) == pytest.approx(bound, rel=1e-12)
    assert replace(BY_TEMPERATURE, temperature=fit_temperature(labels, [0.0, 0.2, 0.8, 1.0])).apply(0.5) == 0.5


THRESHOLDS: dict[str, tuple[list[float], list[float], float, float, tuple[float, float]]] = {
    # the probabilities of the real and the fake videos, target_fpr, target_fnr, real_below, fake_from
    "none of four": ([0.1, 0.2, 0.3, 0.7], [0.4, 0.6, 0.8, 0.9], 0.2, 0.2, (0.35, 0.75)),
    "one of four": ([0.1, 0.2, 0.3, 0.7], [0.4, 0.6, 0.8, 0.9], 0.4, 0.2, (0.35, 0.35)),
    "a band": ([0.1, 0.5, 0.6, 0.7], [0.2, 0.3, 0.8, 0.9], 0.2, 0.4, (0.25, 0.75)),
    "they cross: the point nearest to a half": ([0.1, 0.3, 0.6, 0.7], [0.2, 0.4, 0.8, 0.9], 0.6, 0.6, (0.5, 0.5)),
    "ties of real ones count together": ([0.1, 0.6, 0.6, 0.7], [0.2, 0.3, 0.6, 0.9], 0.6, 0.2, (0.15, 0.65)),
    "a fake at a real one's": ([0.1, 0.5, 0.6, 0.7], [0.2, 0.3, 0.7, 0.9], 0.2, 0.2, (0.15, 0.8)),
    "ties of fakes count together": ([0.1, 0.5, 0.6, 0.85], [0.3, 0.3, 0.8, 0.9], 0.2, 0.4, (0.2, 0.875)),
    "nothing overlaps": ([0.1, 0.2], [0.8, 0.9], 0.4, 0.4, (0.5, 0.5)),
    "nothing overlaps, all below a half": ([0.1, 0.2], [0.3, 0.4], 0.4, 0.4, (0.25, 0.25)),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_by_hand(name: str) -> None:
    reals, fakes, target_fpr, target_fnr, expected = THRESHOLDS[name]
    labels = [0] * len(reals) + [1] * len(fakes)
    chosen = choose_thresholds(labels, reals + fakes, target_fpr=target_fpr, target_fnr=target_fnr)
    assert chosen == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_the_best_of_all_that_keep_the_targets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * 40 + [1] * 30)
    values = np.round(np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1), 1 + seed % 3)
    target_fpr, target_fnr = rng.uniform(0.1, 0.4, 2)
    reals, fakes = values[labels == 0], values[labels == 1]
    low, high = choose_thresholds(labels, values, target_fpr=target_fpr, target_fnr=target_fnr)
    seen = [0.0, *sorted(set(values)), 1.0]
    between = [(left + right) / 2 for left, right in pairwise(seen)]
    best_high = min(value for value in between if (np.sum(reals >= value) + 1) / 41 <= target_fpr)
    best_low = max(value for value in between if (np.sum(fakes < value) + 1) / 31 <= target_fnr)
    if best_low < best_high:
        assert (low, high) == pytest.approx((best_low, best_high))
    else:
        assert best_high <= low == high <= best_low
    assert (np.sum(reals >= high) + 1) / 41 <= target_fpr and (np.sum(fakes < low) + 1) / 31 <= target_fnr
    assert low <= high


def test_new_real_videos_are_called_fake_no_more_often_than_the_target_says() -> None:
    rng = np.random.default_rng(0)
    rates = {"fpr": [], "fnr": []}  # type: dict[str, list[float]]
    labels = np.repeat([0, 1], 100)
    for _ in range(300):
        values = 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1)))
        low, high = choose_thresholds(labels, values, target_fpr=0.05, target_fnr=0.05)
        new = 1 / (1 + np.exp(-rng.normal(2.0 * np.repeat([0, 1], 2000) - 1)))
        rates["fpr"].append(float(np.mean(new[:2000] >= high)))
        rates["fnr"].append(float(np.mean(new[2000:] < low)))
    for found in rates.values():
        assert 0.035 < np.mean(found) < 0.052


@pytest.mark.parametrize(
    ("reals", "fakes", "target", "message"),
    [
        (
            18,
            99,
            0.05,
            "18 real videos are too few for a target_fpr of 0.05, which needs 19; add real videos or raise",
        ),
        (
            99,
            18,
            0.05,
            "18 fake videos are too few for a target_fnr of 0.05, which needs 19; add fake videos or raise",
        ),
        (0, 19, 0.5, "0 real videos are too few for a target_fpr of 0.5, which needs 1"),
        (98, 999, 0.01, "which needs 99"),
    ],
)
def test_too_few_videos_to_show_a_target_are_refused_with_the_number_that_it_takes(
    reals: int, fakes: int, target: float, message: str
) -> None:
    labels = [0] * reals + [1] * fakes
    with pytest.raises(DatasetError, match=message):
        choose_thresholds(labels, np.linspace(0, 1, len(labels)), target_fpr=target, target_fnr=target)


@pytest.mark.parametrize("needed", [2, 3, 7, 10, 20, 49, 100, 1000])
def test_exactly_as_many_videos_as_a_target_takes_are_enough(needed: int) -> None:
    labels = np.array([0, 1] * (needed - 1))
    values = np.linspace(0, 1, len(labels))
    real_below, fake_from = choose_thresholds(labels, values, target_fpr=1 / needed, target_fnr=1 / needed)
    assert fake_from > values[labels == 0].max() and real_below < values[labels == 1].min()


def test_real_videos_that_share_the_highest_probability_are_refused() -> None:
    with pytest.raises(
        DatasetError, match="no threshold detects a fake and calls only 0.2 of the real videos fake.*temperature"
    ):
        choose_thresholds([0] * 10 + [1] * 5, [0.1] * 7 + [0.9] * 8, target_fpr=0.2, target_fnr=0.2)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["target_fpr", "target_fnr"])
def test_a_target_outside_of_0_to_1_is_refused(name: str, target: float) -> None:
    targets = {"target_fpr": 0.1, "target_fnr": 0.1} | {name: target}
    with pytest.raises(ConfigError, match=f"{name} must be between 0 and 1, got {target}"):
        choose_thresholds([0] * 20 + [1] * 20, np.linspace(0, 1, 40), **targets)


def _ece(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    """Expected calibration error over 15 bins of equal width, bin by bin."""
    bins = np.minimum((probabilities * 15).astype(int), 14)
    gaps = [abs(labels[bins == b].sum() - probabilities[bins == b].sum()) for b in range(15)]
    return float(sum(gaps) / len(labels))


@pytest.mark.parametrize("method", METHODS)
def test_scores_that_are_too_sure_become_as_sure_as_they_are_right(method: CalibrationMethod) -> None:
    labels, probabilities = _sample(3.0, 4000)
    fitted = fit_calibration(
        labels, probabilities, method=method, target_fpr=0.05, target_fnr=0.1, aggregate="mean", source="here"
    )
    assert fitted.ece_before == pytest.approx(_ece(labels, probabilities), abs=1e-9) and fitted.ece_before > 0.1
    assert fitted.ece_after == pytest.approx(_ece(labels, fitted.apply(probabilities)), abs=1e-9)
    assert fitted.ece_after < 0.3 * fitted.ece_before
    unseen_labels, unseen = _sample(3.0, 4000, seed=1)
    calibrated = fitted.apply(unseen)
    assert _ece(unseen_labels, calibrated) < 0.3 * _ece(unseen_labels, unseen)
    verdicts = np.array([fitted.verdict(value) for value in calibrated])
    assert np.mean(verdicts[unseen_labels == 0] == "fake") < 0.07
    assert np.mean(verdicts[unseen_labels == 1] == "real") < 0.13
    assert set(verdicts) == {"real", "uncertain", "fake"}


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_says_what_it_rests_on_and_survives_json(method: CalibrationMethod) -> None:
    labels, probabilities = [0] * 12 + [1] * 10, np.linspace(0, 1, 22)
    fitted = fit_calibration(
        labels, probabilities, method=method, target_fpr=0.1, target_fnr=0.2, aggregate="mean", source="a b"
    )
    assert (fitted.method, fitted.aggregate, fitted.source) == (method, "mean", "a b")
    assert (fitted.target_fpr, fitted.target_fnr, fitted.videos_real, fitted.videos_fake) == (0.1, 0.2, 12, 10)
    expected = choose_thresholds(labels, fitted.apply(probabilities), target_fpr=0.1, target_fnr=0.2)
    assert (fitted.real_below, fitted.fake_from) == expected
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0] * 9 + [1] * 99, [0.5] * 108, "at least 10 real videos with a score, got 9; add some"),
        ([0] * 99 + [1] * 9, [0.5] * 108, "at least 10 fake videos with a score, got 9"),
        ([1] * 99, [0.5] * 99, "at least 10 real videos with a score, got 0"),
        ([], [], "one probability for each label, got 0 for 0"),
        ([0, 1], [0.5], "one probability for each label, got 1 for 2"),
        ([0] * 10 + [1] * 10, [0.5] * 19 + [float("nan")], r"must be in \[0, 1\], got nan; leave out videos without a"),
        ([0] * 10 + [1] * 10, [0.5] * 19 + [1.5], r"must be in \[0, 1\], got 1.5"),
    ],
)
def test_data_that_nothing_can_be_fitted_to_are_refused(
    labels: list[int], probabilities: list[float], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        fit_calibration(
            labels, probabilities, method="isotonic", target_fpr=0.1, target_fnr=0.1, aggregate="mean", source=""
        )


@pytest.mark.parametrize(
    ("calibration", "change"),
    [
        (BY_TEMPERATURE, lambda value: value.pop("fake_from")),
        (BY_TEMPERATURE, lambda value: value.update(sharpness=1)),
        (BY_TEMPERATURE, lambda value: value.update(method="platt")),
        (BY_TEMPERATURE, lambda value: value.update(aggregate="median")),
        (BY_TEMPERATURE, lambda value: value.update(fake_from=1.5)),
        (BY_TEMPERATURE, lambda value: value.update(fake_from="0.9")),
        (BY_TEMPERATURE, lambda value: value.update(real_below=0.76)),
        (BY_TEMPERATURE, lambda value: value.update(real_below=float("nan"))),
        (BY_TEMPERATURE, lambda value: value.update(target_fpr=-0.1)),
        (BY_TEMPERATURE, lambda value: value.update(videos_real=-1)),
        (BY_TEMPERATURE, lambda value: value.update(videos_fake=None)),
        (BY_TEMPERATURE, lambda value: value.update(temperature=0.0)),
        (BY_TEMPERATURE, lambda value: value.update(temperature=21)),
        (BY_TEMPERATURE, lambda value: value.update(temperature=None)),
        (BY_TEMPERATURE, lambda value: value.update(knots_x=[0.1], knots_y=[0.1])),
        (BY_KNOTS, lambda value: value.update(temperature=1.0)),
        (BY_KNOTS, lambda value: value.update(knots_x=[], knots_y=[])),
        (BY_KNOTS, lambda value: value.update(knots_x=[0.2, 0.6, 0.7])),
        (BY_KNOTS, lambda value: value.update(knots_x=[0.6, 0.6])),
        (BY_KNOTS, lambda value: value.update(knots_y=[0.9, 0.1])),
        (BY_KNOTS, lambda value: value.update(knots_y=[0.1, 1.1])),
        (BY_KNOTS, lambda value: value.update(knots_x=0.5)),
        (BY_KNOTS, lambda value: value.update({f"knots_{a}": np.linspace(0, 1, 101).tolist() for a in "xy"})),
    ],
)
def test_a_damaged_calibration_is_refused(calibration: Calibration, change: Callable[[dict[str, Any]], None]) -> None:
    value = calibration.to_json()
    change(value)
    with pytest.raises(
        CheckpointError, match=r"the checkpoint's calibration is damaged \(.*\); calibrate the original"
    ):
        Calibration.from_json(value)


@pytest.mark.parametrize("value", [[], "text", 5, {}])
def test_something_else_than_a_calibration_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint's calibration is damaged"):
        Calibration.from_json(value)
