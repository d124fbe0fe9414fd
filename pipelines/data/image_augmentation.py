"""Random changes to a training image: a mirror image, and the image degradations that videos suffer in practice.

Probabilities and ranges follow published recipes, mostly below theirs: Zhao et al. (multi-attentional detection, DFDC
recipe: hue/saturation .5, brightness/contrast .5, noise .3, blur or JPEG .3, grey .1), Shiohara and Yamasaki
(self-blended images: colour .3 each, JPEG 40-100 .5), Seferbekov (winner of the DFDC: JPEG 60-100 .5, noise .1, blur .05,
one colour change .7, grey .2) and Li et al. (face X-ray: down-scaling to 0.2-1 and back .5; here not below 0.35, which is
34 px of a 96 px input). The rectangle is random erasing (Zhong et al.), made smaller.

Forgery traces are faint, so `robust` leaves every fine detail (no down-scaling, blur, noise or JPEG) in 37 % of the
images. On average it applies 1.75 operations in addition to the mirror; 14 % of the images get none.
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

from pipelines.data.forgery_masks import Mask
from pipelines.errors import ConfigError
from pipelines.system.image_files import Image, join_images

ERASED_ASPECT_MAX = 2.0
"""Largest aspect ratio of an erased rectangle."""


@dataclass(frozen=True)
class Operation:
    """One kind of change: its probability, its range of strengths, and the function that applies it."""

    name: str
    probability: float
    change: Callable[[Tensor, float, np.random.Generator], Tensor]
    """Maps (3, S, S) uint8 and a strength to a new (3, S, S) uint8; the argument is not modified."""
    low: float = 0.0
    high: float = 0.0
    """The strength is uniform between `low` and `high`, in the unit that `change` expects."""


def augment_image(image: Image, preset: str, rng: np.random.Generator) -> Image:
    """Apply the preset `none`, `flip` or `robust` to an image (S, S, 3) uint8 RGB; the shape stays the same.

    All random numbers come from `rng`, none from torch, so the result does not depend on threads. The argument is not
    modified; it is returned itself if no operation applies.

    Raises:
        ConfigError: unknown preset.
    """
    return augment_with_mask(image, None, preset, rng)[0]


def augment_with_mask(
    image: Image, mask: Mask | None, preset: str, rng: np.random.Generator
) -> tuple[Image, Mask | None]:
    """`augment_image`, and with it a mask (S, S) of the same face, which only the mirror changes.

    An erased rectangle keeps its mask: what it hides is as forged as before.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    for operation in operations_of(preset):
        if rng.random() < operation.probability:
            pixels = operation.change(pixels, rng.uniform(operation.low, operation.high), rng)
            if operation is MIRROR and mask is not None:
                mask = np.ascontiguousarray(mask[:, ::-1])
    changed: Image = pixels.permute(1, 2, 0).contiguous().numpy()
    return changed, mask


def operations_of(preset: str) -> tuple[Operation, ...]:
    """The operations of a preset, in the order in which they are applied."""
    if preset not in PRESETS:
        raise ConfigError(f"unknown image augmentation {preset!r}; known: {', '.join(PRESETS)}")
    return PRESETS[preset]


def preview_augmentations(images: Sequence[Image], preset: str, *, seed: int, columns: int) -> Image:
    """A preview, uint8 RGB: each row shows a face of `images` (S, S, 3) and `columns - 1` augmented versions of it.

    Raises:
        ConfigError: unknown preset, no image or no column.
    """
    operations_of(preset)
    if not images or columns < 1:
        raise ConfigError(f"a preview needs an image and a column, got {len(images)} images and {columns} columns")
    rows = []
    for row, image in enumerate(images):
        streams = [np.random.default_rng((seed, row, column)) for column in range(1, columns)]
        rows.append(join_images([image, *(augment_image(image, preset, rng) for rng in streams)], axis=1))
    return join_images(rows, axis=0)


def downscale(image: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    """Shrink to `scale` of the side and back, like a small face in a video."""
    size_px = image.shape[-1]
    small = max(1, round(scale * size_px))
    smaller = kernels.resize(image, [small, small], antialias=True)
    changed: Tensor = kernels.resize(smaller, [size_px, size_px], antialias=True)
    return changed


def blur(image: Tensor, sigma_px: float, rng: np.random.Generator) -> Tensor:
    """Gaussian blur, truncated at three sigma."""
    taps = 2 * min(math.ceil(3 * sigma_px), image.shape[-1] - 1) + 1  # the border is reflected, so it must reach
    # the convolution is several times slower on interleaved colours
    changed: Tensor = kernels.gaussian_blur(image.contiguous(), [taps, taps], [sigma_px])
    return changed


def noise(image: Tensor, sigma_levels: float, rng: np.random.Generator) -> Tensor:
    """Independent Gaussian noise on each value. torchvision's kernel uses torch's global generator, which threads share."""
    draws = torch.from_numpy(rng.standard_normal((*image.shape[1:], 3), dtype=np.float32)).permute(2, 0, 1)
    return draws.mul_(sigma_levels).add_(image).round_().clamp_(0, 255).to(torch.uint8)


def jpeg(image: Tensor, quality: float, rng: np.random.Generator) -> Tensor:
    """JPEG compression with 4:2:0 chroma, by OpenCV: torchvision's is deprecated."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()[:, :, ::-1]
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return torch.from_numpy(decoded[:, :, ::-1].copy()).permute(2, 0, 1)


def erase(image: Tensor, area_share: float, rng: np.random.Generator) -> Tensor:
    """Fill one rectangle covering `area_share` of the image with a random grey, like a hand, caption or microphone."""
    size_px = image.shape[-1]
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ERASED_ASPECT_MAX))
    height, width = (round(math.sqrt(area_share * share) * size_px) for share in (aspect, 1 / aspect))
    top, left = int(rng.integers(0, size_px - height + 1)), int(rng.integers(0, size_px - width + 1))
    level = torch.tensor(rng.integers(0, 256), dtype=torch.uint8)
    changed: Tensor = kernels.erase(image, top, left, height, width, level)
    return changed


MIRROR = Operation("mirror", 0.5, lambda image, *_: kernels.horizontal_flip(image))
GREY = Operation("grey", 0.10, lambda image, *_: kernels.rgb_to_grayscale(image, num_output_channels=3))


# in physical order: scene, distance and lens, sensor, file; occlusion last
PRESETS: Mapping[str, tuple[Operation, ...]] = {
    "none": (),
    "flip": (MIRROR,),
    "robust": (
        MIRROR,
        Operation("brightness", 0.20, lambda image, factor, _: kernels.adjust_brightness(image, factor), 0.8, 1.2),
        Operation("contrast", 0.20, lambda image, factor, _: kernels.adjust_contrast(image, factor), 0.8, 1.2),
        Operation("saturation", 0.20, lambda image, factor, _: kernels.adjust_saturation(image, factor), 0.7, 1.3),
        Operation("hue", 0.10, lambda image, turns, _: kernels.adjust_hue(image, turns), -0.02, 0.02),
        GREY,
        Operation("downscale", 0.20, downscale, 0.35, 1.0),
        Operation("blur", 0.10, blur, 0.4, 1.2),
        Operation("noise", 0.15, noise, 2.0, 8.0),
        Operation("jpeg", 0.40, jpeg, 30, 95),
        Operation("erase", 0.10, erase, 0.02, 0.15),
    ),
}
