"""Attention, texture and pooling agree with the paper's equations computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.models.multi_attention.attention import MultiAttention, resize_maps
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.pooling import pool_regions, pool_semantics
from pipelines.models.multi_attention.texture import DenseLayer, TextureEnhancement
from tests.models import reference


def _randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights, biases and batch norm statistics that are all different from their start."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise * 0.5)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_is_relu_of_batch_norm_of_a_1x1_convolution() -> None:
    attention = MultiAttention(6, 4).eval()
    _randomize(attention)
    features = _random(3, 6, 5, 7)
    with torch.no_grad():
        maps = attention(features)
    assert maps.shape == (3, 4, 5, 7)
    assert maps.min() == 0 and maps.max() > 0
    torch.testing.assert_close(maps, reference.attend(features, attention.state_dict()), atol=1e-5, rtol=1e-5)


def test_attention_looks_at_each_place_alone() -> None:
    attention = MultiAttention(6, 4).eval()
    nn.init.constant_(attention.bn.bias, 10.0)
    features = _random(1, 6, 5, 5)
    moved = features.clone()
    moved[:, :, 2, 3] += 1
    with torch.no_grad():
        changed = (attention(features) != attention(moved)).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("size", [(9, 14), (5, 4), (2, 3), (1, 1)])
def test_maps_are_resized_bilinearly_with_aligned_corners(size: tuple[int, int]) -> None:
    maps = _random(2, 3, 4, 5).abs()
    expected = reference.resize_aligned(maps.double().numpy(), size)
    np.testing.assert_allclose(resize_maps(maps, size).numpy(), expected, atol=1e-6)


def test_maps_of_the_right_size_are_left_as_they_are() -> None:
    maps = _random(2, 3, 4, 5)
    assert torch.equal(resize_maps(maps, (4, 5)), maps)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 11), (4, 4), (95, 9)])
def test_a_constant_input_has_no_texture(height: int, width: int) -> None:
    texture = TextureEnhancement(5, 3).eval()
    seen: list[torch.Tensor] = []
    texture.stem.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    values = torch.tensor([-2.0, 0.0, 1.0, 3.5, 100.0])
    with torch.no_grad():
        result = texture(values[None, :, None, None].expand(2, 5, height, width), (3, 3))
    torch.testing.assert_close(seen[0], torch.zeros(2, 5, height, width), atol=2e-5, rtol=0)
    torch.testing.assert_close(result.pooled, values[None, :, None, None].expand(2, 5, 3, 3))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 11), (19, 13)])
def test_texture_agrees_with_an_independent_computation(height: int, width: int) -> None:
    texture = TextureEnhancement(3, 3).eval()
    _randomize(texture)
    features = _random(2, 3, height, width)
    with torch.no_grad():
        enhanced, pooled = texture(features, (4, 5))
    expected, expected_pooled = reference.enhance(features, (4, 5), texture.state_dict())
    assert enhanced.shape == (2, 12, height, width) and texture.out_channels == 12
    assert enhanced.std() > 0.1
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(enhanced, expected, atol=1e-4, rtol=1e-4)


def test_the_texture_of_exact_patches_averages_to_zero_in_each() -> None:
    texture = TextureEnhancement(3, 3).eval()
    seen: list[torch.Tensor] = []
    texture.stem.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        texture(_random(2, 3, 12, 20), (3, 5))
    patch_means = seen[0].reshape(2, 3, 3, 4, 5, 4).mean(dim=(3, 5))
    torch.testing.assert_close(patch_means, torch.zeros(2, 3, 3, 5), atol=1e-6, rtol=0)
    assert seen[0].std() > 0.5


def test_a_dense_layer_keeps_its_input_and_appends_its_growth() -> None:
    layer = DenseLayer(3, 2).eval()
    _randomize(layer)
    features = _random(1, 3, 4, 4)
    with torch.no_grad():
        output = layer(features)
    assert output.shape == (1, 5, 4, 4)
    assert torch.equal(output[:, :3], features)


def test_rows_of_p_have_unit_length() -> None:
    rows = pool_regions(_random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5))
    assert rows.shape == (3, 4, 7)
    torch.testing.assert_close(rows.square().sum(dim=-1), torch.ones(3, 4))


def test_rows_of_p_are_equation_2() -> None:
    maps, features = _random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5)
    expected = reference.pool_rows(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(pool_regions(maps, features).numpy(), expected, atol=1e-6)


def test_the_scale_of_a_map_does_not_change_its_row() -> None:
    maps, features = _random(2, 4, 6, 5, seed=1).relu(), _random(2, 7, 6, 5)
    scales = torch.tensor([1e-3, 1.0, 50.0, 1e4])[None, :, None, None]
    torch.testing.assert_close(pool_regions(maps * scales, features), pool_regions(maps, features))


def test_a_dead_map_gives_a_zero_row_and_a_finite_gradient() -> None:
    maps = _random(2, 4, 6, 5, seed=1).relu()
    maps[0, 2] = 0
    before_relu, features = (maps - (maps == 0).float()).requires_grad_(), _random(2, 7, 6, 5).requires_grad_()
    rows = pool_regions(before_relu.relu(), features)
    assert torch.equal(rows[0, 2], torch.zeros(7))
    torch.testing.assert_close(rows.square().sum(dim=-1).sum(), torch.tensor(7.0))
    to_maps, to_features = torch.autograd.grad((rows * _random(2, 4, 7, seed=2)).sum(), [before_relu, features])
    for grad in (to_maps, to_features):
        assert grad.isfinite().all() and grad.abs().max() < 1e3 and grad.any()
    assert not to_maps[0, 2].any()


def test_semantics_are_the_mean_weighted_by_all_maps_together() -> None:
    maps, features = _random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5)
    expected = reference.pool_weighted(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(pool_semantics(maps, features).numpy(), expected, atol=1e-6)


def test_attention_on_one_place_pools_just_that_place() -> None:
    maps, features = torch.zeros(1, 4, 6, 5), _random(1, 7, 6, 5)
    maps[0, 1, 3, 2] = 5.0
    torch.testing.assert_close(pool_semantics(maps, features), features[:, :, 3, 2], atol=1e-5, rtol=1e-5)


def test_dead_attention_pools_the_plain_mean() -> None:
    features = _random(3, 7, 6, 5)
    maps = torch.zeros(3, 4, 6, 5, requires_grad=True)
    pooled = pool_semantics(maps, features)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)))
    (grad,) = torch.autograd.grad(pooled.sum(), [maps])
    assert grad.isfinite().all()


def test_pooling_is_done_in_float32_under_autocast() -> None:
    maps, features = _random(2, 4, 24, 24, seed=1).relu().bfloat16(), _random(2, 7, 24, 24).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, semantics = pool_regions(maps, features), pool_semantics(maps, features)
    assert rows.dtype == semantics.dtype == torch.float32
    expected = reference.pool_rows(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-5)
    expected = reference.pool_weighted(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(semantics.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attentions": 0}, "num_attentions must be >= 1, got 0"),
        ({"dense_layers": 0}, "dense_layers must be >= 1, got 0"),
        ({"mid_features": -1}, "mid_features must be >= 1, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": math.nan}, r"drop_path_rate must be in \[0, 1\), got nan"),
    ],
)
def test_impossible_settings_say_what_they_got(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiAttentionConfig(**settings)  # type: ignore[arg-type]
