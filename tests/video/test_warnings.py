"""A file of which something is missing or untrue carries a warning, although its frames decode."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import UnreadableError
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames
from tests.synthetic import read_number, write_video

NUM_FRAMES, GOP = 12, 4
CLUSTER = b"\x1f\x43\xb6\x75"


def _write(path: Path, **how: object) -> bytearray:
    return bytearray(write_video(path, **({"num_frames": NUM_FRAMES, "size": (64, 48), "gop": GOP} | how)).read_bytes())  # type: ignore[arg-type]


def _lose_first_packet(data: bytearray) -> bytearray:
    place = data.index(b"00dc", data.index(b"movi"))
    data[place : place + 4] = b"JUNK"
    return data


def _lose_middle_packet(data: bytearray) -> bytearray:
    place = data.index(b"movi")
    for _ in range(6):
        place = data.index(b"00dc", place + 1)
    data[place : place + 4] = b"JUNK"
    return data


def _lose_first_packet_and_index(data: bytearray) -> bytearray:
    return _lose_first_packet(data)[: data.rindex(b"idx1")]


def _repeat_cluster(data: bytearray) -> bytearray:
    return data + data[data.index(CLUSTER) :]


@pytest.mark.parametrize(
    ("name", "how", "change", "warning", "numbers"),
    [
        ("a.avi", {"codec": "mpeg4"}, _lose_first_packet_and_index, "3 frames before the first keyframe", range(4, 12)),
        (
            "a.avi",
            {"codec": "mjpeg"},
            _lose_middle_packet,
            "1 of 12 frames in the index could not be found",
            [*range(5), *range(6, 12)],
        ),
        ("a.mkv", {}, _repeat_cluster, "frame times repeat or run backwards", [*range(12), *range(12)]),
    ],
)
def test_what_is_lost_or_untrue_is_said(
    tmp_path: Path,
    name: str,
    how: dict[str, object],
    change: Callable[[bytearray], bytearray],
    warning: str,
    numbers: list[int],
) -> None:
    path = tmp_path / name
    path.write_bytes(change(_write(path, **how)))
    with open_video(path) as video:
        assert video.warning is not None and warning in video.warning
        assert [read_number(frame.image) for frame in video.frames(range(video.info.num_frames))] == list(numbers)


@pytest.mark.parametrize("name", ["a.avi", "a.mjpeg"])
def test_a_damaged_picture_of_motion_jpeg_is_left_out(tmp_path: Path, name: str) -> None:
    # FFmpeg fills it up with the picture before it, and reports it only in strict mode.
    path = tmp_path / name
    data = _write(path, codec="mjpeg")
    start = [place for place in range(len(data)) if data.startswith(b"\xff\xd8\xff", place)][5]
    place = data.index(b"\xff\xda", start) + 20
    data[place : place + 100] = data[place + 100 : place + 200]
    path.write_bytes(data)
    with open_video(path) as video:
        numbers = [read_number(frame.image) for frame in video.frames(range(video.info.num_frames))]
    assert numbers == [0, 1, 2, 3, 4, *range(6, 12)]


def test_a_single_lost_frame_is_named_in_the_singular(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(_lose_first_packet_and_index(_write(path, codec="mpeg4", gop=2)))
    with open_video(path) as video:
        assert video.warning is not None and "1 frame before the first keyframe cannot be decoded" in video.warning


def test_the_sampled_frames_that_are_lost_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(_lose_middle_packet(_write(path, codec="mjpeg")))
    with open_video(path) as video:
        frames = ChosenFrames(video, path, count=NUM_FRAMES)
        assert len(list(frames)) == NUM_FRAMES - 1
    assert frames.note is not None and "1 of 12 frames in the index could not be found" in frames.note


def test_a_broadcast_may_begin_between_two_keyframes(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    data = _write(path, num_frames=24)
    with open_video(path) as video:
        whole = video.timestamps.tolist()
    tables, rest = data[: 3 * 188], data[10 * 188 :]
    path.write_bytes(tables + rest)
    with open_video(path) as video:
        frames = list(video.frames(range(video.info.num_frames)))
        assert video.warning is None
    assert 0 < len(frames) < 24
    assert [whole.index(frame.pts) for frame in frames] == [read_number(frame.image) for frame in frames]


def test_a_file_whose_times_leave_no_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = _write(path, b_frames=2, num_frames=4)
    struct.pack_into(">II", data, data.index(b"ctts") + 12, 1, 2**28)
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"^a\.mp4 has no frame that can be decoded"):
        open_video(path)
