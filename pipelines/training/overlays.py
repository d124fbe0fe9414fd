"""Pictures of what a network looks at: attention maps over faces, in the manner of the paper's figures 4 to 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.system.image_files import WHITE, Image, join_images

HEAT_SHARE = 0.5
"""Of heat in the mixture; the rest is the face without its colours, so that every colour stands for attention."""
TITLE_FONT = cv2.FONT_HERSHEY_SIMPLEX
TITLE_SCALE = 0.6
TITLE_HEIGHT_PX = 28
TITLE_BASELINE_PX = 20
TITLE_INDENT_PX = 4
PANEL_GAP_PX = 12

Floats = npt.NDArray[np.float64]


def draw_attention_maps(
    faces: Image, maps: npt.NDArray[np.floating[Any]], *, size_px: int = 128, per_map: bool = False
) -> Image:
    """One row per face: the face, then each attention map over it, from blue (nothing) to red (the face's maximum).

    Maps are brought to the face's size as the network does it, bilinear with aligned corners. A map that is zero
    everywhere shows the face dark and without colours. What is no number counts as zero.

    Args:
        faces: (N, S, S, 3) uint8, RGB.
        maps: (N, M, h, w) float >= 0.
        size_px: side of each drawn face.
        per_map: divide each map by its own maximum; else by the maximum over the face's maps, so weak maps look weak.

    Returns:
        (N * size_px + separators, (1 + M) * size_px + separators, 3) uint8, RGB.
    """
    _check(faces, maps)
    heat = _normalize(np.nan_to_num(maps.astype(np.float64), posinf=0.0, neginf=0.0), per_map=per_map)
    rows = []
    for face, face_heat in zip(faces, heat, strict=True):
        cells = [face, *(_overlay(face, one) for one in face_heat)]
        rows.append(join_images([_resize(cell, size_px) for cell in cells], axis=1))
    return join_images(rows, axis=0)


def stack_panels(
    pictures: Sequence[Image], titles: Sequence[str], *, direction: Literal["below", "right"] = "below"
) -> Image:
    """Pictures (h, w, 3) uint8 stacked or side by side on white, each with its title, in ASCII, above it."""
    if not pictures or len(pictures) != len(titles):
        raise ValueError(f"pictures and titles must be as many, at least one; got {len(pictures)} and {len(titles)}")
    panels = [_with_title(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    axis = 0 if direction == "below" else 1
    length = max(panel.shape[1 - axis] for panel in panels)
    return join_images([_extend(panel, length, axis=1 - axis) for panel in panels], axis=axis, gap_px=PANEL_GAP_PX)


def _check(faces: Image, maps: npt.NDArray[np.floating[Any]]) -> None:
    if faces.ndim != 4 or faces.shape[3] != 3 or not len(faces) or faces.dtype != np.uint8:
        raise ValueError(f"faces must be (N, S, S, 3) uint8 with N > 0, got {faces.shape} {faces.dtype}")
    if maps.ndim != 4 or not maps.size or len(maps) != len(faces):
        raise ValueError(f"maps must be ({len(faces)}, M, h, w) with M, h, w > 0, got {maps.shape}")


def _normalize(maps: Floats, *, per_map: bool) -> Floats:
    """Maps (N, M, h, w) divided by their maxima, 0..1; where the maximum is zero they stay zero."""
    peak = maps.max(axis=(2, 3) if per_map else (1, 2, 3), keepdims=True)
    shares: Floats = np.divide(maps, peak, out=np.zeros_like(maps), where=peak > 0)
    return shares.clip(0, 1)


def _overlay(face: Image, heat: Floats) -> Image:
    """(S, S, 3): half the face (S, S, 3) in grey, half the colours of heat (h, w) in 0..1; none for a dead map."""
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colors: Any = np.zeros_like(face)
    if heat.any():
        levels = np.rint(255 * _upsample(heat, *face.shape[:2])).astype(np.uint8)
        colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return _as_image(cv2.addWeighted(grey, 1 - HEAT_SHARE, colors, HEAT_SHARE, 0))


def _upsample(heat: Floats, height: int, width: int) -> Floats:
    """(height, width) from (h, w), bilinear with aligned corners, which cv2.resize does not know."""
    return _hat_weights(height, heat.shape[0]) @ heat @ _hat_weights(width, heat.shape[1]).T


def _hat_weights(size: int, samples: int) -> Floats:
    """(size, samples): what each sample gives to each of `size` places from the first sample to the last."""
    positions = np.linspace(0, samples - 1, size)
    weights: Floats = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(samples)))
    return weights


def _resize(image: Image, size_px: int) -> Image:
    shrinks = max(image.shape[:2]) > size_px
    return _as_image(
        cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    )


def _with_title(picture: Image, title: str) -> Image:
    """The picture under a line of text; it grows to the right where the text is longer."""
    (text_width, _), _ = cv2.getTextSize(title, TITLE_FONT, TITLE_SCALE, 1)
    wide = _extend(picture, text_width + 2 * TITLE_INDENT_PX, axis=1)
    line = np.full((TITLE_HEIGHT_PX, wide.shape[1], 3), WHITE, np.uint8)
    cv2.putText(line, title, (TITLE_INDENT_PX, TITLE_BASELINE_PX), TITLE_FONT, TITLE_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([line, wide])


def _extend(image: Image, length: int, *, axis: int) -> Image:
    """At least `length` pixels along the axis, white added at the end."""
    missing = [(0, max(0, length - image.shape[i]) if i == axis else 0) for i in range(3)]
    return np.pad(image, missing, constant_values=WHITE)


def _as_image(array: Any) -> Image:
    return np.asarray(array, dtype=np.uint8)
