"""Builds miniature data sets: tiny real videos under the names that the downloaded ones have."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

WIDTH_PX, HEIGHT_PX = 64, 48
NUM_FRAMES = 3


def make_video(path: Path, seed: int | None = None) -> Path:
    """Write three small frames that are like no other seed's, folders included, and return `path`.

    Without a seed it is the path that decides, so no two files of a tree are equal.
    """
    generator = np.random.default_rng(zlib.crc32(path.as_posix().encode()) if seed is None else seed)
    blocks = generator.integers(0, 256, (NUM_FRAMES, HEIGHT_PX // 8, WIDTH_PX // 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"threads": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for image in blocks.repeat(8, axis=1).repeat(8, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_videos(root: Path, names: Iterable[str]) -> None:
    """One video, like no other, for each path relative to `root`."""
    for name in names:
        make_video(root / name)
