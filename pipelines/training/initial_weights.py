"""Initial weights: a checkpoint of the same network, or weights of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipelines.checkpoints.checkpoint import read_header
from pipelines.checkpoints.weights_files import describe_mismatch, read_state, resolve_weights
from pipelines.errors import CheckpointError
from pipelines.models.backbone import BackboneClassifier
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.training.step import Network

_WHOLE = "backbone.net."
_CLASSIFIER = "net."
"""Prefixes of a backbone's weights in checkpoints of the two kinds of network; files from elsewhere have none."""


def load_initial_weights(network: Network, init: str) -> None:
    """Start from a checkpoint of the same network, or from weights of its backbone.

    Backbone weights may be a file from elsewhere or a checkpoint of the preset `backbone`; the latter preset also takes the
    backbone out of a checkpoint of the multi-attention network. A classifier with a different number of classes is left
    untrained.

    Raises:
        CheckpointError: names or shapes do not fit, or a checkpoint of the other network.
    """
    path = resolve_weights(init, kind="checkpoint").path
    _refuse_other_network(path, network)
    state = read_state(path)
    is_whole = any(name.startswith(_WHOLE) for name in state)
    try:
        if is_whole and not isinstance(network, BackboneClassifier):
            _load(network, state, optional=())
        else:
            prefix = _WHOLE if is_whole else _CLASSIFIER if all(name.startswith(_CLASSIFIER) for name in state) else ""
            body = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            _load_body(network, body)
    except (ValueError, RuntimeError) as error:
        remedy = "check --preset, --backbone and --set num_attentions" if is_whole else "check --backbone"
        raise CheckpointError(f"{path} does not fit the network: {error}; {remedy}") from error


def _refuse_other_network(path: Path, network: Network) -> None:
    """Name both networks where a checkpoint of one is given to the other; a plain classifier takes any backbone's weights."""
    model = _model_in(path)
    if model is None or model.startswith("backbone/") or isinstance(network, BackboneClassifier):
        return
    wanted = "f-bifpn-mtlnet" if isinstance(network, FBiFPNMTLNet) else "multi-attention"
    if not model.startswith(f"{wanted}/"):
        raise CheckpointError(
            f"{path} is a checkpoint of {model}, and this preset trains {wanted}; pass a checkpoint of {wanted} or weights of "
            "the backbone, or choose the preset of the checkpoint"
        )


def _model_in(path: Path) -> str | None:
    """The model of one of our checkpoints; None for a file from elsewhere."""
    try:
        return read_header(path).model
    except CheckpointError:
        return None


def _load_body(network: Network, state: Mapping[str, Tensor]) -> None:
    if isinstance(network, FBiFPNMTLNet):
        removed = network.backbone.removed
        _load(network.backbone.net, {k: v for k, v in state.items() if not k.startswith(removed)}, optional=())
        return
    body: Any = network.backbone.net if isinstance(network, MultiAttentionDetector) else network.net
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
