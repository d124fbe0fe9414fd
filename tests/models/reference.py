"""The network's equations once more, in numpy and plain functions, for comparison."""

from __future__ import annotations

import math
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


def pool_own_rows(maps: Array, features: Array) -> Array:
    """Equation 2 where every map has its own features (N, M, C, H, W)."""
    return np.concatenate([pool_rows(maps[:, k : k + 1], features[:, k]) for k in range(maps.shape[1])], axis=1)


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


def attend_deeply(features: Tensor, state: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """The authors' head with the stored statistics: conv 3x3, BN, ReLU, conv 1x1 without bias, BN, ELU + 1."""
    extracted = F.conv2d(
        features, state[prefix + "conv_extract.weight"], state[prefix + "conv_extract.bias"], padding=1
    )
    extracted = normalize(extracted, state, prefix + "bn_extract.").clamp(min=0)
    scores = torch.einsum("mc,nchw->nmhw", state[prefix + "conv.weight"][:, :, 0, 0], extracted)
    scores = normalize(scores, state, prefix + "bn.")
    return torch.where(scores > 0, scores + 1, scores.clamp(max=0).exp())


def is_edge(place: int, length: int) -> bool:
    """Whether a row or column of maps lies in the outer two of the 24 cells that its upper left corner falls into."""
    return not 2 <= place * 24 // length < 22


def mask_edges(maps: Tensor) -> Tensor:
    """A copy of maps (N, M, h, w) with zeros along the border."""
    masked = maps.clone()
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            if is_edge(row, maps.shape[2]) or is_edge(column, maps.shape[3]):
                masked[:, :, row, column] = 0
    return masked


def standardize(pooled: Array) -> Array:
    """Every channel of every image less its mean, over its unbiased deviation."""
    result = np.empty_like(pooled)
    for n in range(pooled.shape[0]):
        for c in range(pooled.shape[1]):
            values = pooled[n, c]
            mean = values.sum() / values.size
            deviation = math.sqrt(((values - mean) ** 2).sum() / (values.size - 1))
            result[n, c] = (values - mean) / (deviation + 1e-8)
    return result


def mean_cosine(maps: Array) -> list[float]:
    """For each image the mean cosine of two different maps; with a dead one it is 0."""
    means = []
    for image in maps:
        cosines = []
        for i in range(len(image)):
            for j in range(len(image)):
                length = math.sqrt((image[i] ** 2).sum() * (image[j] ** 2).sum())
                if i != j:
                    cosines.append(float((image[i] * image[j]).sum()) / length if length else 0.0)
        means.append(sum(cosines) / len(cosines))
    return means


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


def enhance_each(
    features: Tensor, maps: Tensor, state: Mapping[str, Tensor], prefix: str = ""
) -> tuple[Tensor, Tensor]:
    """F (N, M, C, H, W) and D of the authors' texture block: a dense block for each map, one after another."""
    extracted = F.conv2d(features, state[prefix + "extract.weight"], state[prefix + "extract.bias"], padding=1)
    size = (extracted.shape[2], extracted.shape[3])
    pooled = average_patches(extracted.double().numpy(), (maps.shape[2], maps.shape[3]))
    residual = extracted - torch.from_numpy(repeat_nearest(pooled, size)).to(features.dtype)
    gates = torch.from_numpy(np.tanh(resize_aligned(maps.double().numpy(), size))).to(features.dtype)
    count = maps.shape[1]
    enhanced = []
    for k in range(count):

        def part(name: str, k: int = k) -> Tensor:
            """The k-th of M equal parts of a tensor: the groups lie side by side in its first dimension."""
            return state[prefix + name].chunk(count)[k]

        def norm_part(x: Tensor, name: str, k: int = k) -> Tensor:
            own = {key: part(f"{name}.{key}") for key in ("running_mean", "running_var", "weight", "bias")}
            return normalize(x, own, "").clamp(min=0)

        x = F.conv2d(residual * gates[:, k : k + 1], part("stem.weight"), part("stem.bias"), padding=2)
        for layer in range(3):
            name = f"dense.{layer}"
            fresh = F.conv2d(
                norm_part(x, f"{name}.bn"), part(f"{name}.conv.weight"), part(f"{name}.conv.bias"), padding=1
            )
            x = torch.cat([x, fresh], dim=1)
        x = F.conv2d(norm_part(x, "bn"), part("conv.weight"), part("conv.bias"))
        enhanced.append(norm_part(x, "bn_out"))
    return torch.stack(enhanced, dim=1), torch.from_numpy(pooled).to(features.dtype)


def classify(regions: Tensor, semantics: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Logits from P (N, M, C) and G (N, C)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[name + ".weight"].T + state[name + ".bias"]

    local = hardswish(linear("local_head.2", hardswish(linear("local_head.0", regions.flatten(1)))))
    wide = hardswish(linear("global_head.0", semantics))
    return linear("classifier.2", hardswish(linear("classifier.0", torch.cat([local, wide], dim=1))))


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def _per_map(values: Tensor) -> Tensor:
    return values[None, :, None, None]
