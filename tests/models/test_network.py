"""The whole multi-attention network: its size, its data flow, and that all of it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models import build_model
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.models.outputs import DetectorOutput
from pipelines.training.losses import RegionalIndependenceLoss
from tests.models import reference
from tests.networks import random_images, settle

PAPER_PARAMETERS = {
    "backbone": 17_552_202,
    "attention": 652,
    "texture": 73_856,
    "local_head": 197_120,
    "global_head": 459_008,
    "classifier": 131_842,
}


@pytest.fixture(scope="module")
def paper() -> MultiAttentionDetector:
    torch.manual_seed(0)
    return MultiAttentionDetector(MultiAttentionConfig()).eval()


@pytest.fixture(scope="module")
def paper_shapes(paper: MultiAttentionDetector) -> dict[str, tuple[int, ...]]:
    """Shapes of one forward at 380 pixels, the only one: it is slow."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(_module: nn.Module, _inputs: object, maps: tuple[Tensor, Tensor, Tensor]) -> None:
        shapes.update(zip(("texture", "attention", "final"), (tuple(each.shape) for each in maps), strict=True))

    hook = paper.backbone.register_forward_hook(keep)
    with torch.inference_mode():
        output = paper(random_images(1, 380))
    hook.remove()
    return shapes | {name: tuple(value.shape) for name, value in output._asdict().items()}


def _small_network(seed: int = 0, **overrides: int | float | str) -> MultiAttentionDetector:
    torch.manual_seed(seed)
    settings = {"backbone": "mobilenetv2_imagenet", "drop_path_rate": 0.0} | overrides
    return MultiAttentionDetector(MultiAttentionConfig(**settings))  # type: ignore[arg-type]


@pytest.fixture
def settled() -> MultiAttentionDetector:
    """A small network with random weights and sensible statistics, in evaluation mode."""
    network = _small_network()
    images = random_images(4, 96, seed=5)
    settle(network, lambda: network(images))
    return network


def test_the_published_network_has_the_published_number_of_parameters(paper: MultiAttentionDetector) -> None:
    assert {
        name: sum(p.numel() for p in part.parameters()) for name, part in paper.named_children()
    } == PAPER_PARAMETERS
    assert sum(p.numel() for p in paper.parameters()) == 18_414_680


def test_the_published_network_is_what_build_model_gives_without_overrides() -> None:
    network = build_model("multi-attention/paper")
    assert isinstance(network, MultiAttentionDetector)
    assert network.config == MultiAttentionConfig(backbone="tf_efficientnet_b4", texture_tap="L2", attention_tap="L5")


def test_maps_of_efficientnet_b4_have_the_papers_sizes(paper_shapes: dict[str, tuple[int, ...]]) -> None:
    assert paper_shapes == {
        "texture": (1, 32, 95, 95),
        "attention": (1, 160, 24, 24),
        "final": (1, 1792, 12, 12),
        "logits": (1, 2),
        "attention_maps": (1, 4, 24, 24),
        "region_vectors": (1, 4, 32),
    }


def test_the_forward_pass_is_the_paper_s_data_flow(settled: MultiAttentionDetector) -> None:
    images, state = random_images(2, 96), settled.state_dict()
    with torch.no_grad():
        maps = settled.backbone(images)
        output = settled(images)
    attention = reference.attend(maps.attention, state, "attention.")
    torch.testing.assert_close(output.attention_maps, attention, atol=1e-4, rtol=1e-4)
    enhanced, pooled = reference.enhance(maps.texture, (6, 6), state, "texture.")
    weights = attention.double().numpy()
    vectors = reference.pool_rows(weights, pooled.double().numpy())
    np.testing.assert_allclose(output.region_vectors.numpy(), vectors, atol=1e-4)
    regions = reference.pool_rows(reference.resize_aligned(weights, (24, 24)), enhanced.double().numpy())
    semantics = reference.pool_weighted(reference.resize_aligned(weights, (3, 3)), maps.final.double().numpy())

    def linear(name: str, x: Tensor) -> Tensor:
        return torch.addmm(state[name + ".bias"], x, state[name + ".weight"].T)

    local = torch.from_numpy(regions.reshape(2, -1)).float()
    local = reference.hardswish(linear("local_head.2", reference.hardswish(linear("local_head.0", local))))
    wide = reference.hardswish(linear("global_head.0", torch.from_numpy(semantics).float()))
    joined = torch.cat([local, wide], dim=1)
    logits = linear("classifier.2", reference.hardswish(linear("classifier.0", joined)))
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-3)


def test_attention_is_never_negative_and_region_vectors_have_unit_length(settled: MultiAttentionDetector) -> None:
    with torch.no_grad():
        output = settled(random_images(3, 96))
    assert output.attention_maps.min() >= 0
    assert output.attention_maps.amax(dim=(2, 3)).min() > 0
    torch.testing.assert_close(output.region_vectors.norm(dim=-1), torch.ones(3, 4))


def test_an_image_s_result_does_not_depend_on_its_batch(settled: MultiAttentionDetector) -> None:
    images = random_images(3, 96)
    with torch.no_grad():
        together = settled(images)
        alone = [settled(images[i : i + 1]) for i in range(3)]
    for name in DetectorOutput._fields:
        joined = torch.cat([getattr(output, name) for output in alone])
        torch.testing.assert_close(getattr(together, name), joined, atol=1e-5, rtol=1e-4)
    assert together.logits.std(dim=0).min() > 1e-4, "the images must matter for this to mean something"


def test_every_parameter_but_the_backbone_s_classifier_learns() -> None:
    network = _small_network().train()
    loss = RegionalIndependenceLoss(4, network.backbone.texture_channels)
    output, labels = network(random_images(4, 96)), torch.tensor([0, 1, 0, 1])
    (F.cross_entropy(output.logits, labels) + loss(output.region_vectors, labels)).backward()
    for name, parameter in network.named_parameters():
        if name.startswith("backbone.net.classifier"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.ndim == 1 or parameter.grad.any(), f"{name} has no influence on the loss"


def test_regional_independence_alone_teaches_the_attention() -> None:
    network = _small_network().train()
    loss = RegionalIndependenceLoss(4, network.backbone.texture_channels)
    loss(network(random_images(4, 96)).region_vectors, torch.tensor([0, 1, 0, 1])).backward()
    grad = network.attention.conv.weight.grad
    assert grad is not None and grad.isfinite().all() and grad.any()


def test_dead_attention_keeps_logits_and_gradients_finite() -> None:
    network = _small_network().train()
    nn.init.constant_(network.attention.bn.bias, -100.0)
    loss = RegionalIndependenceLoss(4, network.backbone.texture_channels)
    output, labels = network(random_images(4, 96)), torch.tensor([0, 1, 0, 1])
    assert not output.attention_maps.any() and not output.region_vectors.any()
    (F.cross_entropy(output.logits, labels) + loss(output.region_vectors, labels)).backward()
    assert output.logits.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_bfloat16_autocast_is_finite_forwards_and_backwards() -> None:
    network = _small_network().train()
    loss, labels = RegionalIndependenceLoss(4, network.backbone.texture_channels), torch.tensor([0, 1, 0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(random_images(4, 96))
        total = F.cross_entropy(output.logits, labels) + loss(output.region_vectors, labels)
    total.backward()
    assert output.region_vectors.dtype == torch.float32
    torch.testing.assert_close(output.region_vectors.norm(dim=-1), torch.ones(4, 4))
    assert total.isfinite() and output.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_the_first_phase_trains_the_backbone_s_own_head(settled: MultiAttentionDetector) -> None:
    images = random_images(2, 96)
    with torch.no_grad():
        assert torch.equal(settled.classify_backbone(images), settled.backbone.net(images))


def test_the_number_of_maps_and_the_width_are_settings() -> None:
    network = _small_network(num_attentions=2, mid_features=8, dense_layers=1).eval()
    with torch.no_grad():
        output = network(random_images(1, 64))
    assert output.attention_maps.shape == (1, 2, 4, 4) and output.region_vectors.shape == (1, 2, 24)
    assert [tuple(layer.weight.shape) for layer in network.local_head if isinstance(layer, nn.Linear)] == [
        (8, 2 * 2 * 24),
        (8, 8),
    ]
