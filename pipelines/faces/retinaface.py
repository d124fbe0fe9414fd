"""The two RetinaFace networks: MobileNet-0.25 and ResNet-50, and what each expects of its input.

Both share FPN, SSH context modules and three 1x1 heads (classification, box, landmarks); the blocks are those of
retinaface-pytorch. Parameter names are the official files' names, so those load strictly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from retinaface.net import FPN, SSH, conv_bn, conv_dw
from retinaface.network import BboxHead, ClassHead, LandmarkHead
from retinaface.network import RetinaFace as ResNet50RetinaFace
from torch import Tensor, nn

NetworkName = Literal["mobilenet0.25", "resnet50"]
ANCHORS_PER_CELL = 2


@dataclass(frozen=True)
class InputNorm:
    """How an 8-bit RGB image becomes the network's input: reorder the colours, subtract `mean`, divide by `std`."""

    color_order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    """In the range 0..255, in `color_order`."""
    std: tuple[float, float, float]
    """In the range 0..255, in `color_order`."""


INPUT_NORMS: dict[NetworkName, InputNorm] = {
    "mobilenet0.25": InputNorm("bgr", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
    "resnet50": InputNorm("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class MobileNetBody(nn.Module):
    """MobileNetV1 at a quarter of its width; returns the maps at strides 8, 16 and 32 (64, 128, 256 channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            conv_bn(3, 8, 2, leaky=0.1),
            conv_dw(8, 16, 1),
            conv_dw(16, 32, 2),
            conv_dw(32, 32, 1),
            conv_dw(32, 64, 2),
            conv_dw(64, 64, 1),
        )
        self.stage2 = nn.Sequential(conv_dw(64, 128, 2), *(conv_dw(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(conv_dw(128, 256, 2), conv_dw(256, 256, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        stride8 = self.stage1(images)
        stride16 = self.stage2(stride8)
        return {"stride8": stride8, "stride16": stride16, "stride32": self.stage3(stride16)}


class MobileNetRetinaFace(nn.Module):
    """RetinaFace on the MobileNet-0.25 body: 426,608 parameters; takes the official MobileNet-0.25 file strictly."""

    def __init__(self) -> None:
        super().__init__()
        channels = 64
        self.body = MobileNetBody()
        self.fpn = FPN([64, 128, 256], channels)
        self.ssh1 = SSH(channels, channels)
        self.ssh2 = SSH(channels, channels)
        self.ssh3 = SSH(channels, channels)
        self.ClassHead = nn.ModuleList(ClassHead(channels, ANCHORS_PER_CELL) for _ in range(3))
        self.BboxHead = nn.ModuleList(BboxHead(channels, ANCHORS_PER_CELL) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(LandmarkHead(channels, ANCHORS_PER_CELL) for _ in range(3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = self.fpn(self.body(images))
        features = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        return (
            torch.cat([head(feature) for head, feature in zip(self.BboxHead, features, strict=True)], dim=1),
            torch.cat([head(feature) for head, feature in zip(self.ClassHead, features, strict=True)], dim=1),
            torch.cat([head(feature) for head, feature in zip(self.LandmarkHead, features, strict=True)], dim=1),
        )


def build_retinaface(name: NetworkName) -> nn.Module:
    """A network with random weights.

    Its forward takes (N, 3, H, W) float32 normalised as `INPUT_NORMS[name]` says and returns regressions of boxes
    (N, A, 4), logits of background and face (N, A, 2) and regressions of landmarks (N, A, 10), one row per anchor of
    `anchors_for(H, W)`.
    """
    if name == "mobilenet0.25":
        return MobileNetRetinaFace()
    network: nn.Module = ResNet50RetinaFace(
        name="Resnet50",
        pretrained=False,
        return_layers={"layer2": 1, "layer3": 2, "layer4": 3},
        in_channels=256,
        out_channels=256,
    )
    return network
