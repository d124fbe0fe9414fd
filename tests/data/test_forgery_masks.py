"""Masks from the difference between a fake and its original, and which crops belong together."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.data.forgery_masks import difference_mask, find_originals
from pipelines.records import VideoRow

SIZE = 380
Image = npt.NDArray[np.uint8]


def _picture(seed: int) -> Image:
    """Smooth random structure of medium contrast: something to register by."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 190, (24, 24, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)).clip(0, 255).astype(np.uint8)


def _ellipse(axes: tuple[int, int], center: tuple[int, int] = (190, 210)) -> npt.NDArray[np.bool_]:
    return cv2.ellipse(np.zeros((SIZE, SIZE), np.uint8), center, axes, 0, 0, 360, 1, -1).astype(bool)


def _swap(picture: Image, where: npt.NDArray[np.bool_]) -> Image:
    return np.where(where[..., None], np.roll(picture, 40, axis=0)[:, ::-1], picture)


def _iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("axes", [(60, 80), (45, 60)])
def test_the_changed_region_is_found(axes: tuple[int, int]) -> None:
    original, where = _picture(0), _ellipse(axes)
    mask = difference_mask(_swap(original, where), original)
    assert mask is not None and mask.shape == (SIZE, SIZE) and mask.dtype == np.uint8
    assert _iou(mask > 127, where) > 0.8


def test_the_original_may_be_cropped_a_little_differently() -> None:
    original, where = _picture(1), _ellipse((60, 80))
    fake = _swap(original, where)
    transform = cv2.getRotationMatrix2D((190, 190), 2.0, 1.03)
    transform[:, 2] += (4, -3)
    moved = cv2.warpAffine(original, transform, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    mask = difference_mask(fake, np.asarray(moved, dtype=np.uint8))
    assert mask is not None and _iou(mask > 127, where) > 0.8


def test_another_picture_is_no_original() -> None:
    assert difference_mask(_picture(2), _picture(3)) is None


def test_an_unchanged_face_says_nothing() -> None:
    assert difference_mask(_picture(4), _picture(4)) is None
    noisy = _picture(4).astype(int) + np.random.default_rng(0).integers(-2, 3, (SIZE, SIZE, 3))
    assert difference_mask(noisy.clip(0, 255).astype(np.uint8), _picture(4)) is None


def test_a_change_far_from_the_face_is_no_forgery() -> None:
    original = _picture(5)
    where = np.zeros((SIZE, SIZE), bool)
    where[:40, :120] = True
    assert difference_mask(_swap(original, where), original) is None


def test_the_face_of_a_wide_crop_is_smaller() -> None:
    original, where = _picture(6), _ellipse((110, 130), (190, 200))
    fake = _swap(original, where)
    tight, wide = difference_mask(fake, original), difference_mask(fake, original, margin=1.6)
    assert tight is not None  # inside the head of a tight crop
    assert wide is None or (wide > 0).sum() < 0.8 * (tight > 0).sum()  # beyond the head of a wide one


def test_a_flat_picture_can_not_be_registered() -> None:
    flat = np.full((SIZE, SIZE, 3), 120, np.uint8)
    changed = flat.copy()
    changed[_ellipse((60, 80))] = 200
    assert difference_mask(changed, flat) is None


def _video(key: str, label: str, original: str | None = None) -> VideoRow:
    return VideoRow(video_id=f"id-{key}", sha256="", video_key=key, path=key, label=label, original=original)


def _face(key: str, frame: int, name: str, x: float | None = None) -> dict[str, Any]:
    box = {} if x is None else {"x0_px": x, "y0_px": 10.0, "x1_px": x + 20, "y1_px": 40.0}
    return {"video_id": f"id-{key}", "frame_index": frame, "crop_path": name, "x0_px": None, **box}


def test_originals_show_the_same_frame_of_the_named_video() -> None:
    videos = [_video("a", "real"), _video("b", "real"), _video("f", "fake", "a"), _video("g", "fake", "gone")]
    faces = [_face("a", 0, "a0"), _face("a", 5, "a5"), _face("b", 0, "b0")]
    faces += [_face("f", 5, "f5"), _face("f", 7, "f7"), _face("g", 0, "g0")]
    assert find_originals(videos, faces) == {"f5": "a5"}


def test_of_several_faces_the_nearest_is_the_original() -> None:
    videos = [_video("a", "real"), _video("f", "fake", "a")]
    faces = [_face("a", 0, "left", 10), _face("a", 0, "right", 300)]
    faces += [_face("f", 0, "f-right", 290), _face("f", 0, "f-left", 20)]
    assert find_originals(videos, faces) == {"f-right": "right", "f-left": "left"}


def test_a_real_video_that_names_an_original_has_none() -> None:
    videos = [_video("a", "real"), _video("b", "real", "a"), _video("f", "fake", "f")]
    assert find_originals(videos, [_face("a", 0, "a0"), _face("b", 0, "b0"), _face("f", 0, "f0")]) == {}
