"""Feature extractors from timm with taps at the paper's layers L1..L7 and a two-class head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import timm
from timm.layers.norm_act import convert_sync_batchnorm
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from pipelines.models.activations import replace_relu6
from pipelines.models.multi_attention.config import Padding
from pipelines.models.outputs import DetectorOutput
from pipelines.models.padding import fix_padding

TEXTURE_REDUCTION = 4
ATTENTION_REDUCTION = 16
PYRAMID_REDUCTIONS = (4, 8, 16, 32)
NUM_CLASSES = 2
HEAD_INIT_STD = 1e-3
"""With timm's wider initialisation of a two-class head the loss starts above 4; with this it starts at ln 2."""

MOBILENETV2_IMAGENET = "mobilenetv2_imagenet"
"""MobileNetV2 whose first block keeps its expansion convolution (ONNX model zoo layout, unlike timm's)."""
_MOBILENETV2_STAGES = [
    ["ir_r1_k3_s1_e1_c16"],
    ["ir_r2_k3_s2_e6_c24"],
    ["ir_r3_k3_s2_e6_c32"],
    ["ir_r4_k3_s2_e6_c64"],
    ["ir_r3_k3_s1_e6_c96"],
    ["ir_r3_k3_s2_e6_c160"],
    ["ir_r1_k3_s1_e6_c320"],
]


class BackboneMaps(NamedTuple):
    """The feature maps that the detector takes from its backbone, each (N, C, H, W)."""

    texture: Tensor
    attention: Tensor
    final: Tensor


class Backbone(nn.Module):
    """A timm network with taps.

    L1..Ln are the stages of the network: the paper's "main layers" (`blocks`) for EfficientNet and MobileNetV2, and
    timm's `feature_info` levels otherwise. `auto` is the last stage at 1/4 (texture) or 1/16 (attention) of the input's
    side length: L2 and L5 in EfficientNet-B4, as in the paper; L2 and L4 in Xception; L1 and L3 in ConvNeXt.
    `final` is the last feature map, after the head convolution if there is one.
    """

    def __init__(
        self,
        name: str,
        *,
        texture_tap: str = "auto",
        attention_tap: str = "auto",
        drop_path_rate: float = 0.0,
        padding: Padding = "same",
        bn_momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.net = net = build_timm_network(name, drop_path_rate=drop_path_rate)
        if padding == "static-380":
            if not isinstance(net, EfficientNet):
                raise ValueError(f"padding static-380 is for EfficientNet, not for {name}; use padding same")
            fix_padding(net)
        if bn_momentum is not None:
            set_bn_momentum(net, bn_momentum)
        stage_channels, reductions = list_stage_channels(net), list_stage_reductions(net)
        self.texture_stage = _stage_of(texture_tap, name, reductions, TEXTURE_REDUCTION)
        self.attention_stage = _stage_of(attention_tap, name, reductions, ATTENTION_REDUCTION)
        self.texture_channels = stage_channels[self.texture_stage]
        self.attention_channels = stage_channels[self.attention_stage]
        has_head_convolution = isinstance(net, EfficientNet)
        self.final_channels = int(net.head_hidden_size if has_head_convolution else net.num_features)

    def forward(self, images: Tensor) -> BackboneMaps:
        """Maps at the two taps and the last one, from images (N, 3, H, W)."""
        stages = (self.texture_stage, self.attention_stage)
        if not isinstance(self.net, EfficientNet):
            final, maps = self.net.forward_intermediates(images, indices=list(stages), norm=False)
            return BackboneMaps(maps[0], maps[1], final)
        texture, attention, last = _run_stages(self.net, images, (*stages, len(self.net.blocks) - 1))
        return BackboneMaps(texture, attention, self.net.bn2(self.net.conv_head(last)))

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of the backbone's own head: the network of the first training phase."""
        logits: Tensor = self.net(images)
        return logits


class PyramidBackbone(nn.Module):
    """A timm network that gives the levels of a feature pyramid, without head convolution and classifier."""

    def __init__(
        self,
        name: str,
        taps: Sequence[str],
        *,
        drop_path_rate: float = 0.0,
        bn_momentum: float | None = None,
    ) -> None:
        """Args:
        taps: L1..Ln, or `auto` for the last stage at 1/4, 1/8, 1/16, 1/32 of the input's side, in this order.
        """
        super().__init__()
        self.net = net = build_timm_network(name, drop_path_rate=drop_path_rate)
        self.removed = remove_head(net)
        """Prefixes of the weights that files of the whole backbone have and this one lacks."""
        if bn_momentum is not None:
            set_bn_momentum(net, bn_momentum)
        channels, reductions = list_stage_channels(net), list_stage_reductions(net)
        self.stages = [
            _stage_of(tap, name, reductions, wanted) for tap, wanted in zip(taps, PYRAMID_REDUCTIONS, strict=True)
        ]
        sides = [reductions[stage] for stage in self.stages]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(sides)):
            raise ValueError(
                f"taps must halve the side from each to the next; those of {name} are at "
                f"{', '.join(f'1/{side}' for side in sides)}"
            )
        self.channels = [channels[stage] for stage in self.stages]

    def forward(self, images: Tensor) -> list[Tensor]:
        """The levels, finest first, each (N, C_l, h_l, w_l), from images (N, 3, H, W)."""
        if isinstance(self.net, EfficientNet):
            return _run_stages(self.net, images, self.stages)
        levels: list[Tensor] = self.net.forward_intermediates(
            images, indices=self.stages, norm=False, intermediates_only=True
        )
        return levels


def _run_stages(net: EfficientNet, images: Tensor, stages: Sequence[int]) -> list[Tensor]:
    """The maps after some stages, from images (N, 3, H, W)."""
    x = net.bn1(net.conv_stem(images))
    maps: dict[int, Tensor] = {}
    for stage, block in enumerate(net.blocks):
        x = block(x)
        if stage in stages:
            maps[stage] = x
    return [maps[stage] for stage in stages]


def remove_head(net: Any) -> tuple[str, ...]:
    """Take the classifier away and, from an EfficientNet, the head convolution; returns the prefixes of their weights."""
    classifier = net.get_classifier()
    names = [name for name, module in net.named_modules() if module is classifier]
    net.reset_classifier(0, "")
    if isinstance(net, EfficientNet):
        net.conv_head = nn.Identity()
        net.bn2 = nn.Identity()
        names += ["conv_head", "bn2"]
    return tuple(f"{name}." for name in names)


class BackboneClassifier(nn.Module):
    """A plain timm classifier behind the detectors' interface: the paper's "EfficientNet-B4" and "Xception" rows."""

    def __init__(self, name: str, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.net = build_timm_network(name, drop_path_rate=drop_path_rate)

    def forward(self, images: Tensor) -> DetectorOutput:
        return DetectorOutput(logits=self.net(images))


def build_timm_network(name: str, *, drop_path_rate: float = 0.0) -> Any:
    """The network with random weights and a two-class head that starts near zero."""
    if name == MOBILENETV2_IMAGENET:
        net: Any = EfficientNet(
            decode_arch_def(_MOBILENETV2_STAGES),  # type: ignore[no-untyped-call]
            num_classes=NUM_CLASSES,
            num_features=1280,
            stem_size=32,
            act_layer=partial(nn.ReLU6, inplace=True),
            drop_path_rate=drop_path_rate,
        )
    else:
        if not timm.is_model(name):
            close = timm.list_models(f"*{name}*")[:5] or timm.list_models("*efficientnet_b*")[:5]
            raise ValueError(f"timm has no network {name!r}; for example: {', '.join(close)}")
        net = _create_timm_network(name, drop_path_rate)
    replace_relu6(net)
    head = net.get_classifier()
    nn.init.normal_(head.weight, std=HEAD_INIT_STD)
    nn.init.zeros_(head.bias)
    return net


def _create_timm_network(name: str, drop_path_rate: float) -> Any:
    """Some of timm's networks (Xception, VGG, DenseNet) have no stochastic depth and reject the argument."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=NUM_CLASSES, drop_path_rate=drop_path_rate)
    except TypeError:
        return timm.create_model(name, pretrained=False, num_classes=NUM_CLASSES)


def list_stage_channels(net: Any) -> list[int]:
    """Channels of L1..Ln."""
    if not isinstance(net, EfficientNet):
        return [int(info["num_chs"]) for info in net.feature_info]
    return [_out_channels(stage) for stage in net.blocks]


def _out_channels(stage: nn.Module) -> int:
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d)][-1].out_channels


def list_stage_reductions(net: Any) -> list[int]:
    """Reduction factors of the maps at L1..Ln relative to the image."""
    if not isinstance(net, EfficientNet):
        return [int(info["reduction"]) for info in net.feature_info]
    reductions, reduction = [], _stride_of(net.conv_stem)
    for stage in net.blocks:
        reduction *= _stride_of(stage)
        reductions.append(reduction)
    return reductions


def _stride_of(stage: nn.Module) -> int:
    strides = [module.stride[0] for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return int(math.prod(strides))


def set_bn_momentum(net: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm's running statistics."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def synchronize_batch_norm(net: Any) -> Any:
    """The network with batch norms that share their statistics between processes. Its parameters are the same objects.

    Uses timm's function, since torch's would drop the activations inside timm's batch norms.
    """
    return convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]


def _stage_of(tap: str, backbone: str, reductions: list[int], auto_reduction: int) -> int:
    count = len(reductions)
    if tap == "auto":
        if auto_reduction not in reductions:
            raise ValueError(
                f"{backbone} has no stage at 1/{auto_reduction} of the input for the tap auto; "
                f"name one of L1..L{count} (at {', '.join(f'1/{each}' for each in reductions)})"
            )
        return count - 1 - reductions[::-1].index(auto_reduction)
    if tap[:1] != "L" or not tap[1:].isdecimal() or not 1 <= int(tap[1:]) <= count:
        raise ValueError(f"{backbone} has no tap {tap!r}; it has L1..L{count}")
    return int(tap[1:]) - 1
