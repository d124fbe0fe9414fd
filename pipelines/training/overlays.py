"""Pictures of what a network looks at: attention maps over faces, in the manner of the paper's figures 4 to 6, and where it
finds a forgery."""

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
MASK_COLOR = (0, 255, 0)
MAP_COLOR = (255, 64, 255)
OUTLINE_PX = 1

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


def draw_forgery_maps(
    faces: Image,
    masks: npt.NDArray[np.bool_],
    maps: npt.NDArray[np.floating[Any]],
    *,
    title: str,
    threshold: float,
    size_px: int = 160,
) -> Image:
    """One row per face: the face, its true mask, and the map over the face, from blue (0) to red (1).

    The outline of the mask is green and that of the map at or above the threshold magenta, each on the face and on the map.

    Args:
        faces: (N, S, S, 3) uint8, RGB.
        masks: (N, S, S).
        maps: (N, S, S) in 0..1.
        title: of the column of maps, in ASCII.
        size_px: side of each drawn face.
    """
    if not len(faces) == len(masks) == len(maps) > 0:
        raise ValueError(f"faces, masks and maps must be as many; got {len(faces)}, {len(masks)} and {len(maps)}")
    rows = []
    for face, mask, heat in zip(faces, masks, maps, strict=True):
        white = np.where(mask[..., None], np.uint8(WHITE), np.zeros_like(face))
        cells = [_resize(cell, size_px) for cell in (face, white, _overlay(face, heat.astype(np.float64)))]
        for cell in (cells[0], cells[2]):
            _outline(cell, mask, MASK_COLOR)
            _outline(cell, heat >= threshold, MAP_COLOR)
        rows.append(cells)
    columns = [join_images(column, axis=0) for column in zip(*rows, strict=True)]
    return stack_panels(columns, ["face", "true mask", title], direction="right")


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


def _outline(picture: Image, region: npt.NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    """Draw the borders of a region (S, S), of any size, into a square picture."""
    size_px = len(picture)
    drawn = cv2.resize(region.astype(np.uint8), (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(drawn, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, color, OUTLINE_PX)


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
