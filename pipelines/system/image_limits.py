"""How large a picture may be, whatever the file: looked at before memory is taken for it."""

from __future__ import annotations

from typing import Final

from pipelines.errors import UnreadableError

MAX_MEGAPIXELS: Final = 200
PIXELS_PER_MEGAPIXEL: Final = 1_000_000
MAX_PIXELS: Final = MAX_MEGAPIXELS * PIXELS_PER_MEGAPIXEL
MAX_IMAGE_BYTES: Final = 8 * MAX_PIXELS
"""Of a picture's file: four channels of 16 bits without compression."""


def refuse_giant(name: str, width_px: int, height_px: int) -> None:
    """Raise UnreadableError if a picture of this size is too large to be decoded."""
    if width_px * height_px > MAX_PIXELS:
        raise UnreadableError(f"{name} is {width_px} x {height_px} px, over {MAX_MEGAPIXELS} megapixels; scale it down")
