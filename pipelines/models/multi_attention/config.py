"""Settings of the multi-attention network, and the two published sets of them."""

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
    """Every choice that shapes the network. It travels in the checkpoint and rebuilds the network from it.

    The defaults are the preset `paper`.
    """

    backbone: str = "tf_efficientnet_b4"
    """timm name, or `mobilenetv2_imagenet`."""
    padding: Padding = "same"
    """Of strided convolutions: `same` follows the size of what comes in; `static-380` is fixed to what a 380 px input
    needs, at every size, as in the authors' code. They differ where a strided convolution meets an odd size."""
    drop_path_rate: float = 0.2
    """Stochastic depth, rising linearly to this in the last block."""
    bn_momentum: float | None = None
    """Of the backbone's batch norms; None leaves what the network has."""
    texture_tap: str = "auto"
    """SL_t, the shallow layer that textural features come from: L1..Ln. `auto`: the last stage at a quarter of the input's
    side, which is the paper's L2."""
    attention_tap: str = "auto"
    """SL_a, the layer that attention maps come from. `auto`: the last stage at a sixteenth, which is the paper's L5."""
    num_attentions: int = 4
    """M."""
    attention_head: AttentionHead = "conv1x1-relu"
    """`conv1x1-relu`: section 3.2. `conv3x3-elu`: a 3x3 convolution before it, and ELU + 1 (never zero) at the end."""
    edge_mask: bool = False
    """Set attention to zero along the border, 2 of 24 parts wide."""
    texture: TextureBlock = "dense"
    """`dense`: section 3.3, one dense block that all maps share. `gated-groups`: one block per map, whose input is gated by
    the map."""
    dense_layers: int = 3
    pooled_norm: PooledNorm = "none"
    """What the pooled textures D go through before regional independence reads them: `instance` standardises each channel
    of each image."""
    attention_dropout: float = 0.0
    """Chance that a whole map is left out of P and G in training."""
    final_dropout: float = 0.0
    """Dropout on G."""
    mid_features: int = 256
    """Width of the classifier's hidden layers; the paper does not print it, the authors use 256."""

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
"""The printed paper (CVPR 2021, section 3), with the authors' values where it prints none."""

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
"""The authors' published code, which differs from the paper in these points; their checkpoints need it."""

PRESETS = {"paper": PAPER, "reference": REFERENCE}
