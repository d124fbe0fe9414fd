"""From packets to pictures: a picture with an error is dropped, and what FFmpeg conceals it with is never passed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# FFmpeg conceals damage silently unless told to fail on errors; these decoders flag damaged pictures instead.
MARKING_DECODERS: Final = ("mpeg1video", "mpeg2video")
# Supplemental messages (SEI), by their NAL unit types: H.264 section 7.4.1, HEVC section 7.4.2.2.
MESSAGE_TYPES: Final = {"h264": "6", "hevc": "39|40"}


class DamageMetError(Exception):
    """A picture failed. The output from here on depends on the number of threads and on where decoding started."""


def set_strict(stream: VideoStream) -> None:
    """Make the decoder of a stream fail on errors instead of concealing them. Call before decoding starts."""
    if stream.codec_context.name not in MARKING_DECODERS:
        stream.codec_context.options = stream.codec_context.options | {"err_detect": "explode"}


def decode_intact(
    stream: VideoStream, packets: Iterator[Packet[VideoStream]], *, tolerates_leading: bool
) -> Iterator[VideoFrame]:
    """Pictures in presentation order, up to the first damaged one.

    Args:
        tolerates_leading: ignore as many failures as there are packets before and around the first keyframe, which no
            decoder shows. Not for a file whose pictures are matched by count.

    Raises:
        DamageMetError: a picture does not decode or is damaged.
    """
    leading = _Leading()
    num_errors, is_begun = 0, False
    for packet in _read_packets(packets):
        leading.count(packet)
        try:
            pictures = stream.decode(packet)
        except (av.FFmpegError, ValueError) as error:
            num_errors += 1
            if is_begun or not tolerates_leading or num_errors > leading.number:
                raise DamageMetError from error
            continue
        for picture in pictures:
            is_begun = True
            if picture.is_corrupt:
                raise DamageMetError
            yield picture


def decode_packets(stream: VideoStream, packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame | None]:
    """Pictures in presentation order; None stands for one that does not decode or is damaged.

    After a decoding error FFmpeg fills gaps with parts of older pictures until the next keyframe. Such pictures look
    manipulated, so they are None as well.
    """
    is_begun = is_broken = False
    for packet in _read_packets(packets):
        try:
            pictures = stream.decode(packet)
        except (av.FFmpegError, ValueError):
            bare = _decode_without_messages(stream, packet)
            if bare is None:
                is_broken = True
                if is_begun:
                    yield None
                continue
            pictures = bare
        for picture in pictures:
            is_begun = True
            is_broken = is_broken and not picture.key_frame
            yield None if is_broken or picture.is_corrupt else picture


class _Leading:
    """Counts the packets that no decoder shows: those before the first keyframe, in file order or in time."""

    def __init__(self) -> None:
        self.number = 0
        self._is_begun = False
        self._keyframe_pts: int | None = None

    def count(self, packet: Packet[VideoStream] | None) -> None:
        if packet is None:
            return
        if not self._is_begun and packet.is_keyframe:
            self._is_begun, self._keyframe_pts = True, packet.pts
        elif not self._is_begun:
            self.number += 1
        elif packet.pts is not None and self._keyframe_pts is not None:
            self.number += packet.pts < self._keyframe_pts


def _decode_without_messages(stream: VideoStream, packet: Packet[VideoStream] | None) -> list[VideoFrame] | None:
    """Decode the packet again without its SEI messages, since a bad one harms no picture; None if it still fails."""
    types = MESSAGE_TYPES.get(stream.codec_context.name)
    if packet is None or types is None:
        return None
    size = packet.size
    with suppress(av.FFmpegError, ValueError):
        bare = BitStreamFilterContext(f"filter_units=remove_types={types}", in_stream=stream).filter(packet)
        if sum(part.size for part in bare) < size:
            return [picture for part in bare for picture in stream.decode(part)]
    return None


def _read_packets(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream] | None]:
    """Packets with content up to the first read error, then None, which flushes the decoder."""
    with suppress(av.FFmpegError, OSError):
        yield from (packet for packet in packets if packet.size > 0)
    yield None
