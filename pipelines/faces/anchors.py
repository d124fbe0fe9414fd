"""RetinaFace's anchors ("priors") and the decoding of what the network regresses against them.

Geometry of the original implementation (RetinaFace, Deng et al., CVPR 2020, and its PyTorch ports): two square anchors per
cell at strides 8, 16 and 32, centred in the cell. Here everything is in pixels of the network's input.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

STRIDES_PX = (8, 16, 32)
ANCHOR_SIZES_PX = ((16, 32), (64, 128), (256, 512))
CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
NUM_LANDMARKS = 5


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # the cached tensor must serve training too
def anchors_for(height_px: int, width_px: int) -> Tensor:
    """Anchors of one input size, (A, 4) float32 as centre x, centre y, width, height in pixels.

    Ordered as the network's heads are: by stride, then row, column, and anchor size. Cells are ceil(size / stride).
    The tensor is shared between calls: do not write into it.
    """
    levels = []
    for stride, sizes in zip(STRIDES_PX, ANCHOR_SIZES_PX, strict=True):
        rows, columns = -(-height_px // stride), -(-width_px // stride)
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * stride, (torch.arange(columns) + 0.5) * stride, indexing="ij"
        )
        centers = torch.stack([x, y], dim=-1)[:, :, None].expand(rows, columns, len(sizes), 2)
        side = torch.tensor(sizes, dtype=torch.float32)[None, None, :, None].expand(rows, columns, len(sizes), 2)
        levels.append(torch.cat([centers, side], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(regression: Tensor, anchors: Tensor) -> Tensor:
    """Boxes x0 y0 x1 y1 in pixels from (..., A, 4) regressions and (A, 4) anchors."""
    centers = anchors[..., :2] + regression[..., :2] * CENTER_VARIANCE * anchors[..., 2:]
    sizes = anchors[..., 2:] * torch.exp(regression[..., 2:] * SIZE_VARIANCE)
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1)


def decode_landmarks(regression: Tensor, anchors: Tensor) -> Tensor:
    """Five points (..., A, 5, 2) in pixels from (..., A, 10) regressions and (A, 4) anchors."""
    offsets = regression.reshape(*regression.shape[:-1], NUM_LANDMARKS, 2)
    return anchors[..., None, :2] + offsets * CENTER_VARIANCE * anchors[..., None, 2:]
