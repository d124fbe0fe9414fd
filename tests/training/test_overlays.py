"""Overlays show where attention lies: at the right pixels, as strong as it is, and nothing for a dead map."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from pipelines.system.image_files import SEPARATOR_PX
from pipelines.training.overlays import (
    PANEL_GAP_PX,
    TITLE_HEIGHT_PX,
    draw_attention_maps,
    draw_forgery_maps,
    stack_panels,
)

SIZE_PX = 64
Array = npt.NDArray[Any]


def _faces(count: int = 1, size_px: int = SIZE_PX, value: int = 120) -> Array:
    return np.full((count, size_px, size_px, 3), value, np.uint8)


def _cell(picture: Array, row: int, column: int, size_px: int = SIZE_PX) -> Array:
    """Column 0 is the face, column k the map k - 1."""
    y0_px, x0_px = row * (size_px + SEPARATOR_PX), column * (size_px + SEPARATOR_PX)
    return picture[y0_px : y0_px + size_px, x0_px : x0_px + size_px]


def _warmth(cell: Array) -> Array:
    """Red less blue: the colour map rises from blue to red."""
    return cell[..., 0].astype(int) - cell[..., 2].astype(int)


@pytest.mark.parametrize("num_maps", range(1, 9))
@pytest.mark.parametrize("count", [1, 3])
def test_there_is_a_row_per_face_and_a_column_per_map(num_maps: int, count: int) -> None:
    maps = np.random.default_rng(0).random((count, num_maps, 5, 7), dtype=np.float32)
    picture = draw_attention_maps(_faces(count), maps, size_px=32)
    height_px = count * 32 + (count - 1) * SEPARATOR_PX
    assert picture.shape == (height_px, (num_maps + 1) * 32 + num_maps * SEPARATOR_PX, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, 32 : 32 + SEPARATOR_PX] == 255).all()


def test_the_first_column_is_the_face_itself() -> None:
    face = np.random.default_rng(0).integers(0, 256, (1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    picture = draw_attention_maps(face, np.ones((1, 1, 4, 4)), size_px=SIZE_PX)
    np.testing.assert_array_equal(_cell(picture, 0, 0), face[0])


@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 4), (2, 2), (4, 0), (4, 3)])
def test_a_hot_spot_lands_where_aligned_corners_put_it(y: int, x: int) -> None:
    """Sample k of 5 stands over pixel 64 * k / 4 of the 65, so the corners' samples over the corners' pixels."""
    maps = np.zeros((1, 1, 5, 5))
    maps[0, 0, y, x] = 3.0
    picture = draw_attention_maps(_faces(size_px=65), maps, size_px=65)
    warmth = _warmth(_cell(picture, 0, 1, size_px=65))
    colors = cv2.applyColorMap(np.uint8([[0, 255]]), cv2.COLORMAP_JET)[0].astype(int)
    assert warmth[y * 16, x * 16] == pytest.approx((colors[1][2] - colors[1][0]) / 2, abs=2)  # the hottest colour
    far = np.hypot(*(np.indices((65, 65)) - np.array([y * 16, x * 16])[:, None, None])) > 16 * 2**0.5
    assert np.ptp(warmth[far]) == 0 and warmth[far][0] == pytest.approx((colors[0][2] - colors[0][0]) / 2, abs=2)


def test_heat_between_samples_is_that_of_the_network_s_own_interpolation() -> None:
    maps = np.random.default_rng(1).random((1, 1, 6, 9))
    picture = draw_attention_maps(_faces(value=0), maps, size_px=SIZE_PX)
    resized = F.interpolate(torch.from_numpy(maps), size=(SIZE_PX, SIZE_PX), mode="bilinear", align_corners=True)
    levels = np.rint(255 * resized[0, 0].numpy() / maps.max()).astype(np.uint8)
    expected = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1] / 2
    np.testing.assert_allclose(_cell(picture, 0, 1), expected, atol=3)


def test_equal_maps_look_equal() -> None:
    one = np.random.default_rng(2).random((1, 1, 5, 5))
    picture = draw_attention_maps(_faces(), np.repeat(one, 4, axis=1), size_px=SIZE_PX)
    for column in (2, 3, 4):
        np.testing.assert_array_equal(_cell(picture, 0, column), _cell(picture, 0, 1))


def test_a_weak_map_looks_weak_unless_each_map_is_divided_by_its_own_maximum() -> None:
    strong = np.random.default_rng(3).random((1, 1, 5, 5))
    maps = np.concatenate([strong, 0.2 * strong], axis=1)
    together = draw_attention_maps(_faces(), maps, size_px=SIZE_PX)
    alone = draw_attention_maps(_faces(), maps, size_px=SIZE_PX, per_map=True)
    assert _warmth(_cell(together, 0, 2)).max() < 0 < _warmth(_cell(together, 0, 1)).max()
    np.testing.assert_array_equal(_cell(alone, 0, 2), _cell(alone, 0, 1))


def test_one_face_s_strength_does_not_weaken_another_s() -> None:
    one = np.random.default_rng(4).random((1, 2, 5, 5))
    picture = draw_attention_maps(_faces(2), np.concatenate([one, 100 * one]), size_px=SIZE_PX)
    for column in (1, 2):
        np.testing.assert_array_equal(_cell(picture, 1, column), _cell(picture, 0, column))


@pytest.mark.parametrize("per_map", [False, True])
@pytest.mark.parametrize("dead", [0.0, np.nan, np.inf])
def test_a_dead_map_shows_the_face_dark_and_without_colours(dead: float, per_map: bool) -> None:
    face = np.random.default_rng(5).integers(0, 256, (1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    maps = np.stack([np.full((5, 5), dead), np.eye(5)])[None]
    cell = _cell(draw_attention_maps(face, maps, size_px=SIZE_PX, per_map=per_map), 0, 1)
    assert (cell == cell[..., :1]).all()
    assert cell.mean() == pytest.approx(cv2.cvtColor(face[0], cv2.COLOR_RGB2GRAY).mean() / 2, abs=1)


def test_maps_that_are_all_dead_raise_no_warning() -> None:
    with np.errstate(all="raise"):
        picture = draw_attention_maps(_faces(), np.zeros((1, 4, 5, 5), np.float16), size_px=SIZE_PX)
    assert all((_warmth(_cell(picture, 0, column)) <= 0).all() for column in range(1, 5)), "nothing is highlighted"


@pytest.mark.parametrize("smallest", [5e-324, 1e-310])
def test_the_smallest_numbers_are_no_division_by_zero(smallest: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        picture = draw_attention_maps(_faces(), np.full((1, 1, 3, 3), smallest), size_px=SIZE_PX)
    assert _warmth(_cell(picture, 0, 1)).min() > 0


def test_neither_faces_nor_maps_are_changed() -> None:
    faces, maps = _faces(2), np.random.default_rng(6).random((2, 3, 5, 5))
    faces_before, maps_before = faces.copy(), maps.copy()
    draw_attention_maps(faces, maps)
    assert np.array_equal(faces, faces_before) and np.array_equal(maps, maps_before)


@pytest.mark.parametrize(
    ("faces", "maps", "message"),
    [
        (_faces()[0], np.ones((1, 1, 3, 3)), "faces must be"),
        (_faces().astype(np.float32), np.ones((1, 1, 3, 3)), "faces must be"),
        (_faces(0), np.ones((0, 1, 3, 3)), "faces must be"),
        (_faces(2), np.ones((1, 1, 3, 3)), r"maps must be \(2, M, h, w\)"),
        (_faces(), np.ones((1, 0, 3, 3)), "maps must be"),
        (_faces(), np.ones((1, 3, 3)), "maps must be"),
    ],
)
def test_wrong_shapes_are_told(faces: Array, maps: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_attention_maps(faces, maps)


@pytest.mark.parametrize(("direction", "at_least"), [("below", (100, 300)), ("right", (60, 500))])
def test_panels_hold_their_pictures_unchanged_under_a_title(
    direction: Literal["below", "right"], at_least: tuple[int, int]
) -> None:
    colors, sizes = [(200, 10, 10), (10, 10, 200)], [(40, 200), (60, 300)]
    pictures = [np.full((*size, 3), color, np.uint8) for size, color in zip(sizes, colors, strict=True)]
    panels = stack_panels(pictures, ["one", "another"], direction=direction)
    for color, (height_px, width_px) in zip(colors, sizes, strict=True):
        ys, xs = np.nonzero((panels == color).all(axis=2))
        assert len(ys) == height_px * width_px
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (height_px, width_px)
        assert panels[ys.min() - 20 : ys.min(), xs.min() : xs.max()].min() < 60  # its title
    assert panels.shape[0] > at_least[0] and panels.shape[1] >= at_least[1]


def test_a_title_is_black_on_white_and_is_never_cut() -> None:
    picture = np.full((20, 30, 3), 128, np.uint8)
    short, long = (stack_panels([picture], [title]) for title in ("i", "a title far longer than the picture below it"))
    assert short.shape[1] == 30 < 200 < long.shape[1]
    above = long[: -picture.shape[0]]
    assert above.min() < 60 and (above[:, -1] == 255).all() and (above[-1] == 255).all()


def test_panels_without_a_title_each_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        stack_panels([np.zeros((4, 4, 3), np.uint8)], ["one", "two"])
    with pytest.raises(ValueError, match="at least one"):
        stack_panels([], [])


WIDE_PX = 160
"""Wider than every title."""


def _panels(picture: Array) -> list[Array]:
    """The cells of each column, below its title."""
    starts = [column * (WIDE_PX + PANEL_GAP_PX) for column in range(3)]
    return [picture[TITLE_HEIGHT_PX:, start : start + WIDE_PX] for start in starts]


def test_a_forgery_map_is_drawn_beside_the_face_and_its_true_mask() -> None:
    masks, maps = np.zeros((2, WIDE_PX, WIDE_PX), bool), np.zeros((2, WIDE_PX, WIDE_PX))
    masks[0, 10:20, 10:30] = True
    maps[0, 40:50, 40:60] = 0.6
    picture = draw_forgery_maps(_faces(2, WIDE_PX), masks, maps, title="forgery map", threshold=0.5, size_px=WIDE_PX)
    assert picture.shape[0] == TITLE_HEIGHT_PX + 2 * WIDE_PX + SEPARATOR_PX
    face, truth, heat = _panels(picture)
    np.testing.assert_array_equal(_cell(truth, 0, 0, WIDE_PX) == 255, np.repeat(masks[0][..., None], 3, axis=2))
    assert (
        not _cell(truth, 1, 0, WIDE_PX).any() and (_cell(face, 1, 0, WIDE_PX) == 120).all()
    )  # nothing forged, nothing marked
    for panel in (face, heat):
        assert (_cell(panel, 0, 0, WIDE_PX)[10, 10:30] == (0, 255, 0)).all()
        assert (_cell(panel, 0, 0, WIDE_PX)[40, 40:60] == (255, 64, 255)).all()
    assert (_cell(face, 0, 0, WIDE_PX)[15, 15] == 120).all() and (
        _cell(face, 0, 0, WIDE_PX)[45, 45] == 120
    ).all()  # outlines only
    warmth = _warmth(_cell(heat, 0, 0, WIDE_PX))
    assert warmth[45, 45] > warmth[30, 30]


def test_forgery_maps_have_one_scale_for_all_faces() -> None:
    masks, maps = np.zeros((2, WIDE_PX, WIDE_PX), bool), np.zeros((2, WIDE_PX, WIDE_PX))
    maps[0, :80], maps[1, :80] = 0.2, 0.4
    picture = draw_forgery_maps(_faces(2, WIDE_PX), masks, maps, title="map", threshold=0.5, size_px=WIDE_PX)
    heat = _panels(picture)[2]
    colors = cv2.applyColorMap(np.uint8([[51, 102]]), cv2.COLORMAP_JET)[0, :, ::-1].astype(int)
    for row in (0, 1):
        np.testing.assert_allclose(_cell(heat, row, 0, WIDE_PX)[8, 8], (colors[row] + 120) / 2, atol=1)
    with pytest.raises(ValueError, match="must be as many; got 2, 1 and 2"):
        draw_forgery_maps(_faces(2, WIDE_PX), masks[:1], maps, title="map", threshold=0.5)
