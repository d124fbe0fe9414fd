"""The whole multi-attention network: its size, its data flow, and that all of it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models import build_model
from pipelines.models.backbone import BackboneMaps
from pipelines.models.multi_attention.config import PRESETS, MultiAttentionConfig
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.training.config import PRESETS as TRAIN_PRESETS
from pipelines.training.losses import RegionalIndependenceLoss
from tests.models import reference
from tests.networks import random_images, settle

SIZE = 96
"""Pixels; the small network's maps are then 6 x 6, its textures 24 x 24."""
PARAMETERS = {
    "paper": {
        "backbone": 17_552_202,
        "attention": 652,
        "texture": 73_856,
        "local_head": 197_120,
        "global_head": 459_008,
        "classifier": 131_842,
    },
    "reference": {
        "backbone": 17_552_202,
        "attention": 231_528,
        "texture": 352_672,
        "local_head": 98_816,
        "global_head": 459_008,
        "classifier": 131_842,
    },
}
TOTALS = {"paper": 18_414_680, "reference": 18_826_068}


def _network(preset: str = "paper", seed: int = 0, **overrides: Any) -> MultiAttentionDetector:
    torch.manual_seed(seed)
    settings = {"backbone": "mobilenetv2_imagenet", "drop_path_rate": 0.0} | overrides
    network = build_model(f"multi-attention/{preset}", **settings)
    assert isinstance(network, MultiAttentionDetector)
    return network


def _settled(preset: str = "paper", **overrides: Any) -> MultiAttentionDetector:
    """A small network with random weights and sensible statistics, in evaluation mode."""
    network = _network(preset, **overrides)
    images = random_images(4, SIZE, seed=5)
    settle(network, lambda: network(images))
    return network


def _loss(network: MultiAttentionDetector, preset: str) -> RegionalIndependenceLoss:
    count, channels = network.config.num_attentions, network.backbone.texture_channels
    return RegionalIndependenceLoss(count, channels, TRAIN_PRESETS[preset].ril)


@pytest.fixture(scope="module", params=PRESETS)
def settled(request: pytest.FixtureRequest) -> MultiAttentionDetector:
    """Of either preset; tests leave it as it is."""
    return _settled(request.param)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_published_networks_have_the_published_numbers_of_parameters(preset: str) -> None:
    with torch.device("meta"):
        network = build_model(f"multi-attention/{preset}")
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert parts == PARAMETERS[preset]
    assert sum(p.numel() for p in network.parameters()) == TOTALS[preset]


@pytest.mark.parametrize(
    ("preset", "size", "texture", "attention", "final"),
    [
        ("paper", 380, 95, 24, 12),
        ("paper", 256, 64, 16, 8),
        ("reference", 380, 95, 23, 11),
        ("reference", 256, 64, 16, 8),
    ],
)
def test_maps_of_efficientnet_b4_have_the_published_sizes(
    preset: str, size: int, texture: int, attention: int, final: int
) -> None:
    """On the device `meta`: shapes without numbers."""
    with torch.device("meta"):
        network = build_model(f"multi-attention/{preset}").eval()
        assert isinstance(network, MultiAttentionDetector)
        maps = network.backbone(torch.empty(1, 3, size, size))
        heeded = network.attention(maps.attention)
    assert [tuple(each.shape) for each in (*maps, heeded)] == [
        (1, 32, texture, texture),
        (1, 160, attention, attention),
        (1, 1792, final, final),
        (1, 4, attention, attention),
    ]


def test_the_forward_pass_is_the_paper_s_data_flow() -> None:
    network = _settled("paper")
    images, state = random_images(2, SIZE), network.state_dict()
    with torch.no_grad():
        maps = network.backbone(images)
        output = network(images)
    attention = reference.attend(maps.attention, state, "attention.")
    torch.testing.assert_close(output.attention_maps, attention, atol=1e-4, rtol=1e-4)
    enhanced, pooled = reference.enhance(maps.texture, (6, 6), state, "texture.")
    weights = attention.double().numpy()
    vectors = reference.pool_rows(weights, pooled.double().numpy())
    np.testing.assert_allclose(output.region_vectors.numpy(), vectors, atol=1e-4)
    regions = reference.pool_rows(reference.resize_aligned(weights, (24, 24)), enhanced.double().numpy())
    semantics = reference.pool_weighted(reference.resize_aligned(weights, (3, 3)), maps.final.double().numpy())
    logits = reference.classify(torch.from_numpy(regions).float(), torch.from_numpy(semantics).float(), state)
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-3)


def test_attention_is_never_negative_and_region_vectors_have_unit_length(settled: MultiAttentionDetector) -> None:
    with torch.no_grad():
        output = settled(random_images(3, SIZE))
    assert output.attention_maps.min() >= 0
    assert output.attention_maps.amax(dim=(2, 3)).min() > 0
    torch.testing.assert_close(output.region_vectors.norm(dim=-1), torch.ones(3, 4))


def test_an_image_s_result_does_not_depend_on_its_batch(settled: MultiAttentionDetector) -> None:
    images = random_images(3, SIZE)
    with torch.no_grad():
        together = settled(images)
        alone = [settled(images[i : i + 1]) for i in range(3)]
    for name in ("logits", "attention_maps", "region_vectors"):
        joined = torch.cat([getattr(output, name) for output in alone])
        torch.testing.assert_close(getattr(together, name), joined, atol=1e-5, rtol=1e-4)
    assert together.logits.std(dim=0).min() > 1e-4, "the images must matter for this to mean something"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_but_the_backbone_s_classifier_learns(preset: str) -> None:
    network = _network(preset).train()
    output, labels = network(random_images(4, SIZE)), torch.tensor([0, 1, 0, 1])
    (F.cross_entropy(output.logits, labels) + _loss(network, preset)(output.region_vectors, labels)).backward()
    for name, parameter in network.named_parameters():
        if name.startswith("backbone.net.classifier"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.ndim == 1 or parameter.grad.any(), f"{name} has no influence on the loss"


@pytest.mark.parametrize("preset", PRESETS)
def test_regional_independence_alone_teaches_the_attention(preset: str) -> None:
    network = _network(preset).train()
    _loss(network, preset)(network(random_images(4, SIZE)).region_vectors, torch.tensor([0, 1, 0, 1])).backward()
    grad = network.attention.conv.weight.grad
    assert isinstance(grad, Tensor) and grad.isfinite().all() and grad.any()


READ_BY = {
    "region_vectors": (True, True, False),
    "local_head": (True, True, False),
    "global_head": (False, True, True),
}
"""V, P and G: whether each is computed from the maps at the taps of texture and attention, and from the final one."""


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("result", READ_BY)
def test_each_result_sends_its_gradient_to_the_maps_that_it_is_computed_from(preset: str, result: str) -> None:
    network = _settled(preset)
    with torch.no_grad():
        taps = BackboneMaps(*(each.clone().requires_grad_() for each in network.backbone(random_images(2, SIZE))))
    network.backbone.forward = lambda _images: taps  # type: ignore[method-assign]
    seen: dict[str, Tensor] = {}
    for name in ("local_head", "global_head"):
        module = getattr(network, name)
        module.register_forward_hook(lambda _module, inputs, _output, name=name: seen.update({name: inputs[0]}))
    seen["region_vectors"] = network(random_images(2, SIZE)).region_vectors
    target = seen[result] * torch.randn(seen[result].shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(target.sum(), taps, allow_unused=True)
    assert tuple(bool(each is not None and each.any()) for each in gradients) == READ_BY[result]


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_autocast_is_finite_forwards_and_backwards(preset: str) -> None:
    network, labels = _network(preset).train(), torch.tensor([0, 1, 0, 1])
    loss = _loss(network, preset)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(random_images(4, SIZE))
        total = F.cross_entropy(output.logits, labels) + loss(output.region_vectors, labels)
    total.backward()
    assert output.region_vectors.dtype == torch.float32
    torch.testing.assert_close(output.region_vectors.norm(dim=-1), torch.ones(4, 4))
    assert total.isfinite() and output.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_the_first_phase_trains_the_backbone_s_own_head(settled: MultiAttentionDetector) -> None:
    images = random_images(2, SIZE)
    with torch.no_grad():
        assert torch.equal(settled.classify_backbone(images), settled.backbone.net(images))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("count", range(1, 9))
def test_one_to_eight_maps_run_and_learn(preset: str, count: int) -> None:
    network = _network(preset, num_attentions=count, mid_features=8).train()
    output = network(random_images(2, 64))
    assert output.attention_maps.shape == (2, count, 4, 4) and output.region_vectors.shape == (2, count, 24)
    F.cross_entropy(output.logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.attention.parameters())


def test_nine_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_attentions must be <= 8, got 9"):
        _network(num_attentions=9)


@pytest.mark.parametrize(("preset", "channels"), [("paper", 2 * 24), ("reference", 24)])
def test_the_number_of_layers_and_the_width_are_settings(preset: str, channels: int) -> None:
    network = _network(preset, num_attentions=2, mid_features=8, dense_layers=1).eval()
    with torch.no_grad():
        network(random_images(1, 64))
    assert [tuple(layer.weight.shape) for layer in network.local_head if isinstance(layer, nn.Linear)] == [
        (8, 2 * channels),
        (8, 8),
    ]


def test_maps_as_large_as_the_textures_leave_the_textures_whole() -> None:
    network = _settled(texture_tap="L5", attention_tap="L5")
    seen: list[Tensor] = []
    network.texture.stem.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = random_images(2, SIZE)
    with torch.no_grad():
        output = network(images)
        assert torch.equal(seen[0], network.backbone(images).texture)
    assert output.logits.isfinite().all() and output.region_vectors.any()


def test_the_backbone_gets_the_config_s_padding_momentum_and_stochastic_depth() -> None:
    network = _network("reference", bn_momentum=0.03, drop_path_rate=0.1)
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.03}
    assert {norm.momentum for norm in network.texture.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}
    drops = [getattr(module, "drop_prob", None) for module in network.backbone.modules()]
    assert max(rate for rate in drops if rate) == pytest.approx(0.1, rel=0.1)
    with torch.no_grad():
        sides = [network.eval()(random_images(1, side)).attention_maps.shape[-1] for side in (75, 96)]
    assert sides == [4, 6]


def test_the_defaults_are_the_preset_paper() -> None:
    assert PRESETS["paper"] == MultiAttentionConfig()
