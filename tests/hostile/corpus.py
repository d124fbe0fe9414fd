"""Small clips of every common kind, odd ones included, whose frames carry their own number."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av

from tests.synthetic import draw_frame, write_video

NUM_FRAMES = 8
SIZE_PX = (64, 48)
RATE_HZ = 25
UNEVEN_MS = (0, 33, 67, 100, 500, 530, 1000, 1040)
GOP = 4
NEGATIVE_MS = tuple(40 * number - 120 for number in range(NUM_FRAMES))
QUIET_HEVC = {"x265-params": "log-level=none"}
SAME_BYTES = {"fflags": "bitexact"}
"""No random numbers and no date, so that a mutation can be made again."""
FASTSTART = {"movflags": "faststart"}

# libsvtav1 prints its settings on standard error unless this is set before it starts.
os.environ.setdefault("SVT_LOG", "0")


@dataclass(frozen=True)
class Entry:
    """One clip: how it is made, and what reading it has to give."""

    name: str
    how: dict[str, Any] = field(default_factory=dict)
    """Arguments of `write_video` besides those that all clips share."""
    change: Callable[[bytes], bytes] | None = None
    """What is done to the file's bytes afterwards."""
    make: Callable[[Path], object] | None = None
    """Writes the file instead of `write_video`."""
    times_ms: tuple[int, ...] | None = None
    """When each frame is shown, from the first one on; None: evenly."""
    first_ms: int | None = None
    """When the first frame is shown; None: whenever the container says."""
    warning: str | None = None
    """Pattern of the warning; None: there is none."""
    refusal: str | None = None
    """Pattern of the error that says why it is unreadable; None: it is readable."""
    is_mutated: bool = True
    """Whether damaged copies of it are tried."""

    @property
    def num_frames(self) -> int:
        """Frames that reading it has to give."""
        return 0 if self.refusal else self.how.get("num_frames", NUM_FRAMES)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height as shown."""
        return self.how.get("size", SIZE_PX)

    @property
    def encoder(self) -> str:
        """FFmpeg's name of what encodes it."""
        return self.how.get("codec", "libx264")

    @property
    def shown_ms(self) -> tuple[int, ...]:
        """When each frame is shown, in milliseconds after the first one."""
        return self.times_ms or tuple(1000 * number // RATE_HZ for number in range(self.num_frames))

    def write(self, folder: Path) -> Path:
        """Make the file in this folder."""
        path = folder / self.name
        if self.make is not None:
            self.make(path)
        else:
            how = {"num_frames": NUM_FRAMES, "size": SIZE_PX, "gop": GOP} | self.how
            how["container_options"] = SAME_BYTES | how.get("container_options", {})
            write_video(path, **how)
        if self.change is not None:
            path.write_bytes(self.change(path.read_bytes()))
        return path


@cache
def has_encoder(name: str) -> bool:
    """Whether this FFmpeg encodes with it."""
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def write_corpus(folder: Path) -> dict[str, Path]:
    """All clips that damaged copies are made of, by name; those whose encoder is missing are left out."""
    chosen = [entry for entry in CORPUS if entry.is_mutated and has_encoder(entry.encoder)]
    return {entry.name: entry.write(folder) for entry in chosen}


def find_entry(name: str) -> Entry:
    """The entry of this name."""
    return next(entry for entry in CORPUS if entry.name == name)


def _write_two_streams(path: Path) -> None:
    """Two moving pictures in one file; the second one is smaller and counts from 500."""
    with av.open(str(path), "w", options=SAME_BYTES) as container:
        streams = []
        for size in (SIZE_PX, (32, 32)):
            stream = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "ultrafast"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            streams.append((stream, size))
        for number in range(NUM_FRAMES):
            for place, (stream, size) in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(draw_frame(500 * place + number, size), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE_HZ)
                container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode(None))


def _scale_durations(factor: float) -> Callable[[bytes], bytes]:
    """Have the header of an MP4 file claim another duration; what the samples say is left as it is."""
    places = {b"mvhd": 20, b"tkhd": 24, b"mdhd": 20}

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for kind, offset in places.items():
            place = data.index(kind) + offset
            (duration,) = struct.unpack_from(">I", data, place)
            struct.pack_into(">I", changed, place, int(duration * factor))
        return bytes(changed)

    return change


def _claim_ten_minutes(data: bytes) -> bytes:
    """Have the header of a Matroska file claim 600 seconds, in milliseconds as a float of eight bytes."""
    place = data.index(b"\x44\x89\x88") + 3
    return data[:place] + struct.pack(">d", 600_000.0) + data[place + 8 :]


def _move_before_zero(data: bytes) -> bytes:
    """Shift the blocks of a Matroska file, whose times are signed and relative to their cluster's."""
    changed = bytearray(data)
    for number, time_ms in enumerate(NEGATIVE_MS):
        flags = 0x80 if number % GOP == 0 else 0
        place = data.index(b"\x81" + struct.pack(">hB", time_ms - NEGATIVE_MS[0], flags))
        struct.pack_into(">h", changed, place + 1, time_ms)
    return bytes(changed)


def _keep_before(mark: bytes, *, margin: int = 0) -> Callable[[bytes], bytes]:
    """Cut the file before the last of these marks, or some bytes earlier."""
    return lambda data: data[: data.rindex(mark) - margin]


def _keep_until_first(mark: bytes, *, margin: int = 0) -> Callable[[bytes], bytes]:
    """Cut the file before the first of these marks, or some bytes earlier."""
    return lambda data: data[: data.index(mark) - margin]


CORPUS: tuple[Entry, ...] = (
    Entry("h264.mp4", {"b_frames": 2}),
    Entry("faststart.mp4", {"b_frames": 2, "container_options": FASTSTART}),
    Entry("fragments.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    Entry("sound.mp4", {"with_audio": True, "num_frames": 16}),
    Entry("h264.mkv", {"b_frames": 2}),
    Entry("h264.ts", {"b_frames": 2}),
    Entry("h264.flv"),
    Entry("h264.avi"),
    Entry("raw.h264"),
    Entry("hevc.mp4", {"codec": "libx265", "options": QUIET_HEVC}),
    Entry("hevc_10bit.mkv", {"codec": "libx265", "pixel_format": "yuv420p10le", "options": QUIET_HEVC}),
    Entry("vp8.webm", {"codec": "libvpx"}),
    Entry("vp9.webm", {"codec": "libvpx-vp9"}),
    Entry("av1.mp4", {"codec": "libsvtav1"}),
    Entry("av1_aom.mkv", {"codec": "libaom-av1"}),
    Entry("theora.ogv", {"codec": "libtheora"}),
    Entry("mpeg4.avi", {"codec": "mpeg4"}),
    Entry("mpeg4.mp4", {"codec": "mpeg4", "b_frames": 2}),
    Entry("mpeg2.mpg", {"codec": "mpeg2video", "b_frames": 2}),
    Entry("windows.wmv", {"codec": "wmv2"}),
    Entry("mjpeg.avi", {"codec": "mjpeg"}),
    Entry("motion.mjpeg", {"codec": "mjpeg"}),
    Entry("prores.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
    Entry("ffv1.mkv", {"codec": "ffv1", "options": {"level": "3", "slicecrc": "1"}}),
    Entry("film.gif", {"codec": "gif"}),
    Entry("high10.mp4", {"pixel_format": "yuv420p10le"}),
    Entry("yuv444.mp4", {"pixel_format": "yuv444p"}),
    Entry("full_range.mp4", {"pixel_format": "yuvj420p"}),
    Entry("interlaced.mp4", {"size": (64, 64), "options": {"x264-params": "tff=1:scenecut=0", "flags": "+ilme+ildct"}}),
    Entry("uneven.mkv", {"pts": UNEVEN_MS}, times_ms=UNEVEN_MS),
    Entry("turned.mp4", {"rotation": 90, "size": (48, 64)}),
    Entry("negative.ts", {"pts": NEGATIVE_MS, "container_options": {"avoid_negative_ts": "disabled"}}, first_ms=NEGATIVE_MS[0]),
    Entry("before_zero.mkv", change=_move_before_zero),
    Entry("tiny.mp4", {"size": (16, 16), "options": {"qp": "0"}, "pixel_format": "yuv444p"}),
    Entry("huge.mp4", {"size": (8192, 4320), "num_frames": 1, "options": {"preset": "ultrafast"}}, is_mutated=False),
    Entry("one.mp4", {"num_frames": 1}),
    Entry("two_streams.mp4", make=_write_two_streams),
    Entry("no_index.avi", {"codec": "mpeg4"}, change=_keep_before(b"idx1")),
    Entry("too_long.mkv", change=_claim_ten_minutes, warning=r"ends early, after 0.3 of 600.0 seconds.*copy it again"),
    Entry("wrong_durations.mp4", change=_scale_durations(10)),
    Entry("no_durations.mp4", change=_scale_durations(0)),
    Entry("no_moov.mp4", change=_keep_before(b"moov", margin=4), refusal="no index .no moov box", is_mutated=False),
    Entry(
        "none.mp4",
        {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
        change=_keep_until_first(b"moof", margin=4),
        refusal="has no video frames",
        is_mutated=False,
    ),
    Entry("none.mkv", change=_keep_until_first(b"\x1f\x43\xb6\x75"), refusal="does not open as a video", is_mutated=False),
    Entry("none.gif", {"codec": "gif"}, change=lambda data: data[:13], refusal="none of the frames", is_mutated=False),
    Entry("none.ts", change=lambda data: data[: 3 * 188], refusal="has no video frames", is_mutated=False),
    Entry("song.mp4", {"audio_only": True, "num_frames": 30}, refusal="no video stream", is_mutated=False),
)  # fmt: skip
