"""MTLNet: the mask branch, the self-consistency branch, the classifier's features, and their joint score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.f_bifpn_mtlnet.attention import PRIOR_LOGIT
from pipelines.models.f_bifpn_mtlnet.config import Consistency

POOL_EPS = 1e-6
SCALE_INIT = 5.0
"""Initial scale of the cosine similarity; the offset starts at 0."""
SUSPICIOUS_SHARE = 0.05
"""Share of the mask's pixels, the most forged, whose mean is the mask's score."""
INCONSISTENT_SHARE = 0.1
"""Share of the pairs of places, the least similar, whose mean is the consistency's score."""


def make_mask_branch(channels: int, hidden: int) -> nn.Sequential:
    """The learnable mask: (N, W, h, w) at the finest level to logits (N, 1, h, w)."""
    last = nn.Conv2d(hidden, 1, kernel_size=1)
    assert last.bias is not None
    nn.init.constant_(last.bias, PRIOR_LOGIT)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), last
    )


class ConsistencyBranch(nn.Module):
    """Self-consistency: whether two places of a face have one source (PCL), or each place that of an anchor (LAA-Net).

    The features are part of the network's output; pairs of them are compared by the loss, and by `weigh_tasks`.
    """

    def __init__(self, channels: int, features: int, mode: Consistency) -> None:
        super().__init__()
        self.mode = mode
        self.project = nn.Conv2d(channels, features, kernel_size=1)
        if mode == "dot":
            self.project_other = nn.Conv2d(channels, features, kernel_size=1)
        if mode == "cosine":
            self.scale = nn.Parameter(torch.tensor(SCALE_INIT))
            self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, level: Tensor) -> Tensor:
        """Features (N, C, h, w) from a level (N, W, h, w); with `dot` (N, 2C, h, w), for the two places of a pair."""
        if self.mode == "dot":
            return torch.cat([self.project(level), self.project_other(level)], dim=1)
        features: Tensor = self.project(level)
        return features

    def compare(self, features: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Logits that two places have one source.

        `cosine`: a cos(f_i, f_j) + b. `dot`: theta(f_i) . phi(f_j) / sqrt(C). `anchor`: f_anchor . f_j / sqrt(C).

        Args:
            features: (N, C, h, w) as `forward` gives them; P = h w places.
            anchors: (N,) index of each image's anchor, for `anchor` only.

        Returns:
            (N, P, P); with `anchor` (N, P).
        """
        places = features.flatten(2)
        logits: Tensor
        if self.mode == "anchor":
            assert anchors is not None
            chosen = places.gather(2, anchors[:, None, None].expand(-1, places.shape[1], 1))[..., 0]
            logits = torch.einsum("nc,ncp->np", chosen, places) / places.shape[1] ** 0.5
        elif self.mode == "dot":
            first, second = places.chunk(2, dim=1)
            logits = torch.einsum("nci,ncj->nij", first, second) / first.shape[1] ** 0.5
        else:
            unit = F.normalize(places.float(), dim=1)
            logits = self.scale * torch.einsum("nci,ncj->nij", unit, unit) + self.offset
        return logits


def pool_levels(levels: Sequence[Tensor], attention: Sequence[Tensor]) -> Tensor:
    """The classifier's features (N, 2 W levels): of each level its mean and its mean weighted by A_l.

    Args:
        levels: each (N, W, h_l, w_l).
        attention: each (N, 1, h_l, w_l) in 0..1.
    """
    pooled = []
    for level, weights in zip(levels, attention, strict=True):
        pooled.append(level.mean(dim=(2, 3)))
        pooled.append((weights * level).sum(dim=(2, 3)) / (weights.sum(dim=(2, 3)) + POOL_EPS))
    return torch.cat(pooled, dim=1)


def weigh_tasks(logits: Tensor, mask: Tensor | None, pairs: Tensor | None, weights: Sequence[float]) -> Tensor:
    """Logits (N, 2) whose softmax is the weighted mean of the three tasks' probabilities.

    The mask's is the mean of its most forged 5 %, the consistency's 1 minus the mean of the least similar 10 % of pairs.

    Args:
        logits: (N, 2) of the classifier.
        mask: logits (N, 1, h, w).
        pairs: logits (N, P, P).
        weights: of classifier, mask and consistency; they add up to 1.
    """
    score = weights[0] * logits.float().softmax(dim=1)[:, 1]
    if weights[1]:
        assert mask is not None
        score = score + weights[1] * _mean_of_largest(mask.float().sigmoid(), SUSPICIOUS_SHARE)
    if weights[2]:
        assert pairs is not None
        score = score + weights[2] * _mean_of_largest(1 - pairs.float().sigmoid(), INCONSISTENT_SHARE)
    tiny = torch.finfo(score.dtype).eps
    score = score.clamp(tiny, 1 - tiny)
    return torch.stack([torch.log1p(-score), torch.log(score)], dim=1)


def _mean_of_largest(values: Tensor, share: float) -> Tensor:
    flat = values.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(dim=1)
