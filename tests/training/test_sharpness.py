"""The gradient of sharpness-aware minimisation against arithmetic by hand; what it moves on the way comes back to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.training.sharpness import take_sharp_gradient


class TinyNetwork(nn.Module):
    """y = v tanh(W x), with a buffer that counts its passes and one that is part of the loss."""

    passes: Tensor
    offset: Tensor

    def __init__(self, weights: np.ndarray[Any, Any], output: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.from_numpy(weights))
        self.output = nn.Parameter(torch.from_numpy(output))
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("offset", torch.zeros(1, dtype=torch.float64), persistent=False)

    def differentiate(self, x: Tensor, y: Tensor) -> None:
        self.zero_grad(set_to_none=True)
        loss = ((torch.tanh(x @ self.hidden.T) @ self.output - y + self.offset) ** 2).mean()
        loss.backward()
        self.passes += 1
        self.offset += 0.5


def _gradients_by_hand(weights: Any, output: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Of the mean squared error of v tanh(W x), by the chain rule in numpy."""
    active = np.tanh(x @ weights.T)
    error = 2 * (active @ output - y) / len(y)
    return ((error[:, None] * output) * (1 - active**2)).T @ x, active.T @ error


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_gradient_is_that_at_the_point_rho_along_the_normalised_gradient(rng: np.random.Generator) -> None:
    weights, output, x, y = (rng.normal(size=shape) for shape in ((5, 3), 5, (7, 3), 7))
    network = TinyNetwork(weights.copy(), output.copy())
    first = _gradients_by_hand(weights, output, x, y)
    norm = np.sqrt(sum((each**2).sum() for each in first))
    expected = _gradients_by_hand(weights + 0.3 * first[0] / norm, output + 0.3 * first[1] / norm, x, y)
    data = torch.from_numpy(x), torch.from_numpy(y)
    take_sharp_gradient(lambda: network.differentiate(*data), network, network.parameters(), 0.3)
    assert network.hidden.grad is not None and network.output.grad is not None and network.unused.grad is None
    np.testing.assert_allclose(network.hidden.grad.numpy(), expected[0], rtol=1e-7)
    np.testing.assert_allclose(network.output.grad.numpy(), expected[1], rtol=1e-7)
    assert np.abs(expected[0] - first[0]).max() > 0.1 * np.abs(first[0]).max()
    assert np.array_equal(network.hidden.detach().numpy(), weights)
    assert np.array_equal(network.output.detach().numpy(), output)
    assert int(network.passes) == 1 and float(network.offset) == 0.5, "as after one pass"


def test_only_the_given_parameters_are_moved_and_have_a_share_in_the_norm(rng: np.random.Generator) -> None:
    weights, output, x, y = (rng.normal(size=shape) for shape in ((5, 3), 5, (7, 3), 7))
    network = TinyNetwork(weights.copy(), output.copy())
    _, first = _gradients_by_hand(weights, output, x, y)
    moved = output + 0.3 * first / np.sqrt((first**2).sum())
    data = torch.from_numpy(x), torch.from_numpy(y)
    take_sharp_gradient(lambda: network.differentiate(*data), network, [network.output, network.unused], 0.3)
    for parameter, expected in zip(
        (network.hidden, network.output), _gradients_by_hand(weights, moved, x, y), strict=True
    ):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("slope", [0.0, 1e-44, 1e-30])
def test_a_gradient_without_a_direction_is_taken_where_the_weights_are(slope: float) -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    seen: list[float] = []

    def differentiate() -> None:
        seen.append(parameter.item())
        parameter.grad = torch.tensor([slope])

    take_sharp_gradient(differentiate, nn.Module(), [parameter], 0.5)
    assert seen == pytest.approx([2.0, 2.5 if slope == 1e-30 else 2.0]) and parameter.item() == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_left_to_the_caller(value: float) -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))]
    calls: list[int] = []

    def differentiate() -> None:
        calls.append(1)
        parameters[0].grad, parameters[1].grad = torch.tensor([1.0, value]), torch.ones(1)

    take_sharp_gradient(differentiate, nn.Module(), parameters, 0.5)
    assert len(calls) == 1 and parameters[0].grad is not None and not parameters[0].grad.isfinite().all()
    assert all(torch.equal(each, torch.ones_like(each)) for each in parameters)


def test_weights_and_buffers_are_restored_after_an_error_in_the_second_pass() -> None:
    network = TinyNetwork(np.full((2, 2), 1 / 3), np.full(2, 0.1))
    before = [each.detach().clone() for each in network.parameters()]

    calls = iter((1, 2))

    def differentiate() -> None:
        if next(calls) == 2:
            network.passes += 7
            raise MemoryError
        network.differentiate(torch.ones(4, 2, dtype=torch.float64), torch.ones(4, dtype=torch.float64))

    with pytest.raises(MemoryError):
        take_sharp_gradient(differentiate, network, network.parameters(), 0.5)
    assert all(torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))
    assert int(network.passes) == 1
