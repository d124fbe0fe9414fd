"""F-BiFPN-MTLNet: sizes and parameter counts of the reconstruction, the fusion rule, the branches, gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.models import build_model, model_config
from pipelines.models.f_bifpn_mtlnet.attention import ForgeryAttention
from pipelines.models.f_bifpn_mtlnet.branches import ConsistencyBranch, pool_levels, weigh_tasks
from pipelines.models.f_bifpn_mtlnet.config import PRESETS, FBiFPNMTLNetConfig
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.models.f_bifpn_mtlnet.pyramid import FusionLayer, halve
from tests.networks import random_images, settle

SIZES = {380: (95, 48, 24, 12), 300: (75, 38, 19, 10), 299: (75, 38, 19, 10), 256: (64, 32, 16, 8)}
WIDTH = 8


@pytest.mark.parametrize(("name", "count"), [("b4", 17_285_896), ("v2-s", 20_369_424), ("v2-b3", 12_975_966)])
def test_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        network = build_model(f"f-bifpn-mtlnet/{name}")
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_parts_of_b4() -> None:
    with torch.device("meta"):
        network = build_model("f-bifpn-mtlnet/b4")
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters()) for name, part in network.named_children()
    }
    assert counts == {
        "backbone": 16_742_216,
        "laterals": 90_112,
        "attention": 40_779,
        "fusion": 320_304,
        "mask": 73_921,
        "consistency": 16_512 + 2,
        "dropout": 0,
        "classifier": 2_050,
    }


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int) -> None:
    network = build_model("f-bifpn-mtlnet/small").eval()
    with torch.no_grad():
        output = network(random_images(2, size))
    assert output.logits.shape == (2, 2)
    assert [tuple(level.shape) for level in output.dense.attention] == [(2, 1, side, side) for side in SIZES[size]]
    assert output.forgery_map.shape == (2, SIZES[size][0], SIZES[size][0])
    assert output.dense.consistency.shape == (2, 64, SIZES[size][2], SIZES[size][2])
    assert output.forgery_map.min() >= 0 and output.forgery_map.max() <= 1


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_imagenet", "convnext_atto"])
def test_any_backbone_with_four_levels(backbone: str) -> None:
    network = build_model("f-bifpn-mtlnet/small", backbone=backbone).eval()
    with torch.no_grad():
        output = network(random_images(1, 96))
    assert [level.shape[-1] for level in output.dense.attention] == [24, 12, 6, 3]


def test_taps_must_halve_the_side() -> None:
    with pytest.raises(ValueError, match="halve the side"):
        build_model("f-bifpn-mtlnet/small", taps=("L2", "L2", "L5", "L7"))


def test_the_config_survives_json() -> None:
    network = build_model("f-bifpn-mtlnet/small", score_weights=[0.6, 0.2, 0.2], taps=["auto"] * 4)
    again = build_model("f-bifpn-mtlnet/b4", **model_config(network))
    assert again.config == network.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


def _levels(seed: int, *, channels: int = WIDTH, sides: tuple[int, ...] = (17, 9, 5, 3)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, side, side, generator=generator) for side in sides]


def _layer(fusion: str, *, gate: bool = False) -> FusionLayer:
    torch.manual_seed(3)
    layer = FusionLayer(WIDTH, fusion, lateral_gate=gate).eval()  # type: ignore[arg-type]
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 1.0) if parameter.ndim < 4 else None
    return layer


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_with_constant_attention_a_layer_is_a_plain_bifpn(constant: float) -> None:
    layer, plain = _layer("attention"), _layer("plain")
    plain.load_state_dict(layer.state_dict(), strict=False)
    levels = _levels(0)
    maps = [torch.full_like(level[:, :1], constant) for level in levels]
    for got, expected in zip(layer(levels, maps), plain(levels, maps), strict=True):
        # eps = 1e-4 in the denominator does not scale with the weights
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-3)


def test_constant_attention_equals_plain_without_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.models.f_bifpn_mtlnet.pyramid.FUSION_EPS", 1e-9)
    layer, plain = _layer("attention"), _layer("plain")
    plain.load_state_dict(layer.state_dict(), strict=False)
    levels = _levels(0)
    maps = [torch.full_like(level[:, :1], 0.7) for level in levels]
    for got, expected in zip(layer(levels, maps), plain(levels, maps), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def _reference_fuse(inputs: list[Tensor], maps: list[Tensor], weights: Tensor, kappa: float) -> Tensor:
    """The fusion rule pixel by pixel."""
    result = torch.zeros_like(inputs[0])
    for n, y, x in itertools.product(range(result.shape[0]), range(result.shape[2]), range(result.shape[3])):
        shares = [
            max(0.0, float(w)) * (1 + max(0.0, kappa) * float(a[n, 0, y, x]))
            for w, a in zip(weights, maps, strict=True)
        ]
        mixed = sum(share * each[n, :, y, x] for share, each in zip(shares, inputs, strict=True))
        result[n, :, y, x] = mixed / (1e-4 + sum(shares))
    return result


@torch.no_grad()
def test_a_layer_follows_the_equations() -> None:
    layer = _layer("attention")
    layer.kappa.copy_(torch.tensor([0.7, 1.9]))
    layer.down_weights[0, 1] = -0.5  # a negative weight counts as zero
    x, a = _levels(1), [level.sigmoid() for level in _levels(2, channels=1)]

    def up(t: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(t, size=like.shape[-2:], mode="nearest")

    def down(t: Tensor) -> Tensor:
        return F.max_pool2d(t, 3, 2, 1)

    def block(module: torch.nn.Module, t: Tensor) -> Tensor:
        return module.bn(
            F.conv2d(
                F.conv2d(t * t.sigmoid(), module.depthwise.weight, padding=1, groups=WIDTH), module.pointwise.weight
            )
        )

    t = {3: x[3]}
    for step, level in enumerate((2, 1, 0)):
        inputs, maps = [x[level], up(t[level + 1], x[level])], [a[level], up(a[level + 1], x[level])]
        t[level] = block(layer.down_blocks[step], _reference_fuse(inputs, maps, layer.down_weights[step], 0.7))
    o = {0: t[0]}
    for step, level in enumerate((1, 2, 3)):
        inputs, maps = [x[level]], [a[level]]
        if level < 3:
            inputs, maps = [x[level], t[level]], [a[level], a[level]]
        inputs, maps = [*inputs, down(o[level - 1])], [*maps, down(a[level - 1])]
        o[level] = block(layer.up_blocks[step], _reference_fuse(inputs, maps, layer.up_weights[step], 1.9))
    for level, got in enumerate(layer(x, a)):
        torch.testing.assert_close(got, o[level], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_top_down_is_the_way_down_of_the_plain_layer() -> None:
    plain, fpn = _layer("plain"), _layer("top-down")
    fpn.load_state_dict({k: v for k, v in plain.state_dict().items() if k.startswith("down")})
    levels = _levels(4)
    torch.testing.assert_close(fpn(levels, levels)[0], plain(levels, levels)[0])
    assert not hasattr(fpn, "up_blocks") and not hasattr(fpn, "kappa")


@torch.no_grad()
def test_the_lateral_gate_closes_where_the_coarser_level_is_active() -> None:
    layer, open_layer = _layer("plain", gate=True), _layer("plain")
    open_layer.load_state_dict(layer.state_dict())
    levels = _levels(5)
    levels[3] = torch.full_like(levels[3], -50.0)  # inactive: everything passes
    torch.testing.assert_close(layer._go_down(levels, levels)[2], open_layer._go_down(levels, levels)[2])
    levels[3] = torch.full_like(levels[3], 50.0)
    closed = [*levels[:2], torch.zeros_like(levels[2]), levels[3]]
    torch.testing.assert_close(layer._go_down(levels, levels)[2], open_layer._go_down(closed, closed)[2])


@pytest.mark.parametrize("side", [95, 75, 64, 9, 8])
def test_halving_rounds_up(side: int) -> None:
    assert halve(torch.zeros(1, 1, side, side)).shape[-1] == -(-side // 2)


@torch.no_grad()
def test_attention_follows_the_equations() -> None:
    torch.manual_seed(0)
    module = ForgeryAttention(WIDTH, reduction=4, spatial_channels=3).eval()
    x = torch.randn(2, WIDTH, 6, 7)
    first, _, second = module.channel_gate

    def mlp(v: Tensor) -> Tensor:
        return (v @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias

    gate = torch.sigmoid(mlp(x.flatten(2).mean(2)) + mlp(x.flatten(2).max(2).values))
    z = x * gate[..., None, None]
    q = module.bn(F.conv2d(z, module.conv.weight, padding=1)).clamp(min=0)
    stacked = torch.cat([z.mean(1, keepdim=True), z.max(1, keepdim=True).values, q], 1)
    expected = F.conv2d(stacked, module.spatial.weight, module.spatial.bias, padding=3)
    torch.testing.assert_close(module(x), expected)
    assert module.spatial.bias.item() == pytest.approx(-2.19)


@torch.no_grad()
def test_pooling_by_hand() -> None:
    level = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    attention = torch.tensor([[[[0.0, 1.0], [0.0, 0.5]]]])
    got = pool_levels([level], [attention])
    torch.testing.assert_close(got, torch.tensor([[3.0, (2 + 3) / 1.5]]), atol=1e-4, rtol=1e-4)
    assert pool_levels([level], [attention * 0])[0, 1] == 0  # dead attention gives no NaN


@torch.no_grad()
@pytest.mark.parametrize("mode", ["cosine", "dot", "anchor"])
def test_pairs_by_hand(mode: str) -> None:
    torch.manual_seed(1)
    branch = ConsistencyBranch(WIDTH, 4, mode)  # type: ignore[arg-type]
    level = torch.randn(2, WIDTH, 3, 2)
    f = branch.project(level).flatten(2).transpose(1, 2)
    anchors = torch.tensor([4, 1])
    for n, i, j in itertools.product(range(2), range(6), range(6)):
        if mode == "anchor":
            expected = f[n, anchors[n]] @ f[n, j] / 2
            got = branch.compare(branch(level), anchors)[n, j]
        elif mode == "dot":
            g = branch.project_other(level).flatten(2).transpose(1, 2)
            expected, got = f[n, i] @ g[n, j] / 2, branch.compare(branch(level))[n, i, j]
        else:
            branch.offset.fill_(-0.7)
            expected = 5 * F.cosine_similarity(f[n, i], f[n, j], dim=0) - 0.7
            got = branch.compare(branch(level))[n, i, j]
        torch.testing.assert_close(got, expected)


@torch.no_grad()
def test_the_joint_score_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0]])
    mask = torch.full((1, 1, 10, 10), -4.0)
    mask[0, 0, 0, :5] = 2.0  # the most forged 5 %
    pairs = torch.full((1, 10, 10), 3.0)
    pairs[0, 0] = -1.0  # the least similar 10 %
    got = weigh_tasks(logits, mask, pairs, (0.5, 0.3, 0.2)).softmax(dim=1)[0, 1]
    sigmoid = torch.sigmoid(torch.tensor([1.0, 2.0, -1.0]))
    assert got.item() == pytest.approx(float(0.5 * sigmoid[0] + 0.3 * sigmoid[1] + 0.2 * (1 - sigmoid[2])), abs=1e-6)


@torch.no_grad()
def test_the_network_joins_its_parts_as_described() -> None:
    network = build_model("f-bifpn-mtlnet/small")
    images = random_images(3, 64)
    settle(network, lambda: network(images))
    c = network.backbone(images)
    x = [lateral(each) for lateral, each in zip(network.laterals, c, strict=True)]
    logits = [network.attention(each) for each in x]
    a = [each.sigmoid() for each in logits]
    for layer in network.fusion:
        x = layer(x, a)
    weighted = [o + o * each for o, each in zip(x, a, strict=True)]
    output = network(images)
    torch.testing.assert_close(output.dense.mask, network.mask(weighted[0]))
    torch.testing.assert_close(output.dense.consistency, network.consistency.project(weighted[2]))
    torch.testing.assert_close(output.logits, network.classifier(pool_levels(weighted, a)))
    torch.testing.assert_close(output.forgery_map, output.dense.mask[:, 0].sigmoid())


def test_the_joint_score_counts_outside_training_only() -> None:
    torch.manual_seed(0)
    network = build_model("f-bifpn-mtlnet/small", score_weights=(0.6, 0.2, 0.2), dropout=0.0)
    images = random_images(2, 64)
    settle(network, lambda: network(images))
    plain = FBiFPNMTLNet(replace(network.config, score_weights=(1.0, 0.0, 0.0))).eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        joint, output = network(images), plain(images)
        expected = weigh_tasks(
            output.logits, output.dense.mask, plain.consistency.compare(output.dense.consistency), (0.6, 0.2, 0.2)
        )
    torch.testing.assert_close(joint.logits, expected)
    assert not torch.allclose(joint.logits.softmax(1), output.logits.softmax(1))
    network.train()
    plain.train()
    torch.testing.assert_close(network(images).logits, plain(images).logits)


def test_branches_can_be_left_out() -> None:
    network = build_model("f-bifpn-mtlnet/small", mask_branch=False, consistency="none").eval()
    with torch.no_grad():
        output = network(random_images(1, 64))
    assert output.forgery_map is None and output.dense.mask is None and output.dense.consistency is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be in"),
        ({"width": 0}, "width must be in"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"fusion": "sideways"}, "fusion"),
        ({"taps": ("auto",)}, "taps must name 4 stages"),
        ({"score_weights": (0.5, 0.2, 0.2)}, "add up to 1"),
        ({"score_weights": (0.5, 0.5, 0.0), "mask_branch": False}, "mask_branch is off"),
        ({"score_weights": (0.5, 0.0, 0.5), "consistency": "anchor"}, "consistency anchor cannot have"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FBiFPNMTLNetConfig(**changes)  # type: ignore[arg-type]


def test_every_preset_is_for_the_paper_s_levels() -> None:
    for config in PRESETS.values():
        assert config.fusion == "attention" and config.consistency == "cosine" and config.mask_branch
