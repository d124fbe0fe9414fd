"""Files that claim or unpack to more than fits into memory are refused before memory is allocated."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.errors import UnreadableError
from pipelines.system.worker_pool import Limits, Lost, WorkerPool
from pipelines.video import looks_like_video, open_video
from tests.hostile.bombs import BOMBS, NUM_FRAMES
from tests.hostile.outcomes import peak_mb, reset_peak_mb
from tests.synthetic import read_number, write_video

MOST_MB = 200
LIMITS = Limits(seconds=30, memory_mb=2048)


class Weighed(NamedTuple):
    """The verdict on one file and the memory it took."""

    refusal: str | None
    numbers: list[int]
    num_missing: int
    grown_mb: float


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weighed | Lost]:
    """All bombs, one after another, in a separate process."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = [folder / name for name in BOMBS]
    for path, (make, _) in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make(folder))
    pool = WorkerPool[Path, Weighed](_make_work, 1, LIMITS)
    return {paths[place].name: result for place, result in pool.run(paths)}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_name_or_read_in_little_memory(weighed: dict[str, Weighed | Lost], name: str) -> None:
    found, expected = weighed[name], BOMBS[name][1]
    assert isinstance(found, Weighed), found
    assert found.grown_mb < MOST_MB
    if isinstance(expected, str):
        assert found.refusal is not None and re.search(f"^{name} .*{expected}", found.refusal)
    else:
        assert found.refusal is None and found.numbers == list(range(expected))


def test_frames_that_grow_too_large_in_the_middle_are_left_out(weighed: dict[str, Weighed | Lost]) -> None:
    found = weighed["grows.h264"]
    assert isinstance(found, Weighed) and found.num_missing == NUM_FRAMES


@pytest.mark.skipif(sys.platform == "win32", reason="its file systems do not make sparse files by themselves")
def test_a_picture_in_a_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(BOMBS["absurd.png"][0](tmp_path))
    with path.open("r+b") as file:
        file.truncate(2**40)
    before = reset_peak_mb()
    with pytest.raises(UnreadableError, match=r"^long\.png has 1099511627776 bytes, over 1600000000 for a picture"):
        open_video(path)
    assert peak_mb() - before < MOST_MB


def _sound_of_many_samples(folder: Path) -> bytes:
    """Plain sound whose samples are many more than the bytes of the file, as in a recording that was cut off."""
    data = bytearray(write_video(folder / "plain.mp4", num_frames=NUM_FRAMES, with_audio=True).read_bytes())
    sound = data.index(b"soun")
    data[(place := data.index(b"stsz", sound) + 8) : place + 8] = (1).to_bytes(4, "big") + (2**28).to_bytes(4, "big")
    place = data.index(b"stts", sound) + 8
    data[place : place + 12] = b"".join(number.to_bytes(4, "big") for number in (1, 2**28, 1))
    return bytes(data)


def _box_without_end(folder: Path) -> bytes:
    """A last box whose size says "to the end of the file"."""
    return write_video(folder / "plain.mp4", num_frames=NUM_FRAMES).read_bytes() + bytes(4) + b"free" + bytes(100)


@pytest.mark.parametrize("make", [_sound_of_many_samples, _box_without_end])
def test_an_unusual_index_is_not_taken_for_a_bomb(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    path = tmp_path / "odd.mp4"
    path.write_bytes(make(tmp_path))
    assert looks_like_video(path)


def _make_work() -> Callable[[Path], Weighed]:
    return _weigh


def _weigh(path: Path) -> Weighed:
    before, refusal, numbers, num_missing = reset_peak_mb(), None, [], 0
    try:
        with open_video(path) as video:
            numbers = [read_number(frame.image) for frame in video.frames(range(video.info.num_frames))]
            num_missing = video.info.num_frames - len(numbers)
    except UnreadableError as error:
        refusal = str(error)
    return Weighed(refusal, numbers, num_missing, peak_mb() - before)
