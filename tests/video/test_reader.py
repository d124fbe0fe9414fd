"""Every video backend gives the right frames at the right times, whatever the container."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import ConfigError, UnreadableError
from pipelines.video import Decoder, open_video, select_frames
from pipelines.video import pyav_reader as pyav_module
from tests.synthetic import is_upright, read_number, write_video

needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord is not installed")
BACKENDS = ["pyav", pytest.param("decord", marks=needs_decord)]
CLIPS = sorted(Path(__file__).parents[3].glob("shared/videos/*.mp4"))
DECODERS: tuple[Decoder, ...] = ("pyav", "decord")
ALWAYS_IN_ORDER, ALWAYS_SEEK = 10**9, 0

# name of the file, how to write it
COMMON: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b_frames.mp4": {"b_frames": 3},
    "long_gop.mp4": {"gop": 500, "b_frames": 3, "num_frames": 120},
    "all_key.mp4": {"gop": 1},
    "odd.mp4": {"size": (161, 97)},
    "fragments.mp4": {"b_frames": 2, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mkv": {"b_frames": 2, "with_audio": True},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "b_frames.avi": {"b_frames": 3},
    "hevc.mp4": {"codec": "libx265", "b_frames": 3, "options": {"x265-params": "log-level=none"}},
    "open_gop.mp4": {"b_frames": 3, "options": {"x264-params": "open-gop=1"}},
    "av1.mp4": {"codec": "libsvtav1"},
}
PYAV_ONLY: dict[str, dict[str, Any]] = {
    "sound.ts": {"b_frames": 2, "with_audio": True, "num_frames": 60},
    "raw.h264": {"b_frames": 2},
    "hidden_frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "10"}},
    "film.gif": {"codec": "gif"},
    "motion.mjpeg": {"codec": "mjpeg"},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "windows.wmv": {"codec": "wmv2"},
}
CASES = [
    *(pytest.param("pyav", name, how, id=f"pyav-{name}") for name, how in (COMMON | PYAV_ONLY).items()),
    *(pytest.param("decord", name, how, id=f"decord-{name}", marks=needs_decord) for name, how in COMMON.items()),
]
SUBSETS = ([0], [29], [0, 29], [7, 8, 9], [3, 11, 12, 13, 24, 29], list(range(0, 30, 5)), list(range(30)))


@pytest.mark.parametrize(("decoder", "name", "how"), CASES)
def test_any_ascending_subset_gives_exactly_those_frames(
    tmp_path: Path, decoder: Decoder, name: str, how: dict[str, Any]
) -> None:
    path = write_video(tmp_path / name, **how)
    with open_video(path, decoder=decoder) as video:
        assert video.info.num_frames == how.get("num_frames", 30)
        assert video.warning is None
        width_px, height_px = how.get("size", (160, 96))
        for subset in SUBSETS:
            frames = list(video.frames(subset))
            assert [frame.index for frame in frames] == subset
            assert [read_number(frame.image) for frame in frames] == subset
            assert all(frame.image.shape == (height_px, width_px, 3) and is_upright(frame.image) for frame in frames)
            assert [frame.pts for frame in frames] == video.timestamps[subset].tolist()


@pytest.mark.parametrize(
    "name", ["plain.mp4", "b_frames.mp4", "all_key.mp4", "sound.mkv", "sound.ts", "vp9.webm", "hevc.mp4"]
)
def test_seeking_gives_the_same_pixels_as_reading_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_video(tmp_path / name, **{**(COMMON | PYAV_ONLY)[name], "num_frames": 60})
    wanted = [0, 5, 13, 25, 38, 47, 59]
    images = {}
    for cost in (ALWAYS_IN_ORDER, ALWAYS_SEEK):
        monkeypatch.setattr(pyav_module, "_seek_cost_frames", lambda _threads, cost=cost: cost)
        with open_video(path, decoder="pyav") as video:
            images[cost] = [frame.image for frame in video.frames(wanted)]
    assert [read_number(image) for image in images[ALWAYS_SEEK]] == wanted
    assert all(np.array_equal(*pair) for pair in zip(*images.values(), strict=True))


def test_frames_of_one_gop_are_decoded_in_one_run_and_distant_ones_are_sought(tmp_path: Path) -> None:
    video = pyav_module.PyAVReader(write_video(tmp_path / "a.mp4", num_frames=300, gop=50))
    runs = pyav_module.plan_runs(video._scan, [10, 20, 240, 245], threads=2)
    assert [(run.keyframe, run.indices) for run in runs] == [(None, (10, 20)), (4, (240, 245))]


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_its_true_times(tmp_path: Path, decoder: Decoder, suffix: str) -> None:
    times_ms = [0, 33, 67, 100, 500, 530, 1000, 1040, 1080, 5000]
    path = write_video(tmp_path / f"v.{suffix}", num_frames=10, pts=times_ms, b_frames=2)
    with open_video(path, decoder=decoder) as video:
        frames = list(video.frames(range(10)))
    assert [round(frame.pts_seconds * 1000) for frame in frames] == times_ms
    assert [read_number(frame.image) for frame in frames] == list(range(10))
    assert video.info.duration_seconds == pytest.approx(5.04, abs=0.002)


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_video_comes_out_upright(tmp_path: Path, decoder: Decoder, rotation: int) -> None:
    path = write_video(tmp_path / "turned.mp4", num_frames=5, rotation=rotation)
    with open_video(path, decoder=decoder) as video:
        assert (video.info.width_px, video.info.height_px, video.info.rotation_degrees) == (160, 96, rotation)
        assert all(
            is_upright(frame.image) and read_number(frame.image) == frame.index for frame in video.frames([0, 4])
        )


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("frame_range", ["tv", "pc"])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colours_follow_the_declared_matrix_and_range(
    tmp_path: Path, decoder: Decoder, frame_range: str, matrix: str
) -> None:
    path = _write_flat_yuv(tmp_path / "c.mp4", frame_range=frame_range, matrix=matrix)
    with open_video(path, decoder=decoder) as video:
        (frame,) = video.frames([0])
    red_weight, blue_weight = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}[matrix]
    scale, offset = (255 / 219, 16) if frame_range == "tv" else (1.0, 0)
    luma = (100 - offset) * scale
    chroma_blue, chroma_red = ((value - 128) * (255 / 224 if frame_range == "tv" else 1.0) for value in (110, 170))
    red = luma + 2 * (1 - red_weight) * chroma_red
    blue = luma + 2 * (1 - blue_weight) * chroma_blue
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    assert frame.image[48, 80].tolist() == pytest.approx([red, green, blue], abs=4)


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "żółć 视频.mp4",
        "new\nline.mp4",
        "-leading.mp4",
        "50%d.mp4",
        "concat:a|b.mp4",
        "http:x.mp4",
        "#?&.mp4",
    ],
)
def test_any_file_name_is_taken_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder, name: str
) -> None:
    try:
        write_video(tmp_path / "plain.mp4", num_frames=3).rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system does not take the name")
    monkeypatch.chdir(tmp_path)
    with open_video(name, decoder=decoder) as video:
        assert [read_number(frame.image) for frame in video.frames([0, 2])] == [0, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")
def test_a_name_that_is_no_text_is_opened(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    write_video(tmp_path / "plain.mp4", num_frames=3).rename(path)
    assert open_video(path).info.num_frames == 3


@pytest.mark.parametrize("decoder", BACKENDS)
def test_a_video_of_one_frame_is_read(tmp_path: Path, decoder: Decoder) -> None:
    with open_video(write_video(tmp_path / "one.mp4", num_frames=1), decoder=decoder) as video:
        assert [read_number(frame.image) for frame in video.frames([0])] == [0]
        assert video.info.duration_seconds == pytest.approx(0.04)


@pytest.mark.parametrize("decoder", BACKENDS)
@pytest.mark.parametrize("wanted", [[1, 0], [0, 0], [-1], [30]])
def test_indices_that_do_not_ascend_within_the_video_are_a_bug(
    tmp_path: Path, decoder: Decoder, wanted: list[int]
) -> None:
    video = open_video(write_video(tmp_path / "a.mp4"), decoder=decoder)
    with pytest.raises(ValueError, match="frame indices must"):
        list(video.frames(wanted))


@pytest.mark.parametrize("decoder", BACKENDS)
def test_no_indices_give_no_frames(tmp_path: Path, decoder: Decoder) -> None:
    assert list(open_video(write_video(tmp_path / "a.mp4"), decoder=decoder).frames([])) == []


def test_frames_keep_their_own_size_when_the_resolution_changes_in_the_middle(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{size[0]}.h264", num_frames=10, size=size) for size in ((160, 96), (320, 192))]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as video:
        frames = list(video.frames([0, 9, 10, 19]))
    assert [(frame.image.shape[1], read_number(frame.image)) for frame in frames] == [
        (160, 0),
        (160, 9),
        (320, 0),
        (320, 9),
    ]


def test_frames_that_an_edit_list_cuts_off_are_not_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=30, gop=30)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12  # after version, flags and the number of entries: duration, then media time
    assert int.from_bytes(data[place + 4 : place + 8], "big") == 0
    ten_frames = 10 * 512
    data[place + 4 : place + 8] = ten_frames.to_bytes(4, "big")
    path.write_bytes(data)
    with open_video(path, decoder="pyav") as video:
        assert video.info.num_frames == 20
        assert [read_number(frame.image) for frame in video.frames([0, 19])] == [10, 29]


def test_decord_without_the_package_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="pip install decord2"):
        open_video(write_video(tmp_path / "a.mp4"), decoder="decord")


@needs_decord
@pytest.mark.parametrize("name", ["sound.ts", "film.gif"])
def test_decord_refuses_what_it_reads_wrongly(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableError, match=f"^{name}.*use --decoder pyav"):
        open_video(write_video(tmp_path / name, **PYAV_ONLY[name]), decoder="decord")


def test_an_unknown_decoder_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decoder must be one of auto, pyav, decord, got opencv"):
        open_video(write_video(tmp_path / "a.mp4"), decoder="opencv")  # type: ignore[arg-type]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, pipelines.video; print([m for m in ('torch', 'pandas', 'decord') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@needs_decord
@pytest.mark.skipif(not CLIPS, reason="the shared clips are not here")
def test_both_backends_agree_on_real_clips() -> None:
    for path in CLIPS:
        images = []
        for decoder in DECODERS:
            with open_video(path, decoder=decoder) as video:
                assert (np.diff(video.timestamps) > 0).all()
                wanted = select_frames(video.timestamps, video.info.time_base, count=3, end_seconds=1.5)
                images.append([frame.image.astype(np.int16) for frame in video.frames(wanted)])
        for one, other in zip(*images, strict=True):
            assert np.abs(one - other).mean() < 2, path.name


def _write_flat_yuv(path: Path, *, frame_range: str, matrix: str) -> Path:
    """One frame of constant Y=100, U=110, V=170."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "colorspace": matrix})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.color_range = {"tv": 1, "pc": 2}[frame_range]
        stream.codec_context.colorspace = {"bt709": 1, "smpte170m": 6}[matrix]
        planes = np.concatenate([np.full(160 * 96, 100), np.full(80 * 48, 110), np.full(80 * 48, 170)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(planes.reshape(144, 160), format="yuv420p")
        frame.color_range, frame.colorspace = stream.codec_context.color_range, stream.codec_context.colorspace
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
