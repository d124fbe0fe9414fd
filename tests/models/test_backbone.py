"""The backbones give the paper's taps, and their own head starts undecided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.models import MODEL_NAMES, build_model, model_config
from pipelines.models.backbone import Backbone, list_stage_channels
from pipelines.weights_files import read_state
from tests.networks import random_images, settle, shared_file

TAPS: dict[str, tuple[dict[str, Any], int, list[tuple[int, ...]]]] = {
    "mobilenetv2_imagenet": ({}, 64, [(24, 16, 16), (96, 4, 4), (1280, 2, 2)]),
    "mobilenetv2_imagenet at an odd size": ({}, 75, [(24, 19, 19), (96, 5, 5), (1280, 3, 3)]),
    "mobilenetv2_imagenet at other taps": (
        {"texture_tap": "L3", "attention_tap": "L7"},
        64,
        [(32, 8, 8), (320, 2, 2), (1280, 2, 2)],
    ),
    "legacy_xception": ({"attention_tap": "L4"}, 128, [(128, 31, 31), (728, 8, 8), (2048, 4, 4)]),
    "resnet18": ({"attention_tap": "L4"}, 64, [(64, 16, 16), (256, 4, 4), (512, 2, 2)]),
}


@pytest.mark.parametrize("case", TAPS)
def test_taps_have_the_shapes_of_the_network_s_stages(case: str) -> None:
    taps, size, expected = TAPS[case]
    backbone = Backbone(case.split()[0], **taps).eval()
    with torch.inference_mode():
        maps = backbone(random_images(2, size))
    assert [tuple(each.shape) for each in maps] == [(2, *shape) for shape in expected]
    announced = (backbone.texture_channels, backbone.attention_channels, backbone.final_channels)
    assert announced == tuple(shape[0] for shape in expected)


@pytest.mark.parametrize("name", ["legacy_xception", "resnet18", "tf_efficientnetv2_s", "mobilenetv3_large_100"])
def test_the_published_network_runs_on_other_backbones_with_its_default_settings(name: str) -> None:
    network = build_model("multi-attention/paper", backbone=name, attention_tap="L4").eval()
    with torch.inference_mode():
        assert network(random_images(1, 96)).logits.shape == (1, 2)


def test_a_tap_is_what_the_stage_gave_and_nothing_later_writes_into_it() -> None:
    torch.manual_seed(0)
    backbone = Backbone("mobilenetv2_imagenet")
    images = random_images(4, 64)
    settle(backbone, lambda: backbone(images))
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output.clone()

        return hook

    for name, module in (("L2", backbone.net.blocks[1]), ("L5", backbone.net.blocks[4]), ("final", backbone.net.bn2)):
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        maps = backbone(images)
    assert torch.equal(maps.texture, seen["L2"])
    assert torch.equal(maps.attention, seen["L5"])
    assert torch.equal(maps.final, seen["final"])


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "resnet18"])
def test_the_backbone_s_own_head_sees_the_mean_of_the_final_map(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, attention_tap="L4")
    images = random_images(4, 64)
    settle(backbone, lambda: backbone(images))
    head = backbone.net.get_classifier()
    nn.init.normal_(head.weight)
    with torch.no_grad():
        expected = backbone(images).final.mean(dim=(2, 3)) @ head.weight.T + head.bias
        torch.testing.assert_close(backbone.classify(images), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "resnet18"])
def test_a_new_head_starts_at_the_loss_of_a_coin(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, attention_tap="L4")
    images = random_images(8, 64)
    settle(backbone, lambda: backbone(images))
    with torch.no_grad():
        assert backbone.classify(images).abs().max() < 0.2


def test_mobilenetv2_imagenet_is_the_usual_one_with_an_expansion_in_its_first_block() -> None:
    usual_without_head, expansion, head = 2_223_872, 32 * 32 + 2 * 32, 2 * 1280 + 2
    backbone = Backbone("mobilenetv2_imagenet")
    assert sum(p.numel() for p in backbone.parameters()) == usual_without_head + expansion + head
    assert list_stage_channels(backbone.net) == [16, 24, 32, 64, 96, 160, 320]
    assert sum(isinstance(module, nn.ReLU6) for module in backbone.modules()) == 2 + 2 * 17


def test_mobilenetv2_imagenet_takes_its_imagenet_file_strictly_but_for_the_classifier() -> None:
    state = read_state(shared_file("weights", "mobilenetv2_imagenet.pth"))
    net = Backbone("mobilenetv2_imagenet").net
    result = net.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith("classifier.")}, strict=False
    )
    assert set(result.missing_keys) == {"classifier.weight", "classifier.bias"}
    assert result.unexpected_keys == []
    assert torch.equal(net.conv_stem.weight, state["conv_stem.weight"])


def test_an_unknown_backbone_is_answered_with_names_that_exist() -> None:
    with pytest.raises(ValueError, match="timm has no network 'no_such_net'; for example: .*efficientnet_b"):
        Backbone("no_such_net")
    with pytest.raises(ValueError, match="timm has no network 'xcepti'; for example: .*xception"):
        Backbone("xcepti")


@pytest.mark.parametrize("tap", ["L0", "L8", "L-1", "L", "5", "l5", "Lx", ""])
@pytest.mark.parametrize("which", ["texture_tap", "attention_tap"])
def test_an_unknown_tap_is_answered_with_the_taps_that_exist(which: str, tap: str) -> None:
    with pytest.raises(ValueError, match=rf"mobilenetv2_imagenet has no tap '{tap}'; it has L1\.\.L7"):
        build_model("multi-attention/paper", backbone="mobilenetv2_imagenet", **{which: tap})


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'nope'; known: multi-attention/paper, backbone/"):
        build_model("nope")
    assert "multi-attention/paper" in MODEL_NAMES


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("multi-attention/paper", {"backbone": "mobilenetv2_imagenet", "num_attentions": 3, "drop_path_rate": 0.1}),
        ("backbone/resnet18", {"drop_path_rate": 0.05}),
    ],
)
def test_a_network_is_built_again_from_its_own_config(name: str, overrides: dict[str, Any]) -> None:
    network = build_model(name, **overrides)
    config = model_config(network)
    assert config.items() >= overrides.items()
    again = build_model(name, **config)
    again.load_state_dict(network.state_dict(), strict=True)
    assert model_config(again) == config


def test_a_plain_classifier_has_logits_and_no_attention() -> None:
    network = build_model("backbone/resnet18").eval()
    with torch.inference_mode():
        output = network(random_images(2, 64))
    assert output.logits.shape == (2, 2)
    assert output.attention_maps is None and output.region_vectors is None
    with pytest.raises(ValueError, match="not one of the project's models: Linear"):
        model_config(nn.Linear(1, 1))
