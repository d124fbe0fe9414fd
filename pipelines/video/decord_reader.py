"""Reads frames with decord, which reports no pts or time base: those come from the packet scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigError, UnreadableError
from pipelines.video.containers import shown_name
from pipelines.video.packets import scan_packets
from pipelines.video.reader import Frame, Indices, VideoInfo, check_indices

REMEDY = "use --decoder pyav"

# Measured with decord2 3.4.0: in MPEG-TS its first frame can be that of the second keyframe; these start correctly.
RELIABLE_FORMATS: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# decord applies the display matrix of these; for other containers that is not verified.
ROTATING_FORMATS: Final = RELIABLE_FORMATS[:1]


class DecordReader:
    """A video read with decord, every frame in order.

    Its `skip_frames`, `seek_accurate` and `get_batch` return wrong frames, for instance for open GOPs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decord = _import_decord()
        self._scan = scan_packets(path)
        name = shown_name(path)
        if self._scan.warning is not None:
            # On damaged files decord can crash the process or silently repeat frames.
            raise UnreadableError(f"{name}: {self._scan.warning}, or {REMEDY}")
        formats = ROTATING_FORMATS if self.info.rotation_degrees else RELIABLE_FORMATS
        if self._scan.container_format not in formats:
            raise UnreadableError(f"{name}: decord does not read this container format reliably; {REMEDY}")
        self._video: Any = self._open()
        if len(self._video) != self.info.num_frames:
            raise UnreadableError(
                f"{name}: number of frames by decord: {len(self._video)}, in the file: {self.info.num_frames}; {REMEDY}"
            )

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
        """Always None: a damaged file is refused."""
        return self._scan.warning

    def frames(self, indices: Indices) -> Iterator[Frame]:
        """Yield the frames at ascending `indices`."""
        wanted = check_indices(indices, self.info.num_frames)
        video = self._video or self._open()
        self._video = None  # a second call starts over with a fresh reader
        position = 0
        for index in wanted:
            for _ in range(position, index):
                self._read(video)
            position = index + 1
            pts = int(self.timestamps[index])
            image = np.asarray(self._read(video).asnumpy(), dtype=np.uint8)
            yield Frame(index=index, pts=pts, pts_seconds=float(pts * self.info.time_base), image=image)

    def close(self) -> None:
        """Release decord's decoder."""
        self._video = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        try:
            # With the "file:" prefix, names that look like a protocol or an option are taken literally.
            return self._decord.VideoReader(f"file:{self._path}", ctx=self._decord.cpu(0))
        except (self._decord.DECORDError, RuntimeError, AssertionError, UnicodeError) as error:
            raise UnreadableError(f"{shown_name(self._path)} does not open with decord; {REMEDY}") from error

    def _read(self, video: Any) -> Any:
        """The next frame as decord's array: (H, W, 3) uint8 RGB, upright."""
        try:
            return video.next()
        except (self._decord.DECORDError, RuntimeError, StopIteration) as error:
            raise UnreadableError(f"{shown_name(self._path)} stops decoding with decord; {REMEDY}") from error


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ConfigError("decord is not installed; pip install decord2, or use --decoder pyav") from error
    return decord
