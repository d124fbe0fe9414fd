"""Image and video degradations of known strength: compression, smaller sizes, blur, noise, brightness.

H.264 is measured at CRF 23 and 40 because FaceForensics++ is (its `c23` and `c40`), and at 30 in between. The other steps
range from hardly visible to clearly worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np

from pipelines.config import check, check_choices
from pipelines.errors import ConfigError
from pipelines.system.atomic_files import replace_atomically
from pipelines.system.image_files import Image
from pipelines.video import Frame, VideoReader, open_video

Kind = Literal["jpeg", "h264", "downscale", "blur", "noise", "brightness"]
CLEAN = "clean"
"""The condition without a perturbation."""
STRENGTH_LIMITS: Mapping[str, tuple[float, float]] = {
    "jpeg": (1, 100),
    "h264": (0, 51),
    "downscale": (0.01, 1),
    "blur": (0.05, 100),
    "noise": (0, 255),
    "brightness": (0, 10),
}
CARRIER_OPTIONS: Mapping[str, str] = {"qp": "4", "preset": "veryfast"}
"""For frames that are perturbed already: one fine quantiser for all, since a CRF would wipe out part of strong noise."""
H264_PRESET = "medium"
ENCODER_THREADS = 4
"""A fixed number: what x264 writes depends on it."""
REPEATABLE = {"x264-params": "cpu-independent=1"}
"""Without it, x264's rate control by look-ahead (mbtree) gives slightly other files from one run to the next."""
RATE_DENOMINATOR_MAX = 1001
NOMINAL_RATE_HZ = Fraction(25)
COLORSPACE = 5
"""FFmpeg's number of BT.601, in which the colours are converted there and back; written into the file."""


@dataclass(frozen=True)
class Perturbation:
    """One kind of change at one strength."""

    kind: Kind
    strength: float
    """jpeg: quality. h264: CRF. downscale: share of the side. blur: sigma in pixels. noise: sigma in levels of 0..255.
    brightness: factor."""

    def __post_init__(self) -> None:
        check_choices(self)
        low, high = STRENGTH_LIMITS[self.kind]
        check(low <= self.strength <= high, f"the strength of {self.kind}", f"must be {low:g}..{high:g}", self.strength)

    @property
    def name(self) -> str:
        """Such as `jpeg 50`."""
        return f"{self.kind} {self.strength:g}"


_GRADES: Mapping[Kind, tuple[float, ...]] = {
    "jpeg": (90, 70, 50, 30),
    "h264": (23, 30, 40),
    "downscale": (0.75, 0.5, 0.35, 0.25),
    "blur": (0.5, 1, 2, 3),
    "noise": (2, 5, 10, 20),
    "brightness": (0.5, 0.75, 1.25, 1.5),
}
PERTURBATIONS: tuple[Perturbation, ...] = tuple(
    Perturbation(kind, strength) for kind, strengths in _GRADES.items() for strength in strengths
)
"""From weak to strong within each kind; brightness from dark to bright."""


def choose_perturbations(kinds: Sequence[str]) -> list[Perturbation]:
    """The perturbations of these kinds; all of them if `kinds` is empty.

    Raises:
        ConfigError: an unknown kind.
    """
    known = list(dict.fromkeys(perturbation.kind for perturbation in PERTURBATIONS))
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise ConfigError(f"unknown perturbation {unknown[0]!r}; known: {', '.join(known)}")
    return [perturbation for perturbation in PERTURBATIONS if not kinds or perturbation.kind in kinds]


def name_condition(perturbation: Perturbation | None) -> str:
    """Such as `jpeg 50`, or `clean` without a perturbation."""
    return perturbation.name if perturbation else CLEAN


def perturb_image(image: Image, perturbation: Perturbation, rng: np.random.Generator) -> Image:
    """(H, W, 3) uint8 RGB to the same shape, without writing into the argument; only noise draws from `rng`.

    `h264` is one intra-coded picture: it lacks what a video's other pictures would add and take away.
    """
    return _CHANGES[perturbation.kind](image, perturbation.strength, rng)


def perturb_video(source: Path, target: Path, perturbation: Perturbation, seed: int) -> None:
    """Write all frames of `source`, perturbed and upright, as an MP4 (H.264) that shows them at their own times.

    For `h264` the frames are encoded at that CRF (preset medium, 4:2:0) as they are, with prediction between them; an
    odd last row or column is doubled, since 4:2:0 has none. Otherwise every frame is perturbed alone and encoded with
    quantiser 4 and colours at full resolution, which adds about one level of error. Frames that do not decode are left
    out, sound is dropped, and a beginning before time 0 is moved there: MP4 does not show what comes earlier.

    Args:
        seed: of the noise; each frame has its own stream of (seed, frame index).

    Raises:
        UnreadableError: the source does not open or decode.
        StorageError: the target could not be written.
    """
    with open_video(source) as reader, replace_atomically(target) as temporary:
        _write_frames(temporary, reader, _perturbed_frames(reader, perturbation, seed), perturbation)


def _perturbed_frames(reader: VideoReader, perturbation: Perturbation, seed: int) -> Iterator[tuple[Frame, Image]]:
    for frame in reader.frames(range(reader.info.num_frames)):
        if perturbation.kind == "h264":
            yield frame, _pad_to_even(frame.image)
        else:
            yield frame, perturb_image(frame.image, perturbation, np.random.default_rng((seed, frame.index)))


def _write_frames(
    path: Path, reader: VideoReader, frames: Iterator[tuple[Frame, Image]], perturbation: Perturbation
) -> None:
    is_h264 = perturbation.kind == "h264"
    pix_fmt, quality = ("yuv420p", _h264_options(perturbation.strength)) if is_h264 else ("yuv444p", CARRIER_OPTIONS)
    options = {**quality, **REPEATABLE, "threads": str(ENCODER_THREADS)}
    time_base, earliest = reader.info.time_base, min(0, int(reader.timestamps[0]))
    stream = None
    with av.open(f"file:{path}", "w", format="mp4") as container:
        for frame, image in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=_mean_rate(reader), options=options)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.time_base = stream.codec_context.time_base = time_base
                stream.codec_context.colorspace = COLORSPACE
            picture = _to_yuv(image, pix_fmt, stream.width, stream.height)
            picture.pts, picture.time_base = frame.pts - earliest, time_base
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))


def _h264_options(crf: float) -> Mapping[str, str]:
    return {"crf": f"{crf:g}", "preset": H264_PRESET}


def _mean_rate(reader: VideoReader) -> Fraction:
    """Frames a second: x264 weighs pictures by how long they are shown."""
    span = int(reader.timestamps[-1] - reader.timestamps[0]) * reader.info.time_base
    if not span:
        return NOMINAL_RATE_HZ
    rate_hz = ((len(reader.timestamps) - 1) / span).limit_denominator(RATE_DENOMINATOR_MAX)
    return rate_hz or Fraction(1, RATE_DENOMINATOR_MAX)


def _pad_to_even(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _to_yuv(image: Image, pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(image, format="rgb24")
    return picture.reformat(width=width, height=height, format=pix_fmt, dst_colorspace="ITU601")


def _jpeg(image: Image, quality: float, _: np.random.Generator) -> Image:
    """Through a JPEG file, with the colours at half the resolution, as OpenCV and cameras have it."""
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1], dtype=np.uint8)


def _h264(image: Image, crf: float, _: np.random.Generator) -> Image:
    even = _pad_to_even(image)
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = even.shape[:2]
    encoder.pix_fmt, encoder.colorspace = "yuv420p", COLORSPACE
    encoder.framerate, encoder.time_base = NOMINAL_RATE_HZ, 1 / NOMINAL_RATE_HZ
    # each further thread would wait for more pictures
    encoder.options = {**_h264_options(crf), **REPEATABLE, "threads": "1"}
    picture = _to_yuv(even, "yuv420p", encoder.width, encoder.height)
    picture.pts, picture.time_base = 0, encoder.time_base
    packets = [*encoder.encode(picture), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoded = [shown for packet in [*packets, None] for shown in decoder.decode(packet)]
    return np.ascontiguousarray(
        decoded[0].to_ndarray(format="rgb24")[: image.shape[0], : image.shape[1]], dtype=np.uint8
    )


def _downscale(image: Image, share: float, _: np.random.Generator) -> Image:
    """To `share` of each side by area averaging, and back bilinearly: a smaller face, or a smaller video."""
    height, width = image.shape[:2]
    small = max(1, round(share * width)), max(1, round(share * height))
    smaller = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _blur(image: Image, sigma_px: float, _: np.random.Generator) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), dtype=np.uint8)


def _noise(image: Image, sigma_levels: float, rng: np.random.Generator) -> Image:
    """Gaussian, of each value on its own."""
    noisy = rng.standard_normal(image.shape, dtype=np.float32)
    noisy *= np.float32(sigma_levels)
    noisy += image
    return np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy).astype(np.uint8)


def _brightness(image: Image, factor: float, _: np.random.Generator) -> Image:
    levels = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return np.asarray(levels[image], dtype=np.uint8)


_CHANGES: Mapping[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "jpeg": _jpeg,
    "h264": _h264,
    "downscale": _downscale,
    "blur": _blur,
    "noise": _noise,
    "brightness": _brightness,
}
