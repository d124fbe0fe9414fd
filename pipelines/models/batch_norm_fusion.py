"""Batch-norm fusion: folds batch norms into the preceding convolutions, for fewer passes over memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)
TOLERANCE = 1e-3
"""Relative difference of outputs before and after, far above rounding: a final check in addition to `_Watch`."""


def try_fold(network: nn.Module, example: Tensor) -> nn.Module:
    """The network with its batch norms folded, or the network itself if that is not possible."""
    folded = copy.deepcopy(network)
    try:
        fold_batch_norms(folded, example)
    except ValueError as error:
        log.info("batch norms are not folded: %s", error)
        return network
    return folded


@torch.no_grad()
def fold_batch_norms(network: nn.Module, example: Tensor) -> int:
    """Fold, in place, each batch norm that alone reads the output of one convolution. For inference only.

    With y = conv(x) and z = (y - mean) / sqrt(var + eps) * gamma + beta, the scale goes into the convolution's weights and
    the rest into its bias. Outputs change by rounding.

    Args:
        network: in evaluation mode; returns a tensor or a nest of tensors, tuples and objects with attributes.
        example: an input of the network.

    Returns:
        The number of batch norms folded.

    Raises:
        ValueError: the network is in training mode, or its outputs change.
    """
    if network.training:
        raise ValueError("batch norms fold only in evaluation mode")
    before = _tensors_in(network(example))
    pairs = _find_pairs(network, example)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    _replace(network, {norm: _what_remains(norm) for _, norm in pairs})
    for was, now in zip(before, _tensors_in(network(example)), strict=True):
        if not torch.allclose(was, now, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, float(was.abs().max()))):
            raise ValueError(
                "the network reads a convolution's output elsewhere than in its batch norm, so it cannot be folded"
            )
    return len(pairs)


def _find_pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions that run once, each with the batch norm that is the only reader of its output."""
    watch = _Watch()
    handles = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            handles += [module.register_forward_pre_hook(watch.enter), module.register_forward_hook(watch.leave)]
        elif isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(watch.note_output))
    try:
        with watch:
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return watch.pairs


class _Watch(TorchFunctionMode):
    """Intercepts every torch call to find out what reads the output of each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self._outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        """By id; the tensor is kept alive so that its id is not reused."""
        self._readers: dict[nn.Conv2d, set[nn.BatchNorm2d | None]] = {}
        """None stands for anything but a batch norm."""
        self._norm: nn.BatchNorm2d | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in _tensors_in((*args, *(kwargs or {}).values())):
            if id(value) in self._outputs:
                self._readers[self._outputs[id(value)][0]].add(self._norm)
        return func(*args, **(kwargs or {}))

    def enter(self, norm: nn.BatchNorm2d, _inputs: Any) -> None:
        self._norm = norm

    def leave(self, _norm: nn.BatchNorm2d, _inputs: Any, _output: Any) -> None:
        self._norm = None

    def note_output(self, convolution: nn.Conv2d, _inputs: Any, output: Tensor) -> None:
        self._outputs[id(output)] = convolution, output
        self._readers.setdefault(convolution, set())

    @property
    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        runs = [convolution for convolution, _ in self._outputs.values()]
        alone = [(convolution, next(iter(read))) for convolution, read in self._readers.items() if len(read) == 1]
        return [(convolution, norm) for convolution, norm in alone if norm and runs.count(convolution) == 1]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight.double() * scale[:, None, None, None]
    convolution.weight.copy_(weight)
    convolution.bias = nn.Parameter(shift.to(weight.device, convolution.weight.dtype), requires_grad=False)


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation inside a timm batch norm, or the identity."""
    return getattr(norm, "act", nn.Identity())


def _replace(network: nn.Module, replacements: dict[nn.BatchNorm2d, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child in replacements:
                setattr(parent, name, replacements[child])


def _tensors_in(value: Any) -> list[Tensor]:
    collected: list[Tensor] = []
    _collect(value, collected.append)
    return collected


def _collect(value: Any, take: Callable[[Tensor], None]) -> None:
    if isinstance(value, Tensor):
        take(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, take)
    elif hasattr(value, "__dict__"):
        _collect(list(vars(value).values()), take)
