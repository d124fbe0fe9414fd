"""The networks, by name: `build_model("multi-attention/paper", backbone="mobilenetv2_imagenet")`.

Importing this package loads no torch: the configs inside it are read by the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.models.factory import MODEL_NAMES, build_model, model_config

__all__ = ["MODEL_NAMES", "build_model", "model_config"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipelines.models.factory"), name)
