"""Scans a video's packets without decoding them: which frames exist, when they are shown, where decoding can start."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.video.containers import (
    TRANSPORT_PACKET_BYTES,
    open_container,
    pick_video_stream,
    read_head,
    shown_name,
)
from pipelines.video.reader import VideoInfo

NO_TIME: Final = -(2**63)
MICROSECONDS_PER_SECOND: Final = 1_000_000
NOMINAL_RATE_HZ: Final = Fraction(25)
MAX_DUPLICATE_SHARE: Final = 0.1
MAX_DTS_STEP_BACK_SECONDS: Final = 1
MISSING_SECONDS: Final = 0.5
MISSING_SHARE: Final = 0.03
# Reordering delays at most 16 frames, and each of FFmpeg's default threads one more.
MAX_PACKETS_TO_FIRST_FRAME: Final = 64
# Broadcast and camera recordings and cuts of raw streams may start between keyframes; in any other format, a file
# that does so has lost frames.
BEGINS_ANYWHERE: Final = ("mpegts", "mpeg", "mpegvideo", "wtv", "dhav", "h264", "hevc")
VP8_SHOW_FRAME_BIT: Final = 0x10

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class PacketScan:
    """Facts from the packets of one video stream. A decode position is a packet's position in file order."""

    info: VideoInfo

    timestamps: Int64Array
    """(num_frames,) strictly ascending pts of the frames that are shown."""

    decode_positions: Int64Array
    """(num_frames,) decode position of each of those frames."""

    keyframe_pts: Int64Array
    """(num_keyframes,) ascending pts of the packets where decoding can start; empty if the file is not seekable."""

    keyframe_dts: Int64Array
    """(num_keyframes,) their decoding times; equal to the pts where the file has none."""

    keyframe_positions: Int64Array
    """(num_keyframes,) their decode positions."""

    container_format: str
    """FFmpeg's name of the container format such as `mov,mp4,m4a,3gp,3g2,mj2`."""

    is_matched_by_count: bool
    """Whether the packets lack usable pts, so that the k-th decoded frame is frame k."""

    warning: str | None
    """What is wrong with a file that can still be read, or None."""


@dataclass
class _Packets:
    """The packets of the video stream in file order, as flat arrays of eight bytes per value."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    is_key: array[int] = field(default_factory=lambda: array("b"))
    is_shown: array[int] = field(default_factory=lambda: array("b"))
    num_damaged: int = 0
    first_frame: VideoFrame | None = None
    start_seconds: Fraction | None = None
    end_seconds: Fraction = Fraction(0)
    error: str | None = None


def scan_packets(path: Path) -> PacketScan:
    """Read every packet of the main video stream; decode only up to the first frame, for size and rotation."""
    with open_container(path) as container:
        stream = pick_video_stream(container, path)
        packets = _collect_packets(container, stream)
        warning = _describe_damage(container, stream, packets, path)
        if not any(packets.is_shown):
            raise UnreadableError(f"{shown_name(path)} has no video frames; copy it again from its source")
        scan = _summarise(container.format.name, stream, packets, warning)
        if not scan.info.num_frames:  # a damaged timestamp puts the first keyframe last
            raise UnreadableError(f"{shown_name(path)} has no frame that can be decoded; copy it again from its source")
        return scan


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """The packets of these streams, or of all, in file order.

    Streams that first appear in the middle of a broadcast (or of a damaged file) are skipped: PyAV knows only those
    present at the start and raises IndexError on others.
    """
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:
            continue


def _collect_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    found = _Packets()
    for packet in _read(container, found):
        _note_span(found, packet)
        if packet.stream_index != stream.index:
            continue
        found.pts.append(NO_TIME if packet.pts is None else packet.pts)
        found.dts.append(NO_TIME if packet.dts is None else packet.dts)
        found.is_key.append(packet.is_keyframe)
        found.is_shown.append(not (packet.is_discard or packet.is_corrupt or _is_hidden_vp8(stream, packet)))
        found.num_damaged += packet.is_corrupt
        if found.first_frame is None and len(found.pts) <= MAX_PACKETS_TO_FIRST_FRAME:
            found.first_frame = _decode_first(stream, packet)
    if found.first_frame is None:
        found.first_frame = _decode_first(stream, None)
    return found


def _read(container: InputContainer, found: _Packets) -> Iterator[Packet[Stream]]:
    """Packets with content, of all streams, up to the first read error, which is recorded."""
    try:
        yield from (packet for packet in demux(container) if packet.size > 0)
    except (av.FFmpegError, OSError, ValueError) as error:
        found.error = getattr(error, "strerror", None) or str(error)


def _note_span(found: _Packets, packet: Packet[Stream]) -> None:
    """Extend the time span covered by any stream; the header's duration is that of the longest one."""
    time = packet.pts if packet.pts is not None else packet.dts
    if time is None or not packet.time_base or packet.is_corrupt:
        return
    start = time * packet.time_base
    found.start_seconds = start if found.start_seconds is None else min(start, found.start_seconds)
    found.end_seconds = max(found.end_seconds, start + (packet.duration or 0) * packet.time_base)


def _is_hidden_vp8(stream: VideoStream, packet: Packet[Stream]) -> bool:
    """Whether this is a VP8 reference picture that is never shown (RFC 6386, section 9.1)."""
    return stream.codec_context.name in ("vp8", "libvpx") and not memoryview(packet)[0] & VP8_SHOW_FRAME_BIT


def _decode_first(stream: VideoStream, packet: Packet[Stream] | None) -> VideoFrame | None:
    try:
        frames = stream.codec_context.decode(packet)
    except (av.FFmpegError, ValueError):
        return None
    return frames[0] if frames else None


def _summarise(container_format: str, stream: VideoStream, packets: _Packets, warning: str | None) -> PacketScan:
    time_base = as_fraction(stream.time_base) or 1 / NOMINAL_RATE_HZ
    pts, dts = _as_int64(packets.pts), _as_int64(packets.dts)
    is_key = _as_int64(packets.is_key).astype(bool)
    is_shown = _as_int64(packets.is_shown).astype(bool) & _is_decodable(pts, is_key)
    positions = np.flatnonzero(is_shown)
    # AVI stores no pts: for H.264 with B-frames FFmpeg returns decoding times.
    is_guessed = container_format == "avi" and stream.codec_context.has_b_frames and bool((np.diff(pts) > 0).all())
    is_counted = is_guessed or not _are_usable(pts[is_shown], dts, time_base)
    if is_counted:
        if warning is None and not is_guessed and not (pts == NO_TIME).any():
            warning = "frame times repeat or run backwards and were replaced by frame numbers; convert it to MP4 for true times"
        timestamps = _make_timestamps(stream, dts[is_shown], time_base)
        keys = np.empty(0, dtype=np.int64)
    else:
        timestamps, first = np.unique(pts[is_shown], return_index=True)
        positions, keys = positions[first], _seekable(np.flatnonzero(is_key), pts)
    return PacketScan(
        info=_make_info(stream, packets.first_frame, timestamps, time_base),
        timestamps=timestamps,
        decode_positions=positions.astype(np.int64),
        keyframe_pts=pts[keys],
        keyframe_dts=np.where(dts[keys] == NO_TIME, pts[keys], dts[keys]),
        keyframe_positions=keys.astype(np.int64),
        container_format=container_format,
        is_matched_by_count=is_counted,
        warning=warning,
    )


def as_fraction(ratio: Any) -> Fraction | None:
    """FFmpeg's rational as a Fraction: since version 19 PyAV has its own type for it. None for None and for n/0."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio and ratio.denominator else None


def _as_int64(values: array[int]) -> Int64Array:
    return np.array(values, dtype=np.int64)


def _is_decodable(pts: Int64Array, is_key: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """False for frames before the first keyframe, in file order or in time: decoders do not output them."""
    if not is_key.any():
        return np.ones(len(pts), dtype=bool)
    first = int(np.argmax(is_key))
    is_after = np.arange(len(pts)) >= first
    is_leading = (pts < pts[first]) & (pts != NO_TIME)
    return np.asarray(is_after & ~is_leading, dtype=bool)


def _are_usable(pts: Int64Array, dts: Int64Array, time_base: Fraction) -> bool:
    """Whether each frame has its own pts and time does not restart within the file."""
    if (pts == NO_TIME).any() or len(np.unique(pts)) < len(pts) * (1 - MAX_DUPLICATE_SHARE):
        return False
    known = dts[dts != NO_TIME]
    return not (np.diff(known) < -MAX_DTS_STEP_BACK_SECONDS / float(time_base)).any()


def _make_timestamps(stream: VideoStream, dts: Int64Array, time_base: Fraction) -> Int64Array:
    """Stand-ins for missing pts: the decoding times in order, else frame numbers at the nominal rate."""
    if not (dts == NO_TIME).any() and (np.diff(dts) > 0).all():
        return dts
    rate_hz = as_fraction(stream.average_rate) or as_fraction(stream.guessed_rate) or NOMINAL_RATE_HZ
    ticks = max(1 / (rate_hz * time_base), Fraction(1))
    return np.array([round(index * ticks) for index in range(len(dts))], dtype=np.int64)


def _seekable(keys: NDArray[np.intp], pts: Int64Array) -> NDArray[np.intp]:
    """The keyframes, or none if their file order differs from their time order."""
    is_ordered = bool((pts[keys] != NO_TIME).all() and (np.diff(pts[keys]) > 0).all())
    return keys if is_ordered else keys[:0]


def _make_info(stream: VideoStream, first: VideoFrame | None, timestamps: Int64Array, time_base: Fraction) -> VideoInfo:
    width_px, height_px = (first.width, first.height) if first else (stream.width, stream.height)
    # PyAV gives the counterclockwise angle by which a player turns the stored picture.
    rotation_degrees = round(-first.rotation / 90) * 90 % 360 if first else 0
    if rotation_degrees in (90, 270):
        width_px, height_px = height_px, width_px
    return VideoInfo(
        width_px=width_px,
        height_px=height_px,
        rotation_degrees=rotation_degrees,
        time_base=time_base,
        num_frames=len(timestamps),
        duration_seconds=_measure_duration(stream, timestamps, time_base),
        codec=stream.codec_context.codec.canonical_name,
    )


def _measure_duration(stream: VideoStream, timestamps: Int64Array, time_base: Fraction) -> float:
    if len(timestamps) < 2:
        return float(1 / (as_fraction(stream.average_rate) or NOMINAL_RATE_HZ))
    last = float(np.median(np.diff(timestamps)))
    return (int(timestamps[-1] - timestamps[0]) + last) * float(time_base)


def _describe_damage(container: InputContainer, stream: VideoStream, packets: _Packets, path: Path) -> str | None:
    """One sentence about a file that ends early or has lost packets, else None."""
    remedy = "copy it again from its source"
    missing = _count_beyond_end(stream, path.stat().st_size)
    if missing:
        return f"the file ends early, with {missing} of {len(stream.index_entries)} frames missing; {remedy}"
    promised = (container.duration or 0) / MICROSECONDS_PER_SECOND
    present = float(packets.end_seconds - (packets.start_seconds or 0))
    if promised - present > max(MISSING_SECONDS, MISSING_SHARE * promised):
        return f"the file ends early, after {present:.1f} of {promised:.1f} seconds; {remedy}"
    if packets.error:
        return f"reading stopped in the middle of the file ({packets.error}); {remedy}"
    if packets.num_damaged:
        return f"damaged packets: {packets.num_damaged}; {remedy}"
    early = packets.is_key.index(1) if 1 in packets.is_key else 0
    if early and container.format.name not in BEGINS_ANYWHERE:
        noun = "frame" if early == 1 else "frames"
        return f"{early} {noun} before the first keyframe cannot be decoded; {remedy}"
    lost = _count_not_found(stream, len(packets.pts))
    if lost:
        return f"{lost} of {len(stream.index_entries)} frames in the index could not be found; {remedy}"
    if _is_cut_transport_stream(path):
        return f"the file ends in the middle of a packet; {remedy}"
    return None


def _count_beyond_end(stream: VideoStream, size_bytes: int) -> int:
    """Frames that the index places, wholly or partly, after the end of the file."""
    entries = stream.index_entries
    if len(entries) == 0 or entries[-1].pos + entries[-1].size <= size_bytes:
        return 0
    return sum(entry.pos + entry.size > size_bytes for entry in entries)


def _count_not_found(stream: VideoStream, num_packets: int) -> int:
    """Frames with content that are in the index but were not read."""
    entries = stream.index_entries
    if len(entries) <= num_packets:
        return 0
    return max(0, sum(entry.size > 0 for entry in entries) - num_packets)


def _is_cut_transport_stream(path: Path) -> bool:
    head = read_head(path)
    is_transport = all(head[place : place + 1] == b"G" for place in (0, TRANSPORT_PACKET_BYTES))
    return is_transport and os.path.getsize(path) % TRANSPORT_PACKET_BYTES != 0
