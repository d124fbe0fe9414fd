"""Regional independence loss (section 3.4): attention maps that stay apart and agree on what each looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RegionalIndependenceLoss(nn.Module):
    """Equations 3 and 4.

    Keeps one centre per attention map. Distances are squared and taken per map; the sum over the maps is averaged over the
    batch (a literal sum over the batch would swamp a cross-entropy that is a mean).

    The centres move towards the batch (equation 4) before the loss is taken, and the gradient runs through that step.
    They are a buffer: saved with the state, never decayed, changed in training mode only.
    """

    centers: Tensor
    update_rate: Tensor

    def __init__(
        self,
        num_attentions: int,
        channels: int,
        *,
        inner_margins: tuple[float, float] = (0.05, 0.1),
        outer_margin: float = 0.2,
        update_rate: float = 0.05,
        update_rate_decay: float = 0.9,
        update_rate_floor: float = 1e-3,
    ) -> None:
        """Args are the paper's: m_in of real and fake, m_out, alpha and its factor per epoch; the floor is ours."""
        super().__init__()
        self.outer_margin = outer_margin
        self.update_rate_decay = update_rate_decay
        self.update_rate_floor = update_rate_floor
        self.register_buffer("centers", torch.zeros(num_attentions, channels))
        self.register_buffer("inner_margins", torch.tensor(inner_margins), persistent=False)
        self.register_buffer("update_rate", torch.tensor(update_rate))

    def forward(self, region_vectors: Tensor, labels: Tensor) -> Tensor:
        """The scalar loss from V (N, M, C) with unit rows and labels (N,) of 0 real, 1 fake; float32 also under autocast."""
        with torch.autocast(region_vectors.device.type, enabled=False):
            vectors = region_vectors.float()
            centers = self.centers - self.update_rate * (self.centers - vectors.mean(dim=0))
            if self.training:
                self.centers.copy_(centers.detach())
            return self._intra(vectors, centers, labels) + self._inter(centers)

    def end_epoch(self) -> None:
        """Let the centres move more slowly from now on: alpha times 0.9, not below the floor."""
        self.update_rate.mul_(self.update_rate_decay).clamp_(min=self.update_rate_floor)

    def _intra(self, vectors: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        """Each map's vector lies near its centre: nearer for real faces than for fake ones."""
        squared = (vectors - centers).square().sum(dim=-1)
        margins = self.get_buffer("inner_margins")[labels][:, None]
        return (squared - margins).relu().sum(dim=1).mean()

    def _inter(self, centers: Tensor) -> Tensor:
        """Centres of different maps lie apart; ordered pairs, so each counts twice."""
        squared = (centers[:, None] - centers[None]).square().sum(dim=-1)
        different = ~torch.eye(len(centers), dtype=torch.bool, device=centers.device)
        return (self.outer_margin - squared)[different].relu().sum()
