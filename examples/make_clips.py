"""Writes the two example clips: NASA's photograph of Eileen Collins under a moving camera, genuine and self-blended.

Needs scikit-image, for the photograph; numpy, OpenCV and PyAV besides. Neither weights nor the network are used.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

SEED = 0
CLIP_SECONDS = 3
FRAMES_PER_SECOND = 25
FRAMES_PER_CLIP = CLIP_SECONDS * FRAMES_PER_SECOND
FRAME_SIDE_PX = 480
FRAME_MIDDLE_PX = (FRAME_SIDE_PX - 1) / 2  # OpenCV puts the centres of pixels at whole coordinates.
NOISE_SIGMA = 2.5
"""Standard deviation of the sensor noise, on the scale of 0..255."""

CONSTANT_RATE_FACTOR = 21
SMPTE_170M = 6
"""Code of BT.601's colours in H.264 (Rec. ITU-T H.273): what the conversion from RGB to YUV uses here."""
LIMITED_RANGE = 1

# Measured on this very picture, skimage.data.astronaut(), by RetinaFace MobileNet-0.25 (score 0.9997).
FACE_BOX_PX = (177.5, 56.4, 270.1, 176.4)
"""x0 y0 x1 y1 in the photograph."""
LANDMARKS_PX = ((203.7, 102.8), (245.0, 104.2), (224.4, 129.1), (202.7, 139.0), (244.8, 140.1))
"""Eyes, nose and corners of the mouth, each pair with the one on the image's left first."""

NUM_JAW_POINTS = 17
BROW = ((-0.92, -0.22), (-0.76, -0.33), (-0.57, -0.34), (-0.39, -0.31), (-0.20, -0.24))
"""The brow on the image's left, in the face's own frame (see `face_hull`)."""


@dataclass(frozen=True)
class View:
    """What the camera sees: a square of the photograph, FRAME_SIDE_PX / zoom wide."""

    center_x_px: float
    center_y_px: float
    zoom: float


FIRST_VIEW = View(270.0, 211.0, 1.16)
LAST_VIEW = View(228.0, 170.0, 1.45)
SWAY_PX = 1.5
"""How far an unsteady hand moves the camera to each side, in pixels of the photograph."""


@dataclass(frozen=True)
class Forgery:
    """One fixed draw from the ranges of self-blended images (Shiohara and Yamasaki, CVPR 2022)."""

    rgb_shift: tuple[float, float, float] = (9.0, -2.0, -7.0)
    contrast: float = 1.04
    sharpening: float = 0.4
    shift_of_box: tuple[float, float] = (0.025, -0.015)
    """Shift to the right and down as fractions of the face box's width and height."""
    scale: float = 1.045
    erosion_px: int = 5
    mask_blur_sigma_px: float = 2.5


def load_photograph() -> NDArray[np.uint8]:
    """The photograph, (512, 512, 3) uint8, RGB."""
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise SystemExit("the photograph comes with scikit-image; run: pip install scikit-image") from error
    return np.asarray(astronaut(), dtype=np.uint8)


def forge(photograph: NDArray[np.uint8], forgery: Forgery) -> NDArray[np.uint8]:
    """Blend the face with a recoloured, sharpened and slightly displaced copy of itself, at blend ratio 1.

    `photograph`: (H, W, 3) uint8, RGB; the result alike. Nothing outside the face changes.
    """
    height, width = photograph.shape[:2]
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, np.rint(face_hull()).astype(np.int32), 1.0)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (forgery.erosion_px, forgery.erosion_px))
    mask = cv2.erode(mask, kernel)

    # The copy and its mask move together: the forged face, not only its content, is out of place.
    displacement = face_displacement(forgery)
    source = cv2.warpAffine(disguise(photograph, forgery), displacement, (width, height), flags=cv2.INTER_LANCZOS4)
    mask = cv2.warpAffine(mask, displacement, (width, height), flags=cv2.INTER_LINEAR)
    mask = cv2.GaussianBlur(mask, (0, 0), forgery.mask_blur_sigma_px)[..., None]
    return to_uint8(mask * source + (1.0 - mask) * photograph)


def face_hull() -> NDArray[np.float32]:
    """Convex hull of jaw and brows, (N, 2) float32 in pixels of the photograph, from the five landmarks.

    A template in the face's own frame: the origin is between the eyes, u is in distances from eye to eye (1) and v in
    distances from eyes to mouth (1), so it follows the face's roll, size and foreshortening.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.array(LANDMARKS_PX)
    origin = (left_eye + right_eye) / 2
    u_axis, v_axis = right_eye - left_eye, (left_mouth + right_mouth) / 2 - origin

    angle = np.linspace(0.0, math.pi, NUM_JAW_POINTS)
    cosine, sine = np.cos(angle), np.clip(np.sin(angle), 0.0, None)
    jaw = np.stack([-np.sign(cosine) * np.abs(cosine) ** 0.7, -0.08 + 1.80 * sine**1.3], axis=1)
    template = np.concatenate([jaw, BROW, np.array(BROW) * (-1.0, 1.0)])
    points = origin + template[:, :1] * u_axis + template[:, 1:] * v_axis
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def disguise(photograph: NDArray[np.uint8], forgery: Forgery) -> NDArray[np.float32]:
    """The photograph with other colours, contrast and sharpness, (H, W, 3) float32, RGB, about 0..255."""
    image = photograph.astype(np.float32)
    image = (image - 128.0) * forgery.contrast + 128.0 + np.array(forgery.rgb_shift, np.float32)
    return image + forgery.sharpening * (image - cv2.GaussianBlur(image, (0, 0), 1.5))


def face_displacement(forgery: Forgery) -> NDArray[np.float64]:
    """The (2, 3) affine map that scales about the face's centre and shifts by a fraction of the face box."""
    x0, y0, x1, y1 = FACE_BOX_PX
    matrix = cv2.getRotationMatrix2D(((x0 + x1) / 2, (y0 + y1) / 2), 0.0, forgery.scale)
    shift_px = np.array(forgery.shift_of_box) * (x1 - x0, y1 - y0)
    return np.column_stack([matrix[:, :2], matrix[:, 2] + shift_px])


def film(photograph: NDArray[np.uint8], noise: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Frames of the moving camera, (FRAME_SIDE_PX, FRAME_SIDE_PX, 3) uint8, RGB, with the sensor's noise."""
    size = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    for index in range(FRAMES_PER_CLIP):
        view = camera_at(index / (FRAMES_PER_CLIP - 1))
        offset_x_px = FRAME_MIDDLE_PX - view.zoom * view.center_x_px
        offset_y_px = FRAME_MIDDLE_PX - view.zoom * view.center_y_px
        matrix = np.array([[view.zoom, 0.0, offset_x_px], [0.0, view.zoom, offset_y_px]])
        frame = cv2.warpAffine(
            photograph.astype(np.float32), matrix, size, flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
        )
        yield to_uint8(frame + noise.normal(0.0, NOISE_SIGMA, frame.shape))


def camera_at(progress: float) -> View:
    """The view at `progress` 0..1: from the first to the last, starting and stopping gently, in an unsteady hand."""
    eased = (1.0 - math.cos(math.pi * progress)) / 2
    seconds = progress * CLIP_SECONDS
    return View(
        center_x_px=blend(FIRST_VIEW.center_x_px, LAST_VIEW.center_x_px, eased) + SWAY_PX * math.sin(2.9 * seconds),
        center_y_px=blend(FIRST_VIEW.center_y_px, LAST_VIEW.center_y_px, eased) + SWAY_PX * math.sin(4.1 * seconds),
        zoom=blend(FIRST_VIEW.zoom, LAST_VIEW.zoom, eased),
    )


def blend(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_clip(path: Path, frames: Iterator[NDArray[np.uint8]]) -> None:
    """Write H.264 in MP4, the index before the pictures. The file appears under its name when it is complete."""
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # For the same bytes each time: one thread, and no macroblock tree, with which x264's output varies run by run.
        options = {"crf": str(CONSTANT_RATE_FACTOR), "preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
        stream: VideoStream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width = stream.height = FRAME_SIDE_PX
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = SMPTE_170M
        codec.color_range = LIMITED_RANGE
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the example clips astronaut.mp4 and astronaut-forged.mp4.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="here if left out")
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    photograph = load_photograph()
    # Both clips get the same noise, so that they differ in the face alone.
    for name, picture in (("astronaut.mp4", photograph), ("astronaut-forged.mp4", forge(photograph, Forgery()))):
        write_clip(folder / name, film(picture, np.random.default_rng(SEED)))
        print(folder / name)


if __name__ == "__main__":
    main()
