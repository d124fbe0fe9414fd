"""An image is a video of one upright RGB frame."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.system.image_header import read_image_size
from pipelines.video import KNOWN_IMAGE_SUFFIXES, open_video
from tests.synthetic import draw_frame, is_upright, read_number

PICTURE = draw_frame(77, (200, 120))


def _encode(suffix: str, rgb: NDArray[np.uint8] = PICTURE) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize("suffix", sorted(KNOWN_IMAGE_SUFFIXES))
def test_an_image_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gęś{suffix}"
    path.write_bytes(_encode(suffix))
    with open_video(path) as video:
        (frame,) = video.frames([0])
    assert (frame.index, frame.pts, frame.pts_seconds, video.info.time_base) == (0, 0, 0.0, Fraction(1, 1))
    assert (video.info.width_px, video.info.height_px, video.info.num_frames) == (200, 120, 1)
    assert video.info.codec == suffix[1:] and video.warning is None
    assert read_number(frame.image) == 77 and is_upright(frame.image)
    assert read_image_size(path.read_bytes()) == (200, 120)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, turns: int) -> None:
    data = _encode(".jpg", np.ascontiguousarray(np.rot90(PICTURE, k=turns)))
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    video = open_video(path)
    (frame,) = video.frames([0])
    assert is_upright(frame.image) and (video.info.width_px, video.info.height_px) == (200, 120)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((20, 30), 100, np.uint8),
        np.full((20, 30), 100 * 257, np.uint16),
        np.full((20, 30, 3), 100 * 257, np.uint16),
        np.full((20, 30, 4), 100, np.uint8),
    ],
    ids=["grey", "grey 16-bit", "colour 16-bit", "alpha"],
)
def test_grey_alpha_and_16_bit_images_become_8_bit_colour(tmp_path: Path, pixels: NDArray[np.integer[Any]]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (frame,) = open_video(path).frames([0])
    assert frame.image.shape == (20, 30, 3) and frame.image.dtype == np.uint8
    assert np.unique(frame.image).tolist() == [100]


def test_an_image_named_mp4_is_taken_as_an_image(tmp_path: Path) -> None:
    path = tmp_path / "really.mp4"
    path.write_bytes(_encode(".jpg"))
    assert open_video(path).info.num_frames == 1


@pytest.mark.skipif(not hasattr(cv2, "imencodeanimation"), reason="this OpenCV writes no animations")
@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_of_an_animated_picture_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(draw_frame(number, (200, 120)), cv2.COLOR_RGB2BGRA) for number in (77, 78)]
    animation.durations = [40, 40]
    path = tmp_path / f"moving{suffix}"
    path.write_bytes(cv2.imencodeanimation(suffix, animation)[1].tobytes())
    (frame,) = open_video(path).frames([0])
    assert read_number(frame.image) == 77


def test_of_several_pages_the_first_one_is_read(tmp_path: Path) -> None:
    pages = [cv2.cvtColor(draw_frame(number, (200, 120)), cv2.COLOR_RGB2BGR) for number in (77, 78)]
    path = tmp_path / "pages.tif"
    path.write_bytes(cv2.imencodemulti(".tif", pages)[1].tobytes())
    (frame,) = open_video(path).frames([0])
    assert read_number(frame.image) == 77


def test_a_bmp_with_the_header_of_os2_is_read(tmp_path: Path) -> None:
    data = _encode(".bmp")
    header = data[:14] + struct.pack("<IHHHH", 12, 200, 120, 1, 24)
    path = tmp_path / "old.bmp"
    path.write_bytes(header[:10] + struct.pack("<I", len(header)) + header[14:] + data[54:])
    (frame,) = open_video(path).frames([0])
    assert read_number(frame.image) == 77


def test_bytes_that_are_no_marker_do_not_hide_the_size_of_a_jpeg(tmp_path: Path) -> None:
    data = _encode(".jpg")
    place = data.index(b"\xff\xc0")
    path = tmp_path / "odd.jpg"
    path.write_bytes(data[:place] + b"\0\1\xff\0\xff\xd0\xff" + data[place:])
    assert read_image_size(path.read_bytes()) == (200, 120)
    (frame,) = open_video(path).frames([0])
    assert read_number(frame.image) == 77


def test_an_image_over_200_megapixels_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    with pytest.raises(UnreadableError, match=r"^huge\.png is 20000 x 20000 px, over 200 megapixels"):
        open_video(path)


def test_a_cut_jpeg_is_refused_or_carries_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(_encode(".jpg")[:-300])
    try:
        complaint = open_video(path).warning or ""
    except UnreadableError as error:  # OpenCV 5 refuses where OpenCV 4 fills up with grey
        complaint = str(error)
    assert "ends early" in complaint
