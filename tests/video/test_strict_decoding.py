"""Strict decoding loses no intact picture: wrong messages, open GOPs, files that only decode leniently."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.video import decoding, open_video, pyav_reader
from tests.synthetic import read_number, write_video

UNKNOWN_BUFFERING_PERIOD = b"\x06\x00\x01\x34\x80"
"""An H.264 message that names a parameter set which is not there."""
NUM_FRAMES = 48


def _put_before_slices(source: Path, target: Path, message: bytes, every: int) -> Path:
    """A copy of an MP4 with a message before the picture of every n-th packet."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.dts is None:
                continue
            head = len(message).to_bytes(4, "big") + message if number % every == every - 1 else b""
            changed = av.Packet(head + bytes(packet))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.duration, changed.is_keyframe, changed.stream = packet.duration, packet.is_keyframe, stream
            new.mux(changed)
    return target


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("every", [1, 7])
def test_a_wrong_message_costs_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, every: int
) -> None:
    whole = write_video(tmp_path / "whole.mp4", num_frames=NUM_FRAMES, b_frames=2)
    path = _put_before_slices(whole, tmp_path / "messages.mp4", UNKNOWN_BUFFERING_PERIOD, every)
    monkeypatch.setattr(pyav_reader, "_num_ffmpeg_threads", lambda: threads)
    with open_video(whole) as video:
        expected = [frame.image for frame in video.frames(range(NUM_FRAMES))]
    with open_video(path) as video:
        frames = list(video.frames(range(NUM_FRAMES)))
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, expected, strict=True))
    assert video.warning is None


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", ["open.mp4", "open.ts", "open.mkv"])
def test_a_seek_into_an_open_gop_costs_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, threads: int
) -> None:
    options = {"x264-params": "open-gop=1:b-pyramid=normal:scenecut=0", "preset": "medium"}
    path = write_video(tmp_path / name, num_frames=96, b_frames=3, gop=16, options=options)
    monkeypatch.setattr(pyav_reader, "_num_ffmpeg_threads", lambda: threads)
    wanted = [0, 1, 40, 62, 63, 64, 65, 90]
    with open_video(path) as video:
        frames = list(video.frames(wanted))
    assert [read_number(frame.image) for frame in frames] == wanted


def test_what_only_decodes_leniently_is_read_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_video(tmp_path / "whole.mp4", num_frames=NUM_FRAMES)
    path = _put_before_slices(whole, tmp_path / "messages.mp4", UNKNOWN_BUFFERING_PERIOD, every=1)
    monkeypatch.setattr(decoding, "MESSAGE_TYPES", {})  # as for a codec whose messages are not removed
    with open_video(path) as video:
        assert len(list(video.frames([0, 20, 40]))) == 3
    assert "may be damaged" in (video.warning or "")
