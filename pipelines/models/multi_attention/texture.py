"""Textural feature enhancement (section 3.3): a dense block on the high-frequency part of shallow features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.multi_attention.attention import resize_maps


class Texture(NamedTuple):
    """The two results of the texture branch."""

    enhanced: Tensor
    """F: (N, C_F, H_s, W_s), one for all maps, or (N, M, C_F, H_s, W_s), one for each."""
    pooled: Tensor
    """D, (N, C_t, h, w): local averages at the attention maps' size."""


class DenseLayer(nn.Module):
    """BN, ReLU, 3x3 convolution in `groups` groups; the output of each group joins its input."""

    def __init__(self, in_channels: int, growth: int, *, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, kernel_size=3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        fresh = self.conv(F.relu(self.bn(x)))
        if self.groups == 1:
            return torch.cat([x, fresh], dim=1)
        joined = torch.cat([_split_groups(x, self.groups), _split_groups(fresh, self.groups)], dim=2)
        return joined.flatten(1, 2)


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

    def forward(self, features: Tensor, attention: Tensor) -> Texture:
        """From shallow features (N, C_t, H_s, W_s); the size of the maps (N, M, h, w) determines the patches averaged."""
        residual, pooled = subtract_patch_means(features, attention)
        dense = self.dense(self.stem(residual))
        return Texture(self.bn_out(self.conv(F.relu(self.bn(dense)))), pooled)


class GatedTextureEnhancement(nn.Module):
    """The authors' code: M dense blocks side by side (grouped convolutions), the input of each gated by tanh of its map.

    The maps get no gradient from the gate. C_F = C_t channels for each map.
    """

    def __init__(self, in_channels: int, dense_layers: int, num_attentions: int) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.num_attentions = groups = num_attentions
        width = in_channels * groups
        self.extract = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.stem = nn.Conv2d(width, width, kernel_size=5, padding=2, groups=groups)
        self.dense = nn.Sequential(*(DenseLayer(width * (1 + i), width, groups=groups) for i in range(dense_layers)))
        self.bn = nn.BatchNorm2d(width * (1 + dense_layers))
        self.conv = nn.Conv2d(width * (1 + dense_layers), width, kernel_size=1, groups=groups)
        self.bn_out = nn.BatchNorm2d(width)

    def forward(self, features: Tensor, attention: Tensor) -> Texture:
        """From shallow features (N, C_t, H_s, W_s) and the maps (N, M, h, w)."""
        residual, pooled = subtract_patch_means(self.extract(features), attention)
        gates = resize_maps(attention.detach(), _size(residual)).tanh()
        gated = (residual[:, None] * gates[:, :, None]).flatten(1, 2)
        dense = self.dense(self.stem(gated))
        enhanced = F.relu(self.bn_out(self.conv(F.relu(self.bn(dense)))))
        return Texture(_split_groups(enhanced, self.num_attentions), pooled)


def subtract_patch_means(features: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """T = f - D (equation 1) and D: one patch mean per pixel of the maps; in T, each mean is subtracted from its whole patch.

    If the maps are as large as the features there is nothing to average: T = f, since f - D would be zero.
    """
    pooled = F.adaptive_avg_pool2d(features, _size(attention))
    if pooled.shape[-1] >= features.shape[-1]:
        return features, pooled
    return features - F.interpolate(pooled, size=_size(features), mode="nearest"), pooled


def standardize(pooled: Tensor) -> Tensor:
    """D (N, C, h, w) with zero mean and unit deviation in each channel of each image; a constant channel becomes zero."""
    correction = min(1, pooled.shape[-2] * pooled.shape[-1] - 1)  # a single pixel has no unbiased deviation
    std, mean = torch.std_mean(pooled.float(), dim=(2, 3), keepdim=True, correction=correction)
    return (pooled.float() - mean) / (std + 1e-8)


def _split_groups(maps: Tensor, groups: int) -> Tensor:
    return maps.reshape(maps.shape[0], groups, -1, *maps.shape[2:])


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])
