"""One training step of F-BiFPN-MTLNet as a module: the class and the dense losses in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.training.config import TrainConfig
from pipelines.training.dense_losses import dense_losses
from pipelines.training.step import StepLosses


class MultiTaskStep(nn.Module):
    """The network with its losses: L = CE + ramp (w_att L_att + w_mask L_mask + w_con L_con)."""

    def __init__(self, network: FBiFPNMTLNet, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.network = network

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor, known: Tensor, *, ramp: float) -> StepLosses:
        """Losses of a batch, or of a part of one.

        Args:
            images: (N, 3, H, W) normalised.
            labels: (N,) of 0 real, 1 fake.
            masks: (N, H, W) in 0..1, 1 where forged.
            known: (N,) 1 where the mask is known, else 0.
            ramp: factor of the dense losses, 0..1.
        """
        output = self.network(images)
        assert output.dense is not None
        branch = self.network.consistency
        dense = dense_losses(
            output.dense,
            None if branch is None else branch.compare,
            masks,
            known,
            self.config.dense,
            anchored=branch is not None and branch.mode == "anchor",
        )
        with torch.autocast(images.device.type, enabled=False):
            ce = F.cross_entropy(
                output.logits.float(), labels, label_smoothing=self.config.optimization.label_smoothing
            )
            weights = self.config.dense
            total = ce
            for weight, loss in (
                (weights.attention_weight, dense.attention),
                (weights.mask_weight, dense.mask),
                (weights.consistency_weight, dense.consistency),
            ):
                if loss is not None:
                    total = total + ramp * weight * loss
        return StepLosses(total, ce=ce, attention=dense.attention, mask=dense.mask, consistency=dense.consistency)
