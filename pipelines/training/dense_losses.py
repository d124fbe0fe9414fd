"""What supervises F-BiFPN-MTLNet besides the class: attention maps, mask and self-consistency, from masks of forged pixels.

All of it is in logit form and in float32, also under autocast. An image whose mask is unknown adds nothing to any of these
losses and gets no gradient from them. Every loss is a mean over all images of the batch, known or not, so that a batch
computed in parts gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.models.outputs import DenseOutput
from pipelines.training.config import DenseSupervisionConfig

DICE_SMOOTHING = 1.0
SAME_SOURCE = 0.5
"""Pairs with a target of at least this count as from one source when the two kinds are balanced."""


class DenseLosses(NamedTuple):
    """Unweighted scalars; None for branches that the network lacks, or whose weight is 0."""

    attention: Tensor | None
    mask: Tensor | None
    consistency: Tensor | None


def boundary_of(masks: Tensor) -> Tensor:
    """4 M (1 - M): 1 where a soft mask is half, 0 inside and outside (Face X-ray, LAA-Net). Any shape."""
    return 4 * masks * (1 - masks)


def attention_loss(attention: Sequence[Tensor], masks: Tensor, known: Tensor, config: DenseSupervisionConfig) -> Tensor:
    """Binary cross-entropy of every level's map, the mean over levels.

    The target is the mask's boundary, or the mask, at the level's size by its maximum, which keeps a thin ring visible.

    Args:
        attention: logits, each (N, 1, h_l, w_l).
        masks: (N, H, W) in 0..1.
        known: (N,) 1 or 0.
    """
    truth = (boundary_of(masks) if config.attention_target == "boundary" else masks)[:, None]
    levels = []
    for logits in attention:
        target = F.adaptive_max_pool2d(truth, logits.shape[-2:])
        levels.append(F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=(1, 2, 3)))
    return _mean_of_known(torch.stack(levels).mean(dim=0), known)


def mask_loss(logits: Tensor, masks: Tensor, known: Tensor, config: DenseSupervisionConfig) -> Tensor:
    """Focal loss with soft targets (Lin et al., 2017) times `focal_scale`, plus the Dice loss of fakes.

    focal = alpha_t |t - p|^gamma BCE(p, t), alpha_t = alpha t + (1 - alpha) (1 - t), the mean over pixels;
    Dice = 1 - (2 sum p t + 1) / (sum p^2 + sum t^2 + 1), the mean over images with a forged pixel.

    Args:
        logits: (N, 1, h, w).
        masks: (N, H, W) in 0..1; area-averaged to (h, w).
        known: (N,) 1 or 0.
    """
    scores = logits.float()[:, 0]
    target = _area_resize(masks, scores.shape[-2:])
    probabilities = scores.sigmoid()
    balance = config.focal_alpha * target + (1 - config.focal_alpha) * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    focal = balance * (target - probabilities).abs().pow(config.focal_gamma) * entropy
    overlap = 2 * (probabilities * target).sum(dim=(1, 2)) + DICE_SMOOTHING
    sizes = probabilities.square().sum(dim=(1, 2)) + target.square().sum(dim=(1, 2)) + DICE_SMOOTHING
    forged = (masks.amax(dim=(1, 2)) > 0).float() * known
    dice = ((1 - overlap / sizes) * forged).sum() / (len(forged) / 2)  # half of every batch is fake
    return config.focal_scale * _mean_of_known(focal.mean(dim=(1, 2)), known) + config.dice_weight * dice


def pair_targets(masks: Tensor, size: Sequence[int]) -> Tensor:
    """V_ij = 1 - |m_i - m_j| (PCL): 1 for places of one source. (N, P, P) from masks (N, H, W), P = h w places of `size`."""
    places = _area_resize(masks, size).flatten(1)
    return 1 - (places[:, :, None] - places[:, None, :]).abs()


def anchor_targets(masks: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """1 - |B_a - B_j| (LAA-Net) and a, the place where the boundary B is greatest; all ones for a real face.

    Args:
        masks: (N, H, W) in 0..1.

    Returns:
        (N, P) and (N,).
    """
    places = _area_resize(boundary_of(masks), size).flatten(1)
    highest, anchors = places.max(dim=1)
    return 1 - (highest[:, None] - places).abs(), anchors


def consistency_loss(
    features: Tensor,
    compare: Callable[..., Tensor],
    masks: Tensor,
    known: Tensor,
    *,
    anchored: bool,
    balanced: bool,
) -> Tensor:
    """Binary cross-entropy of the pairs.

    Balanced: half the mean over pairs of one source plus half the mean over the others; of an image without any of the
    latter, such as a real face, only the first, in full. Otherwise: the mean over all pairs (PCL).

    Args:
        features: (N, C, h, w).
        compare: from features (and, if anchored, anchors) to logits.
        masks: (N, H, W) in 0..1.
        known: (N,) 1 or 0.
        anchored: each place is compared with one anchor instead of with every other.
    """
    size = features.shape[-2:]
    if anchored:
        target, anchors = anchor_targets(masks, size)
        logits = compare(features.float(), anchors)
    else:
        target = pair_targets(masks, size)
        logits = compare(features.float())
    entropy = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").flatten(1)
    if not balanced:
        return _mean_of_known(entropy.mean(dim=1), known)
    same = (target.flatten(1) >= SAME_SOURCE).float()
    count_same, count_other = same.sum(dim=1), (1 - same).sum(dim=1)
    mean_same = (entropy * same).sum(dim=1) / count_same.clamp(min=1)
    mean_other = (entropy * (1 - same)).sum(dim=1) / count_other.clamp(min=1)
    return _mean_of_known(torch.where(count_other > 0, (mean_same + mean_other) / 2, mean_same), known)


def dense_losses(
    dense: DenseOutput,
    compare: Callable[..., Tensor] | None,
    masks: Tensor,
    known: Tensor,
    config: DenseSupervisionConfig,
    *,
    anchored: bool,
) -> DenseLosses:
    """Every loss that has a weight and a branch.

    Args:
        masks: (N, H, W) in 0..1; what stands where `known` is 0 does not matter.
        known: (N,) 1 or 0.
        compare: of the consistency branch; None without one.
    """
    with torch.autocast(masks.device.type, enabled=False):
        attention = mask = consistency = None
        if config.attention_weight:
            attention = attention_loss(dense.attention, masks, known, config)
        if config.mask_weight and dense.mask is not None:
            mask = mask_loss(dense.mask, masks, known, config)
        if config.consistency_weight and dense.consistency is not None and compare is not None:
            consistency = consistency_loss(
                dense.consistency, compare, masks, known, anchored=anchored, balanced=config.balanced_consistency
            )
        return DenseLosses(attention, mask, consistency)


def _area_resize(masks: Tensor, size: Sequence[int]) -> Tensor:
    return F.adaptive_avg_pool2d(masks[:, None], (size[0], size[1]))[:, 0]


def _mean_of_known(values: Tensor, known: Tensor) -> Tensor:
    """Values (N,), those of unknown images replaced by 0; the mean over all N."""
    return torch.where(known > 0, values, torch.zeros_like(values)).mean()
