"""Size limits for pictures, checked before memory is allocated for them."""

from __future__ import annotations

from typing import Final

from pipelines.errors import UnreadableError

MAX_MEGAPIXELS: Final = 200
PIXELS_PER_MEGAPIXEL: Final = 1_000_000
MAX_PIXELS: Final = MAX_MEGAPIXELS * PIXELS_PER_MEGAPIXEL
MAX_IMAGE_BYTES: Final = 8 * MAX_PIXELS
"""Size of an uncompressed picture with four 16-bit channels: the limit for a file."""


def refuse_giant(name: str, width_px: int, height_px: int) -> None:
    """Raise UnreadableError if a picture of this size is too large to be decoded."""
    if width_px * height_px > MAX_PIXELS:
        raise UnreadableError(f"{name} is {width_px} x {height_px} px, over {MAX_MEGAPIXELS} megapixels; scale it down")
