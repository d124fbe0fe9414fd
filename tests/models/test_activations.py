"""The faster ReLU6 is ReLU6."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.models.activations import ReLU6, replace_relu6


@pytest.mark.parametrize("inplace", [False, True])
def test_values_and_gradients_are_those_of_relu6_bit_for_bit(inplace: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([8 * torch.randn(1000, generator=generator), torch.tensor([0.0, -0.0, 6.0, 1e-30, 5.9999995])])
    gradient = torch.randn(len(values), generator=generator)
    results = []
    for activation in (nn.ReLU6(inplace), ReLU6(inplace)):
        leaf = values.clone().requires_grad_()
        output = activation(leaf * 1)
        output.backward(gradient)
        results.append((output.detach(), leaf.grad))
        with torch.inference_mode():
            assert torch.equal(activation(values.clone()), output.detach())
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])  # type: ignore[arg-type]


def test_every_relu6_of_a_network_is_replaced_and_nothing_else() -> None:
    net = nn.Sequential(nn.ReLU6(), nn.Sequential(nn.ReLU(), nn.ReLU6(inplace=True)))
    replace_relu6(net)
    assert [type(module) for module in net.modules() if not isinstance(module, nn.Sequential)] == [
        ReLU6,
        nn.ReLU,
        ReLU6,
    ]
    assert net[1][1].inplace  # type: ignore[index]
