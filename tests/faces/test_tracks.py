"""Detections of one person get one number, also over gaps; different people get different ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.faces.tracks import Tracker

Boxes = npt.NDArray[np.float64]


def _boxes(*faces: tuple[float, float, float]) -> Boxes:
    """Square boxes from centre x, centre y and side."""
    corners = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y, side in faces]
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def _track(*frames: Boxes) -> list[list[int]]:
    tracker = Tracker()
    return [tracker.assign(boxes) for boxes in frames]


def test_a_face_that_moves_a_little_keeps_its_number() -> None:
    assert _track(*(_boxes((100 + 30 * i, 100, 50)) for i in range(10))) == [[0]] * 10


def test_numbers_follow_the_faces_and_not_their_order() -> None:
    left, right = (100, 100, 60), (400, 120, 80)
    assert _track(_boxes(left, right), _boxes(right, left), _boxes(right), _boxes(left, right)) == [
        [0, 1],
        [1, 0],
        [1],
        [0, 1],
    ]


def test_two_people_who_cross_far_apart_stay_apart() -> None:
    """One walks right high up, one left far below: their columns cross, their faces never come near each other."""
    frames = [_boxes((100 + 40 * i, 100, 60), (500 - 40 * i, 400, 60)) for i in range(11)]
    shuffled = [boxes[::-1] if i % 3 else boxes for i, boxes in enumerate(frames)]
    assert _track(*shuffled) == [[1, 0] if i % 3 else [0, 1] for i in range(11)]


def test_frames_without_faces_do_not_end_a_track() -> None:
    nobody = _boxes()
    assert _track(_boxes((100, 100, 50)), nobody, nobody, _boxes((110, 100, 50))) == [[0], [], [], [0]]


def test_a_person_who_is_hidden_while_another_stays_keeps_the_number() -> None:
    one, other = (100, 100, 50), (400, 100, 50)
    assert _track(_boxes(one, other), _boxes(other), _boxes(other), _boxes(other, one)) == [[0, 1], [1], [1], [1, 0]]


@pytest.mark.parametrize(("distance", "same"), [(49, True), (51, False)])
def test_one_face_size_is_the_furthest_step(distance: float, same: bool) -> None:
    assert _track(_boxes((100, 100, 50)), _boxes((100, 100 + distance, 50)))[1] == [0 if same else 1]


@pytest.mark.parametrize(("side", "same"), [(99, True), (101, False), (26, True), (24, False)])
def test_a_face_twice_as_large_or_small_is_someone_else(side: float, same: bool) -> None:
    assert _track(_boxes((100, 100, 50)), _boxes((100, 100, side)))[1] == [0 if same else 1]


def test_the_step_is_measured_in_the_mean_of_both_sizes() -> None:
    assert _track(_boxes((100, 100, 40)), _boxes((154, 100, 70)))[1] == [0]
    assert _track(_boxes((100, 100, 40)), _boxes((156, 100, 70)))[1] == [1]


def test_the_nearest_pair_is_joined_first() -> None:
    """Both new faces could be the old one; the nearer is, whatever its place in the list."""
    for order in (1, -1):
        second = _boxes((130, 100, 50), (105, 100, 50))[::order]
        assert _track(_boxes((100, 100, 50)), second)[1] == [1, 0][::order]


def test_no_two_faces_of_a_frame_share_a_number() -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker()
    for _ in range(40):
        boxes = _boxes(*((float(x), float(y), 60.0) for x, y in rng.uniform(100, 300, (int(rng.integers(0, 6)), 2))))
        numbers = tracker.assign(boxes)
        assert len(set(numbers)) == len(numbers) == len(boxes) and min(numbers, default=0) >= 0


def test_a_track_is_followed_from_its_last_place() -> None:
    assert _track(*(_boxes((x, 100, 50)) for x in (100, 140, 180, 220)), _boxes((100, 100, 50))) == [
        [0],
        [0],
        [0],
        [0],
        [1],
    ]


def test_boxes_without_extent_are_tracks_of_their_own() -> None:
    empty = np.array([[10.0, 10, 10, 40]])
    assert _track(empty, empty, _boxes((10, 25, 30))) == [[0], [1], [2]]
