"""Checks the index of an MP4 or MOV file (ISO/IEC 14496-12) before FFmpeg allocates memory for what it claims."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pipelines.errors import UnreadableError

# FFmpeg allocates at least 24 bytes per sample, and an index without a table can claim any number in 20 bytes.
FEW_SAMPLES: Final = 1_000_000
MAX_UNPACKED_BYTES: Final = 2**26
MAX_BOXES: Final = 5_000_000
"""Hours of single-frame fragments have fewer; walking more would take over a minute."""
MAX_DEPTH: Final = 12
"""Nesting of boxes; a track's index is five deep."""
OUTER_BOXES: Final = frozenset((
    b"cmov", b"dinf", b"edts", b"mdia", b"minf", b"moof", b"moov", b"mvex", b"stbl", b"traf", b"trak",
))  # fmt: skip
COUNT_PLACES: Final = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"elst": 4, b"stts": 4}
"""Offset of the number of entries in the box's content (which starts with version and flags)."""


@dataclass
class _Track:
    """What one `trak` box, or one fragment of a track, claims."""

    samples: int = 0
    timed: int = 0
    """Samples in the first entry of the time table."""
    edits: int = 0
    is_sound: bool = False
    is_even: bool = False
    """Whether every sample lasts one tick."""

    @property
    def entries(self) -> int:
        """Index entries that FFmpeg creates: each edit repeats the samples, and plain audio is read in chunks."""
        return 0 if self.is_sound and self.is_even else max(self.samples, self.timed) * max(1, self.edits)


def refuse_bloated_index(path: Path, name: str) -> None:
    """Raise UnreadableError if the index claims more samples than the file has bytes, or is too large when unpacked."""
    size_bytes = os.path.getsize(path)
    with path.open("rb") as file:
        claimed = sum(track.entries for track in _read_tracks(file, size_bytes, name))
    if claimed > max(FEW_SAMPLES, size_bytes):
        raise UnreadableError(
            f"{name} claims {claimed} samples in {size_bytes} bytes; it is damaged or truncated: copy it again from its source"
        )


def _read_tracks(file: BinaryIO, size_bytes: int, name: str, *, is_unpacked: bool = False) -> Iterator[_Track]:
    track = _Track()
    for kind, start, end in _walk(file, size_bytes, name):
        file.seek(start)
        if kind in (b"trak", b"traf"):
            yield track
            track = _Track()
        elif kind == b"cmvd":
            if is_unpacked:
                raise UnreadableError(f"{name} has a packed index inside a packed index; convert it to MP4")
            index = _unpack(file.read(min(end - start, MAX_UNPACKED_BYTES)), name)
            yield from _read_tracks(io.BytesIO(index), len(index), name, is_unpacked=True)
        else:
            _note(track, kind, file.read(16))
    yield track


def _note(track: _Track, kind: bytes, content: bytes) -> None:
    """Update the track from the first bytes of a box."""
    place = COUNT_PLACES.get(kind, 0)
    count = int.from_bytes(content[place : place + 4], "big")
    if kind in (b"stsz", b"stz2", b"trun"):
        track.samples += count
    elif kind == b"elst":
        track.edits += count
    elif kind == b"stts":
        track.timed = int.from_bytes(content[8:12], "big")
        track.is_even = count == 1 and content[12:] == b"\0\0\0\1"
    elif kind == b"hdlr" and content[8:12] in (b"soun", b"vide"):
        track.is_sound = content[8:12] == b"soun"


def _unpack(content: bytes, name: str) -> bytes:
    """The index in a QuickTime `cmvd` box: its length, then the packed bytes. Empty if they do not unpack."""
    length = int.from_bytes(content[:4], "big")
    if length > MAX_UNPACKED_BYTES:
        raise UnreadableError(
            f"{name} has an index that unpacks to {length} bytes, over {MAX_UNPACKED_BYTES}; convert it to MP4"
        )
    if not length:  # for zlib, 0 means no limit
        return b""
    try:
        return zlib.decompressobj().decompress(content[4:], length)
    except zlib.error:
        return b""


def _walk(file: BinaryIO, size_bytes: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, end) of all boxes, outer ones first; no box extends beyond its parent."""
    position, ends, num_boxes = 0, [size_bytes], 0
    while position < size_bytes:
        num_boxes += 1
        if num_boxes > MAX_BOXES or len(ends) > MAX_DEPTH:
            raise UnreadableError(f"{name} has too many boxes; it is damaged: copy it again from its source")
        while position >= ends[-1]:
            ends.pop()
        file.seek(position)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        start = position + (16 if size == 1 else 8)
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        end = min(position + size, ends[-1]) if position + size >= start else ends[-1]
        if start <= end:
            yield kind, start, end
        if kind in OUTER_BOXES and start < end:
            ends.append(end)
            position = start
        else:
            position = end
