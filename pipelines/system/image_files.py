"""Images (H, W, 3) uint8 RGB and grey masks (H, W) uint8: reading and writing PNG and JPEG, and joining several into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.errors import InputError, ManifestError
from pipelines.system.image_header import MAX_PIXELS, read_image_size

Image = npt.NDArray[np.uint8]
PNG_COMPRESSION = 1
"""Out of 0..9: larger files than the default, written several times faster."""
JPEG_QUALITY = 95
WHITE = 255
SEPARATOR_PX = 2


def write_image(path: Path, image: Image) -> None:
    """Write in the format of the suffix. Encoded in memory first, so that a full disk raises OSError."""
    path.write_bytes(encode_image(image, path.suffix))


def encode_image(image: Image, suffix: str) -> bytes:
    """The file's content for `.png` or `.jpg`; an image (H, W) is written grey."""
    is_png = suffix == ".png"
    options = [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION] if is_png else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    stored = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, stored, options)[1].tobytes()


def read_image(path: Path) -> Image:
    """Read a picture that a stage has written.

    Raises:
        InputError: the file is missing or damaged.
        ManifestError: the file is a symbolic link, which no stage writes and which may point anywhere.
    """
    if path.is_symlink():
        raise ManifestError(
            f"{path} is a link, not a picture; put a copy of the picture there, or make the stage again"
        )
    image = decode_image(path.read_bytes() if path.is_file() else b"")
    if image is None:
        raise InputError(f"{path} is missing or damaged; make the stage again with --overwrite")
    return image


def decode_image(data: bytes) -> Image | None:
    """(H, W, 3) uint8 RGB from an encoded picture, or None if it does not decode or exceeds MAX_PIXELS."""
    size_px = read_image_size(data)
    if size_px is not None and size_px[0] * size_px[1] > MAX_PIXELS:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # a header that claims more pixels than OpenCV allows
        return None
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_mask(data: bytes) -> Image | None:
    """(H, W) uint8 from an encoded picture of a mask, as `to_mask` makes it of its colours, or None as `decode_image`.

    A picture with the values 0 and 1 only, as arrays of classes are often stored, is read as 0 and 255.
    """
    image = decode_image(data)
    if image is None:
        return None
    mask = to_mask(image)
    return mask * WHITE if mask.max() == 1 else mask


def to_mask(image: Image) -> Image:
    """(H, W) uint8 from (H, W, 3): the brightest channel, so that a region marked in any colour counts."""
    return np.asarray(image.max(axis=2), dtype=np.uint8)


def join_images(images: Sequence[Image], *, axis: int, gap_px: int = SEPARATOR_PX) -> Image:
    """Images side by side (axis 1) or stacked (axis 0), separated by white. They must be equally long across the axis."""
    gap_shape = list(images[0].shape)
    gap_shape[axis] = gap_px
    gap = np.full(gap_shape, WHITE, np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis=axis)
