"""Attention-guided data augmentation (section 3.5): blur what one attention map looks at, so the others must look elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AttentionAugmentation:
    """The soft form, equation 6: I' = I (1 - A*) + I_d A*, with I_d a blurred copy at a fraction of the size.

    The paper gives the factor 0.3 and sigma 7; the kernel's size is that of the authors' code.
    """

    scale: float = 0.3
    sigma_px: float = 7.0
    kernel_px: int = 11

    @torch.no_grad()
    def __call__(self, images: Tensor, attention_maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Degraded images and the map that was drawn for each.

        Args:
            images: (N, 3, H, W) float32, normalised; not changed.
            attention_maps: (N, M, h, w) >= 0.
            generator: a CPU generator; it draws the map of each image, all equally likely.

        Returns:
            (N, 3, H, W) and the drawn indices (N,).
        """
        count, num_maps = attention_maps.shape[:2]
        chosen = torch.randint(num_maps, (count,), generator=generator).to(images.device)
        maps = attention_maps[torch.arange(count, device=images.device), chosen].float()
        weights = F.interpolate(
            normalize_maps(maps)[:, None], size=images.shape[-2:], mode="bilinear", align_corners=True
        )
        return images * (1 - weights) + self.degrade(images) * weights, chosen

    def degrade(self, images: Tensor) -> Tensor:
        """I_d: reduced, blurred, and brought back to size."""
        size = [max(1, round(side * self.scale)) for side in images.shape[-2:]]
        small = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        blurred = blur(small, sigma_px=self.sigma_px, kernel_px=self.kernel_px)
        return F.interpolate(blurred, size=images.shape[-2:], mode="bilinear", align_corners=False)


def normalize_maps(maps: Tensor) -> Tensor:
    """A*: each map (N, h, w) divided by its own maximum; a dead map stays zero and changes nothing."""
    peak = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, maps / peak.clamp(min=torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))


def blur(images: Tensor, *, sigma_px: float, kernel_px: int) -> Tensor:
    """Gaussian blur (N, C, H, W), separable, mirrored at the border; the kernel shrinks to what small images allow."""
    half = min(kernel_px // 2, min(images.shape[-2:]) - 1)
    offsets = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
