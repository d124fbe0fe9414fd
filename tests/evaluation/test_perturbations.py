"""Each perturbation does to the pixels what its name and strength say; a perturbed video keeps its frames, times and sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import resize_square
from pipelines.errors import ConfigError, UnreadableError
from pipelines.evaluation.perturbations import PERTURBATIONS, Perturbation, perturb_image, perturb_video
from pipelines.video import Frame, open_video
from tests.support import temporary_files
from tests.synthetic import is_upright, read_number, write_video

Image = npt.NDArray[np.uint8]
KINDS = tuple(dict.fromkeys(perturbation.kind for perturbation in PERTURBATIONS))
SMALL: dict[str, Any] = {"num_frames": 3, "size": (64, 48)}
WEAK = Perturbation("brightness", 1)


@pytest.fixture(scope="module")
def face(face_pictures: dict[str, list[Image]]) -> Image:
    return resize_square(face_pictures["real"][0][:150], 128)


def _perturb(image: Image, kind: Any, strength: float, seed: int = 0) -> Image:
    return perturb_image(image, Perturbation(kind, strength), np.random.default_rng(seed))


def _error(image: Image, other: Image) -> float:
    return float(np.abs(image.astype(np.float64) - other).mean())


def _high_frequencies(image: Image) -> float:
    """Energy beyond half of the highest frequency."""
    spectrum = np.abs(np.fft.fft2(image.astype(np.float64).mean(axis=2))) ** 2
    frequencies = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(side)) for side in spectrum.shape), indexing="ij"))
    return float(spectrum[frequencies > 0.25].sum())


def _gradient_energy(image: Image) -> float:
    grey = image.astype(np.float64).mean(axis=2)
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def _read(path: Path) -> list[Frame]:
    with open_video(path) as reader:
        return list(reader.frames(range(reader.info.num_frames)))


def _checkers(side_px: int, levels: tuple[int, int]) -> Image:
    squares = (np.indices((64, 64)) // side_px).sum(axis=0) % 2
    return np.repeat(np.array(levels, np.uint8)[squares][..., None], 3, axis=2)


def test_the_graded_strengths_are_those_that_are_published() -> None:
    assert [perturbation.name for perturbation in PERTURBATIONS] == [
        "jpeg 90", "jpeg 70", "jpeg 50", "jpeg 30", "h264 23", "h264 30", "h264 40",
        "downscale 0.75", "downscale 0.5", "downscale 0.35", "downscale 0.25",
        "blur 0.5", "blur 1", "blur 2", "blur 3", "noise 2", "noise 5", "noise 10", "noise 20",
        "brightness 0.5", "brightness 0.75", "brightness 1.25", "brightness 1.5",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "brightness"])
def test_the_error_grows_with_every_grade(face: Image, kind: str) -> None:
    grades = [each.strength for each in PERTURBATIONS if each.kind == kind]
    errors = [0.05, *(_error(_perturb(face, kind, strength), face) for strength in grades), 64]
    assert all(later > 1.1 * earlier for earlier, later in zip(errors, errors[1:], strict=False)), errors


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (33, 20)])
def test_shape_and_argument_are_kept_and_equal_generators_make_equal_pictures(
    perturbation: Perturbation, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    image.flags.writeable = False
    first, second = (perturb_image(image, perturbation, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8 and first.flags.c_contiguous
    assert np.array_equal(first, second) and np.array_equal(image, before)
    assert not np.shares_memory(first, image)


@pytest.mark.parametrize("kind", KINDS)
def test_only_noise_draws_from_the_generator(face: Image, kind: Any) -> None:
    strength = next(each.strength for each in PERTURBATIONS if each.kind == kind)
    is_same = np.array_equal(_perturb(face, kind, strength, seed=0), _perturb(face, kind, strength, seed=1))
    assert is_same == (kind != "noise")


@pytest.mark.parametrize("kind", ["jpeg", "h264"])
def test_colours_survive_a_file_format(kind: str) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32], image[32:] = (220, 40, 60), (30, 60, 200)
    strength = {"jpeg": 90, "h264": 23}[kind]
    changed = _perturb(image, kind, strength)
    assert _error(changed[4:28], image[4:28]) < 4 and _error(changed[36:60], image[36:60]) < 4


def test_jpeg_is_a_jpeg_of_that_quality(face: Image) -> None:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(_perturb(face, "jpeg", 50), cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize("kind", ["downscale", "blur"])
def test_edges_grow_softer_with_every_grade(face: Image, kind: str) -> None:
    grades = [each.strength for each in PERTURBATIONS if each.kind == kind]
    energies = [_gradient_energy(image) for image in (face, *(_perturb(face, kind, grade) for grade in grades))]
    assert all(later < 0.95 * earlier for earlier, later in zip(energies, energies[1:], strict=False)), energies


def test_downscale_leaves_little_of_what_the_smaller_picture_can_not_hold() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert _high_frequencies(_perturb(noise, "downscale", 0.5)) < 0.1 * _high_frequencies(noise)


def test_downscale_averages_what_becomes_one_pixel() -> None:
    assert (_perturb(_checkers(1, (100, 200)), "downscale", 0.5) == 150).all()
    assert _error(_perturb(_checkers(16, (100, 200)), "downscale", 0.5), _checkers(16, (100, 200))) < 5


def test_downscale_takes_the_share_of_each_side() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    expected = cv2.resize(cv2.resize(wide, (32, 16), interpolation=cv2.INTER_AREA), (128, 64))
    assert np.array_equal(_perturb(wide, "downscale", 0.25), expected)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_blur_spreads_a_line_as_wide_as_its_sigma(sigma: float) -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[:, 20] = 255
    columns = _perturb(image, "blur", sigma)[20, :, 0].astype(np.float64)
    spread = np.sqrt((columns * (np.arange(41) - 20) ** 2).sum() / columns.sum())
    assert spread == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 20.0])
def test_noise_has_its_sigma_in_every_colour_on_its_own(sigma: float) -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    noise = _perturb(grey, "noise", sigma).astype(np.float64) - 128
    assert noise.reshape(-1, 3).std(axis=0) == pytest.approx(np.full(3, sigma), rel=0.04)
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.03
    assert abs(noise.mean()) < 0.03 * sigma


def test_noise_stops_at_black_and_white() -> None:
    ends = np.repeat(np.array([[0, 255]], np.uint8).repeat(32, 1)[..., None], 3, axis=2)
    noisy = _perturb(ends, "noise", 20).astype(int)
    assert noisy[0, :32].max() < 128 < noisy[0, 32:].min()


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5])
def test_brightness_scales_every_level_and_stops_at_white(factor: float) -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.abs(_perturb(levels, "brightness", factor) - np.minimum(levels * factor, 255)).max() <= 0.5


@pytest.mark.parametrize(
    ("kind", "strength"), [("jpeg", 0), ("h264", 52), ("downscale", 1.5), ("blur", 0), ("noise", -1), ("wild", 1)]
)
def test_what_is_no_perturbation_is_refused(kind: Any, strength: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Perturbation(kind, strength)


@pytest.mark.parametrize("perturbation", [WEAK, Perturbation("jpeg", 90), Perturbation("h264", 23)])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"pts": [0, 40, 300, 310, 500, 1000], "num_frames": 6}, id="variable rate"),
        pytest.param({"rotation": 90, "b_frames": 2}, id="rotated"),
        pytest.param({"pts": [1500, 1540, 1600]}, id="late start"),
        pytest.param({"num_frames": 1}, id="one frame"),
        pytest.param({"with_audio": True, "size": (65, 49)}, id="sound and odd size"),
    ],
)
def test_a_perturbed_video_has_the_same_frames_at_the_same_times_upright(
    how: dict[str, Any], perturbation: Perturbation, tmp_path: Path
) -> None:
    source = write_video(tmp_path / "source.mp4", **(SMALL | how))
    perturb_video(source, tmp_path / "target.mp4", perturbation, 0)
    before, after = _read(source), _read(tmp_path / "target.mp4")
    assert [read_number(frame.image) for frame in after] == [read_number(frame.image) for frame in before]
    assert [frame.pts_seconds for frame in after] == pytest.approx([frame.pts_seconds for frame in before], abs=1e-4)
    height, width = before[0].image.shape[:2]
    even = (height + height % 2, width + width % 2)
    assert after[0].image.shape[:2] == (even if perturbation.kind == "h264" else (height, width))
    assert all(is_upright(frame.image) for frame in after)
    with av.open(str(tmp_path / "target.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.codec.canonical_name == "h264"


def test_a_beginning_before_time_zero_is_moved_there(tmp_path: Path) -> None:
    keep_times = {"avoid_negative_ts": "disabled"}
    source = write_video(tmp_path / "source.ts", **SMALL, pts=[-80, -40, 50], container_options=keep_times)
    assert [frame.pts_seconds for frame in _read(source)] == pytest.approx([-0.08, -0.04, 0.05])
    perturb_video(source, tmp_path / "target.mp4", WEAK, 0)
    assert [frame.pts_seconds for frame in _read(tmp_path / "target.mp4")] == pytest.approx([0, 0.04, 0.13])


@pytest.mark.parametrize("strength", [("noise", 20), ("downscale", 0.5), ("brightness", 0.5)])
def test_a_video_holds_its_perturbed_frames_within_two_levels(strength: tuple[Any, float], tmp_path: Path) -> None:
    source, perturbation = write_video(tmp_path / "source.mp4", **SMALL), Perturbation(*strength)
    perturb_video(source, tmp_path / "target.mp4", perturbation, 5)
    for before, after in zip(_read(source), _read(tmp_path / "target.mp4"), strict=True):
        expected = perturb_image(before.image, perturbation, np.random.default_rng((5, before.index)))
        assert _error(after.image, expected) < 2


def test_noise_differs_from_frame_to_frame_and_seed_to_seed_but_not_from_run_to_run(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", **SMALL)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        perturb_video(source, tmp_path / f"{name}.mp4", Perturbation("noise", 20), seed)
    one, same, other = (_read(tmp_path / f"{name}.mp4") for name in ("one", "same", "other"))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "same.mp4").read_bytes()
    pairs = list(zip(one, _read(source), strict=True))
    first, second = (after.image.astype(int) - before.image for after, before in pairs[:2])
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2
    assert _error(one[0].image, other[0].image) > 10 > _error(one[0].image, same[0].image)


def test_h264_predicts_between_frames_and_loses_more_with_every_grade(clip: Path, tmp_path: Path) -> None:
    source, sizes, errors = clip, [], []
    before = _read(source)
    for crf in (23, 40):
        target = tmp_path / f"{crf}.mp4"
        perturb_video(source, target, Perturbation("h264", crf), 0)
        sizes.append(target.stat().st_size)
        errors.append(np.mean([_error(a.image, b.image) for a, b in zip(_read(target), before, strict=True)]))
    assert sizes[0] > 2 * sizes[1] and errors[1] > 1.5 * errors[0]
    with av.open(str(tmp_path / "23.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) < len(packets) / 10
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert b"crf=23.0" in (tmp_path / "23.mp4").read_bytes()


def _write_text(path: Path) -> None:
    path.write_text("not a video\n")


def _write_undecodable(path: Path) -> None:
    """Every packet's content is gone; the index is whole."""
    write_video(path, **SMALL)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov", start) - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


@pytest.mark.parametrize("write", [_write_text, _write_undecodable, lambda path: None])
def test_a_source_that_is_no_video_is_refused_and_leaves_nothing(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "source.mp4")
    with pytest.raises(UnreadableError, match="source.mp4"):
        perturb_video(tmp_path / "source.mp4", tmp_path / "out" / "target.mp4", WEAK, 0)
    assert not (tmp_path / "out" / "target.mp4").exists() and temporary_files(tmp_path) == []


def test_a_video_can_be_perturbed_in_place(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", **SMALL)
    before = _read(source)[0].image
    perturb_video(source, source, replace(WEAK, strength=0.5), 0)
    assert _error(_read(source)[0].image, before // 2) < 3 and temporary_files(tmp_path) == []
