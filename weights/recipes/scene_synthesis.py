"""Invents the detector's training images: photos, pasted face crops and drawn clutter, distorted as video is.

Nothing here carries a label: the teacher network labels every image when it is seen, so any picture will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3), BGR: OpenCV's order and the MobileNet detector's too."""

HELD_OUT_SHARE = 0.1
FACE_SIZE_RANGE_PX = (16.0, 300.0)
MAX_PASTED = 14
CROWD_FACE_SIZE_RANGE_PX = (18.0, 90.0)
CROWD_COUNT_RANGE = (10, 28)


def is_held_out(name: str) -> bool:
    """Whether the photo `name` is kept for measuring; decided by its name alone, so every script agrees."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def read_photos(path: Path, *, held_out: bool) -> list[bytes]:
    """Encoded photos of the training part, or of the held-out part."""
    table = pq.read_table(path, columns=["name", "image"]).to_pydict()
    return [image for name, image in zip(table["name"], table["image"], strict=True) if is_held_out(name) == held_out]


def read_face_crops(path: Path, *, every: int, offset: int = 0) -> list[bytes]:
    """Every `every`-th JPEG crop from the row `offset` on, spread over the whole file."""
    crops: list[bytes] = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=["image_jpeg"]):
        crops.extend(batch.column(0).to_pylist())
    return crops[offset::every]


def decode(encoded: bytes) -> Image:
    """The image as (H, W, 3) uint8 BGR."""
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


def compose_scene(
    photos: Sequence[bytes], crops: Sequence[bytes], *, size_px: int, rng: Generator, crowd_share: float = 0.0
) -> Image:
    """One undistorted (size_px, size_px, 3) scene: a large photo, a collage of photos, pasted face crops, or a crowd.

    The collages leave few faces to the anchors of 16 and 32 px; the crowds, a share 0..1 of all scenes, make up for it.
    """
    if crowd_share > 0 and rng.random() < crowd_share:
        return _compose_crowd(photos, crops, size_px, rng)
    kind = rng.choice(3, p=[0.25, 0.4, 0.35])
    if kind == 0:
        return _enlarge_one_photo(_pick(photos, rng), size_px, rng)
    scene = _draw_background(photos, size_px, rng)
    sources = photos if kind == 1 else crops
    for _ in range(int(rng.integers(1, MAX_PASTED))):
        image = _pick(sources if rng.random() < 0.85 else crops, rng)
        _paste(scene, _resize_to(image, _log_uniform(_size_range(size_px), rng)), rng)
    return scene


def distort(image: Image, rng: Generator) -> Image:
    """The same size; sometimes mirrored, turned, recoloured, darkened, blurred, noisy or compressed."""
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.3:
        image = rotate(image, rng.uniform(-30, 30), rng)
    if rng.random() < 0.15:
        image = cover(image, rng)
    if rng.random() < 0.7:
        image = _recolour(image, rng)
    if rng.random() < 0.08:
        image = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), rng.uniform(0.4, 2.0))
    if rng.random() < 0.15:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(2, 12)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 95))
        image = decode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return np.ascontiguousarray(image)


def _compose_crowd(photos: Sequence[bytes], crops: Sequence[bytes], size_px: int, rng: Generator) -> Image:
    scene = _draw_background(photos, size_px, rng)
    for _ in range(int(rng.integers(*CROWD_COUNT_RANGE))):
        image = _pick(photos if rng.random() < 0.6 else crops, rng)
        _paste(scene, _resize_to(image, _log_uniform(CROWD_FACE_SIZE_RANGE_PX, rng)), rng)
    return scene


def _pick(encoded: Sequence[bytes], rng: Generator) -> Image:
    return decode(encoded[int(rng.integers(len(encoded)))])


def _size_range(scene_size_px: int) -> tuple[float, float]:
    # Videos are searched at 960 px, where a near face is 400 px tall: bigger scenes take bigger pastes.
    smallest, largest = FACE_SIZE_RANGE_PX
    return smallest * (1 if scene_size_px <= 320 else 1.5), max(largest, 0.8 * scene_size_px)


def _log_uniform(bounds: tuple[float, float], rng: Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _resize_to(image: Image, long_side_px: float) -> Image:
    scale = long_side_px / max(image.shape[:2])
    size = (max(4, round(image.shape[1] * scale)), max(4, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _enlarge_one_photo(photo: Image, size_px: int, rng: Generator) -> Image:
    """The photo at 0.7 to 2 times the scene's size, cut where it is larger, on a flat colour where it is smaller."""
    photo = _resize_to(photo, size_px * _log_uniform((0.7, 2.0), rng))
    scene = np.empty((size_px, size_px, 3), np.uint8)
    scene[:] = rng.integers(0, 256, 3)
    y, x = (int(rng.integers(min(0, size_px - side), max(0, size_px - side) + 1)) for side in photo.shape[:2])
    _copy_clipped(scene, photo, y, x)
    return scene


def _draw_background(photos: Sequence[bytes], size_px: int, rng: Generator) -> Image:
    """A stretched part of a photo, a flat colour, a smooth gradient or noise; half of them with drawn clutter."""
    kind = rng.choice(4, p=[0.45, 0.15, 0.25, 0.15])
    if kind == 0:
        scene = _stretch_part(_pick(photos, rng), size_px, rng)
    elif kind == 1:
        scene = np.empty((size_px, size_px, 3), np.uint8)
        scene[:] = rng.integers(0, 256, 3)
    else:
        cells = int(rng.integers(2, 6)) if kind == 2 else int(rng.integers(20, 160))
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        scene = cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        _draw_clutter(scene, rng)
    return scene


def _stretch_part(photo: Image, size_px: int, rng: Generator) -> Image:
    """A random part of the photo, too small or too distorted to leave many whole faces."""
    height, width = photo.shape[:2]
    part_height, part_width = (max(8, int(side * rng.uniform(0.15, 1.0))) for side in (height, width))
    y, x = int(rng.integers(height - part_height + 1)), int(rng.integers(width - part_width + 1))
    part = photo[y : y + part_height, x : x + part_width]
    return cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_CUBIC)


def _draw_clutter(scene: Image, rng: Generator) -> None:
    """Lines, boxes, ellipses and letters: the furniture of rooms, which close-up photos lack."""
    size = scene.shape[0]
    for _ in range(int(rng.integers(2, 25))):
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        (x0, y0), (x1, y1) = rng.integers(0, size, (2, 2)).tolist()
        thickness = int(rng.integers(1, 10))
        kind = rng.integers(4)
        if kind == 0:
            cv2.line(scene, (x0, y0), (x1, y1), colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(scene, (x0, y0), (x1, y1), colour, -1 if rng.random() < 0.5 else thickness)
        elif kind == 2:
            axes = (max(2, abs(x1 - x0) // 3), max(2, abs(y1 - y0) // 3))
            angle = float(rng.uniform(0, 180))
            fill = -1 if rng.random() < 0.5 else thickness
            cv2.ellipse(scene, (x0, y0), axes, angle, 0, 360, colour, fill, cv2.LINE_AA)
        else:
            text = "".join(chr(int(code)) for code in rng.integers(33, 127, 6))
            cv2.putText(scene, text, (x0, y0), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.3, 3), colour, 2, cv2.LINE_AA)


def _paste(scene: Image, image: Image, rng: Generator) -> None:
    """Puts the image anywhere, up to a fifth of it outside; sometimes within a soft ellipse instead of hard edges."""
    if rng.random() < 0.25:
        image = rotate(image, rng.uniform(-30, 30), rng)
    (height, width), size = image.shape[:2], scene.shape[0]
    y = int(rng.integers(-height // 5, max(-height // 5 + 1, size - height * 4 // 5)))
    x = int(rng.integers(-width // 5, max(-width // 5 + 1, size - width * 4 // 5)))
    _copy_clipped(scene, image, y, x, soft=rng.random() < 0.35)


def _copy_clipped(scene: Image, image: Image, y: int, x: int, *, soft: bool = False) -> None:
    top, left = max(0, y), max(0, x)
    bottom, right = min(scene.shape[0], y + image.shape[0]), min(scene.shape[1], x + image.shape[1])
    if bottom <= top or right <= left:
        return
    inside = np.s_[top - y : bottom - y, left - x : right - x]
    if not soft:
        scene[top:bottom, left:right] = image[inside]
        return
    alpha = _soft_ellipse(image.shape[0], image.shape[1])[inside]
    mixed = image[inside] * alpha + scene[top:bottom, left:right] * (1 - alpha)
    scene[top:bottom, left:right] = mixed.astype(np.uint8)


def _soft_ellipse(height_px: int, width_px: int) -> NDArray[np.float32]:
    """(H, W, 1) in 0..1: one inside the inscribed ellipse, falling to zero at the corners."""
    y = np.linspace(-1, 1, height_px, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width_px, dtype=np.float32)[None, :]
    return np.clip((1.1 - np.sqrt(x * x + y * y)) / 0.2, 0, 1)[..., None]


def rotate(image: Image, degrees: float, rng: Generator) -> Image:
    """About the centre; what comes into view is mirrored or black."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    border = cv2.BORDER_REFLECT_101 if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, (width, height), borderMode=border)


def cover(image: Image, rng: Generator) -> Image:
    """A few flat bars and patches over the scene: masks, hands, captions, posts."""
    covered = image.copy()
    size = image.shape[0]
    for _ in range(int(rng.integers(3, 12))):
        height, width = (max(2, round(_log_uniform((0.01, 0.2), rng) * size)) for _ in range(2))
        y, x = int(rng.integers(0, size - height + 1)), int(rng.integers(0, image.shape[1] - width + 1))
        covered[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    return covered


def _recolour(image: Image, rng: Generator) -> Image:
    """Another gamma, contrast, brightness and colour cast; one in eight very dark."""
    levels = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** np.exp(rng.uniform(-0.5, 0.5))
    gains = rng.uniform(0.6, 1.3) * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.125:
        gains *= rng.uniform(0.15, 0.5)
    table = np.clip(levels * gains * 255 + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(image), table[:, None, :])
