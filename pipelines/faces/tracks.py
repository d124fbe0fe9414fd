"""Tracks: which detections in successive frames belong to one person.

Sampled frames can lie seconds apart, so boxes of one person need not overlap; the distance of their centres, in face sizes,
decides instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MAX_DISTANCE = 1.0
"""Distance of two centres, in face sizes, up to which two boxes can be one person."""
MAX_SIZE_RATIO = 2.0

Box = npt.NDArray[np.float64]


@dataclass
class Tracker:
    """Assigns track numbers frame by frame: the nearest pairs first, each track and each face at most once."""

    _last_boxes: list[Box] = field(default_factory=list)

    def assign(self, boxes: npt.NDArray[np.float64]) -> list[int]:
        """Track numbers, from 0, of the boxes (F, 4) of the next frame."""
        tracks = [-1] * len(boxes)
        for _, track, face in sorted(self._candidates(boxes)):
            if tracks[face] < 0 and track not in tracks:
                tracks[face] = track
        for face, box in enumerate(boxes):
            if tracks[face] < 0:
                tracks[face] = len(self._last_boxes)
                self._last_boxes.append(box)
            self._last_boxes[tracks[face]] = box
        return tracks

    def _candidates(self, boxes: npt.NDArray[np.float64]) -> list[tuple[float, int, int]]:
        pairs = []
        for track, last in enumerate(self._last_boxes):
            for face, box in enumerate(boxes):
                distance = _distance(last, box)
                if distance is not None:
                    pairs.append((distance, track, face))
        return pairs


def _distance(a: Box, b: Box) -> float | None:
    """Distance of the centres in face sizes; None for boxes that cannot be one person."""
    size_a, size_b = _size(a), _size(b)
    if min(size_a, size_b) <= 0 or max(size_a, size_b) > MAX_SIZE_RATIO * min(size_a, size_b):
        return None
    center_a, center_b = (a[:2] + a[2:]) / 2, (b[:2] + b[2:]) / 2
    distance = float(np.hypot(*(center_a - center_b))) / ((size_a + size_b) / 2)
    return distance if distance <= MAX_DISTANCE else None


def _size(box: Box) -> float:
    return float(np.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0)))
