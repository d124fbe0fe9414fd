"""Settings of F-BiFPN-MTLNet. Only the abstract is public: each setting names the source of its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.config import find_wrong_choice

Fusion = Literal["attention", "plain", "top-down"]
Consistency = Literal["cosine", "dot", "anchor", "none"]

NUM_LEVELS = 4
MAX_WIDTH = 1024
MAX_LAYERS = 16


@dataclass(frozen=True)
class FBiFPNMTLNetConfig:
    """Every setting that shapes the network. Stored in the checkpoint to rebuild the network.

    The defaults are those of the model `f-bifpn-mtlnet/b4`. "Ours" marks what neither the abstract nor a cited paper says.
    """

    backbone: str = "tf_efficientnet_b4"
    """timm name, or `mobilenetv2_imagenet`. The paper cites EfficientNet and EfficientNetV2; B4 is LAA-Net's and SBI's."""
    taps: tuple[str, str, str, str] = ("auto", "auto", "auto", "auto")
    """C2 to C5: L1..Ln. `auto`: the last stage at 1/4, 1/8, 1/16 and 1/32 of the input's side. Levels: ours."""
    drop_path_rate: float = 0.2
    """Stochastic depth, rising linearly to this in the last block (EfficientNet)."""
    bn_momentum: float | None = None
    """Momentum of the backbone's batch norms; None keeps the network's own."""
    width: int = 128
    """W, the channels of every pyramid level. Ours."""
    layers: int = 3
    """L, the number of F-BiFPN layers; EfficientDet-D0 has 3."""
    fusion: Fusion = "attention"
    """`attention`: F-BiFPN, weighted by the forgery-attention map; the form of the weight is ours. `plain`: BiFPN
    (EfficientDet). `top-down`: FPN, without the way up."""
    lateral_gate: bool = False
    """On the way down, let lateral features in only where the coarser level is not active, as in LAA-Net's E-FPN."""
    channel_reduction: int = 16
    """r of the channel gate (CBAM)."""
    spatial_channels: int = 32
    """Features beside mean and maximum that the spatial map is computed from. Ours; CBAM has none."""
    mask_branch: bool = True
    """The learnable mask (abstract); its form is ours."""
    mask_channels: int = 64
    """Ours; LAA-Net's heads have 64."""
    consistency: Consistency = "cosine"
    """Self-consistency (abstract). `dot`: PCL. `cosine`: bounded, with a learned scale and offset; ours. `anchor`: each
    place with the most forged one, LAA-Net. `none`: no branch."""
    consistency_channels: int = 128
    """Ours."""
    dropout: float = 0.4
    """On the classifier's input (EfficientNet-B4)."""
    score_weights: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Share of classifier, mask and consistency in the score outside training, the abstract's "multi-task weighted
    discrimination"; the form is ours: see `weigh_tasks`."""

    def __post_init__(self) -> None:
        wrong = find_wrong_choice(self)
        if wrong:
            raise ValueError(wrong)
        object.__setattr__(self, "taps", tuple(self.taps))  # a checkpoint's JSON has lists
        object.__setattr__(self, "score_weights", tuple(self.score_weights))
        if len(self.taps) != NUM_LEVELS:
            raise ValueError(f"taps must name {NUM_LEVELS} stages, got {self.taps}")
        for name in ("width", "mask_channels", "consistency_channels", "spatial_channels", "channel_reduction"):
            if not 1 <= getattr(self, name) <= MAX_WIDTH:
                raise ValueError(f"{name} must be in 1..{MAX_WIDTH}, got {getattr(self, name)}")
        if not 1 <= self.layers <= MAX_LAYERS:
            raise ValueError(f"layers must be in 1..{MAX_LAYERS}, got {self.layers}")
        for name in ("drop_path_rate", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.bn_momentum is not None and not 0 < self.bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be in (0, 1], got {self.bn_momentum}")
        self._check_score_weights()

    def _check_score_weights(self) -> None:
        weights = self.score_weights
        if len(weights) != 3 or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"score_weights must be three shares that add up to 1, got {weights}")
        if weights[1] and not self.mask_branch:
            raise ValueError("score_weights gives the mask a share, but mask_branch is off")
        if weights[2] and self.consistency in ("none", "anchor"):
            raise ValueError(
                f"score_weights gives consistency a share, which consistency {self.consistency} cannot have"
            )


PRESETS = {
    "b4": FBiFPNMTLNetConfig(),
    "v2-s": FBiFPNMTLNetConfig(backbone="tf_efficientnetv2_s"),
    "v2-b3": FBiFPNMTLNetConfig(backbone="tf_efficientnetv2_b3"),
    "small": FBiFPNMTLNetConfig(
        backbone="tf_efficientnet_lite0",
        drop_path_rate=0.0,
        width=64,
        layers=2,
        spatial_channels=16,
        mask_channels=32,
        consistency_channels=64,
        dropout=0.2,
    ),
}
"""17,285,896, 20,369,424 and 12,975,966 parameters; `small` is for training on CPUs."""
