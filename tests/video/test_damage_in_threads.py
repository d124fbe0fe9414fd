"""A damaged file gives the same pictures however many threads decode it, and next to none that are painted over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.video import open_video, pyav_reader
from tests.synthetic import write_video

NUM_FRAMES = 48
SPREAD_BYTES = 600
"""Head and index stay whole."""
VISIBLE_DIFFERENCE = 8.0
"""Mean over a picture's values, of 255."""
FORMATS = {
    "h264.mp4": {},
    "h264-b-frames.mkv": {"b_frames": 2},
    "h264.ts": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


def _hurt(path: Path, content: bytes, seed: int) -> Path:
    rng, data = np.random.default_rng(seed), bytearray(content)
    for _ in range(rng.integers(1, 30)):
        data[rng.integers(SPREAD_BYTES, len(data) - SPREAD_BYTES)] = rng.integers(256)
    path.write_bytes(data)
    return path


def _read(path: Path, wanted: range) -> dict[int, NDArray[np.uint8]]:
    try:
        with open_video(path) as video:
            return {
                frame.index: frame.image for frame in video.frames([i for i in wanted if i < video.info.num_frames])
            }
    except UnreadableError:
        return {}


@pytest.mark.parametrize("step", [2, 17])
@pytest.mark.parametrize("name", FORMATS)
def test_threads_do_not_change_what_a_damaged_file_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    whole = write_video(tmp_path / name, num_frames=NUM_FRAMES, **FORMATS[name]).read_bytes()  # type: ignore[arg-type]
    num_frames = 0
    for seed in range(5):
        path = _hurt(tmp_path / f"hurt-{seed}-{name}", whole, seed)
        results = []
        for threads in (1, 2, 8):
            monkeypatch.setattr(pyav_reader, "_num_ffmpeg_threads", lambda threads=threads: threads)
            results.append(_read(path, range(0, NUM_FRAMES, step)))
        assert results[0].keys() == results[1].keys() == results[2].keys()
        assert all(np.array_equal(results[0][i], other[i]) for other in results[1:] for i in other)
        num_frames += len(results[0])
    assert num_frames > 0


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv"])
def test_hardly_any_picture_of_a_damaged_file_differs_visibly_from_the_one_of_its_time(
    tmp_path: Path, name: str
) -> None:
    def read(path: Path) -> dict[int, NDArray[np.uint8]]:
        try:
            with open_video(path) as video:
                found = {frame.pts: frame.image for frame in video.frames(range(video.info.num_frames))}
            return {} if pyav_reader.PASSED_OVER in (video.warning or "") else found
        except UnreadableError:
            return {}

    path = write_video(tmp_path / name, num_frames=NUM_FRAMES)
    whole, truth = path.read_bytes(), read(path)
    num_frames = num_false = 0
    for seed in range(8):
        for pts, image in read(_hurt(path, whole, seed)).items():
            num_frames += 1
            is_alike = pts in truth and image.shape == truth[pts].shape
            num_false += not is_alike or float(np.abs(image.astype(int) - truth[pts]).mean()) > VISIBLE_DIFFERENCE
    assert num_frames > 30
    assert num_false <= 0.1 * num_frames, (num_false, num_frames)
