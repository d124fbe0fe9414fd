"""The multi-attention module (section 3.2): M attention maps from a deep feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGE_GRID = 24
"""The border of `edge_mask` is two cells wide on a 24 x 24 grid, resized (nearest) to the maps."""
EDGE_CELLS = 2


class MultiAttention(nn.Module):
    """A = ReLU(BN(Conv1x1(f_a))): one 1x1 convolution, batch norm and ReLU, M output maps."""

    def __init__(self, in_channels: int, num_attentions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_attentions, kernel_size=1)
        self.bn = nn.BatchNorm2d(num_attentions)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, M, h, w) >= 0 from features (N, C_a, h, w)."""
        return F.relu(self.bn(self.conv(features)))


class DeepMultiAttention(nn.Module):
    """The authors' code: preceded by a 3x3 convolution with batch norm and ReLU; ELU + 1 at the end, so that no map is dead."""

    def __init__(self, in_channels: int, num_attentions: int) -> None:
        super().__init__()
        self.conv_extract = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.bn_extract = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, num_attentions, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(num_attentions)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, M, h, w) > 0 from features (N, C_a, h, w)."""
        extracted = F.relu(self.bn_extract(self.conv_extract(features)))
        return F.elu(self.bn(self.conv(extracted))) + 1


def mask_edges(maps: Tensor) -> Tensor:
    """Set maps (N, M, h, w) to zero along the border."""
    inside = maps.new_zeros(1, 1, EDGE_GRID, EDGE_GRID)
    inside[..., EDGE_CELLS:-EDGE_CELLS, EDGE_CELLS:-EDGE_CELLS] = 1
    return maps * F.interpolate(inside, size=maps.shape[-2:], mode="nearest")


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of attention maps to (height, width), corners aligned as in the authors' code."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


@torch.no_grad()
def pairwise_cosine(maps: Tensor) -> Tensor:
    """Similarity of each image's maps: the mean cosine over pairs of maps, 0 if disjoint, 1 if collapsed into one.

    Args:
        maps: (N, M, h, w) >= 0 with M > 1. A dead map is orthogonal to every other.

    Returns:
        (N,) float32.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows = F.normalize(maps.float().flatten(2), dim=-1)
        count = rows.shape[1]
        return (torch.einsum("nid,njd->n", rows, rows) - rows.square().sum(dim=(1, 2))) / (count * (count - 1))
