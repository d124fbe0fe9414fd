"""Frames are chosen by time, uniquely and in order."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.video import select_frames

MILLISECONDS = Fraction(1, 1000)
CFR = [k * 40 for k in range(100)]  # 25 frames a second, 4 seconds
ROUNDED_30 = [round(k * 1000 / 30) for k in range(90)]
BURST = [0, 10, 20, 30, 40, 50, 1000, 2000]  # six frames in the first 60 ms
SLIDES = [0, 10_000, 10_040, 10_080]  # one picture shown for ten seconds, then three quick ones

CASES = {
    "one frame is the middle one": (CFR, {"count": 1}, [50]),
    "midpoints of equal parts": (CFR, {"count": 4}, [12, 37, 62, 87]),
    "count equal to the frames takes all": (CFR, {"count": 100}, list(range(100))),
    "count above the frames takes all": (CFR, {"count": 1000}, list(range(100))),
    "a shifted start changes nothing": ([t - 500 for t in CFR], {"count": 4}, [12, 37, 62, 87]),
    "count spreads by time, not by number": (BURST, {"count": 3}, [5, 6, 7]),
    "colliding targets take the nearest unused frames": (SLIDES, {"count": 3}, [0, 1, 2]),
    "count in a range": (CFR, {"count": 2, "start_seconds": 1, "end_seconds": 2}, [31, 43]),
    "a range with fewer frames than asked": (CFR, {"count": 9, "start_seconds": 1, "end_seconds": 1.12}, [25, 26, 27]),
    "the end is exclusive": (CFR, {"count": 9, "end_seconds": 0.08}, [0, 1]),
    "the frame shown at the start counts": (SLIDES, {"count": 5, "start_seconds": 5, "end_seconds": 10}, [0]),
    "rate": (CFR, {"rate_hz": 1}, [0, 25, 50, 75]),
    "rate of the video takes all": (CFR, {"rate_hz": 25}, list(range(100))),
    "rate above the video takes all once": (CFR, {"rate_hz": 240}, list(range(100))),
    "rate of the video in rounded milliseconds": (ROUNDED_30, {"rate_hz": 30}, list(range(90))),
    "rate below one": (CFR, {"rate_hz": 0.5}, [0, 50]),
    "rate in a range": (CFR, {"rate_hz": 5, "start_seconds": 1, "end_seconds": 1.4}, [25, 30]),
    "rate over a still picture": (SLIDES, {"rate_hz": 2}, [0, 1]),
    "an end beyond the video": (CFR, {"rate_hz": 1, "end_seconds": 99}, [0, 25, 50, 75]),
    "a start beyond the video": (CFR, {"count": 4, "start_seconds": 99}, []),
    "one frame only": ([7], {"count": 5}, [0]),
    "one frame only by rate": ([7], {"rate_hz": 10}, [0]),
    "no frames": ([], {"count": 5}, []),
}


@pytest.mark.parametrize(("timestamps", "settings", "expected"), CASES.values(), ids=CASES.keys())
def test_the_right_frames_are_chosen(timestamps: list[int], settings: dict[str, Any], expected: list[int]) -> None:
    assert select_frames(np.array(timestamps, dtype=np.int64), MILLISECONDS, **settings).tolist() == expected


def test_count_always_gives_that_many_unique_frames_when_there_are_enough() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        steps = generator.choice([1, 33, 40, 2000], size=generator.integers(1, 60))
        timestamps = np.cumsum(steps).astype(np.int64)
        count = int(generator.integers(1, 60))
        chosen = select_frames(timestamps, MILLISECONDS, count=count)
        assert len(chosen) == min(count, len(timestamps))
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < len(timestamps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": -1}, "count must be > 0, got -1"),
        ({"count": 0}, "count must be > 0, got 0"),
        ({"rate_hz": 0.0}, "rate_hz must be > 0, got 0.0"),
        ({"rate_hz": float("nan")}, "rate_hz must be > 0, got nan"),
        ({}, "either a number of frames or a rate"),
        ({"count": 1, "rate_hz": 1.0}, "either a number of frames or a rate"),
        ({"count": 1, "start_seconds": -1}, "start_seconds must be >= 0, got -1"),
        ({"count": 1, "start_seconds": 2, "end_seconds": 2}, r"end_seconds must be > start_seconds \(2\), got 2"),
    ],
)
def test_impossible_settings_say_what_they_got(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_frames(np.array(CFR, dtype=np.int64), MILLISECONDS, **settings)
