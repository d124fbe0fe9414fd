"""The forgery-attention map: CBAM's order (channel gate, then spatial map), with a spatial map that is supervised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRIOR_LOGIT = -2.19
"""Initial bias of the maps: probability 0.1, as of the heat maps of CornerNet and LAA-Net, since most pixels are genuine."""
SPATIAL_KERNEL = 7


class ForgeryAttention(nn.Module):
    """One module for all pyramid levels.

    z = x * sigmoid(MLP(avgpool x) + MLP(maxpool x)); q = ReLU(BN(Conv3x3(z))); a = Conv7x7([mean_c z; max_c z; q]).
    A = sigmoid(a) is CBAM's spatial attention, which here has a target.
    """

    def __init__(self, channels: int, *, reduction: int, spatial_channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel_gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.conv = nn.Conv2d(channels, spatial_channels, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(spatial_channels)
        self.spatial = nn.Conv2d(2 + spatial_channels, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2)
        assert self.spatial.bias is not None
        nn.init.constant_(self.spatial.bias, PRIOR_LOGIT)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, 1, h, w) from features (N, W, h, w)."""
        gate = self.channel_gate(features.mean(dim=(2, 3))) + self.channel_gate(features.amax(dim=(2, 3)))
        gated = features * gate.sigmoid()[:, :, None, None]
        pooled = [gated.mean(dim=1, keepdim=True), gated.amax(dim=1, keepdim=True)]
        logits: Tensor = self.spatial(torch.cat([*pooled, F.relu(self.bn(self.conv(gated)))], dim=1))
        return logits
