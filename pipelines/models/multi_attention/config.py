"""Settings of the multi-attention network, with the two published presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.config import find_wrong_choice

AttentionHead = Literal["conv1x1-relu", "conv3x3-elu"]
TextureBlock = Literal["dense", "gated-groups"]
PooledNorm = Literal["none", "instance"]
Padding = Literal["same", "static-380"]

MAX_ATTENTIONS = 8
MAX_DENSE_LAYERS = 64


@dataclass(frozen=True)
class MultiAttentionConfig:
    """Every setting that shapes the network. Stored in the checkpoint to rebuild the network.

    The defaults are those of the preset `paper`.
    """

    backbone: str = "tf_efficientnet_b4"
    """timm name, or `mobilenetv2_imagenet`."""
    padding: Padding = "same"
    """Padding of strided convolutions: `same` depends on the input size; `static-380` is always that of a 380 px input, as in
    the authors' code. They differ where a strided convolution gets an odd size."""
    drop_path_rate: float = 0.2
    """Stochastic depth, rising linearly to this in the last block."""
    bn_momentum: float | None = None
    """Momentum of the backbone's batch norms; None keeps the network's own."""
    texture_tap: str = "auto"
    """SL_t, the shallow layer for textural features: L1..Ln. `auto`: the last stage at 1/4 of the input's side, the paper's
    L2."""
    attention_tap: str = "auto"
    """SL_a, the layer for attention maps. `auto`: the last stage at 1/16, the paper's L5."""
    num_attentions: int = 4
    """M."""
    attention_head: AttentionHead = "conv1x1-relu"
    """`conv1x1-relu`: section 3.2. `conv3x3-elu`: preceded by a 3x3 convolution, with ELU + 1 (never zero) at the end."""
    edge_mask: bool = False
    """Set attention to zero along a border of 2/24 of the side."""
    texture: TextureBlock = "dense"
    """`dense`: section 3.3, one dense block for all maps. `gated-groups`: one block per map, with its input gated by the map."""
    dense_layers: int = 3
    pooled_norm: PooledNorm = "none"
    """Normalisation of the pooled textures D for the regional independence loss: `instance` standardises each channel of
    each image."""
    attention_dropout: float = 0.0
    """Probability of leaving a whole map out of P and G in training."""
    final_dropout: float = 0.0
    """Dropout on G."""
    mid_features: int = 256
    """Width of the classifier's hidden layers; not given in the paper, 256 in the authors' code."""

    def __post_init__(self) -> None:
        wrong = find_wrong_choice(self)
        if wrong:
            raise ValueError(wrong)
        for name in ("num_attentions", "dense_layers", "mid_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.num_attentions > MAX_ATTENTIONS:
            raise ValueError(f"num_attentions must be <= {MAX_ATTENTIONS}, got {self.num_attentions}")
        if self.dense_layers > MAX_DENSE_LAYERS:
            raise ValueError(f"dense_layers must be <= {MAX_DENSE_LAYERS}, got {self.dense_layers}")
        for name in ("drop_path_rate", "attention_dropout", "final_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.bn_momentum is not None and not 0 < self.bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be in (0, 1], got {self.bn_momentum}")


PAPER = MultiAttentionConfig()
"""The printed paper (CVPR 2021, section 3), with values from the authors' code where it gives none."""

REFERENCE = MultiAttentionConfig(
    padding="static-380",
    bn_momentum=0.01,
    attention_head="conv3x3-elu",
    edge_mask=True,
    texture="gated-groups",
    pooled_norm="instance",
    attention_dropout=0.25,
    final_dropout=0.5,
)
"""The authors' published code, which differs from the paper in these settings; required by their checkpoints."""

PRESETS = {"paper": PAPER, "reference": REFERENCE}
