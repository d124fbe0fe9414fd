"""The network's equations once more, in numpy and plain functions, for comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[np.float64]
BATCH_NORM_EPS = 1e-5


def average_patches(features: Array, size: tuple[int, int]) -> Array:
    """D: (N, C, H, W) averaged over size[0] x size[1] patches that cover the map; neighbours share an uneven row."""
    height, width = features.shape[-2:]
    pooled = np.empty((*features.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
            columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
            pooled[:, :, i, j] = features[:, :, rows, columns].mean(axis=(2, 3))
    return pooled


def repeat_nearest(maps: Array, size: tuple[int, int]) -> Array:
    """Every pixel takes the value of the patch that its upper left corner lies in."""
    rows = np.arange(size[0]) * maps.shape[2] // size[0]
    columns = np.arange(size[1]) * maps.shape[3] // size[1]
    return maps[:, :, rows][:, :, :, columns]


def resize_aligned(maps: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize with aligned corners: first and last samples stay where they are."""
    for axis, length in ((2, size[0]), (3, size[1])):
        places = np.linspace(0, maps.shape[axis] - 1, length)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, maps.shape[axis] - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = length
        share = (places - low).reshape(shape)
        maps = np.take(maps, low, axis=axis) * (1 - share) + np.take(maps, high, axis=axis) * share
    return maps


def pool_rows(maps: Array, features: Array) -> Array:
    """Equation 2, one map and one channel at a time."""
    rows = np.zeros((maps.shape[0], maps.shape[1], features.shape[1]))
    for n in range(maps.shape[0]):
        for k in range(maps.shape[1]):
            row = np.array([(maps[n, k] * channel).sum() for channel in features[n]])
            length = np.sqrt((row**2).sum())
            rows[n, k] = row / length if length else row
    return rows


def pool_weighted(maps: Array, features: Array) -> Array:
    """G: the mean of the features, weighted by the sum of the maps."""
    weights = maps.sum(axis=1, keepdims=True) + 1e-8
    pooled: Array = (features * weights).sum(axis=(2, 3)) / weights.sum(axis=(2, 3))
    return pooled


def attend(features: Tensor, state: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """A = ReLU(BN(Conv1x1(f_a))) with the stored statistics: a matrix product and a scale per map."""
    weight = state[prefix + "conv.weight"][:, :, 0, 0]
    scores = torch.einsum("mc,nchw->nmhw", weight, features) + _per_map(state[prefix + "conv.bias"])
    return normalize(scores, state, prefix + "bn.").clamp(min=0)


def normalize(x: Tensor, state: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Batch norm with the stored statistics."""
    mean, variance, weight, bias = (
        _per_map(state[prefix + name]) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + BATCH_NORM_EPS).sqrt() * weight + bias


def enhance(
    features: Tensor, size: tuple[int, int], state: Mapping[str, Tensor], prefix: str = ""
) -> tuple[Tensor, Tensor]:
    """F and D of the texture branch: equation 1, then a dense block of three layers and a 1x1 output."""
    pooled = average_patches(features.double().numpy(), size)
    spread = repeat_nearest(pooled, (features.shape[2], features.shape[3]))
    residual = features - torch.from_numpy(spread).to(features.dtype)
    x = F.conv2d(residual, state[prefix + "stem.weight"], state[prefix + "stem.bias"])
    for layer in range(3):
        name = f"{prefix}dense.{layer}."
        fresh = F.conv2d(
            normalize(x, state, name + "bn.").clamp(min=0),
            state[name + "conv.weight"],
            state[name + "conv.bias"],
            padding=1,
        )
        x = torch.cat([x, fresh], dim=1)
    x = F.conv2d(
        normalize(x, state, prefix + "bn.").clamp(min=0), state[prefix + "conv.weight"], state[prefix + "conv.bias"]
    )
    return normalize(x, state, prefix + "bn_out."), torch.from_numpy(pooled).to(features.dtype)


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def _per_map(values: Tensor) -> Tensor:
    return values[None, :, None, None]
