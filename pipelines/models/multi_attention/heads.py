"""From pooled features to two logits.

The paper only shows a box labelled "classifier"; in both presets the layers are those of the authors' code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.backbone import NUM_CLASSES


def make_local_head(in_features: int, width: int) -> nn.Sequential:
    """For P with its M rows concatenated: (N, in_features) to (N, width)."""
    return nn.Sequential(nn.Linear(in_features, width), nn.Hardswish(), nn.Linear(width, width), nn.Hardswish())


def make_global_head(in_features: int, width: int) -> nn.Sequential:
    """For G: (N, in_features) to (N, width)."""
    return nn.Sequential(nn.Linear(in_features, width), nn.Hardswish())


def make_classifier(width: int) -> nn.Sequential:
    """For both results concatenated: (N, 2 * width) to logits (N, 2)."""
    return nn.Sequential(nn.Linear(2 * width, width), nn.Hardswish(), nn.Linear(width, NUM_CLASSES))


def draw_kept_maps(maps: Tensor, dropout: float, *, training: bool) -> Tensor | None:
    """Factors (N, M, 1), for each map of each image 0 or 1 / (1 - dropout); None if there is no dropout.

    The same factors apply to P and G, so that a dropped map is dropped from both.
    """
    if not training or not dropout:
        return None
    return F.dropout(torch.ones(*maps.shape[:2], 1, device=maps.device), dropout)
