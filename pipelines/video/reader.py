"""The video interface of the library: frames, facts about the file, and the reader protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """One decoded picture, upright."""

    index: int
    """Position in presentation order, from 0."""

    pts: int
    """Presentation time in units of the file's time base; may be negative."""

    pts_seconds: float
    """`pts` times the time base."""

    image: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB, rotation applied, contiguous."""


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a file, taken from its content where the header may be wrong."""

    width_px: int
    """Width as shown, after rotation."""

    height_px: int
    """Height as shown, after rotation."""

    rotation_degrees: int
    """0, 90, 180 or 270: the clockwise rotation applied to the stored picture."""

    time_base: Fraction
    """Seconds per pts unit."""

    num_frames: int
    """Frames that can be shown, counted from the packets."""

    duration_seconds: float
    """From the first frame to the end of the last one, counted from the packets."""

    codec: str
    """FFmpeg's codec name such as `h264`; for an image its suffix without the dot."""


class VideoReader(Protocol):
    """One open video: the interface of every backend."""

    @property
    def info(self) -> VideoInfo:
        """Facts about the file."""

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """(num_frames,) int64, strictly ascending pts of the frames in presentation order."""

    @property
    def warning(self) -> str | None:
        """What is wrong with a file that can still be read (for instance, that it ends early), or None."""

    def frames(self, indices: Indices) -> Iterator[Frame]:
        """Yield the frames at ascending `indices`; one that does not decode is left out, never replaced."""

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_indices(indices: Indices, num_frames: int) -> list[int]:
    """Return `indices` as plain ints; raise ValueError unless they ascend strictly within [0, num_frames)."""
    wanted = [int(index) for index in indices]
    if any(later <= earlier for earlier, later in zip(wanted, wanted[1:], strict=False)):
        raise ValueError("frame indices must ascend strictly")
    if wanted and not (wanted[0] >= 0 and wanted[-1] < num_frames):
        raise ValueError(f"frame indices must lie in [0, {num_frames}), got {wanted[0]}..{wanted[-1]}")
    return wanted


def rotate_clockwise(image: NDArray[np.uint8], rotation_degrees: int) -> NDArray[np.uint8]:
    """Turn an (H, W, 3) image clockwise by a multiple of 90 degrees; the result is contiguous."""
    return np.ascontiguousarray(np.rot90(image, k=-rotation_degrees // 90))
