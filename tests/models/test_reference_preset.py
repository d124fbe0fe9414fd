"""The preset `reference` is the data flow of the authors' code, written down once more, with both of its dropouts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.models import build_model
from pipelines.models.multi_attention.config import PAPER, REFERENCE
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.models.outputs import DetectorOutput
from tests.models import reference
from tests.networks import random_images, settle

SIZE = 96


class Pooled(NamedTuple):
    """What the classifier's two branches got, and the output."""

    regions: Tensor
    """P: (N, M, C)."""
    semantics: Tensor
    """G: (N, C)."""
    output: DetectorOutput


def _settled(**overrides: Any) -> MultiAttentionDetector:
    torch.manual_seed(0)
    network = build_model("multi-attention/reference", backbone="mobilenetv2_imagenet", drop_path_rate=0.0, **overrides)
    assert isinstance(network, MultiAttentionDetector)
    images = random_images(4, SIZE, seed=5)
    settle(network, lambda: network(images))
    return network


def _run(network: MultiAttentionDetector, images: Tensor) -> Pooled:
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(network, name).register_forward_hook(
            lambda _module, inputs, _output, name=name: seen.update({name: inputs[0]})
        )
        for name in ("local_head", "global_head")
    ]
    with torch.no_grad():
        output = network(images)
    for hook in hooks:
        hook.remove()
    return Pooled(seen["local_head"].unflatten(1, (network.config.num_attentions, -1)), seen["global_head"], output)


def _run_dropping(network: MultiAttentionDetector, images: Tensor, seed: int = 0) -> Pooled:
    """In training mode as to dropout alone: the parts, with their batch norms, stay in evaluation mode."""
    torch.manual_seed(seed)
    network.training = True
    try:
        return _run(network, images)
    finally:
        network.training = False


def test_the_preset_differs_from_the_paper_in_these_settings_alone() -> None:
    differences = {name: value for name, value in vars(REFERENCE).items() if value != getattr(PAPER, name)}
    assert differences == {
        "padding": "static-380",
        "bn_momentum": 0.01,
        "attention_head": "conv3x3-elu",
        "edge_mask": True,
        "texture": "gated-groups",
        "pooled_norm": "instance",
        "attention_dropout": 0.25,
        "final_dropout": 0.5,
    }


def test_the_forward_pass_is_the_authors_data_flow() -> None:
    network = _settled()
    images, state = random_images(2, SIZE), network.state_dict()
    with torch.no_grad():
        maps = network.backbone(images)
    pooled = _run(network, images)
    attention = reference.mask_edges(reference.attend_deeply(maps.attention, state, "attention."))
    torch.testing.assert_close(pooled.output.attention_maps, attention, atol=1e-4, rtol=1e-4)
    enhanced, textures = reference.enhance_each(maps.texture, attention, state, "texture.")
    weights = attention.double().numpy()
    vectors = reference.pool_rows(weights, reference.standardize(textures.double().numpy()))
    np.testing.assert_allclose(pooled.output.region_vectors.numpy(), vectors, atol=1e-4)
    regions = reference.pool_own_rows(reference.resize_aligned(weights, (24, 24)), enhanced.double().numpy())
    np.testing.assert_allclose(pooled.regions.numpy(), regions, atol=1e-4)
    semantics = reference.pool_weighted(reference.resize_aligned(weights, (3, 3)), maps.final.double().numpy())
    np.testing.assert_allclose(pooled.semantics.numpy(), semantics, atol=1e-4)
    logits = reference.classify(torch.from_numpy(regions).float(), torch.from_numpy(semantics).float(), state)
    torch.testing.assert_close(pooled.output.logits, logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "change", [{"edge_mask": False}, {"pooled_norm": "none"}, {"attention_head": "conv1x1-relu"}, {"texture": "dense"}]
)
def test_each_setting_of_the_preset_changes_the_result(change: dict[str, Any]) -> None:
    images = random_images(2, SIZE)
    one, other = _run(_settled(), images).output, _run(_settled(**change), images).output
    assert not torch.allclose(one.region_vectors, other.region_vectors, atol=1e-3)


def test_attention_is_zero_along_the_border_and_positive_inside() -> None:
    maps = _run(_settled(), random_images(2, SIZE)).output.attention_maps
    assert maps is not None
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[1:, 1:] = True
    assert torch.equal(maps > 0, inside.expand_as(maps))


def test_a_dropped_map_is_left_out_of_p_and_of_g_and_the_others_are_scaled() -> None:
    network = _settled(attention_dropout=0.5, final_dropout=0.0)
    images = random_images(6, SIZE)
    whole, dropped = _run(network, images), _run_dropping(network, images)
    kept = dropped.regions.norm(dim=-1)
    assert {round(value, 4) for value in kept.flatten().tolist()} == {0.0, 2.0}
    torch.testing.assert_close(dropped.regions, whole.regions * kept[..., None])
    maps = whole.output.attention_maps
    assert maps is not None
    with torch.no_grad():
        final = network.backbone(images).final.double().numpy()
    weights = reference.resize_aligned((maps * kept[..., None, None]).double().numpy(), (3, 3))
    np.testing.assert_allclose(dropped.semantics.numpy(), reference.pool_weighted(weights, final), atol=1e-4)
    assert not torch.allclose(dropped.semantics, whole.semantics, atol=1e-3)


def test_attention_dropout_leaves_the_maps_and_region_vectors_of_the_output_whole() -> None:
    network, images = _settled(), random_images(3, SIZE)
    whole, dropped = _run(network, images).output, _run_dropping(network, images).output
    assert whole.attention_maps is not None and whole.region_vectors is not None
    torch.testing.assert_close(dropped.attention_maps, whole.attention_maps)
    torch.testing.assert_close(dropped.region_vectors, whole.region_vectors)
    assert not torch.allclose(dropped.logits, whole.logits)


def test_final_dropout_thins_g_alone() -> None:
    network = _settled(attention_dropout=0.0, final_dropout=0.5)
    images = random_images(3, SIZE)
    whole, dropped = _run(network, images), _run_dropping(network, images)
    torch.testing.assert_close(dropped.regions, whole.regions)
    is_kept = dropped.semantics != 0
    torch.testing.assert_close(dropped.semantics, 2 * whole.semantics * is_kept)
    assert is_kept.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_nothing_is_dropped_in_evaluation() -> None:
    network, images = _settled(), random_images(2, SIZE)
    assert torch.equal(_run(network, images).output.logits, _run(network, images).output.logits)
    plain = _settled(attention_dropout=0.0, final_dropout=0.0)
    assert torch.equal(_run(network, images).output.logits, _run(plain, images).output.logits)
