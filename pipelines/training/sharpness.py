"""Sharpness-aware minimisation (Foret et al., ICLR 2021): the step takes its gradient from where the loss nearby is greatest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def take_sharp_gradient(
    differentiate: Callable[[], None], module: nn.Module, parameters: Iterable[nn.Parameter], radius: float
) -> None:
    """Leave the gradient at w + radius g / |g| in `grad`, where g is the gradient at the weights w (equations 2 and 3).

    |g| is the norm over all `parameters` together. If it is zero, there is no direction, and the second gradient is taken at w.
    If it is not finite, the first gradient stays and there is no second. Afterwards the weights are w again, to the bit, and the
    module's buffers (running statistics, centres) are what the first pass made of them; the second pass starts from those that
    the first started from.

    Args:
        differentiate: computes the gradients of the whole batch, with the same random numbers in each call; called twice.
        module: whatever `differentiate` may change the buffers of.
        parameters: the weights to move; those without a gradient stay.
        radius: rho.
    """
    given = _copy(module.buffers())
    differentiate()
    moving = [parameter for parameter in parameters if parameter.grad is not None]
    norm = _norm([parameter.grad for parameter in moving if parameter.grad is not None])
    if not math.isfinite(norm):
        return
    with _restored(moving), _restored(list(module.buffers())):
        _fill(module.buffers(), given)
        _climb(moving, radius / norm if norm > radius * torch.finfo(torch.float32).tiny else 0.0)
        differentiate()


def _norm(tensors: Sequence[Tensor]) -> float:
    """Of all tensors as one vector, 0 without any."""
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in tensors])))


@torch.no_grad()
def _climb(parameters: Iterable[nn.Parameter], factor: float) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.add_(parameter.grad, alpha=factor)


@contextmanager
def _restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Whatever happens to the tensors inside, afterwards they are as before."""
    before = _copy(tensors)
    try:
        yield
    finally:
        _fill(tensors, before)


def _copy(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _fill(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
