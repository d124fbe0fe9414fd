"""A mask video's frames are those of its video: counted, sized and turned like them, and without the noise of compression."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipelines.errors import InputError
from pipelines.faces.align import TEMPLATE, align_face, align_mask
from pipelines.faces.masks import read_masks
from pipelines.records import FrameRow
from pipelines.system.image_files import decode_mask
from tests.support import Image, encode_png
from tests.synthetic import damage_frame, read_number, write_video

SIZE = (160, 96)


def _frames(*indices: int, size: tuple[int, int] = SIZE) -> list[FrameRow]:
    return [FrameRow("v", index, index, 1, 25, index / 25, *size, 0, f"frames/v/{index}.png") for index in indices]


def _write_grey(path: Path, images: list[Image]) -> Path:
    """A lossless video of pictures (H, W), grey as they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape
        stream.pix_fmt = "bgr0"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.stack([image] * 3, axis=2), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _number(mask: Image) -> int:
    return read_number(np.stack([mask] * 3, axis=2))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_masks_are_those_of_the_frames_asked_for_upright(tmp_path: Path, rotation: int, b_frames: int) -> None:
    video = write_video(tmp_path / "v.mp4", num_frames=30)
    masks = write_video(tmp_path / "m.mp4", num_frames=30, rotation=rotation, b_frames=b_frames)
    found = list(read_masks(masks, _frames(0, 7, 13, 29), video))
    assert [(index, _number(mask)) for index, mask in found] == [(0, 0), (7, 7), (13, 13), (29, 29)]
    assert {(mask.shape, mask.dtype) for _, mask in found} == {((96, 160), np.dtype(np.uint8))}


def test_levels_near_black_and_white_become_black_and_white_and_those_between_are_stretched(tmp_path: Path) -> None:
    grey = np.zeros((96, 160), np.uint8)
    levels = [0, 10, 32, 33, 100, 127, 128, 200, 222, 223, 240, 255]
    for place, level in enumerate(levels):
        grey[:, 12 * place : 12 * place + 12] = level
    masks = _write_grey(tmp_path / "m.mkv", [grey])
    ((_, mask),) = read_masks(masks, _frames(0), tmp_path / "gone.mp4")
    expected = [round(min(max((level - 32) / 191, 0), 1) * 255) for level in levels]
    assert expected[:3] == [0, 0, 0] and expected[-3:] == [255, 255, 255] and expected[5:7] == [127, 128]
    assert [int(mask[40, 12 * place + 6]) for place in range(len(levels))] == expected


def test_a_region_in_one_colour_counts_as_much_as_a_white_one(tmp_path: Path) -> None:
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:48, :80], picture[48:, 80:] = (250, 0, 0), (0, 0, 250)
    (tmp_path / "m.png").write_bytes(encode_png(picture))
    ((_, mask),) = read_masks(tmp_path / "m.png", _frames(0), tmp_path / "gone.mp4")
    assert np.array_equal(mask > 0, picture.any(axis=2)) and set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_mask_of_another_size_is_resized_to_the_frame(tmp_path: Path, scale: float) -> None:
    small = np.zeros((round(96 * scale), round(160 * scale)), np.uint8)
    x0, y0, x1, y1 = (round(value * scale) for value in (40, 20, 100, 60))
    small[y0:y1, x0:x1] = 255
    masks = _write_grey(tmp_path / "m.mkv", [small])
    ((_, mask),) = read_masks(masks, _frames(0), tmp_path / "gone.mp4")
    expected = np.zeros((96, 160), bool)
    expected[20:60, 40:100] = True
    assert mask.shape == (96, 160) and np.array_equal(mask > 127, expected)


@pytest.mark.parametrize(
    ("size", "is_taken"), [((80, 47), True), ((80, 49), True), ((80, 50), False), ((96, 160), False)]
)
def test_another_aspect_ratio_is_refused_but_for_a_rounded_side(
    tmp_path: Path, size: tuple[int, int], is_taken: bool
) -> None:
    masks = _write_grey(tmp_path / "m.mkv", [np.zeros(size[::-1], np.uint8)])
    if is_taken:
        assert [mask.shape for _, mask in read_masks(masks, _frames(0), tmp_path / "gone.mp4")] == [(96, 160)]
        return
    message = (
        rf"m.mkv has {size[0]} x {size[1]} pixels and the frames 160 x 96, .* name the right one in the column mask"
    )
    with pytest.raises(InputError, match=message):
        list(read_masks(masks, _frames(0), tmp_path / "gone.mp4"))


@pytest.mark.parametrize("num_masks", [29, 31])
def test_a_mask_video_has_as_many_frames_as_its_video(tmp_path: Path, num_masks: int) -> None:
    video = write_video(tmp_path / "v.mp4", num_frames=30)
    masks = write_video(tmp_path / "m.mp4", num_frames=num_masks)
    with pytest.raises(InputError, match=rf"m.mp4 has {num_masks} frames and the video 30, .* copy it again, or name"):
        list(read_masks(masks, _frames(3), video))


def test_without_its_video_a_mask_video_need_only_reach_to_the_last_frame(tmp_path: Path) -> None:
    masks = write_video(tmp_path / "m.mp4", num_frames=20)
    assert [index for index, _ in read_masks(masks, _frames(3, 19), tmp_path / "gone.mp4")] == [3, 19]
    with pytest.raises(
        InputError, match="m.mp4 has 20 frames and lacks frame 20, so it is cut or another video's mask"
    ):
        list(read_masks(masks, _frames(3, 20), tmp_path / "gone.mp4"))


def test_a_video_that_ends_early_may_have_fewer_frames_than_its_mask(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    video = write_video(tmp_path / "v.mp4", num_frames=30, container_options=options)
    masks = Path(shutil.copy(video, tmp_path / "m.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    assert [_number(mask) for _, mask in read_masks(masks, _frames(2, 5), video)] == [2, 5]


def test_a_mask_frame_that_does_not_decode_is_left_out(tmp_path: Path) -> None:
    masks = write_video(tmp_path / "m.mp4", num_frames=30, gop=1)
    damage_frame(masks, 13)
    found = [(index, _number(mask)) for index, mask in read_masks(masks, _frames(4, 13, 20), tmp_path / "gone.mp4")]
    assert found == [(4, 4), (20, 20)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "m.mp4 does not exist"), (b"", "m.mp4 is empty"), (b"no video at all" * 20, "m.mp4")],
    ids=["missing", "empty", "text"],
)
def test_a_mask_video_that_cannot_be_read_is_an_error_with_its_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "m.mp4").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_masks(tmp_path / "m.mp4", _frames(0), tmp_path / "gone.mp4"))


@pytest.mark.parametrize("scale", [2.0, 1.0, 0.3])
@pytest.mark.parametrize("margin", [1.0, 1.3])
def test_a_mask_is_cut_as_the_picture_is_and_black_over_its_edge(scale: float, margin: float) -> None:
    turn = np.radians(20)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    landmarks = (TEMPLATE - 190) @ matrix.T + (150, 140)
    grey = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    face = align_face(np.stack([grey] * 3, axis=2), landmarks, margin=margin)
    mask = align_mask(grey, landmarks, margin=margin)
    assert face is not None and mask is not None and mask.shape == (380, 380)
    assert np.array_equal(mask, face.crop[:, :, 0])
    white = align_mask(np.full((300, 400), 255, np.uint8), landmarks, margin=margin)
    assert white is not None
    assert np.mean(white / 255) == pytest.approx(face.valid_share, abs=0.01)
    if scale == 0.3:
        assert face.valid_share < 0.5 and white[0, 0] == 0
    assert align_mask(grey, np.zeros((5, 2))) is None


def test_a_picture_of_a_mask_is_grey_as_stored_and_classes_0_and_1_are_black_and_white() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    classes = (levels > 100).astype(np.uint8)

    def encoded(image: Image) -> bytes:
        return cv2.imencode(".png", image)[1].tobytes()

    for stored, expected in ((levels, levels), (classes, 255 * classes), (0 * classes, 0 * classes)):
        mask = decode_mask(encoded(stored))
        assert mask is not None and mask.dtype == np.uint8 and np.array_equal(mask, expected)
    assert decode_mask(b"no picture") is None and decode_mask(b"") is None
