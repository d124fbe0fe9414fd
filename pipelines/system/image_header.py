"""Recognises image files by their first bytes, reads their size without decoding them, and limits it."""

from __future__ import annotations

import struct
from typing import Final

from pipelines.errors import UnreadableError

MAX_MEGAPIXELS: Final = 200
PIXELS_PER_MEGAPIXEL: Final = 1_000_000
MAX_PIXELS: Final = MAX_MEGAPIXELS * PIXELS_PER_MEGAPIXEL
MAX_IMAGE_BYTES: Final = 8 * MAX_PIXELS
"""Size of an uncompressed picture with four 16-bit channels: the limit for a file."""
KNOWN_IMAGE_SUFFIXES: Final = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))

# JPEG segments that state the size: all start-of-frame markers (C4, C8 and CC in that range mean other things).
JPEG_SIZE_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE_MARKERS: Final = frozenset((0x01, *range(0xD0, 0xD8)))
TIFF_NUMBERS: Final = {3: "H", 4: "I"}
TIFF_WIDTH_TAG: Final = 256
TIFF_HEIGHT_TAG: Final = 257


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (18 bytes or more) is PNG, JPEG, BMP, WebP or TIFF."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    # "BM" alone is not enough: the reserved bytes must be zero and the header size a known one.
    return head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:18] in _BMP_HEADER_SIZES


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with `head` is a HEIC or AVIF still picture, which OpenCV does not read."""
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif")


def read_image_size(data: bytes) -> tuple[int, int] | None:
    """(width_px, height_px) as stored, from the whole file's bytes, or None if the header does not say."""
    try:
        if data.startswith(b"\x89PNG"):
            return _pair(struct.unpack_from(">II", data, 16))
        if data.startswith(b"\xff\xd8"):
            return _read_jpeg_size(data)
        if data.startswith(b"BM"):
            is_old = data[14:18] == _OLD_BMP_HEADER_SIZE
            return _pair(struct.unpack_from("<HH" if is_old else "<ii", data, 18))
        if data.startswith(b"RIFF"):
            return _read_webp_size(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _read_tiff_size(data)
    except (struct.error, KeyError):
        pass
    return None


def refuse_giant(name: str, width_px: int, height_px: int) -> None:
    """Raise UnreadableError if a picture of this size is too large to be decoded."""
    if width_px * height_px > MAX_PIXELS:
        raise UnreadableError(f"{name} is {width_px} x {height_px} px, over {MAX_MEGAPIXELS} megapixels; scale it down")


_OLD_BMP_HEADER_SIZE = struct.pack("<I", 12)
_BMP_HEADER_SIZES = frozenset(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return abs(values[0]), abs(values[1])


def _read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 9:  # decoders skip bytes that are not markers
        marker = data[position + 1]
        if marker in JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        if marker in (0x00, 0xFF):
            position += 1
        elif marker in JPEG_BARE_MARKERS:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _read_webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _read_tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    directory = struct.unpack_from(order + "I", data, 4)[0]
    found: dict[int, int] = {}
    for entry in range(struct.unpack_from(order + "H", data, directory)[0]):
        position = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from(order + "HH", data, position)
        if tag in (TIFF_WIDTH_TAG, TIFF_HEIGHT_TAG):
            # numbers that do not fit into the entry are stored elsewhere: KeyError, no size
            found.setdefault(tag, struct.unpack_from(order + TIFF_NUMBERS[kind], data, position + 8)[0])
    return found[TIFF_WIDTH_TAG], found[TIFF_HEIGHT_TAG]
