"""Folding batch norms changes no output beyond rounding, and batch norms that cannot be folded are left alone."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from pipelines.faces.retinaface import NetworkName, build_retinaface
from pipelines.models import build_model
from pipelines.models.batch_norm_fusion import fold_batch_norms


def _with_statistics(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that have something to do."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval().double()  # so that rounding is no excuse


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["mobilenet0.25", "resnet50"])
@torch.inference_mode()
def test_a_detector_loses_all_its_batch_norms_and_answers_the_same(name: NetworkName) -> None:
    network = _with_statistics(build_retinaface(name))
    pictures = torch.randn(2, 3, 96, 128).double()
    before, norms = network(pictures), _norms(network)
    assert norms > 40 and fold_batch_norms(network, torch.zeros(1, 3, 64, 64).double()) == norms
    assert _norms(network) == 0
    for was, now in zip(before, network(pictures), strict=True):
        torch.testing.assert_close(now, was, rtol=1e-9, atol=1e-9 * float(was.abs().max()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("multi-attention/paper", {"backbone": "mobilenetv2_imagenet", "num_attentions": 2, "mid_features": 16}),
        ("multi-attention/paper", {"backbone": "efficientnet_b0"}),
        ("backbone/mobilenetv2_100", {}),
    ],
)
@torch.inference_mode()
def test_a_classifier_answers_the_same(name: str, settings: dict[str, object]) -> None:
    network = _with_statistics(build_model(name, **settings)).float()  # parts of it always compute in float32
    pictures = torch.randn(2, 3, 128, 128)
    before, norms = network(pictures).logits, _norms(network)
    assert fold_batch_norms(network, torch.zeros(1, 3, 128, 128)) == norms - _norms(network)
    assert _norms(network) <= 4 < norms
    torch.testing.assert_close(network(pictures).logits, before, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_a_network_with_forgery_maps_keeps_one_batch_norm_and_gives_the_same_maps() -> None:
    network = _with_statistics(build_model("f-bifpn-mtlnet/small")).float()
    pictures, norms = torch.randn(2, 3, 96, 96), _norms(network)
    before = network(pictures)
    assert fold_batch_norms(network, torch.zeros(1, 3, 96, 96)) == norms - 1 == 65
    assert isinstance(network.attention.bn, nn.BatchNorm2d), "the attention head runs once per level"
    after = network(pictures)
    wanted = (before.logits, *before.dense.attention, before.dense.mask, before.dense.consistency)
    got = (after.logits, *after.dense.attention, after.dense.mask, after.dense.consistency)
    assert len(got) == 7
    for was, now in zip(wanted, got, strict=True):
        torch.testing.assert_close(now, was, rtol=1e-4, atol=1e-4 * float(was.abs().max()))


class _Shared(nn.Module):
    """One convolution that runs twice; and one whose output is also read elsewhere than in its batch norm."""

    def __init__(self, *, is_read_twice: bool) -> None:
        super().__init__()
        self.is_read_twice = is_read_twice
        self.twice, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.shared, self.norm = nn.Conv2d(3, 3, 1), BatchNormAct2d(3)

    def forward(self, images: Tensor) -> Tensor:
        images = self.second(self.twice(self.first(self.twice(images))))
        raw = self.shared(images)
        return self.norm(raw) + raw if self.is_read_twice else self.norm(raw)


@torch.inference_mode()
def test_a_convolution_that_runs_twice_is_left_alone_and_timm_s_activation_stays() -> None:
    network = _with_statistics(_Shared(is_read_twice=False))
    images = torch.randn(2, 3, 4, 4).double()
    before = network(images)
    assert fold_batch_norms(network, images) == 1 and _norms(network) == 2
    torch.testing.assert_close(network(images), before)
    assert float(before.min()) == 0


@torch.inference_mode()
def test_a_convolution_that_is_not_only_read_by_its_batch_norm_is_left_alone() -> None:
    network = _with_statistics(_Shared(is_read_twice=True))
    images = torch.randn(2, 3, 4, 4).double()
    before = network(images)
    assert fold_batch_norms(network, images) == 0 and _norms(network) == 3
    assert torch.equal(network(images), before)


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), torch.randn(2, 3, 4, 4))
