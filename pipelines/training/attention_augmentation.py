"""Attention-guided data augmentation (section 3.5): degrade what one map looks at, so the others must look elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.training.config import AttentionAugmentationConfig


class Degraded(NamedTuple):
    """Result of the augmentation."""

    images: Tensor
    """(N, 3, H, W)."""
    drawn: Tensor
    """(N,): the map that was drawn for each image."""


class AttentionAugmentation:
    """Soft (equation 6): I' = I (1 - A*) + I_d A*, with I_d a blurred copy. Hard (equation 7): I' = 0 where A* > theta_d."""

    def __init__(self, config: AttentionAugmentationConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        attention_maps: Tensor,
        generator: torch.Generator,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> Degraded:
        """Degrade each image under one of its maps, in float32 also under autocast.

        Args:
            images: (N, 3, H, W) float, normalised; not changed.
            attention_maps: (N, M, h, w) >= 0.
            generator: a CPU generator, equal in all processes: it draws for the whole batch, each process takes its part.
            rank, world_size: which part.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._degrade_drawn(images.float(), attention_maps.float(), generator, rank, world_size)

    def _degrade_drawn(
        self, images: Tensor, attention_maps: Tensor, generator: torch.Generator, rank: int, world_size: int
    ) -> Degraded:
        count = len(images)
        uniform = torch.rand(count * world_size, generator=generator)[rank * count : (rank + 1) * count]
        drawn = self._draw(attention_maps, uniform.to(images.device))
        chosen = attention_maps[torch.arange(count, device=images.device), drawn]
        weights = F.interpolate(
            normalize_maps(chosen, self.config.normalize)[:, None],
            size=images.shape[-2:],
            mode="bilinear",
            align_corners=True,
        )
        if self.config.mode == "hard":
            return Degraded(images * (weights <= self.config.drop_threshold), drawn)
        if self.config.remap == "sigmoid":
            weights = self._sharpen(weights, generator)
        return Degraded(torch.lerp(images, self.degrade(images), weights), drawn)

    def degrade(self, images: Tensor) -> Tensor:
        """I_d: reduced, blurred, with noise if that is set, and brought back to size."""
        config = self.config
        size = [max(1, round(side * config.scale)) for side in images.shape[-2:]]
        small = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        blurred = gaussian_blur(small, config.sigma_px, config.kernel_px)
        if config.noise:
            blurred = blurred + config.noise * torch.randn_like(blurred)
        return F.interpolate(blurred, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def _draw(self, maps: Tensor, uniform: Tensor) -> Tensor:
        """One map for each image, from uniform numbers (N,) through the cumulative probabilities."""
        mass = maps.sum(dim=(2, 3))
        chances = (mass + 1).sqrt() if self.config.select == "sqrt-mass" else torch.ones_like(mass)
        bounds = chances.cumsum(dim=1) / chances.sum(dim=1, keepdim=True)
        return (uniform[:, None] >= bounds).sum(dim=1).clamp(max=maps.shape[1] - 1)

    def _sharpen(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """The authors' sigmoid: 0 stays 0, the steepest part lies at a drawn threshold t, the slope is a drawn z."""
        draws = torch.rand(2, generator=generator)
        low, high = self.config.remap_threshold
        threshold = low + (high - low) * float(draws[0])
        low, high = self.config.remap_zoom
        zoom = low + (high - low) * float(draws[1])
        at_zero = torch.sigmoid((torch.zeros_like(weights[:1, :1, :1, :1]) - threshold) * zoom)
        return (torch.sigmoid((weights - threshold) * zoom) - at_zero) / (1 - at_zero)


def normalize_maps(maps: Tensor, how: str = "max") -> Tensor:
    """Each map (N, h, w) on 0..1 by its maximum (max) or its range (minmax); a dead map becomes zero."""
    low = maps.amin(dim=(1, 2), keepdim=True) if how == "minmax" else torch.zeros_like(maps[:, :1, :1])
    span = maps.amax(dim=(1, 2), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def gaussian_blur(images: Tensor, sigma_px: float, kernel_px: int) -> Tensor:
    """Images (N, C, H, W) under a Gaussian of odd kernel size, the borders reflected; the kernel shrinks with small images."""
    half = min(kernel_px // 2, min(images.shape[-2:]) - 1)
    offsets = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
