"""Files whose headers claim more than any machine holds, or whose few bytes unfold to very many."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.synthetic import write_video

ABSURD_PX = 65535
Make = Callable[[Path], bytes]
"""From a folder for what is needed on the way to the file's content."""
GIANT_PX = 16000
"""A side that FFmpeg accepts by default: a picture of 256 megapixels."""
MACROBLOCK_PX = 16
SMALL_PX = (64, 48)
START_CODE = b"\x00\x00\x00\x01"
NUM_FRAMES = 6
NUM_BEFORE_GROWTH = 100


def _png(width: int, height: int, *, rows: int = 1) -> bytes:
    """8-bit RGB; the data unfold to `rows` black rows."""
    unpacker = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    data = b"".join(unpacker.compress(row) for _ in range(rows)) + unpacker.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _picture(suffix: str) -> bytearray:
    return bytearray(cv2.imencode(suffix, np.full((48, 64, 3), 90, np.uint8))[1].tobytes())


def _jpeg() -> bytes:
    data = _picture(".jpg")
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, ABSURD_PX, ABSURD_PX)
    return bytes(data)


def _jpeg_with_garbage() -> bytes:
    """Bytes between two segments, which decoders skip with a warning."""
    data = _jpeg()
    place = data.index(b"\xff\xc0")
    return data[:place] + bytes(7) + data[place:]


def _bmp() -> bytes:
    data = _picture(".bmp")
    struct.pack_into("<ii", data, 18, ABSURD_PX, -ABSURD_PX)
    return bytes(data)


def _webp() -> bytes:
    """Lossless, of the greatest size that the format can state: 268 megapixels."""
    data = bytearray(
        cv2.imencode(".webp", np.zeros((48, 64, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    )
    place = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place, bits | 0x0FFFFFFF)
    return bytes(data)


def _tiff(*, kind: int = 4, tile_px: int | None = None) -> bytes:
    """One uncompressed strip or tile of a picture of absurd size; `kind` is the type of the numbers."""
    side = 64 if tile_px else ABSURD_PX
    tags = [(256, kind, side), (257, kind, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    tags += (
        [(322, 4, tile_px), (323, 4, tile_px), (324, 4, 8), (325, 4, 64)]
        if tile_px
        else [(273, 4, 8), (278, 4, side), (279, 4, 64)]
    )
    entries = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(64)


def _gif(width: int, height: int) -> bytes:
    """One frame of this size and hardly any data."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + image * 2 + b"\x3b"


def _enlarged_mp4(folder: Path) -> bytes:
    """The sample description and the track header claim it; the picture's own header is left as it is."""
    data = bytearray(_small_clip(folder, ".mp4"))
    struct.pack_into(">HH", data, data.index(b"avc1", data.index(b"stsd")) + 28, ABSURD_PX, ABSURD_PX)
    struct.pack_into(">II", data, data.index(b"tkhd") + 80, ABSURD_PX << 16, ABSURD_PX << 16)
    return bytes(data)


def _enlarged_mkv(folder: Path) -> bytes:
    """Width and height take the room of another property of the picture."""
    width, height = SMALL_PX
    small = b"\xb0\x81" + bytes((width,)) + b"\xba\x81" + bytes((height,)) + b"\x54\xb2\x81\x04"
    absurd = b"\xb0\x82\xff\xff\xba\x82\xff\xff\xec\x80"
    data = _small_clip(folder, ".mkv", codec="libvpx-vp9")
    assert small in data
    return data.replace(small, absurd)


def _enlarged_avi(folder: Path) -> bytes:
    data = bytearray(_small_clip(folder, ".avi", codec="mjpeg"))
    struct.pack_into("<ii", data, data.index(b"strf") + 12, ABSURD_PX, ABSURD_PX)
    return bytes(data)


def _giant_h264(folder: Path) -> bytes:
    """A raw stream whose pictures say that they are larger than they may be."""
    return _with_giant_header(_small_clip(folder, ".h264"))


def _growing_h264(folder: Path) -> bytes:
    """So many small pictures that FFmpeg does not look further when it opens the file; then giant ones."""
    clip = _small_clip(folder, ".h264", num_frames=NUM_BEFORE_GROWTH)
    return clip + _with_giant_header(_small_clip(folder, ".h264"))


def _giant_mpeg(folder: Path) -> bytes:
    """MPEG-2 in a program stream, whose streams are found on the way: 12 bits a side, and 2 more in the extension."""
    data = bytearray(_small_clip(folder, ".mpg", codec="mpeg2video"))
    place = data.index(b"\x00\x00\x01\xb3") + 4
    low, high = GIANT_PX & 0xFFF, GIANT_PX >> 12
    data[place : place + 3] = (low << 12 | low).to_bytes(3, "big")
    place = data.index(b"\x00\x00\x01\xb5") + 4
    (bits,) = struct.unpack_from(">I", data, place)
    struct.pack_into(">I", data, place, bits & ~(0xF << 13) | high << 15 | high << 13)
    return bytes(data)


def _with_giant_header(stream: bytes) -> bytes:
    """An H.264 stream with its sequence headers replaced."""
    parts = stream.split(START_CODE)
    return START_CODE.join(_giant_sequence_header() if part[:1] == b"\x67" else part for part in parts)


def _giant_sequence_header() -> bytes:
    """Of H.264's baseline profile (7.3.2.1.1): `GIANT_PX` squared, one reference picture, order of output as decoded."""
    side = GIANT_PX // MACROBLOCK_PX
    numbers = [0, 0, 2, 1]  # identity, frame number bits - 4, order type, reference pictures
    bits = "".join(map(_exp_golomb, numbers)) + "0" + _exp_golomb(side - 1) + _exp_golomb(side - 1) + "1100" + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\x00\x3e" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _exp_golomb(number: int) -> str:
    code = bin(number + 1)[2:]
    return "0" * (len(code) - 1) + code


def _many_samples(folder: Path, *, claimed: int = 20_000_000) -> bytes:
    """An index without a table: every sample is one byte, all in one chunk."""
    data = bytearray(_small_clip(folder, ".mp4"))
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, claimed)
    struct.pack_into(">IIII", data, data.index(b"stsc") + 8, 1, 1, claimed, 1)
    struct.pack_into(">III", data, data.index(b"stts") + 8, 1, claimed, 512)
    place = data.index(b"stss")
    data[place : place + 4] = b"free"
    return bytes(data)


def _many_edits(folder: Path) -> bytes:
    """Samples that are few enough, each shown many times."""
    data = bytearray(_many_samples(folder, claimed=900_000))
    struct.pack_into(">I", data, data.index(b"elst") + 8, 1000)
    return bytes(data)


def _hidden_behind(size: int) -> Make:
    """The index of many samples after an inner box of this size, which ends with the box around it all the same."""

    def make(folder: Path) -> bytes:
        data = _many_samples(folder)
        place, start = data.rindex(b"trak") - 4, data.rindex(b"moov") - 4
        shield = _box(b"edts", struct.pack(">I", size) + b"free")
        (length,) = struct.unpack_from(">I", data, start)
        grown = struct.pack(">I", length + len(shield))
        return data[:start] + grown + data[start + 4 : place] + shield + data[place:]

    return make


def _many_fragment_samples(folder: Path) -> bytes:
    """A fragment without a table: sizes and times of its samples are the defaults."""
    data = bytearray(_small_clip(folder, ".mp4", container_options={"movflags": "frag_keyframe+empty_moov"}))
    struct.pack_into(">II", data, data.index(b"trun") + 4, 0, 20_000_000)
    return bytes(data)


def _long_times(folder: Path) -> bytes:
    data = bytearray(_small_clip(folder, ".mp4"))
    struct.pack_into(">III", data, data.index(b"stts") + 8, 1, 2**31 - 1, 2**31 - 1)
    return bytes(data)


def _packed(folder: Path, make: Callable[[Path], bytes]) -> bytes:
    """The same file with its index packed, as QuickTime once did."""
    data = make(folder)
    place = data.rindex(b"moov") - 4
    return data[:place] + _pack_index(data[place:])


def _unfolding_index(_folder: Path) -> bytes:
    """It claims a gigabyte, and is the beginning of one."""
    return _box(b"ftyp", b"qt  " + bytes(4)) + _box_index(2**30, zlib.compress(bytes(2**25), 1))


def _endless_index(_folder: Path) -> bytes:
    """It claims nothing, which to zlib is no limit, and unpacks to a gigabyte."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(64)) + packer.flush()
    return _box(b"ftyp", b"qt  " + bytes(4)) + _box_index(0, packed)


def _nested_boxes(_folder: Path) -> bytes:
    boxes = b""
    for _ in range(64):
        boxes = _box(b"moov", boxes)
    return _box(b"ftyp", b"qt  " + bytes(4)) + boxes


def _pack_index(index: bytes) -> bytes:
    return _box_index(len(index), zlib.compress(index))


def _box_index(length: int, packed: bytes) -> bytes:
    content = _box(b"dcom", b"zlib") + _box(b"cmvd", struct.pack(">I", length) + packed)
    return _box(b"moov", _box(b"cmov", content))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _small_clip(folder: Path, suffix: str, **how: Any) -> bytes:
    return write_video(folder / f"plain{suffix}", **({"num_frames": NUM_FRAMES, "size": SMALL_PX} | how)).read_bytes()


OVER = r"over 200 megapixels; scale it down"
NO_IMAGE = "does not decode as an image"
CLAIMS = "claims [0-9]+ samples in [0-9]+ bytes"

BOMBS: dict[str, tuple[Make, str | int]] = {
    "absurd.png": (lambda _: _png(100_000, 100_000), OVER),
    "solid.png": (lambda _: _png(20_000, 20_000, rows=500), OVER),
    "absurd.jpg": (lambda _: _jpeg(), OVER),
    "garbage.jpg": (lambda _: _jpeg_with_garbage(), OVER),
    "absurd.bmp": (lambda _: _bmp(), OVER),
    "absurd.webp": (lambda _: _webp(), OVER),
    "absurd.tif": (lambda _: _tiff(), OVER),
    "eight_bytes.tif": (lambda _: _tiff(kind=16), NO_IMAGE),
    "tile.tif": (lambda _: _tiff(tile_px=16384), NO_IMAGE),
    "absurd.gif": (lambda _: _gif(ABSURD_PX, ABSURD_PX), OVER),
    "giant.gif": (lambda _: _gif(GIANT_PX, GIANT_PX), OVER),
    "giant.h264": (_giant_h264, OVER),
    "giant.mpg": (_giant_mpeg, OVER),
    "grows.h264": (_growing_h264, NUM_BEFORE_GROWTH),
    "absurd.mp4": (_enlarged_mp4, NUM_FRAMES),
    "absurd.mkv": (_enlarged_mkv, NUM_FRAMES),
    "absurd.avi": (_enlarged_avi, NUM_FRAMES),
    "many_samples.mp4": (_many_samples, CLAIMS),
    "many_edits.mp4": (_many_edits, CLAIMS),
    "many_in_fragment.mp4": (_many_fragment_samples, CLAIMS),
    "behind_endless.mp4": (_hidden_behind(0), CLAIMS),
    "behind_overlong.mp4": (_hidden_behind(2**31 - 1), CLAIMS),
    "packed_many.mov": (lambda folder: _packed(folder, _many_samples), CLAIMS),
    "packed_twice.mov": (
        lambda folder: _packed(folder, lambda inner: _packed(inner, _plain_mp4)),
        "packed index inside",
    ),
    "packed.mov": (lambda folder: _packed(folder, _plain_mp4), NUM_FRAMES),
    "unfolding.mov": (_unfolding_index, "unpacks to 1073741824 bytes"),
    "endless.mov": (_endless_index, "damaged"),
    "nested.mov": (_nested_boxes, "too many boxes"),
    "long_times.mp4": (_long_times, CLAIMS),
}
"""How each file is made, and the pattern of its refusal or the number of its frames that are read."""


def _plain_mp4(folder: Path) -> bytes:
    return _small_clip(folder, ".mp4")
