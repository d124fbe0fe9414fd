"""Helpers for tests that run networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def settle(network: nn.Module, run: Callable[[], Any]) -> None:
    """Give every batch norm the statistics of what it sees in `run`, so random weights neither vanish nor explode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        run()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


def random_images(count: int, size: int, *, seed: int = 0) -> Tensor:
    """(N, 3, size, size) float32 of unit variance."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def shared_file(*parts: str) -> Path:
    """A file of the folder `shared` next to the checkout; the test is skipped if it is absent."""
    path = Path(__file__).parents[1].parent.joinpath("shared", *parts)
    if not path.is_file():
        pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not next to this checkout")
    return path
