"""Self-blends that imitate a face swap: a bent, smoother, recoloured copy of a real face inside the untouched face.

A network that swaps faces puts out another person's features at 128 to 320 pixels, without the camera's noise and sharpness, and
pastes them in a hull, a rounded square or an ellipse, seldom half transparent. The published self-blends
(`self_blending`) change either side, shift the whole face, and know one kind of mask. Both teach the same thing: that
a part of the picture does not belong to the rest.

The numbers are our own; sizes are relative to the face, as there.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.data.face_hull import draw_kind, draw_outline
from pipelines.data.self_blending import (
    LEVELS,
    Mask,
    SelfBlend,
    draw_mask,
    draw_motion,
    frame_of,
    loose_box,
    map_levels,
    mix,
)
from pipelines.faces.align import Points, apply_transform
from pipelines.system.image_files import Image

RATIOS = (0.75, 1.0, 1.0, 1.0)
BEND_GRID = 6
"""Control points per side of the loose box, whose drawn offsets, interpolated, bend the features."""
BEND_SHARE = 0.035
"""Deviation of these offsets, in distances between the eyes."""
GAIN, OFFSET_LEVELS = 0.08, 6.0
"""Largest change of each colour channel: the colours were matched, not equal."""
SHRINK_RANGE = (1.3, 3.5)
SMOOTHING_LEVELS = (15.0, 45.0)
SMOOTHING_PX = 9
UNSHARP_RANGE = (0.5, 1.5)
LOOKS = {"shrunken": 0.5, "smoothed": 0.25, "restored": 0.25}
"""A small output enlarged; one without pores and noise; a small one sharpened again, as face restorers do."""
SHAPES = {"hull": 0.6, "square": 0.2, "ellipse": 0.2}
SQUARE_CORNERS = 12
"""Points in each rounded corner."""


def imitate_swap(image: Image, landmarks: Points | None, rng: np.random.Generator) -> SelfBlend:
    """A real face with an imitated swap in it; its target is the argument itself.

    Every random number comes from `rng`; the argument is never written to.

    Args:
        image: (H, W, 3) uint8 RGB, a part of an aligned crop, or all of it.
        landmarks: (5, 2) in its pixels. None, or points that are no face's: where a whole aligned crop has them.
    """
    frame = frame_of(landmarks, image)
    box = loose_box(frame)
    height, width = image.shape[:2]
    source = _bend(_change_look(_change_colours(image, rng), rng), box, float(np.hypot(*frame[:, 0])), rng)
    outline = apply_transform(draw_motion(box, rng), apply_transform(frame, draw_shape(rng)))
    mask = draw_mask(outline, box, (width, height), rng)
    ratio = float(rng.choice(RATIOS))
    return SelfBlend(mix(source, image, ratio * mask), image, mask, ratio)


def draw_shape(rng: np.random.Generator) -> Points:
    """(K, 2) as u, v of the face's frame: the outline of a drawn kind of `SHAPES`."""
    shape = draw_kind(SHAPES, rng)
    if shape == "hull":
        return draw_outline(rng)
    center = np.array([0.0, 0.65]) + rng.normal(0, 0.05, 2)
    half = np.array([rng.uniform(0.85, 1.15), rng.uniform(0.9, 1.25)])
    turns = np.linspace(0, 2 * np.pi, 4 * SQUARE_CORNERS, endpoint=False)
    unit = np.column_stack([np.cos(turns), np.sin(turns)])
    if shape == "square":  # a superellipse: nearly straight sides, round corners
        unit = np.sign(unit) * np.abs(unit) ** 0.35
    return np.asarray(center + half * unit, dtype=np.float64)


def _change_colours(image: Image, rng: np.random.Generator) -> Image:
    gains, offsets = rng.uniform(1 - GAIN, 1 + GAIN, 3), rng.uniform(-OFFSET_LEVELS, OFFSET_LEVELS, 3)
    return map_levels(image, [gain * LEVELS + offset for gain, offset in zip(gains, offsets, strict=True)])


def _change_look(image: Image, rng: np.random.Generator) -> Image:
    look = draw_kind(LOOKS, rng)
    if look == "smoothed":
        levels = rng.uniform(*SMOOTHING_LEVELS)
        return np.asarray(cv2.bilateralFilter(image, SMOOTHING_PX, levels, SMOOTHING_PX / 2), dtype=np.uint8)
    small = _shrink(image, rng.uniform(*SHRINK_RANGE))
    if look == "shrunken":
        return small
    amount = rng.uniform(*UNSHARP_RANGE)
    return np.asarray(cv2.addWeighted(small, 1 + amount, cv2.GaussianBlur(small, (0, 0), 2.0), -amount, 0), np.uint8)


def _shrink(image: Image, factor: float) -> Image:
    """To the side divided by `factor`, smoothly, and back."""
    height, width = image.shape[:2]
    size = max(2, round(width / factor)), max(2, round(height / factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _bend(
    image: Image, box: tuple[float, float, float, float], eye_distance_px: float, rng: np.random.Generator
) -> Image:
    """Every pixel of the box moved by a smooth random field: features of nearly another face."""
    x0, y0, x1, y1 = box
    offsets: Mask = rng.standard_normal((BEND_GRID, BEND_GRID, 2), dtype=np.float32)
    offsets *= np.float32(BEND_SHARE * eye_distance_px)
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    grid_x = (x - x0) / (x1 - x0) * (BEND_GRID - 1)
    grid_y = (y - y0) / (y1 - y0) * (BEND_GRID - 1)
    moves = np.asarray(cv2.remap(offsets, grid_x, grid_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)
    bent = cv2.remap(image, x + moves[..., 0], y + moves[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(bent, dtype=np.uint8)
