"""Self-blended images: a real face pasted onto itself, so that the network learns blending artefacts, not one forgery method.

Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images (CVPR 2022), following their code, with hulls from five
landmarks (`face_hull`) instead of 81. One of two copies is changed in colour and sharpness; one is shifted slightly and laid
over the other within a soft mask. The blend's target is learned as real in the same batch, so that the colour change alone
does not separate the two; only the blend does.

Sizes are relative to the face: shifts to the box around it, the mask's blurs to a canvas of 192 to 256 pixels that shows
this box, as published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.data.face_hull import draw_outline, face_frame, outline_points
from pipelines.faces.align import Points, apply_transform, template_points
from pipelines.system.image_files import Image

Mask = npt.NDArray[np.float32]
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""Opacity of the source within the mask; each entry is equally likely."""
COLOUR_SHIFT_SHARE = 0.3
COLOUR_SHIFT_LEVELS = 20
HSV_SHIFT_LEVELS = 0.3
"""Range for OpenCV's 8-bit hue, saturation and value. Fractions are truncated, as published: each stays or falls by one level."""
BRIGHTNESS = 0.1
CONTRAST = 0.1
DOWNSCALE_FACTORS = (2, 4)
SHARPEN_ALPHA = (0.2, 0.5)
SHARPEN_LIGHTNESS = (0.5, 1.0)
SIDE_ROOM, TOP_ROOM, BOTTOM_ROOM = 0.5, 1.0, 0.4
"""Margins of the loose box around jaw and brows, as shares of their width and height."""
SHIFT_SHARES = (0.03, 0.015)
"""Largest shift of the source along x and y, of the loose box."""
SCALE_RANGE = (0.95, 1 / 0.95)
CANVAS_SIDE_PX = (192, 256)
KERNELS_PX = range(5, 26, 2)
"""Kernel sizes of the erosion and the blur, on the canvas."""
BLUR_SIGMAS_PX = range(5, 46)
ELASTIC_GRID = 64
"""Points per side of the grid whose offsets, interpolated, move the mask's edge."""
ELASTIC_SIGMA = 2.0
"""Sigma of the Gaussian that smooths these offsets, in grid points: 7 px on a canvas of 224, as published."""
ELASTIC_PX = 50 / math.sqrt(3) / (2 * math.sqrt(math.pi) * 7)
"""Standard deviation of the offsets: uniform noise in -1..1 after a Gaussian of 7 px, times 50."""
ROOM_PX = 24
"""Margin that a crop needs around the part of a blend that is used, in the aligned frame at margin 1: the largest shift of a
face (17 px) plus the reach of the coarsening."""
_SUBPIXEL_BITS = 4
_LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class SelfBlend:
    """A face blended onto itself."""

    image: Image
    """(H, W, 3) uint8, learned as fake."""
    target: Image
    """(H, W, 3) uint8, the face it was blended onto, learned as real. Do not modify it."""
    mask: Mask
    """(H, W) in 0..1, where the source was blended in, before `ratio`."""
    ratio: float
    """One of `RATIOS`: the source's weight is `ratio * mask`."""


def blend_with_itself(image: Image, landmarks: Points | None, rng: np.random.Generator) -> SelfBlend:
    """Self-blend a real face. All random numbers come from `rng`; the argument is not modified.

    Args:
        image: (H, W, 3) uint8 RGB, an aligned crop or part of one.
        landmarks: (5, 2) in its pixels. None or implausible points are replaced by those of a full aligned crop.
    """
    source, target = draw_source_and_target(image, rng)
    frame = _frame_of(landmarks, image)
    box = _loose_box(frame)
    motion = _draw_motion(box, rng)
    height, width = image.shape[:2]
    source = np.asarray(cv2.warpAffine(source, motion, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
    hull = apply_transform(motion, apply_transform(frame, draw_outline(rng)))
    mask = _draw_mask(hull, box, (width, height), rng)
    ratio = float(rng.choice(RATIOS))
    return SelfBlend(_mix(source, target, ratio * mask), target, mask, ratio)


def draw_source_and_target(image: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Two copies, both (H, W, 3) uint8: one unchanged (the argument itself), the other changed in colour and sharpness.

    `blend_with_itself` draws these first, so an equal generator gives the target of the same blend.
    """
    changed = _change_look(image, rng)
    return (changed, image) if rng.random() < 0.5 else (image, changed)


def _change_look(image: Image, rng: np.random.Generator) -> Image:
    image = _shift_colours(image, rng)
    image = _shift_hsv(image, rng)
    contrast, brightness = 1 + rng.uniform(-CONTRAST, CONTRAST), 255 * rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    image = _map_levels(image, [contrast * _LEVELS + brightness] * 3)
    return _coarsen(image, rng) if rng.random() < 0.5 else _sharpen(image, rng)


def _shift_colours(image: Image, rng: np.random.Generator) -> Image:
    if rng.random() >= COLOUR_SHIFT_SHARE:
        return image
    return _map_levels(image, [_LEVELS + shift for shift in rng.uniform(-COLOUR_SHIFT_LEVELS, COLOUR_SHIFT_LEVELS, 3)])


def _shift_hsv(image: Image, rng: np.random.Generator) -> Image:
    hue, saturation, value = np.floor(rng.uniform(-HSV_SHIFT_LEVELS, HSV_SHIFT_LEVELS, 3))
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), dtype=np.uint8)
    shifted = _map_levels(hsv, [(_LEVELS + hue) % 180, _LEVELS + saturation, _LEVELS + value])
    return np.asarray(cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB), dtype=np.uint8)


def _map_levels(image: Image, tables: list[npt.NDArray[np.float64]]) -> Image:
    """Each channel by its own table of 256 values, rounded and clipped."""
    table = np.clip(np.rint(np.stack(tables, axis=-1)), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)


def _coarsen(image: Image, rng: np.random.Generator) -> Image:
    """To a half or a quarter without smoothing, and back."""
    factor = int(rng.choice(DOWNSCALE_FACTORS))
    height, width = image.shape[:2]
    size = max(1, width // factor), max(1, height // factor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _sharpen(image: Image, rng: np.random.Generator) -> Image:
    alpha, lightness = rng.uniform(*SHARPEN_ALPHA), rng.uniform(*SHARPEN_LIGHTNESS)
    kernel = np.full((3, 3), -alpha, dtype=np.float32)
    kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
    return np.asarray(cv2.filter2D(image, -1, kernel), dtype=np.uint8)


def _frame_of(landmarks: Points | None, image: Image) -> Points:
    frame = None if landmarks is None else face_frame(landmarks)
    if frame is None:
        frame = face_frame(template_points(size_px=max(image.shape[:2])))
    assert frame is not None
    return frame


def _loose_box(frame: Points) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1 in pixels: the box around jaw and brows, with room."""
    points = apply_transform(frame, outline_points("face"))
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    width, height = float(x1 - x0), float(y1 - y0)
    return (
        float(x0) - SIDE_ROOM * width,
        float(y0) - TOP_ROOM * height,
        float(x1) + SIDE_ROOM * width,
        float(y1) + BOTTOM_ROOM * height,
    )


def _draw_motion(box: tuple[float, float, float, float], rng: np.random.Generator) -> Points:
    """The transform (2, 3) of source and mask: each axis scaled about the box's centre, then shifted."""
    x0, y0, x1, y1 = box
    scale, shift = rng.uniform(*SCALE_RANGE, 2), rng.uniform(-1, 1, 2) * SHIFT_SHARES * np.array([x1 - x0, y1 - y0])
    center = np.array([x0 + x1, y0 + y1]) / 2
    return np.column_stack([np.diag(scale), center - scale * center + shift])


def _draw_mask(
    hull: Points, box: tuple[float, float, float, float], size_px: tuple[int, int], rng: np.random.Generator
) -> Mask:
    """(H, W) in 0..1: the hull with a wavy edge, eroded and blurred by random widths; `size_px` is (W, H)."""
    x0, y0, x1, y1 = box
    canvas = rng.integers(*CANVAS_SIDE_PX, 2, endpoint=True)
    scale = canvas / (x1 - x0, y1 - y0)
    to_canvas = np.column_stack([np.diag(scale), -scale * (x0, y0)])
    inside = _draw_elastic(_fill_hull(apply_transform(to_canvas, hull), canvas), rng) == 255
    # published as a Gaussian blur of which only what is still 1 is kept: where the whole kernel lies inside
    kernel = np.ones((int(rng.choice(KERNELS_PX)),) * 2, dtype=np.uint8)
    smaller = cv2.erode(inside.astype(np.uint8), kernel)
    taps, sigma = int(rng.choice(KERNELS_PX)), float(rng.choice(BLUR_SIGMAS_PX))
    soft: Mask = np.asarray(cv2.GaussianBlur(smaller.astype(np.float32), (taps, taps), sigma), dtype=np.float32)
    mask = cv2.warpAffine(soft, cv2.invertAffineTransform(to_canvas), size_px, flags=cv2.INTER_LINEAR)
    return np.clip(np.asarray(mask, dtype=np.float32), 0, 1)


def _fill_hull(points: Points, canvas: npt.NDArray[np.int64]) -> Image:
    """(h, w) uint8, 255 inside the convex hull of the points; `canvas` is (w, h)."""
    hull = cv2.convexHull(np.rint(points * 2**_SUBPIXEL_BITS).astype(np.int32))
    filled = np.zeros(canvas[::-1], dtype=np.uint8)
    cv2.fillConvexPoly(filled, hull, 255, shift=_SUBPIXEL_BITS)
    return filled


def _draw_elastic(image: Image, rng: np.random.Generator) -> Image:
    """The image with every pixel moved by a smooth random field."""
    noise = rng.standard_normal((ELASTIC_GRID, ELASTIC_GRID, 2), dtype=np.float32)
    noise *= ELASTIC_PX * 2 * math.sqrt(math.pi) * ELASTIC_SIGMA  # so much does the Gaussian take
    offsets = cv2.GaussianBlur(noise, (0, 0), ELASTIC_SIGMA)
    height, width = image.shape
    places: Mask = np.asarray(cv2.resize(offsets, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    places[..., 0] += np.arange(width, dtype=np.float32)
    places[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(image, places, None, cv2.INTER_LINEAR), dtype=np.uint8)  # type: ignore[call-overload]


def _mix(source: Image, target: Image, weight: Mask) -> Image:
    """`weight` parts source, the rest target; exactly the target where the weight is 0."""
    mixed = source.astype(np.float32)
    mixed -= target
    mixed *= weight[..., None]
    mixed += target
    return np.rint(mixed, out=mixed).astype(np.uint8)
