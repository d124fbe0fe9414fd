"""One training step as a module, wrapped as a whole for several processes: both passes and every loss (equation 5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.backbone import BackboneClassifier
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.models.multi_attention.attention import pairwise_cosine
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.models.outputs import DetectorOutput
from pipelines.training.attention_augmentation import AttentionAugmentation
from pipelines.training.config import TrainConfig
from pipelines.training.losses import AdditiveMarginLoss, RegionalIndependenceLoss, match_loss

Phase = Literal["backbone", "network"]
Network = MultiAttentionDetector | FBiFPNMTLNet | BackboneClassifier


class StepLosses(NamedTuple):
    """Scalars of one step; None for parts that the step does not have."""

    total: Tensor
    """The weighted sum that is minimised."""
    ce: Tensor | None = None
    """Cross-entropy of the clean images."""
    ce_augmented: Tensor | None = None
    auxiliary: Tensor | None = None
    match: Tensor | None = None
    attention_cosine: Tensor | None = None
    """Mean cosine similarity of an image's maps; not a loss."""
    attention: Tensor | None = None
    mask: Tensor | None = None
    consistency: Tensor | None = None
    """Of F-BiFPN-MTLNet, unweighted."""


class TrainingStep(nn.Module):
    """A network with the modules that only training needs."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.auxiliary = _make_auxiliary(network, config)
        self.agda = AttentionAugmentation(config.agda)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        phase: Phase,
        *,
        augments: bool,
        generator: torch.Generator,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> StepLosses:
        """Losses of a batch, or of one of its `parts` in one of `world_size` processes.

        Images (N, 3, H, W) normalised, labels (N,) of 0 real, 1 fake.

        The degraded images need the maps of the clean ones, so there are two passes; both go backward together.
        """
        if phase == "backbone":
            assert isinstance(self.network, MultiAttentionDetector)
            ce = self._cross_entropy(self.network.classify_backbone(images), labels)
            return StepLosses(total=ce, ce=ce)
        clean = self.network(images)
        if not self.config.separates_maps:
            ce = self._cross_entropy(clean.logits, labels)
            return StepLosses(total=ce, ce=ce)
        replaces = augments and self.config.agda.use == "replace"
        auxiliary = self._take_auxiliary(clean, labels, parts=parts, processes=world_size)
        losses = self._weigh_clean(clean, labels, auxiliary, ce_weight=0.0 if replaces else 1.0)
        if not augments:
            return losses
        degraded_images, drawn = self.agda(
            images, clean.attention_maps.detach(), generator, rank=rank, world_size=world_size
        )
        degraded = self.network(degraded_images)
        if isinstance(self.auxiliary, RegionalIndependenceLoss) and self.config.ril.double_update:
            self.auxiliary.move_centers(degraded.region_vectors.detach(), labels, parts=parts)
        return self._add_degraded(losses, clean, degraded, drawn, labels)

    def end_epoch(self) -> None:
        """Update what changes between epochs: alpha."""
        if isinstance(self.auxiliary, RegionalIndependenceLoss):
            self.auxiliary.end_epoch()

    def _take_auxiliary(self, clean: DetectorOutput, labels: Tensor, *, parts: int, processes: int) -> Tensor | None:
        if self.auxiliary is None:
            return None
        loss: Tensor = self.auxiliary(clean.region_vectors, labels, parts=parts, processes=processes)
        return loss

    def _weigh_clean(
        self, clean: DetectorOutput, labels: Tensor, auxiliary: Tensor | None, *, ce_weight: float
    ) -> StepLosses:
        assert clean.attention_maps is not None
        ce = self._cross_entropy(clean.logits, labels)
        total = ce_weight * ce
        if auxiliary is not None and self.auxiliary is not None:
            total = total + self.auxiliary.config.weight * auxiliary
        return StepLosses(
            total, ce=ce, auxiliary=auxiliary, attention_cosine=pairwise_cosine(clean.attention_maps).mean()
        )

    def _add_degraded(
        self, losses: StepLosses, clean: DetectorOutput, degraded: DetectorOutput, drawn: Tensor, labels: Tensor
    ) -> StepLosses:
        assert clean.region_vectors is not None and degraded.region_vectors is not None
        agda = self.config.agda
        ce_augmented = self._cross_entropy(degraded.logits, labels)
        total = losses.total + agda.ce_weight * ce_augmented
        match = None
        if agda.match_weight:
            match = match_loss(clean.region_vectors, degraded.region_vectors, drawn)
            total = total + agda.match_weight * match
        return losses._replace(total=total, ce_augmented=ce_augmented, match=match)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.optimization.label_smoothing)


def _make_auxiliary(network: Network, config: TrainConfig) -> RegionalIndependenceLoss | AdditiveMarginLoss | None:
    if not config.separates_maps or config.auxiliary == "none":
        return None
    assert isinstance(network, MultiAttentionDetector)
    size = (network.config.num_attentions, network.backbone.texture_channels)
    if config.auxiliary == "ams":
        return AdditiveMarginLoss(*size, config.ams)
    return RegionalIndependenceLoss(*size, config.ril)
