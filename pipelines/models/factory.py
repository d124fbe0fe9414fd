"""From a model's name to a network, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from pipelines.models.backbone import BackboneClassifier
from pipelines.models.f_bifpn_mtlnet.config import PRESETS as F_BIFPN_PRESETS
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.models.multi_attention.config import PRESETS
from pipelines.models.multi_attention.network import MultiAttentionDetector


def _build_multi_attention(preset: str, **overrides: Any) -> nn.Module:
    return MultiAttentionDetector(replace(PRESETS[preset], **overrides))


def _build_f_bifpn_mtlnet(preset: str, **overrides: Any) -> nn.Module:
    return FBiFPNMTLNet(replace(F_BIFPN_PRESETS[preset], **overrides))


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    **{f"multi-attention/{preset}": partial(_build_multi_attention, preset) for preset in PRESETS},
    **{f"f-bifpn-mtlnet/{preset}": partial(_build_f_bifpn_mtlnet, preset) for preset in F_BIFPN_PRESETS},
}
MODEL_NAMES = (*_BUILDERS, "backbone/<timm name>")
"""Every name that `build_model` accepts; a new architecture is a new file and a line in the table above."""


def build_model(name: str, **overrides: Any) -> nn.Module:
    """A network with random weights, built offline.

    Args:
        name: one of `MODEL_NAMES`, such as `multi-attention/paper` or `f-bifpn-mtlnet/b4`; `backbone/<timm name>` is a plain
            classifier.
        overrides: changed fields of the model's config; without any, the published network.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name.startswith("backbone/"):
        return BackboneClassifier(name.removeprefix("backbone/"), **overrides)
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODEL_NAMES)}")
    return _BUILDERS[name](**overrides)


def model_config(model: nn.Module) -> dict[str, Any]:
    """The overrides with which `build_model` rebuilds this network."""
    if isinstance(model, MultiAttentionDetector | FBiFPNMTLNet):
        return asdict(model.config)
    if isinstance(model, BackboneClassifier):
        return {"drop_path_rate": model.drop_path_rate}
    raise ValueError(f"not one of the project's models: {type(model).__name__}")
