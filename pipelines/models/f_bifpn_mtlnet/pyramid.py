"""F-BiFPN: EfficientDet's weighted bidirectional pyramid, with weights that follow the forgery-attention map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.f_bifpn_mtlnet.config import NUM_LEVELS, Fusion

FUSION_EPS = 1e-4
"""EfficientDet's, in the denominator of fast normalised fusion."""


class FusionBlock(nn.Module):
    """S(x) = BN(PW1x1(DW3x3(SiLU(x)))), after each fusion."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.bn(self.pointwise(self.depthwise(F.silu(x))))
        return result


class FusionLayer(nn.Module):
    """One layer: down from coarse to fine levels, then up again.

    Fuse({I_i, A_i})(p) = sum_i w_i(p) I_i(p) / (eps + sum_i w_i(p)) with w_i(p) = ReLU(w_i) (1 + ReLU(kappa) A_i(p)): where
    a level expects traces of a forgery, it counts more. With constant A this is EfficientDet's fast normalised fusion up to
    eps. `plain` leaves A out; `top-down` also leaves the way up out.
    """

    def __init__(self, channels: int, fusion: Fusion, *, lateral_gate: bool) -> None:
        super().__init__()
        self.lateral_gate = lateral_gate
        steps = NUM_LEVELS - 1
        self.down_weights = nn.Parameter(torch.ones(steps, 2))
        """From the second coarsest to the finest level: lateral, from above."""
        self.down_blocks = nn.ModuleList(FusionBlock(channels) for _ in range(steps))
        self.goes_up = fusion != "top-down"
        if self.goes_up:
            self.up_weights = nn.ParameterList(
                nn.Parameter(torch.ones(3 if step < steps - 1 else 2)) for step in range(steps)
            )
            """From the second finest to the coarsest level: lateral, from the way down (not the coarsest), from below."""
            self.up_blocks = nn.ModuleList(FusionBlock(channels) for _ in range(steps))
        self.follows_attention = fusion == "attention"
        if self.follows_attention:
            self.kappa = nn.Parameter(torch.ones(2 if self.goes_up else 1))
            """Strength of the attention on the way down and on the way up."""

    def forward(self, levels: Sequence[Tensor], attention: Sequence[Tensor]) -> list[Tensor]:
        """Fused levels, finest first, from levels (N, W, h_l, w_l) and A_l (N, 1, h_l, w_l) in 0..1."""
        down = self._go_down(levels, attention)
        return self._go_up(levels, down, attention) if self.goes_up else down

    def _go_down(self, levels: Sequence[Tensor], attention: Sequence[Tensor]) -> list[Tensor]:
        down = [levels[-1]]
        for step, block in enumerate(self.down_blocks):
            level = NUM_LEVELS - 2 - step
            size = levels[level].shape[-2:]
            coarser = F.interpolate(down[0], size=size, mode="nearest")
            lateral = levels[level] * (1 - coarser.sigmoid()) if self.lateral_gate else levels[level]
            maps = [attention[level], F.interpolate(attention[level + 1], size=size, mode="nearest")]
            down.insert(0, block(self._fuse([lateral, coarser], maps, self.down_weights[step], way=0)))
        return down

    def _go_up(self, levels: Sequence[Tensor], down: Sequence[Tensor], attention: Sequence[Tensor]) -> list[Tensor]:
        up = [down[0]]
        for step, block in enumerate(self.up_blocks):
            level = step + 1
            inputs, maps = [levels[level]], [attention[level]]
            if level < NUM_LEVELS - 1:  # on the way down, the coarsest level is the lateral one itself
                inputs, maps = [*inputs, down[level]], [*maps, attention[level]]
            inputs, maps = [*inputs, halve(up[-1])], [*maps, halve(attention[level - 1])]
            up.append(block(self._fuse(inputs, maps, self.up_weights[step], way=1)))
        return up

    def _fuse(self, inputs: Sequence[Tensor], maps: Sequence[Tensor], weights: Tensor, *, way: int) -> Tensor:
        shares = list(weights.relu())
        if self.follows_attention:
            kappa = self.kappa[way].relu()
            shares = [share * (1 + kappa * each) for share, each in zip(shares, maps, strict=True)]
        total = sum(share * each for share, each in zip(shares, inputs, strict=True))
        fused: Tensor = total / (FUSION_EPS + sum(shares))
        return fused


def halve(maps: Tensor) -> Tensor:
    """(N, C, h, w) to half the size, rounded up, by the maximum: the sizes of the next coarser level at any input size."""
    return F.max_pool2d(maps, kernel_size=3, stride=2, padding=1)
