"""Reads frames with PyAV (FFmpeg): the reference backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.system.resources import num_threads
from pipelines.video.containers import open_container, pick_video_stream, shown_name
from pipelines.video.decoding import DamageMetError, decode_intact, decode_packets, set_strict
from pipelines.video.packets import PacketScan, demux, scan_packets
from pipelines.video.reader import Frame, Indices, VideoInfo, check_indices, rotate_clockwise

MAX_FFMPEG_THREADS: Final = 16
PASSED_OVER: Final = "frames decode only if errors are ignored, so they may be damaged; copy it again from its source"


@dataclass(frozen=True)
class Run:
    """Wanted frames that are decoded in one go."""

    keyframe: int | None
    """Index of the scan's keyframe to seek to, or None for the start of the file."""

    indices: tuple[int, ...]
    """Ascending frame indices."""


@dataclass(frozen=True)
class Way:
    """How to decode."""

    threads: int = 1
    ends_at_damage: bool = False
    is_strict: bool = True
    """Whether a picture with an error is dropped; otherwise errors are ignored where possible."""
    keyframes_before: int = 0
    """Number of keyframes to start early by: after a seek into an open GOP the first pictures fail."""


class PyAVReader:
    """A video read with PyAV; no file stays open between calls to `frames`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scan = scan_packets(path)
        self._lenient_warning: str | None = None

    @property
    def info(self) -> VideoInfo:
        """Facts about the file."""
        return self._scan.info

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """(num_frames,) int64, strictly ascending pts."""
        return self._scan.timestamps

    @property
    def warning(self) -> str | None:
        """What is wrong with a file that can still be read, or None; complete once its frames have been read."""
        return "; ".join(filter(None, (self._scan.warning, self._lenient_warning))) or None

    def frames(self, indices: Indices) -> Iterator[Frame]:
        """Yield the frames at ascending `indices`; one that does not decode is left out.

        Raises UnreadableError if none of them decodes.
        """
        wanted = check_indices(indices, self.info.num_frames)
        last = None
        for frame in self._read(wanted):
            last = frame.index
            yield frame
        if wanted and last is None:
            for frame in self._read_runs(wanted, Way(is_strict=False)):
                last = frame.index
                self._lenient_warning = PASSED_OVER
                yield frame
        if wanted and last is None:
            name = shown_name(self._path)
            raise UnreadableError(
                f"{name}: none of the frames can be decoded; it is damaged or encrypted: copy it again"
            )

    def close(self) -> None:
        """Nothing stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        """Frames as decoded by one thread from the keyframe before: the result after damage depends on threads and start."""
        last = -1
        try:
            for frame in self._read_runs(wanted, Way(_num_ffmpeg_threads(), ends_at_damage=True)):
                last = frame.index
                yield frame
        except DamageMetError:
            yield from self._read_runs(wanted, Way(keyframes_before=1), after=last)

    def _read_runs(self, wanted: list[int], way: Way, after: int = -1) -> Iterator[Frame]:
        """The wanted frames with an index greater than `after`, decoded exactly as if all were read."""
        waiting = [run for run in plan_runs(self._scan, wanted, way.threads) if run.indices[-1] > after]
        with open_container(self._path) as container:
            stream = _pick_stream(container, self._path, way)
            while waiting:
                packets = self._seek(container, stream, waiting[0], way)
                if packets is None:
                    break
                yield from self._match(self._decode(stream, packets, way), waiting.pop(0), after)
        if waiting:
            # The file is not seekable: read the rest in order, from the start.
            rest = Run(keyframe=None, indices=tuple(index for run in waiting for index in run.indices))
            with open_container(self._path) as container:
                stream = _pick_stream(container, self._path, way)
                yield from self._match(self._decode(stream, demux(container, stream), way), rest, after)

    def _decode(
        self, stream: VideoStream, packets: Iterator[Packet[VideoStream]], way: Way
    ) -> Iterator[VideoFrame | None]:
        if way.ends_at_damage:
            return decode_intact(stream, packets, tolerates_leading=not self._scan.is_matched_by_count)
        return decode_packets(stream, packets)

    def _seek(
        self, container: InputContainer, stream: VideoStream, run: Run, way: Way
    ) -> Iterator[Packet[VideoStream]] | None:
        """Packets from the run's keyframe or earlier, never later; None if the container cannot seek there."""
        if run.keyframe is None:
            return demux(container, stream)
        keyframe = max(0, run.keyframe - way.keyframes_before)
        pts, dts = int(self._scan.keyframe_pts[keyframe]), int(self._scan.keyframe_dts[keyframe])
        # Matroska's index stores pts, MP4's dts: too late a target would land on a later keyframe.
        for target in (pts, dts):
            with suppress(av.FFmpegError, OSError):
                container.seek(target, stream=stream)
                packets = demux(container, stream)
                first = next(packets, None)
                if first is not None and _is_not_after(first, pts, dts):
                    return chain([first], packets)
        return None

    def _match(self, decoded: Iterator[VideoFrame | None], run: Run, after: int) -> Iterator[Frame]:
        match = self._match_by_count if self._scan.is_matched_by_count else self._match_by_pts
        yield from (self._convert(picture, index) for picture, index in match(decoded, run) if index > after)

    def _match_by_pts(self, decoded: Iterator[VideoFrame | None], run: Run) -> Iterator[tuple[VideoFrame, int]]:
        waiting = [(int(self.timestamps[index]), index) for index in reversed(run.indices)]
        for picture in decoded:
            if picture is None or picture.pts is None:
                continue
            while waiting and waiting[-1][0] < picture.pts:
                waiting.pop()
            if waiting and waiting[-1][0] == picture.pts:
                yield picture, waiting.pop()[1]
            if not waiting:
                return

    def _match_by_count(self, decoded: Iterator[VideoFrame | None], run: Run) -> Iterator[tuple[VideoFrame, int]]:
        wanted = set(run.indices)
        for index, picture in enumerate(decoded):
            if picture is not None and index in wanted:
                yield picture, index
            if index >= run.indices[-1]:
                return

    def _convert(self, picture: VideoFrame, index: int) -> Frame:
        pts = int(self.timestamps[index])
        image = np.asarray(picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        return Frame(
            index=index,
            pts=pts,
            pts_seconds=float(pts * self.info.time_base),
            image=rotate_clockwise(image, self.info.rotation_degrees),
        )


def plan_runs(scan: PacketScan, indices: Sequence[int], threads: int) -> list[Run]:
    """For each wanted frame, continue decoding or seek to its keyframe, whichever decodes fewer frames."""
    runs: list[tuple[int | None, list[int]]] = []
    position, seek_cost = 0, _seek_cost_frames(threads)
    for index in indices:
        target = int(scan.decode_positions[index])
        keyframe = int(np.searchsorted(scan.keyframe_pts, scan.timestamps[index], side="right")) - 1
        skipped = int(scan.keyframe_positions[keyframe]) - position if keyframe >= 0 else 0
        if skipped > seek_cost:
            runs.append((keyframe, [index]))
        elif runs:
            runs[-1][1].append(index)
        else:
            runs.append((None, [index]))
        position = max(position, target + 1)
    return [Run(keyframe=keyframe, indices=tuple(members)) for keyframe, members in runs]


def _pick_stream(container: InputContainer, path: Path, way: Way) -> VideoStream:
    stream = pick_video_stream(container, path)
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = way.threads
    if way.is_strict:
        set_strict(stream)
    return stream


def _num_ffmpeg_threads() -> int:
    return min(num_threads(), MAX_FFMPEG_THREADS)


def _seek_cost_frames(threads: int) -> int:
    """Cost of a seek in decoded frames: FFmpeg decodes one frame per thread ahead, and a seek discards them."""
    return min(threads + 1, MAX_FFMPEG_THREADS)


def _is_not_after(packet: Packet[VideoStream], pts: int, dts: int) -> bool:
    """Whether decoding from this packet reaches the keyframe with these times."""
    if packet.dts is not None:
        return packet.dts <= dts
    return packet.is_keyframe and packet.pts is not None and packet.pts <= pts
