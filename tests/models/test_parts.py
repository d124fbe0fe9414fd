"""Attention, texture and pooling agree with the paper's equations computed another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.models.multi_attention.attention import (
    DeepMultiAttention,
    MultiAttention,
    mask_edges,
    pairwise_cosine,
    resize_maps,
)
from pipelines.models.multi_attention.config import MAX_ATTENTIONS, MultiAttentionConfig
from pipelines.models.multi_attention.heads import draw_kept_maps
from pipelines.models.multi_attention.pooling import pool_regions, pool_semantics
from pipelines.models.multi_attention.texture import (
    DenseLayer,
    GatedTextureEnhancement,
    TextureEnhancement,
    standardize,
    subtract_patch_means,
)
from tests.models import reference


def _randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights, biases and batch norm statistics that are all different from their start."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise * 0.5)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _maps(height: int, width: int, *, images: int = 2, count: int = 4) -> Tensor:
    return _random(images, count, height, width, seed=1).abs()


def test_attention_is_relu_of_batch_norm_of_a_1x1_convolution() -> None:
    attention = MultiAttention(6, 4).eval()
    _randomize(attention)
    features = _random(3, 6, 5, 7)
    with torch.no_grad():
        maps = attention(features)
    assert maps.shape == (3, 4, 5, 7)
    assert maps.min() == 0 and maps.max() > 0
    torch.testing.assert_close(maps, reference.attend(features, attention.state_dict()), atol=1e-5, rtol=1e-5)


def test_deep_attention_has_a_3x3_convolution_first_and_is_elu_plus_1_last() -> None:
    attention = DeepMultiAttention(6, 4).eval()
    _randomize(attention)
    features = _random(3, 6, 5, 7)
    with torch.no_grad():
        maps = attention(features)
    assert maps.shape == (3, 4, 5, 7)
    assert 0 < maps.min() < 0.8 and maps.max() > 1.2
    torch.testing.assert_close(maps, reference.attend_deeply(features, attention.state_dict()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "reach"), [(MultiAttention, 0), (DeepMultiAttention, 1)])
def test_attention_looks_as_far_as_its_largest_kernel(kind: type[nn.Module], reach: int) -> None:
    attention = kind(6, 4).eval()
    for name, value in attention.state_dict().items():
        if name.endswith(("bn.bias", "bn_extract.bias")):
            value.fill_(10.0)
    features = _random(1, 6, 7, 7)
    moved = features.clone()
    moved[:, :, 2, 3] += 1
    with torch.no_grad():
        changed = (attention(features) != attention(moved)).any(dim=1)[0]
    around = range(-reach, reach + 1)
    assert changed.nonzero().tolist() == [[2 + i, 3 + j] for i in around for j in around]


@pytest.mark.parametrize(
    ("side", "first", "after_last"),
    [(24, 2, 22), (23, 2, 22), (12, 1, 11), (16, 2, 15), (48, 4, 44), (10, 1, 10), (4, 1, 4)],
)
def test_the_edge_mask_is_two_of_24_cells_wide_brought_to_the_maps_size(side: int, first: int, after_last: int) -> None:
    maps = _maps(side, side) + 0.1
    masked, expected = mask_edges(maps), torch.zeros_like(maps)
    expected[:, :, first:after_last, first:after_last] = maps[:, :, first:after_last, first:after_last]
    assert torch.equal(masked, expected)
    assert torch.equal(masked, reference.mask_edges(maps))


def test_the_edge_mask_of_the_authors_maps_is_one_pixel_narrower_at_the_right_and_at_the_bottom() -> None:
    kept = mask_edges(torch.ones(1, 1, 23, 23))[0, 0].nonzero()
    left_top, right_bottom = kept.amin(dim=0).tolist(), (22 - kept.amax(dim=0)).tolist()
    assert (left_top, right_bottom) == ([2, 2], [1, 1])


def test_the_edge_mask_has_rows_and_columns_of_their_own() -> None:
    maps = torch.ones(1, 2, 24, 12)
    assert torch.equal(mask_edges(maps), reference.mask_edges(maps))


@pytest.mark.parametrize("size", [(9, 14), (5, 4), (2, 3), (1, 1)])
def test_maps_are_resized_bilinearly_with_aligned_corners(size: tuple[int, int]) -> None:
    maps = _random(2, 3, 4, 5).abs()
    expected = reference.resize_aligned(maps.double().numpy(), size)
    np.testing.assert_allclose(resize_maps(maps, size).numpy(), expected, atol=1e-6)


def test_maps_of_the_right_size_are_left_as_they_are() -> None:
    maps = _random(2, 3, 4, 5)
    assert torch.equal(resize_maps(maps, (4, 5)), maps)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_likeness_of_maps_is_the_mean_cosine_over_pairs(count: int) -> None:
    maps = _random(3, count, 4, 5, seed=2).abs()
    np.testing.assert_allclose(pairwise_cosine(maps).numpy(), reference.mean_cosine(maps.double().numpy()), atol=1e-6)


def test_the_likeness_of_maps_is_0_apart_and_1_on_top_of_each_other_and_a_dead_map_is_like_none() -> None:
    apart = torch.eye(4).reshape(1, 4, 2, 2) * torch.tensor([0.1, 1.0, 2.0, 50.0]).reshape(1, 4, 1, 1)
    alike = torch.ones(1, 4, 2, 2) * torch.tensor([0.1, 1.0, 2.0, 50.0]).reshape(1, 4, 1, 1)
    one_dead, all_dead = alike.clone(), torch.zeros(1, 4, 2, 2)
    one_dead[:, 2] = 0
    got = pairwise_cosine(torch.cat([apart, alike, one_dead, all_dead])).tolist()
    assert got == pytest.approx([0, 1, 0.5, 0], abs=1e-6)


def test_the_likeness_of_maps_has_no_gradient() -> None:
    assert not pairwise_cosine(_maps(3, 3).requires_grad_()).requires_grad


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 11), (4, 4), (95, 9)])
def test_a_constant_input_has_no_texture(height: int, width: int) -> None:
    values = torch.tensor([-2.0, 0.0, 1.0, 3.5, 100.0])[None, :, None, None]
    residual, pooled = subtract_patch_means(values.expand(2, 5, height, width), _maps(3, 3))
    torch.testing.assert_close(residual, torch.zeros(2, 5, height, width), atol=2e-5, rtol=0)
    torch.testing.assert_close(pooled, values.expand(2, 5, 3, 3))


def test_the_texture_of_exact_patches_averages_to_zero_in_each() -> None:
    residual, _ = subtract_patch_means(_random(2, 3, 12, 20), _maps(3, 5))
    patch_means = residual.reshape(2, 3, 3, 4, 5, 4).mean(dim=(3, 5))
    torch.testing.assert_close(patch_means, torch.zeros(2, 3, 3, 5), atol=1e-6, rtol=0)
    assert residual.std() > 0.5


@pytest.mark.parametrize("size", [(6, 6), (8, 8)])
def test_maps_as_large_as_the_features_leave_them_as_they_are(size: tuple[int, int]) -> None:
    features = _random(2, 3, 6, 6)
    residual, pooled = subtract_patch_means(features, _maps(*size))
    assert torch.equal(residual, features) and pooled.shape == (2, 3, *size)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 11), (19, 13)])
def test_texture_agrees_with_an_independent_computation(height: int, width: int) -> None:
    texture = TextureEnhancement(3, 3).eval()
    _randomize(texture)
    features = _random(2, 3, height, width)
    with torch.no_grad():
        enhanced, pooled = texture(features, _maps(4, 5))
    expected, expected_pooled = reference.enhance(features, (4, 5), texture.state_dict())
    assert enhanced.shape == (2, 12, height, width) and texture.out_channels == 12
    assert enhanced.std() > 0.1
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(enhanced, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 11), (19, 13)])
def test_gated_texture_agrees_with_one_dense_block_after_another(height: int, width: int) -> None:
    texture = GatedTextureEnhancement(3, 3, 4).eval()
    _randomize(texture)
    features, maps = _random(2, 3, height, width), _maps(4, 5)
    with torch.no_grad():
        enhanced, pooled = texture(features, maps)
        expected, expected_pooled = reference.enhance_each(features, maps, texture.state_dict())
    assert enhanced.shape == (2, 4, 3, height, width) and texture.out_channels == 3
    assert enhanced.std() > 0.1
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(enhanced, expected, atol=1e-4, rtol=1e-4)


def test_a_gate_of_zero_lets_nothing_of_the_features_through_to_its_map_alone() -> None:
    texture = GatedTextureEnhancement(3, 3, 4).eval()
    _randomize(texture)
    maps = _maps(4, 5)
    maps[:, 1] = 0
    with torch.no_grad():
        one, other = (texture(_random(2, 3, 8, 12, seed=seed), maps).enhanced for seed in (3, 4))
    assert [torch.equal(one[:, k], other[:, k]) for k in range(4)] == [False, True, False, False]


def test_the_gate_gives_the_maps_no_gradient_and_the_features_one() -> None:
    texture = GatedTextureEnhancement(3, 2, 2)
    features, maps = _random(2, 3, 8, 8).requires_grad_(), _maps(4, 4, count=2).requires_grad_()
    result = texture(features, maps)
    (result.enhanced.square().sum() + result.pooled.sum()).backward()
    assert maps.grad is None
    assert features.grad is not None and features.grad.any()


def test_a_dense_layer_keeps_its_input_and_appends_its_growth() -> None:
    layer = DenseLayer(3, 2).eval()
    _randomize(layer)
    features = _random(1, 3, 4, 4)
    with torch.no_grad():
        output = layer(features)
    assert output.shape == (1, 5, 4, 4)
    assert torch.equal(output[:, :3], features)


def test_a_grouped_dense_layer_keeps_every_group_together() -> None:
    layer = DenseLayer(6, 4, groups=2).eval()
    _randomize(layer)
    features = _random(1, 6, 4, 4)
    with torch.no_grad():
        output = layer(features)
    assert output.shape == (1, 10, 4, 4)
    assert torch.equal(output[:, :3], features[:, :3]) and torch.equal(output[:, 5:8], features[:, 3:])


@pytest.mark.parametrize("size", [(23, 23), (4, 5), (1, 2)])
def test_pooled_textures_are_standardized_in_each_channel_of_each_image(size: tuple[int, int]) -> None:
    pooled = _random(3, 4, *size) * torch.tensor([1e-2, 1.0, 7.0, 100.0])[None, :, None, None] + 3
    expected = reference.standardize(pooled.double().numpy())
    np.testing.assert_allclose(standardize(pooled).numpy(), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1 / 3, 100.1])
def test_a_constant_channel_is_standardized_to_zero_with_a_finite_gradient(value: float) -> None:
    pooled = _random(2, 3, 23, 23)
    pooled[1, 2] = value
    pooled.requires_grad_()
    result = standardize(pooled)
    assert not result[1, 2].any() and result[1, 1].any()
    (result * _random(2, 3, 23, 23, seed=1)).sum().backward()
    assert pooled.grad is not None and pooled.grad.isfinite().all()


def test_pooled_textures_are_standardized_in_float32() -> None:
    pooled = (_random(2, 3, 23, 23) + 1).bfloat16()
    assert standardize(pooled).dtype == torch.float32
    np.testing.assert_allclose(standardize(pooled), reference.standardize(pooled.double().numpy()), atol=1e-4)


def test_rows_of_p_have_unit_length() -> None:
    rows = pool_regions(_random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5))
    assert rows.shape == (3, 4, 7)
    torch.testing.assert_close(rows.square().sum(dim=-1), torch.ones(3, 4))


def test_rows_of_p_are_equation_2() -> None:
    maps, features = _random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5)
    expected = reference.pool_rows(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(pool_regions(maps, features).numpy(), expected, atol=1e-6)


def test_rows_of_p_are_equation_2_where_every_map_has_its_own_features() -> None:
    maps, features = _random(3, 4, 6, 5, seed=1).relu(), _random(3, 4, 7, 6, 5)
    expected = reference.pool_own_rows(maps.double().numpy(), features.double().numpy())
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


def test_a_sum_that_is_as_good_as_dead_has_a_bounded_gradient() -> None:
    """The gradient of x / |x| grows like 1 / |x|: nothing shorter than 1e-6 is brought to unit length."""
    maps, features = torch.full((1, 1, 1, 1), 1e-9, requires_grad=True), torch.ones(1, 4, 1, 1)
    rows = pool_regions(maps, features)
    (grad,) = torch.autograd.grad(rows.sum(), [maps])
    assert rows.norm().item() == pytest.approx(2e-3, rel=1e-3)
    assert grad.item() == pytest.approx(4e6, rel=1e-3)


def test_semantics_are_the_mean_weighted_by_all_maps_together() -> None:
    maps, features = _random(3, 4, 6, 5, seed=1).relu(), _random(3, 7, 6, 5)
    expected = reference.pool_weighted(maps.double().numpy(), features.double().numpy())
    np.testing.assert_allclose(pool_semantics(maps, features).numpy(), expected, atol=1e-6)


def test_attention_on_one_place_pools_just_that_place() -> None:
    maps, features = torch.zeros(1, 4, 6, 5), _random(1, 7, 6, 5)
    maps[0, 1, 3, 2] = 5.0
    torch.testing.assert_close(pool_semantics(maps, features), features[:, :, 3, 2], atol=1e-5, rtol=1e-5)


def test_attention_as_faint_as_the_added_constant_shares_with_the_plain_mean() -> None:
    maps, features = torch.zeros(1, 4, 6, 5), _random(1, 7, 6, 5)
    maps[0, 1, 3, 2] = 3e-7
    expected = features[:, :, 3, 2] / 2 + features.mean(dim=(2, 3)) / 2
    torch.testing.assert_close(pool_semantics(maps, features), expected, atol=1e-5, rtol=1e-4)


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


def test_attention_dropout_draws_whole_maps_of_each_image_and_keeps_their_expectation() -> None:
    torch.manual_seed(0)
    kept = draw_kept_maps(torch.ones(2000, 4, 3, 5), 0.25, training=True)
    assert kept is not None and kept.shape == (2000, 4, 1)
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert kept.mean(dim=(0, 2)).tolist() == pytest.approx([1] * 4, abs=0.06)
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.corrcoef(kept[..., 0].T).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize(("dropout", "training"), [(0.25, False), (0.0, True), (0.0, False)])
def test_nothing_is_dropped_in_evaluation_or_without_dropout(dropout: float, training: bool) -> None:
    assert draw_kept_maps(torch.ones(2, 4, 3, 5), dropout, training=training) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attentions": 0}, "num_attentions must be >= 1, got 0"),
        ({"num_attentions": 9}, "num_attentions must be <= 8, got 9"),
        ({"dense_layers": 0}, "dense_layers must be >= 1, got 0"),
        ({"mid_features": -1}, "mid_features must be >= 1, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": math.nan}, r"drop_path_rate must be in \[0, 1\), got nan"),
        ({"attention_dropout": -0.1}, r"attention_dropout must be in \[0, 1\), got -0.1"),
        ({"final_dropout": 1.0}, r"final_dropout must be in \[0, 1\), got 1.0"),
        ({"bn_momentum": 0.0}, r"bn_momentum must be in \(0, 1\], got 0.0"),
        ({"bn_momentum": 1.5}, r"bn_momentum must be in \(0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_say_what_they_got(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiAttentionConfig(**settings)


def test_up_to_eight_maps_are_possible() -> None:
    assert [MultiAttentionConfig(num_attentions=count).num_attentions for count in range(1, MAX_ATTENTIONS + 1)] == [
        *range(1, 9)
    ]
