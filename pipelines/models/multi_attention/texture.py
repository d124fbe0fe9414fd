"""Textural feature enhancement (section 3.3): what local averaging removes from shallow features, densely convolved."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Texture(NamedTuple):
    """The two results of the texture branch."""

    enhanced: Tensor
    """F, (N, C_F, H_s, W_s)."""
    pooled: Tensor
    """D, (N, C_t, h, w): local averages at the attention maps' size."""


class DenseLayer(nn.Module):
    """BN, ReLU, 3x3 convolution; its output joins its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], dim=1)


class TextureEnhancement(nn.Module):
    """T = f_t - D (equation 1), then a dense block F = DenseBlock(T) with C_F = (1 + dense_layers) * C_t channels."""

    def __init__(self, in_channels: int, dense_layers: int) -> None:
        super().__init__()
        self.out_channels = in_channels * (1 + dense_layers)
        self.stem = nn.Conv2d(in_channels, in_channels, kernel_size=1)
        self.dense = nn.Sequential(*(DenseLayer(in_channels * (1 + i), in_channels) for i in range(dense_layers)))
        self.bn = nn.BatchNorm2d(self.out_channels)
        self.conv = nn.Conv2d(self.out_channels, self.out_channels, kernel_size=1)
        self.bn_out = nn.BatchNorm2d(self.out_channels)

    def forward(self, features: Tensor, attention_size: tuple[int, int]) -> Texture:
        """From shallow features (N, C_t, H_s, W_s); `attention_size` (h, w) sets the patches that are averaged."""
        pooled = F.adaptive_avg_pool2d(features, attention_size)
        residual = features - F.interpolate(pooled, size=features.shape[-2:], mode="nearest")
        dense = self.dense(self.stem(residual))
        return Texture(self.bn_out(self.conv(F.relu(self.bn(dense)))), pooled)
