"""Reads an image as a video of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.system.image_header import MAX_IMAGE_BYTES, read_image_size, refuse_giant
from pipelines.video.containers import shown_name
from pipelines.video.reader import Frame, Indices, VideoInfo, check_indices

TAIL_BYTES: Final = 65536


class ImageReader:
    """One image as a video: one frame, pts 0, time base 1/1, duration 0. If it has several frames or pages, the first."""

    def __init__(self, path: Path) -> None:
        self._image, self.warning = _read_image(path)
        height_px, width_px = self._image.shape[:2]
        self.info = VideoInfo(
            width_px=width_px,
            height_px=height_px,
            rotation_degrees=0,
            time_base=Fraction(1, 1),
            num_frames=1,
            duration_seconds=0.0,
            codec=path.suffix.lower().lstrip("."),
        )
        self.timestamps: NDArray[np.int64] = np.zeros(1, dtype=np.int64)

    def frames(self, indices: Indices) -> Iterator[Frame]:
        """Yield the image, upright by its EXIF orientation, if index 0 is asked for."""
        for index in check_indices(indices, 1):
            yield Frame(index=index, pts=0, pts_seconds=0.0, image=self._image)

    def close(self) -> None:
        """Nothing stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_image(path: Path) -> tuple[NDArray[np.uint8], str | None]:
    """The picture as (H, W, 3) uint8 RGB, and a warning if the file ends early."""
    name = shown_name(path)
    size_bytes = path.stat().st_size
    if size_bytes > MAX_IMAGE_BYTES:
        raise UnreadableError(f"{name} has {size_bytes} bytes, over {MAX_IMAGE_BYTES} for a picture; scale it down")
    # Python reads the file because OpenCV's own imread fails on Unicode paths on Windows.
    data = path.read_bytes()
    size = read_image_size(data)
    if size is None:
        raise UnreadableError(f"{name} does not decode as an image; copy it again or convert it to PNG")
    refuse_giant(name, *size)
    warning = _warn_if_cut(data)
    try:
        # IMREAD_COLOR honours EXIF orientation and turns grey, alpha and 16-bit into 8-bit colour.
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UnreadableError(f"{name} does not decode as an image ({error.err}); copy it again") from error
    if image is None and warning is not None:
        raise UnreadableError(f"{name}: {warning}")
    if image is None:
        raise UnreadableError(f"{name} does not decode as an image; copy it again or convert it to PNG")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8), warning


def _warn_if_cut(data: bytes) -> str | None:
    end_mark = {b"\x89PN": b"IEND", b"\xff\xd8\xff": b"\xff\xd9"}.get(data[:3])
    if end_mark is None or end_mark in data[-TAIL_BYTES:]:
        return None
    return "the image ends early and part of it is missing; copy it again from its source"
