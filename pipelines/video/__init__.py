"""Opens any local video or image as one small reader: `with open_video(path) as video: video.frames([0, 10])`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pipelines.config import Decoder
from pipelines.errors import ConfigError
from pipelines.system.image_header import KNOWN_IMAGE_SUFFIXES, is_image
from pipelines.video.containers import KNOWN_VIDEO_SUFFIXES, looks_like_video, read_head
from pipelines.video.image_reader import ImageReader
from pipelines.video.pyav_reader import PyAVReader
from pipelines.video.reader import Frame, VideoInfo, VideoReader
from pipelines.video.sampling import select_frames

__all__ = [
    "KNOWN_IMAGE_SUFFIXES",
    "KNOWN_VIDEO_SUFFIXES",
    "Decoder",
    "Frame",
    "VideoInfo",
    "VideoReader",
    "looks_like_video",
    "open_video",
    "select_frames",
]

# A Motion JPEG stream starts like a JPEG image; only its name gives it away.
MOTION_JPEG_SUFFIXES = frozenset((".mjpeg", ".mjpg"))


def open_video(path: Path | str, *, decoder: Decoder = "auto") -> VideoReader:
    """Open a local video or image file by its content; `auto` reads videos with PyAV.

    Raises UnreadableError with cause and remedy if the file is missing, empty, not a video or has no frame.
    """
    path = Path(path)
    if decoder not in get_args(Decoder):
        raise ConfigError(f"decoder must be one of {', '.join(get_args(Decoder))}, got {decoder}")
    if is_image(read_head(path)) and path.suffix.lower() not in MOTION_JPEG_SUFFIXES:
        return ImageReader(path)
    if decoder == "decord":
        from pipelines.video.decord_reader import DecordReader

        return DecordReader(path)
    return PyAVReader(path)
