"""Initial weights: a checkpoint of the same network, or weights of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pipelines.checkpoints.weights_files import describe_mismatch, read_state, resolve_weights
from pipelines.errors import CheckpointError
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.training.step import Network

_WHOLE = "backbone.net."
_CLASSIFIER = "net."
"""Prefixes of a backbone's weights in checkpoints of the two kinds of network; files from elsewhere have none."""


def load_initial_weights(network: Network, init: str) -> None:
    """Start from a checkpoint of the same network, or from weights of its backbone.

    Backbone weights may be a file from elsewhere or a checkpoint of either kind of network. A classifier with a different
    number of classes is left untrained.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    path = resolve_weights(init, kind="checkpoint").path
    state = read_state(path)
    is_whole = any(name.startswith(_WHOLE) for name in state)
    try:
        if is_whole and isinstance(network, MultiAttentionDetector):
            _load(network, state, optional=())
        else:
            prefix = _WHOLE if is_whole else _CLASSIFIER if all(name.startswith(_CLASSIFIER) for name in state) else ""
            body: Any = network.backbone.net if isinstance(network, MultiAttentionDetector) else network.net
            _load_body(body, {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})
    except (ValueError, RuntimeError) as error:
        remedy = "check --preset, --backbone and --set num_attentions" if is_whole else "check --backbone"
        raise CheckpointError(f"{path} does not fit the network: {error}; {remedy}") from error


def _load_body(body: Any, state: Mapping[str, Tensor]) -> None:
    expected = body.state_dict()
    head = next(name for name, module in body.named_modules() if module is body.get_classifier())
    classifier = [name for name in expected if name.startswith(f"{head}.")]
    fits = all(name in state and state[name].shape == expected[name].shape for name in classifier)
    if not fits:
        state = {name: value for name, value in state.items() if name not in classifier}
    _load(body, state, optional=() if fits else classifier)


def _load(module: nn.Module, state: Mapping[str, Tensor], *, optional: list[str] | tuple[str, ...]) -> None:
    expected = module.state_dict().keys()
    mismatch = describe_mismatch(expected - set(optional) - state.keys(), state.keys() - expected)
    if mismatch:
        raise ValueError(mismatch)
    module.load_state_dict(state, strict=False)
