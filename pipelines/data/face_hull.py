"""The outline of a face from five landmarks: a template in face coordinates, and the hulls that blending masks are made from.

The origin lies between the eyes; one unit of u is the distance between the eyes, one unit of v that from eyes to mouth. The
frame follows turned, tilted and foreshortened faces. The template stands for the 68 points (and 13 of the forehead) of a dense
landmark detector, of which only jaw, brows and forehead can lie on a hull. Its numbers were set by eye on one
frontal face.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from pipelines.faces.align import Points

HullKind = Literal["face", "raised-brows", "forehead"]
HULL_SHARES: Mapping[HullKind, float] = {"face": 0.5625, "raised-brows": 0.25, "forehead": 0.1875}
"""Frequencies: those of the published choice (forehead or not, then one of four hulls) on real faces."""
AXIS_JITTER = 0.07
"""Largest relative change of width and height, since there is only one template."""
POINT_JITTER = 0.02
"""Standard deviation of each point, in units of the frame."""
SINE_MIN = 0.25
ASPECT_RANGE = (0.5, 2.0)
"""Plausible ratios of the eyes-mouth distance to the eye distance."""

_JAW_TURNS = np.pi * np.arange(17) / 16
_JAW = np.stack(
    [
        -np.sign(np.cos(_JAW_TURNS)) * np.abs(np.cos(_JAW_TURNS)) ** 0.7,
        -0.08 + 1.80 * np.maximum(np.sin(_JAW_TURNS), 0) ** 1.3,
    ],
    axis=1,
)
_BROW = np.array([(-0.92, -0.22), (-0.76, -0.33), (-0.57, -0.34), (-0.39, -0.31), (-0.20, -0.24)])
_BROWS = np.concatenate([_BROW, _BROW[::-1] * (-1, 1)])
_EYE_TOP_V = -0.085
_RAISED_BROWS = np.stack([_BROWS[:, 0], _BROWS[:, 1] - 0.5 * (_EYE_TOP_V - _BROWS[:, 1])], axis=1)
_FOREHEAD_TURNS = np.pi * np.arange(1, 14) / 14
_FOREHEAD = np.stack([-np.cos(_FOREHEAD_TURNS), -0.10 - 0.95 * np.sin(_FOREHEAD_TURNS)], axis=1)
_OUTLINES: Mapping[HullKind, Points] = {
    "face": np.concatenate([_JAW, _BROWS]),
    "raised-brows": np.concatenate([_JAW, _RAISED_BROWS]),
    "forehead": np.concatenate([_JAW, _BROWS, _FOREHEAD]),
}


def outline_points(kind: HullKind) -> Points:
    """(K, 2) as u, v: points whose convex hull is a face without forehead, one extended above the brows by half the eye-brow
    distance, or one with forehead. Symmetric about u = 0."""
    return _OUTLINES[kind]


def draw_outline(rng: np.random.Generator) -> Points:
    """(K, 2) as u, v: a random kind of outline with jittered width, height and points."""
    kinds = list(HULL_SHARES)
    points = outline_points(kinds[int(rng.choice(len(kinds), p=list(HULL_SHARES.values())))])
    scale = rng.uniform(1 - AXIS_JITTER, 1 + AXIS_JITTER, 2)
    return points * scale + rng.normal(0, POINT_JITTER, points.shape)


def face_frame(landmarks: Points) -> Points | None:
    """The transform (2, 3) from u, v to the pixels of the landmarks (5, 2): left eye, right eye, nose, mouth corners.

    None if the points are unknown (NaN) or cannot be those of a face with both eyes and the mouth visible.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, dtype=np.float64)
    center = (left_eye + right_eye) / 2
    across, down = right_eye - left_eye, (left_mouth + right_mouth) / 2 - center
    width, height = float(np.hypot(*across)), float(np.hypot(*down))
    area = abs(across[0] * down[1] - across[1] * down[0])
    if not (width > 0 and area >= SINE_MIN * width * height and ASPECT_RANGE[0] <= height / width <= ASPECT_RANGE[1]):
        return None
    return np.stack([across, down, center], axis=1)
