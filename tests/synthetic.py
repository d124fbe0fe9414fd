"""Writes videos whose frames carry their own number and whose corners show which way is up."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

NUM_BITS = 10
NUM_COLUMNS = 5
CORNERS_RGB = ((230, 20, 20), (20, 200, 20), (20, 20, 230), (235, 235, 235))
TICKS_PER_SECOND = 1000


def draw_frame(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw (height, width, 3) uint8 RGB: corners red, green, blue, white (rows first); ten bit blocks between them."""
    width, height = size
    image = np.full((height, width, 3), 110, dtype=np.uint8)
    image[:, :, 1] = (np.arange(width) * 40 // width + 90 + number % 20).astype(np.uint8)
    for corner, (rows, columns) in zip(CORNERS_RGB, _corner_slices(height, width), strict=True):
        image[rows, columns] = corner
    for bit, (rows, columns) in enumerate(_bit_slices(height, width)):
        image[rows, columns] = 235 if number >> bit & 1 else 20
    return image


def read_number(image: NDArray[np.uint8]) -> int:
    """The number drawn into an upright frame."""
    height, width = image.shape[:2]
    cells = (image[_shrink(rows), _shrink(columns)] for rows, columns in _bit_slices(height, width))
    return sum(1 << bit for bit, cell in enumerate(cells) if cell.mean() > 128)


def is_upright(image: NDArray[np.uint8]) -> bool:
    """Whether the four corners have their colours, within what compression changes."""
    height, width = image.shape[:2]
    found = [
        image[_shrink(rows), _shrink(columns)].mean(axis=(0, 1)) for rows, columns in _corner_slices(height, width)
    ]
    return bool(np.abs(np.array(found) - np.array(CORNERS_RGB)).max() < 45)


def write_video(
    path: Path,
    *,
    num_frames: int = 30,
    size: tuple[int, int] = (160, 96),
    codec: str = "libx264",
    rate: int = 25,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    gop: int = 12,
    b_frames: int = 0,
    audio_only: bool = False,
    with_audio: bool = False,
    container_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    pixel_format: str | None = None,
) -> Path:
    """Write frames 0..num_frames-1 (size: width, height as shown) and return `path`.

    `pts`: milliseconds of each frame, for variable frame rate. `rotation`: clockwise degrees a player has to turn.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        has_audio = audio_only or with_audio
        if has_audio:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        if not audio_only:
            width, height = size if rotation % 180 == 0 else size[::-1]
            stream = container.add_stream(codec, rate=rate, options=_default_options(codec) | (options or {}))
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width, height
            stream.pix_fmt = pixel_format or _choose_pixel_format(codec, size)
            stream.gop_size, stream.max_b_frames = gop, b_frames
            if pts is not None:
                stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
            if rotation:
                # PyAV takes the counterclockwise angle.
                stream.set_display_rotation(-rotation)
            for number in range(num_frames):
                image = np.ascontiguousarray(np.rot90(draw_frame(number, size), k=rotation // 90))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number if pts is None else pts[number]
                frame.time_base = Fraction(1, rate) if pts is None else Fraction(1, TICKS_PER_SECOND)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if has_audio:
            container.mux(audio.encode(_make_tone(16000 * num_frames // rate)))
            container.mux(audio.encode(None))
    return path


def damage_frame(path: Path, index: int) -> None:
    """Overwrite a frame's packet with zeros, in a video without B-frames."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    assert position is not None
    data[position + 8 : position + size] = bytes(size - 8)
    path.write_bytes(data)


def _default_options(codec: str) -> dict[str, str]:
    if codec == "libx264":
        return {"preset": "ultrafast", "x264-params": "scenecut=0", "threads": "1"}
    if codec == "libvpx-vp9":
        return {"deadline": "realtime", "cpu-used": "8"}
    return {}


def _choose_pixel_format(codec: str, size: tuple[int, int]) -> str:
    if codec == "gif":
        return "rgb8"
    if codec in ("mjpeg",):
        return "yuvj420p"
    is_odd = size[0] % 2 or size[1] % 2
    return "yuv444p" if is_odd else "yuv420p"


def _make_tone(num_samples: int) -> av.AudioFrame:
    samples = (8000 * np.sin(np.arange(num_samples) / 10)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = 16000
    return frame


def _bit_slices(height: int, width: int) -> list[tuple[slice, slice]]:
    """Two rows of five blocks in the middle half of the picture."""
    top, step_y, step_x = height // 4, height // 4, width // NUM_COLUMNS
    places = [divmod(bit, NUM_COLUMNS) for bit in range(NUM_BITS)]
    return [
        (slice(top + row * step_y, top + (row + 1) * step_y), slice(column * step_x, (column + 1) * step_x))
        for row, column in places
    ]


def _corner_slices(height: int, width: int) -> list[tuple[slice, slice]]:
    rows = (slice(0, height // 5), slice(height - height // 5, height))
    columns = (slice(0, width // 4), slice(width - width // 4, width))
    return [(row, column) for row in rows for column in columns]


def _shrink(part: slice) -> slice:
    """The middle of a block, away from the edges that compression blurs."""
    margin = (part.stop - part.start) // 4
    return slice(part.start + margin, part.stop - margin)
