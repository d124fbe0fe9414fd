"""The networks, by name: `build_model("multi-attention/paper", backbone="mobilenetv2_imagenet")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import nn

from pipelines.models.backbone import BackboneClassifier
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.network import MultiAttentionDetector

__all__ = ["MODEL_NAMES", "build_model", "model_config"]


def _build_multi_attention(**overrides: Any) -> nn.Module:
    return MultiAttentionDetector(MultiAttentionConfig(**overrides))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"multi-attention/paper": _build_multi_attention}
MODEL_NAMES = (*_BUILDERS, "backbone/<timm name>")
"""Every name that `build_model` takes; a new architecture is a new file and one line in the table above."""


def build_model(name: str, **overrides: Any) -> nn.Module:
    """A network with random weights, built offline.

    Args:
        name: `multi-attention/paper`, or `backbone/<timm name>` for a plain classifier.
        overrides: fields of the model's config to change; none gives the published network.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name.startswith("backbone/"):
        return BackboneClassifier(name.removeprefix("backbone/"), **overrides)
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODEL_NAMES)}")
    return _BUILDERS[name](**overrides)


def model_config(model: nn.Module) -> dict[str, Any]:
    """The overrides that make `build_model` build this network again."""
    if isinstance(model, MultiAttentionDetector):
        return asdict(model.config)
    if isinstance(model, BackboneClassifier):
        return {"drop_path_rate": model.drop_path_rate}
    raise ValueError(f"not one of the project's models: {type(model).__name__}")
