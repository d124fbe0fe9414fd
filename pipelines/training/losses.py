"""What keeps attention maps apart: regional independence (section 3.4), or additive-margin softmax over the regions.

All of it is computed in float32, also under autocast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.training.config import AdditiveMarginConfig, RegionalIndependenceConfig

UPDATE_RATE_FLOOR = 1e-3
"""alpha never falls below; ours, so that the centres of a long run still follow."""


class RegionalIndependenceLoss(nn.Module):
    """Equations 3 and 4: one centre per attention map; a map's vectors lie near its centre, centres lie apart.

    The centres move towards the batch (equation 4) before the loss is taken, and the gradient runs through that step.
    They are a buffer: saved with the state, never decayed, changed in training mode only. With several processes they move by
    the whole batch.
    """

    centers: Tensor
    """(M, C)."""
    update_rate: Tensor
    """alpha, a scalar."""

    def __init__(self, num_attentions: int, channels: int, config: RegionalIndependenceConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centers", torch.zeros(num_attentions, channels))
        self.register_buffer("update_rate", torch.tensor(config.update_rate))
        self.register_buffer("inner_margins", torch.tensor(config.inner_margins), persistent=False)

    def forward(self, region_vectors: Tensor, labels: Tensor, *, parts: int = 1, processes: int = 1) -> Tensor:
        """The scalar loss from V (N, M, C) with unit rows and labels (N,) of 0 real, 1 fake.

        If the batch is computed in parts or by several processes, the mean of what each of them gets is the loss.
        """
        with torch.autocast(region_vectors.device.type, enabled=False):
            vectors = region_vectors.float()
            centers = self.move_centers(vectors, labels, parts=parts)
            intra = self._intra(vectors, centers, labels)
            if self.config.reduction == "sum":
                intra = intra * (parts * processes)
            return intra + self._inter(centers)

    def move_centers(self, region_vectors: Tensor, labels: Tensor, *, parts: int = 1) -> Tensor:
        """Equation 4: c + alpha mean(V - c), kept for the next step in training mode and returned with its gradient.

        Each of several parts moves what is kept by its share, so that a step moves the centres as far as in one part.
        """
        offsets = region_vectors.float() - self.centers
        if self.config.centers == "real":  # the authors' code: fakes pull at nothing, but the mean is over all
            offsets = offsets * (labels == 0)[:, None, None]
        pull = _mean_over_processes(offsets.mean(dim=0))
        centers = self.centers + self.update_rate * pull
        if self.training:
            self.centers.add_(self.update_rate / parts * pull.detach())
        return centers

    def end_epoch(self) -> None:
        """Let the centres move more slowly from now on."""
        self.update_rate.mul_(self.config.update_rate_decay).clamp_(min=min(UPDATE_RATE_FLOOR, self.config.update_rate))

    def _intra(self, vectors: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        """Beyond the margin of its class a vector is pulled to its centre; before a negative margin it is pushed away."""
        margins = self.get_buffer("inner_margins")[labels]
        if self.config.distance == "squared":
            distances, margins = (vectors - centers).square().sum(dim=-1), margins[:, None]
        else:
            distances = torch.linalg.vector_norm(vectors - centers, dim=(1, 2))
        excess = (torch.where(margins < 0, -distances, distances) - margins).relu()
        per_image = excess.flatten(1).sum(dim=1) if excess.ndim > 1 else excess
        return per_image.sum() if self.config.reduction == "sum" else per_image.mean()

    def _inter(self, centers: Tensor) -> Tensor:
        """Centres of different maps are pushed apart up to the outer margin."""
        count = len(centers)
        first, second = torch.triu_indices(count, count, offset=1, device=centers.device)
        offsets = centers[first] - centers[second]
        if self.config.distance == "squared":
            distances = offsets.square().sum(dim=-1)
        else:
            distances = torch.linalg.vector_norm(offsets, dim=-1)
        total = (self.config.outer_margin - distances).relu().sum()
        if self.config.pairs == "ordered":
            total = 2 * total
        return total / (count * self.update_rate) if self.config.inter_scale == "per-map-and-rate" else total


class AdditiveMarginLoss(nn.Module):
    """Additive-margin softmax (Wang et al., 2018): every region vector is classified as the region that it comes from.

    M classes with one learned direction each; cosine minus m for the own class, times s. The mean over images and maps.
    """

    def __init__(self, num_attentions: int, channels: int, config: AdditiveMarginConfig) -> None:
        super().__init__()
        self.config = config
        self.directions = nn.Parameter(torch.randn(num_attentions, channels))

    def forward(self, region_vectors: Tensor, labels: Tensor, *, parts: int = 1, processes: int = 1) -> Tensor:
        """The scalar loss from V (N, M, C) with unit rows; a mean, whatever the labels and the division of the batch."""
        with torch.autocast(region_vectors.device.type, enabled=False):
            vectors = region_vectors.float()
            cosines = vectors @ F.normalize(self.directions.float(), dim=-1).T
            count = cosines.shape[1]
            own = torch.eye(count, device=cosines.device)
            logits = self.config.scale * (cosines - self.config.margin * own)
            regions = torch.arange(count, device=logits.device).expand(len(logits), count)
            loss: Tensor = F.cross_entropy(logits.flatten(0, 1), regions.flatten())
            return loss


def match_loss(clean: Tensor, degraded: Tensor, drawn: Tensor) -> Tensor:
    """Distance between the region vectors of clean and degraded images, without the map that was degraded.

    From the authors' code; not in the paper.

    Args:
        clean, degraded: (N, M, C) with unit rows.
        drawn: (N,) index of the degraded map.
    """
    with torch.autocast(clean.device.type, enabled=False):
        distances = torch.linalg.vector_norm(degraded.float() - clean.float(), dim=-1)
        others = 1 - F.one_hot(drawn, distances.shape[1])
        loss: Tensor = (distances * others).mean()
        return loss


def _mean_over_processes(values: Tensor) -> Tensor:
    """The mean over all processes, with gradients to the values of each."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return values
    total: Tensor = _SumOverProcesses.apply(values)
    return total / torch.distributed.get_world_size()


class _SumOverProcesses(torch.autograd.Function):
    """Every process has the sum, and the sum's gradient is that of all their losses. torch's own is deprecated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total
