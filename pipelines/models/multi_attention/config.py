"""Settings of the multi-attention network; the defaults are the preset `paper`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MultiAttentionConfig:
    """Every choice that shapes the network. It travels in the checkpoint and rebuilds the network from it."""

    backbone: str = "tf_efficientnet_b4"
    """timm name, or `mobilenetv2_imagenet`."""
    texture_tap: str = "L2"
    """SL_t: the shallow layer that textural features come from."""
    attention_tap: str = "L5"
    """SL_a: the layer that attention maps come from."""
    num_attentions: int = 4
    """M."""
    dense_layers: int = 3
    mid_features: int = 256
    """Width of the classifier's hidden layers; the paper does not print it, the authors use 256."""
    drop_path_rate: float = 0.2

    def __post_init__(self) -> None:
        for name in ("num_attentions", "dense_layers", "mid_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")
