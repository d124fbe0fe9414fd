"""The multi-attention module (section 3.2): M maps of where to look, from a deep feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MultiAttention(nn.Module):
    """A = ReLU(BN(Conv1x1(f_a))): one 1x1 convolution, batch norm and ReLU, M output maps."""

    def __init__(self, in_channels: int, num_attentions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_attentions, kernel_size=1)
        self.bn = nn.BatchNorm2d(num_attentions)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, M, h, w) >= 0 from features (N, C_a, h, w)."""
        return F.relu(self.bn(self.conv(features)))


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of attention maps to (height, width), corners aligned as in the authors' code."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
