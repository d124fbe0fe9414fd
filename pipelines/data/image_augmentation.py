"""Random changes to a training image: a mirror, and what befalls a face between the camera and the viewer.

The presets take probabilities and ranges in the manner of published recipes, mostly below theirs:
Zhao et al. (multi-attentional detection, its DFDC recipe: hue/saturation .5, brightness/contrast .5, noise .3, blur or
JPEG .3, grey .1), Shiohara and Yamasaki (self-blended images: colour .3 each, JPEG 40-100 .5), Seferbekov (first of the
DFDC: JPEG 60-100 .5, noise .1, blur .05, one colour change .7, grey .2) and Li et al. (face X-ray: down-scaling to 0.2-1
and back .5; not below 0.35 here, which is 34 px of a 96 px input). The rectangle is random erasing (Zhong et al.), made
smaller.

A forgery's trace is faint. Of the images that `robust` makes, 37 % keep every fine detail (no down-scaling, blur, noise
or JPEG); on average 1.75 operations beside the mirror befall an image, and 14 % have none.

`cameras` goes further for weights that shall hold on other cameras and codecs than those of their data: everything of `robust`,
oftener and stronger, and what cameras do by themselves: sharpening, another gamma, another white balance. 22 % keep every
fine detail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as kernels

from pipelines.errors import ConfigError
from pipelines.system.image_files import Image, join_images

ERASED_ASPECT_MAX = 2.0
"""Erased rectangles are at most this many times longer than wide."""


@dataclass(frozen=True)
class Operation:
    """One kind of change: how often it happens, how strong it is, and what it does."""

    name: str
    probability: float
    change: Callable[[Tensor, float, np.random.Generator], Tensor]
    """From (3, S, S) uint8 and a strength to the same, without writing into its argument."""
    low: float = 0.0
    high: float = 0.0
    """The strength is uniform between `low` and `high`; `change` names its unit."""


def augment_image(image: Image, preset: str, rng: np.random.Generator) -> Image:
    """(S, S, 3) uint8 RGB to the same shape, by the operations of `none`, `flip` or `robust`.

    Every random number comes from `rng`, none from torch: the result does not depend on threads. The argument is never
    written to, but is what comes back where nothing happened.

    Raises:
        ConfigError: there is no such preset.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    for operation in operations_of(preset):
        if rng.random() < operation.probability:
            pixels = operation.change(pixels, rng.uniform(operation.low, operation.high), rng)
    changed: Image = pixels.permute(1, 2, 0).contiguous().numpy()
    return changed


def operations_of(preset: str) -> tuple[Operation, ...]:
    """In the order in which they are applied."""
    if preset not in PRESETS:
        raise ConfigError(f"unknown image augmentation {preset!r}; known: {', '.join(PRESETS)}")
    return PRESETS[preset]


def preview_augmentations(images: Sequence[Image], preset: str, *, seed: int, columns: int) -> Image:
    """A picture to look at, uint8 RGB: per row a face of `images` (S, S, 3) and `columns - 1` augmented draws of it.

    Raises:
        ConfigError: there is no such preset, no image or no column.
    """
    operations_of(preset)
    if not images or columns < 1:
        raise ConfigError(f"a preview needs an image and a column, got {len(images)} images and {columns} columns")
    rows = []
    for row, image in enumerate(images):
        streams = [np.random.default_rng((seed, row, column)) for column in range(1, columns)]
        rows.append(join_images([image, *(augment_image(image, preset, rng) for rng in streams)], axis=1))
    return join_images(rows, axis=0)


def cast(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Each colour channel times its own factor in 1 - strength..1 + strength: another light, another white balance."""
    gains = torch.from_numpy(rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32))[:, None, None]
    return (image * gains).round_().clamp_(0, 255).to(torch.uint8)


def downscale(image: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    """To `scale` of the side and back, as a small face in a video comes to the network."""
    size_px = image.shape[-1]
    small = max(1, round(scale * size_px))
    smaller = kernels.resize(image, [small, small], antialias=True)
    changed: Tensor = kernels.resize(smaller, [size_px, size_px], antialias=True)
    return changed


def blur(image: Tensor, sigma_px: float, rng: np.random.Generator) -> Tensor:
    """Gaussian, cut off at three sigma."""
    taps = 2 * min(math.ceil(3 * sigma_px), image.shape[-1] - 1) + 1  # the border is reflected, so it must reach
    # the convolution is several times slower on interleaved colours
    changed: Tensor = kernels.gaussian_blur(image.contiguous(), [taps, taps], [sigma_px])
    return changed


def noise(image: Tensor, sigma_levels: float, rng: np.random.Generator) -> Tensor:
    """Gaussian, of each value on its own. torchvision's kernel draws from torch's global stream, which threads share."""
    draws = torch.from_numpy(rng.standard_normal((*image.shape[1:], 3), dtype=np.float32)).permute(2, 0, 1)
    return draws.mul_(sigma_levels).add_(image).round_().clamp_(0, 255).to(torch.uint8)


def jpeg(image: Tensor, quality: float, rng: np.random.Generator) -> Tensor:
    """Through a JPEG file of this quality, with the colours at half the resolution. By OpenCV: torchvision's is deprecated."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()[:, :, ::-1]
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return torch.from_numpy(decoded[:, :, ::-1].copy()).permute(2, 0, 1)


def erase(image: Tensor, area_share: float, rng: np.random.Generator) -> Tensor:
    """One rectangle of `area_share` of the image, of one random grey: a hand, a caption, a microphone."""
    size_px = image.shape[-1]
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ERASED_ASPECT_MAX))
    height, width = (round(math.sqrt(area_share * share) * size_px) for share in (aspect, 1 / aspect))
    top, left = int(rng.integers(0, size_px - height + 1)), int(rng.integers(0, size_px - width + 1))
    level = torch.tensor(rng.integers(0, 256), dtype=torch.uint8)
    changed: Tensor = kernels.erase(image, top, left, height, width, level)
    return changed


MIRROR = Operation("mirror", 0.5, lambda image, *_: kernels.horizontal_flip(image))
GREY = Operation("grey", 0.10, lambda image, *_: kernels.rgb_to_grayscale(image, num_output_channels=3))


def _brightness(probability: float, low: float, high: float) -> Operation:
    return Operation("brightness", probability, lambda image, x, _: kernels.adjust_brightness(image, x), low, high)


def _contrast(probability: float, low: float, high: float) -> Operation:
    return Operation("contrast", probability, lambda image, x, _: kernels.adjust_contrast(image, x), low, high)


def _saturation(probability: float, low: float, high: float) -> Operation:
    return Operation("saturation", probability, lambda image, x, _: kernels.adjust_saturation(image, x), low, high)


def _hue(probability: float, turns: float) -> Operation:
    return Operation("hue", probability, lambda image, x, _: kernels.adjust_hue(image, x), -turns, turns)


# in the order of nature: the scene, the lens and the distance, the sensor, the camera, the file; what hides the face last
PRESETS: Mapping[str, tuple[Operation, ...]] = {
    "none": (),
    "flip": (MIRROR,),
    "robust": (
        MIRROR,
        _brightness(0.20, 0.8, 1.2),
        _contrast(0.20, 0.8, 1.2),
        _saturation(0.20, 0.7, 1.3),
        _hue(0.10, 0.02),
        GREY,
        Operation("downscale", 0.20, downscale, 0.35, 1.0),
        Operation("blur", 0.10, blur, 0.4, 1.2),
        Operation("noise", 0.15, noise, 2.0, 8.0),
        Operation("jpeg", 0.40, jpeg, 30, 95),
        Operation("erase", 0.10, erase, 0.02, 0.15),
    ),
    "cameras": (
        MIRROR,
        _brightness(0.25, 0.7, 1.3),
        _contrast(0.25, 0.7, 1.3),
        _saturation(0.20, 0.6, 1.4),
        _hue(0.10, 0.03),
        Operation("cast", 0.25, cast, 0.0, 0.12),
        GREY,
        Operation("downscale", 0.30, downscale, 0.3, 1.0),
        Operation("blur", 0.20, blur, 0.4, 2.0),
        Operation("noise", 0.20, noise, 2.0, 10.0),
        Operation("gamma", 0.20, lambda image, exponent, _: kernels.adjust_gamma(image, exponent), 0.7, 1.4),
        Operation("sharpen", 0.20, lambda image, factor, _: kernels.adjust_sharpness(image, factor), 1.0, 4.0),
        Operation("jpeg", 0.50, jpeg, 25, 95),
        Operation("erase", 0.10, erase, 0.02, 0.15),
    ),
}
