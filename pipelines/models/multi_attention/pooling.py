"""Bilinear attention pooling (section 3.3, equation 2): one feature vector for each attention map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6
"""Sums with a smaller norm count as dead. Large enough to keep the gradient of the division finite."""
MASS_EPS = 1e-8


def pool_regions(maps: Tensor, features: Tensor) -> Tensor:
    """Equation 2: v_k = sum(A_k * F) / ||sum(A_k * F)||_2, the rows of P.

    Computed in float32: the norm of a nearly dead map underflows in half precision. A dead map gives a zero row.

    Args:
        maps: (N, M, H, W), already at the features' size.
        features: (N, C, H, W), or (N, M, C, H, W) with separate features for each map.

    Returns:
        (N, M, C) with rows of unit length.
    """
    with torch.autocast(features.device.type, enabled=False):
        terms = "nmhw,nchw->nmc" if features.ndim == 4 else "nmhw,nmchw->nmc"
        sums = torch.einsum(terms, maps.float(), features.float())
        return F.normalize(sums, dim=-1, eps=NORM_EPS)


def pool_semantics(maps: Tensor, features: Tensor) -> Tensor:
    """G = BAP(A_sum, f_L): the mean of the last features weighted by the sum of the maps.

    A small constant added to every weight makes dead attention fall back to the plain mean.

    Args:
        maps: (N, M, H, W), already at the features' size.
        features: (N, C, H, W).

    Returns:
        (N, C).
    """
    with torch.autocast(features.device.type, enabled=False):
        weights = maps.float().sum(dim=1) + MASS_EPS
        return torch.einsum("nhw,nchw->nc", weights, features.float()) / weights.sum(dim=(1, 2))[:, None]
