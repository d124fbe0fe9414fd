"""A video's probability from its faces: bounded, independent of their order, and no surprise to a user."""

from __future__ import annotations

import typing

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.config import Aggregate
from pipelines.scoring.aggregate import aggregate_video, counted_tracks

METHODS: tuple[Aggregate, ...] = typing.get_args(Aggregate)
CASES: dict[str, tuple[Aggregate, list[float], list[int], float]] = {
    "one face": ("max-track", [0.3], [0], 0.3),
    "the mean takes every face": ("mean", [0.2, 0.4, 0.9], [0, 0, 7], 0.5),
    "the most suspicious person": ("max-track", [0.1, 0.3, 0.8, 0.6], [0, 0, 1, 1], 0.7),
    "one suspicious face of a calm person": ("max-track", [0.1, 0.9, 0.6, 0.6], [0, 0, 1, 1], 0.6),
    "a track of exactly a quarter counts": ("max-track", [0.1] * 8 + [0.9] * 2, [0] * 8 + [1] * 2, 0.9),
    "a shorter track does not": ("max-track", [0.1] * 9 + [0.9] * 2, [0] * 9 + [1] * 2, 0.1),
    "track numbers are only names": ("max-track", [0.1, 0.3, 0.8, 0.6], [9, 9, -4, -4], 0.7),
}


def _random_video(seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 80))
    return rng.beta(0.5, 0.5, count), rng.integers(0, 5, count) ** 2


@pytest.mark.parametrize("case", CASES)
def test_the_video_s_probability(case: str) -> None:
    method, probabilities, tracks, expected = CASES[case]
    assert aggregate_video(probabilities, tracks, method) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(20))
def test_the_result_is_a_probability_between_those_of_the_faces(method: Aggregate, seed: int) -> None:
    probabilities, tracks = _random_video(seed)
    result = aggregate_video(probabilities, tracks, method)
    assert 0 <= result <= 1
    assert probabilities.min() - 1e-12 <= result <= probabilities.max() + 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_certain_faces_never_leave_the_range(method: Aggregate) -> None:
    for count in (3, 7, 49):
        assert aggregate_video([1.0] * count, [0] * count, method) == 1.0
        assert aggregate_video([0.0] * count, [0] * count, method) == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_the_faces_changes_not_one_bit(method: Aggregate, seed: int) -> None:
    probabilities, tracks = _random_video(seed)
    expected = aggregate_video(probabilities, tracks, method)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        order = rng.permutation(len(tracks))
        assert aggregate_video(probabilities[order], tracks[order], method) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(20))
def test_a_more_suspicious_face_never_lowers_the_mean_or_the_maximum(method: Aggregate, seed: int) -> None:
    probabilities, tracks = _random_video(seed)
    rng = np.random.default_rng(seed)
    before = aggregate_video(probabilities, tracks, method)
    for _ in range(10):
        raised = probabilities.copy()
        face = int(rng.integers(len(raised)))
        raised[face] += rng.random() * (1 - raised[face])
        assert aggregate_video(raised, tracks, method) >= before - 1e-12


def test_tracks_that_count_have_a_quarter_of_the_longest() -> None:
    assert counted_tracks([3] * 8 + [1] * 2 + [2]).tolist() == [1, 3]
    assert counted_tracks([5]).tolist() == [5]
    assert counted_tracks([]).tolist() == []


@pytest.mark.parametrize("method", METHODS)
def test_a_video_without_faces_has_no_probability(method: Aggregate) -> None:
    with pytest.raises(ValueError, match="a video without faces has no probability"):
        aggregate_video([], [], method)
