"""The backbones give the paper's taps, and their own head starts undecided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pipelines.checkpoints.weights_files import read_state
from pipelines.models import build_model
from pipelines.models.backbone import Backbone, list_stage_channels, list_stage_reductions
from tests.networks import random_images, settle, shared_file

TAPS: dict[str, tuple[dict[str, Any], int, list[tuple[int, ...]]]] = {
    "mobilenetv2_imagenet": ({}, 64, [(24, 16, 16), (96, 4, 4), (1280, 2, 2)]),
    "mobilenetv2_imagenet at an odd size": ({}, 75, [(24, 19, 19), (96, 5, 5), (1280, 3, 3)]),
    "mobilenetv2_imagenet at other taps": (
        {"texture_tap": "L3", "attention_tap": "L7"},
        64,
        [(32, 8, 8), (320, 2, 2), (1280, 2, 2)],
    ),
    "mobilenetv2_imagenet with one tap for both": (
        {"texture_tap": "L5", "attention_tap": "L5"},
        64,
        [(96, 4, 4), (96, 4, 4), (1280, 2, 2)],
    ),
    "legacy_xception": ({}, 128, [(128, 31, 31), (728, 8, 8), (2048, 4, 4)]),
    "convnext_tiny": ({}, 64, [(96, 16, 16), (384, 4, 4), (768, 2, 2)]),
    "resnet18": ({}, 64, [(64, 16, 16), (256, 4, 4), (512, 2, 2)]),
    "resnet18 at other taps": (
        {"texture_tap": "L1", "attention_tap": "L5"},
        64,
        [(64, 32, 32), (512, 2, 2), (512, 2, 2)],
    ),
}
AUTOMATIC_TAPS = {
    "tf_efficientnet_b4": ("L2", 32, "L5", 160),
    "legacy_xception": ("L2", 128, "L4", 728),
    "convnext_tiny": ("L1", 96, "L3", 384),
    "mobilenetv2_imagenet": ("L2", 24, "L5", 96),
    "resnet18": ("L2", 64, "L4", 256),
    "tf_efficientnetv2_s": ("L2", 48, "L5", 160),
    "mobilenetv3_large_100": ("L2", 24, "L4", 112),
}
"""Stage and channels of texture and attention."""


@pytest.mark.parametrize("case", TAPS)
def test_taps_have_the_shapes_of_the_network_s_stages(case: str) -> None:
    taps, size, expected = TAPS[case]
    backbone = Backbone(case.split()[0], **taps).eval()
    with torch.inference_mode():
        maps = backbone(random_images(2, size))
    assert [tuple(each.shape) for each in maps] == [(2, *shape) for shape in expected]
    announced = (backbone.texture_channels, backbone.attention_channels, backbone.final_channels)
    assert announced == tuple(shape[0] for shape in expected)


@pytest.mark.parametrize("name", AUTOMATIC_TAPS)
def test_the_automatic_taps_are_the_last_stages_at_a_quarter_and_a_sixteenth(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(name)
    texture, texture_channels, attention, attention_channels = AUTOMATIC_TAPS[name]
    assert (f"L{backbone.texture_stage + 1}", backbone.texture_channels) == (texture, texture_channels)
    assert (f"L{backbone.attention_stage + 1}", backbone.attention_channels) == (attention, attention_channels)


def test_the_main_layers_of_efficientnet_b4_are_the_papers() -> None:
    with torch.device("meta"):
        net = Backbone("tf_efficientnet_b4").net
    assert list_stage_channels(net) == [24, 32, 56, 112, 160, 272, 448]
    assert list_stage_reductions(net) == [2, 4, 8, 16, 16, 32, 32]


@pytest.mark.parametrize("name", ["legacy_xception", "resnet18", "tf_efficientnetv2_s", "mobilenetv3_large_100"])
def test_the_published_network_runs_on_other_backbones_with_its_default_settings(name: str) -> None:
    network = build_model("multi-attention/paper", backbone=name).eval()
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
    backbone = Backbone(name)
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
    backbone = Backbone(name)
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


@pytest.mark.parametrize(
    ("name", "taps", "part"),
    [
        ("vit_tiny_patch16_224", {}, "4"),
        ("vit_small_patch32_224", {"texture_tap": "L1"}, "16"),
    ],
)
def test_a_network_without_a_stage_of_the_automatic_size_is_refused_with_the_sizes_it_has(
    name: str, taps: dict[str, str], part: str
) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"{name} has no stage at 1/{part} of the input .* name one of L1\.\.L12"),
    ):
        Backbone(name, **taps)


def test_the_momentum_of_batch_norm_is_set_in_the_whole_backbone_or_left_alone() -> None:
    def momenta(network: nn.Module) -> set[float]:
        return {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)}

    with torch.device("meta"):
        assert momenta(Backbone("mobilenetv2_imagenet")) == momenta(Backbone("resnet18")) == {0.1}
        assert momenta(Backbone("mobilenetv2_imagenet", bn_momentum=0.02)) == {0.02}
        assert momenta(Backbone("resnet18", bn_momentum=0.02)) == {0.02}


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "convnext_tiny"])
def test_stochastic_depth_rises_to_its_rate_in_the_last_block(name: str) -> None:
    with torch.device("meta"):
        net = Backbone(name, drop_path_rate=0.2).net
    rates = [module.drop_prob for module in net.modules() if isinstance(module, DropPath) and module.drop_prob]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.2, rel=0.1)


def test_a_network_that_knows_no_stochastic_depth_is_built_without() -> None:
    with torch.device("meta"):
        assert not any(isinstance(module, DropPath) for module in Backbone("vgg11", drop_path_rate=0.2).modules())
