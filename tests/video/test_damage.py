"""Damaged, cut and foreign files end in a named error or in fewer frames, never in wrong ones."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import UnreadableError
from pipelines.video import looks_like_video, open_video
from tests.synthetic import read_number, write_video

FASTSTART = {"movflags": "faststart"}
needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")


def _cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts"])
def test_a_cut_file_gives_the_frames_that_are_there_and_a_warning(tmp_path: Path, name: str) -> None:
    options = FASTSTART if name.endswith("mp4") else None
    path = _cut(write_video(tmp_path / name, num_frames=100, b_frames=2, container_options=options), 0.6)
    with open_video(path) as video:
        assert 20 < video.info.num_frames < 90
        frames = list(video.frames(range(video.info.num_frames)))
    assert video.warning is not None and "copy it again" in video.warning
    assert len(frames) >= video.info.num_frames - 4
    assert [read_number(frame.image) for frame in frames] == [frame.index for frame in frames]


@needs_decord
def test_decord_refuses_a_cut_file(tmp_path: Path) -> None:
    path = _cut(write_video(tmp_path / "cut.mp4", num_frames=100, container_options=FASTSTART), 0.6)
    with pytest.raises(UnreadableError, match="ends early.*--decoder pyav"):
        open_video(path, decoder="decord")


@pytest.mark.parametrize("name", ["hurt.mp4", "hurt.mkv", "hurt.ts"])
@pytest.mark.parametrize("wanted", [range(90), range(0, 90, 30)], ids=["all", "some"])
@pytest.mark.parametrize("num_bytes", [100, 1500])
def test_damaged_bytes_leave_frames_out_and_replace_none(
    tmp_path: Path, name: str, wanted: range, num_bytes: int
) -> None:
    path = _hurt(write_video(tmp_path / name, num_frames=100), num_bytes)
    with open_video(path) as video:
        known = [index for index in wanted if index < video.info.num_frames]
        frames = list(video.frames(known))
    assert len(frames) >= len(known) * 0.6
    true_numbers = [round((frame.pts_seconds - frames[0].pts_seconds) * 25) for frame in frames]
    misread = [n for frame, n in zip(frames, true_numbers, strict=True) if read_number(frame.image) != n]
    # In a transport stream the decoder may learn of lost bytes one picture late.
    assert len(misread) <= 1


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_damaged_avi_gives_each_frame_once(tmp_path: Path, codec: str) -> None:
    # AVI counts its packets instead of timing them: after lost packets the later frames move up. FFmpeg does not report
    # lost packets as an error, so a few pictures may be concealed ones.
    path = _hurt(write_video(tmp_path / "hurt.avi", num_frames=100, codec=codec), 100)
    with open_video(path) as video:
        numbers = [read_number(frame.image) for frame in video.frames(range(video.info.num_frames))]
    assert len(numbers) > 60
    assert sum(later <= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)) <= 5


def _hurt(path: Path, num_bytes: int) -> Path:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + num_bytes] = np.random.default_rng(0).bytes(num_bytes)
    path.write_bytes(data)
    return path


def test_a_video_whose_frames_all_fail_to_decode_is_unreadable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "noise.mp4", container_options=FASTSTART)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = np.random.default_rng(0).bytes(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=r"^noise\.mp4.*none of the frames can be decoded"):
        list(open_video(path).frames([0, 10]))


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _write_png(path: Path) -> None:
    path.write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())


REFUSED = {
    "missing": ("gone.mp4", lambda path: None, "does not exist"),
    "folder": ("folder.mp4", lambda path: path.mkdir(), "is a folder"),
    "empty": ("empty.mp4", _write(b""), r"is empty \(0 bytes\)"),
    "text": ("notes.mp4", _write(b"hello world\n" * 50), "is a text file"),
    "long text": ("long.txt", _write("zażółć gęślą jaźń ".encode() * 500), "is a text file"),
    "utf-16 text": ("wide.txt", _write("hello world".encode("utf-16")), "is a text file"),
    "text as image": ("notes.jpg", _write(b"hello world\n" * 50), "is a text file"),
    "text as mjpeg": ("a.mjpeg", _write(b"a,b\n1,2\n"), "is a text file"),
    "hls": ("list.m3u8", _write(b"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n"), "playlist.*never followed"),
    "hls as mp4": ("list.mp4", _write(b"#EXTM3U\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n"), "playlist.*never followed"),
    "concat": ("list.ffconcat", _write(b"ffconcat version 1.0\nfile 'other.mp4'\n"), "playlist.*never followed"),
    "dash": ("list.mpd", _write(b"<?xml version='1.0'?><MPD></MPD>"), "playlist.*never followed"),
    "noise": ("noise.mp4", _write(np.random.default_rng(1).bytes(20000)), "does not open as a video"),
    "noise as image": ("noise.jpg", _write(np.random.default_rng(1).bytes(20000)), "is not an image"),
    "sound only": (
        "song.mp4",
        lambda path: write_video(path, audio_only=True),
        "has no video stream; pass a video file",
    ),
    "cut before the index": ("cut.mp4", lambda path: _cut(write_video(path), 0.5), "no moov box.*copy it again"),
    "heic": ("a.heic", _write(b"\0\0\0\x18ftypheic" + bytes(64)), "HEIC or AVIF picture"),
    "broken image": ("a.png", _write(b"\x89PNG\r\n\x1a\n" + bytes(40) + b"IEND"), "does not decode as an image"),
}


@pytest.mark.parametrize(("name", "make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_video_is_refused_with_cause_and_remedy(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UnreadableError, match=message) as caught:
        open_video(path)
    assert str(caught.value).startswith(name)
    assert not looks_like_video(path)


def test_a_song_with_cover_art_is_no_video(tmp_path: Path) -> None:
    import av

    song, path, cover = tmp_path / "song.m4a", tmp_path / "cover.m4a", tmp_path / "cover.png"
    write_video(song, audio_only=True)
    _write_png(cover)
    with av.open(str(song)) as source, av.open(str(path), "w", format="mp4") as target:
        sound, picture = target.add_stream_from_template(source.streams.audio[0]), target.add_stream("png", rate=1)
        picture.width = picture.height = 8
        picture.pix_fmt = "rgb24"
        picture.disposition = av.stream.Disposition.attached_pic
        target.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
    with pytest.raises(UnreadableError, match="has only cover art"):
        open_video(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes of this kind")
def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableError, match="not a regular file"):
        open_video(tmp_path / "pipe.mp4")


def test_a_message_shows_an_odd_name_as_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"^two\\nlines\\x1b\.mp4 does not exist"):
        open_video(tmp_path / "two\nlines\x1b.mp4")


def test_only_real_videos_look_like_videos(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", num_frames=3)
    _write_png(tmp_path / "a.png")
    assert looks_like_video(video.rename(tmp_path / "clip.unknown"))
    assert not looks_like_video(tmp_path / "a.png")
