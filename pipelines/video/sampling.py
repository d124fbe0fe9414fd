"""Chooses which frames of a video to read, by time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigError

Int64Array = NDArray[np.int64]

# Turns a decimal such as 29.97 into the intended fraction.
MAX_DENOMINATOR = 1_000_000


def select_frames(
    timestamps: Int64Array,
    time_base: Fraction,
    *,
    count: int | None = None,
    rate_hz: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Int64Array:
    """Return unique, ascending frame indices: `count` frames spread over the time, or `rate_hz` frames per second.

    `timestamps`: (num_frames,) strictly ascending pts. A frame is shown until the next one's pts, the last one for the
    median step. `start_seconds` and `end_seconds` count from the first frame and form a half-open span: it has the frame
    shown at the start and those that begin before the end, or none if the video ends before the start.

    `count`: the frames shown at the midpoints of `count` equal parts of the span. If two midpoints fall on the same frame
    (variable frame rate), the nearest unused frame is added. All frames if there are at most `count`.
    `rate_hz`: the frames shown at start + k / rate_hz, for k = 0, 1, ...
    """
    _check_settings(count, rate_hz, start_seconds, end_seconds)
    if len(timestamps) == 0:
        return np.empty(0, dtype=np.int64)
    first_pts = int(timestamps[0])
    start = first_pts + _to_ticks(start_seconds or 0, time_base)
    end = first_pts + _measure_span(timestamps)
    if end_seconds is not None:
        end = min(end, first_pts + _to_ticks(end_seconds, time_base))
    if start >= end:
        return np.empty(0, dtype=np.int64)
    if rate_hz is not None:
        step = 1 / (_to_fraction(rate_hz) * time_base)
        num_targets = math.ceil((end - start) / step)
        return np.unique(_find_shown(timestamps, (start + k * step for k in range(num_targets))))
    assert count is not None
    return _spread(timestamps, start, end, count)


def _check_settings(
    count: int | None, rate_hz: float | None, start_seconds: float | None, end_seconds: float | None
) -> None:
    if (count is None) == (rate_hz is None):
        raise ConfigError("give either a number of frames or a rate, not both")
    for name, value in (("count", count), ("rate_hz", rate_hz)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be > 0, got {value}")
    if start_seconds is not None and not (math.isfinite(start_seconds) and start_seconds >= 0):
        raise ConfigError(f"start_seconds must be >= 0, got {start_seconds}")
    if end_seconds is not None and not end_seconds > (start_seconds or 0):
        raise ConfigError(f"end_seconds must be > start_seconds ({start_seconds or 0}), got {end_seconds}")


def _spread(timestamps: Int64Array, start: Fraction, end: Fraction, count: int) -> Int64Array:
    first = int(_find_shown(timestamps, [start])[0])
    stop = int(np.searchsorted(timestamps, math.ceil(end), side="left"))
    if stop - first <= count:
        return np.arange(first, stop, dtype=np.int64)
    part = (end - start) / count
    targets = [start + part * (2 * k + 1) / 2 for k in range(count)]
    shown = np.clip(_find_shown(timestamps, targets), first, stop - 1)
    chosen = set(shown.tolist())
    is_repeated = np.diff(shown, prepend=-1) == 0
    for k in np.flatnonzero(is_repeated).tolist():
        chosen.add(_find_nearest_unused(timestamps, chosen, targets[k], range(first, stop)))
    return np.array(sorted(chosen), dtype=np.int64)


def _find_nearest_unused(timestamps: Int64Array, used: set[int], target: Fraction, within: range) -> int:
    origin = int(_find_shown(timestamps, [target])[0])
    before = next((index for index in range(origin, within.start - 1, -1) if index not in used), None)
    after = next((index for index in range(origin, within.stop) if index not in used), None)
    free = [index for index in (before, after) if index is not None]
    return min(free, key=lambda index: abs(int(timestamps[index]) - target))


def _find_shown(timestamps: Int64Array, times: Iterable[Fraction]) -> Int64Array:
    """Indices of the frames shown at `times` (in pts units).

    Times are rounded to the nearest tick, as the container rounded the pts: at 30 frames per second in milliseconds the
    third frame has pts 67 and is to be shown at 66.67.
    """
    ticks = np.array([math.floor(time + Fraction(1, 2)) for time in times], dtype=np.int64)
    shown = np.searchsorted(timestamps, ticks, side="right") - 1
    return np.clip(shown, 0, len(timestamps) - 1).astype(np.int64)


def _measure_span(timestamps: Int64Array) -> Fraction:
    """From the first frame to the end of the last one, in pts units."""
    if len(timestamps) == 1:
        return Fraction(1)
    return Fraction(int(timestamps[-1] - timestamps[0])) + Fraction(float(np.median(np.diff(timestamps))))


def _to_ticks(seconds: float, time_base: Fraction) -> Fraction:
    return _to_fraction(seconds) / time_base


def _to_fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(MAX_DENOMINATOR)
