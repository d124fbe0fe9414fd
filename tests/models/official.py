"""The authors' network once more, under the names of their checkpoints, for comparison.

Written down from the published description and independent of the package: EfficientNet-B4 whose padding is fixed to a
380 px input, the attention head with its border mask, the texture block with one group per map, the classifier's layers.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import random_images, settle

NUM_PARAMETERS = 18_826_068
FROZEN_SIZE = 380
STAGES = (
    (2, 3, 1, 1, 24),
    (4, 3, 2, 6, 32),
    (4, 5, 2, 6, 56),
    (6, 3, 2, 6, 112),
    (6, 5, 1, 6, 160),
    (8, 5, 2, 6, 272),
    (2, 3, 1, 6, 448),
)
"""Of EfficientNet-B4: blocks, kernel, stride of the first block, expansion, channels."""
STEM_CHANNELS, FINAL_CHANNELS = 48, 1792
TEXTURE_CHANNELS, ATTENTION_CHANNELS = 32, 160


class OfficialOutput(NamedTuple):
    """One forward pass."""

    taps: dict[str, Tensor]
    """b1..b7 and final."""
    attention_maps: Tensor
    region_vectors: Tensor
    logits: Tensor


class FrozenPadConv(nn.Conv2d):
    """A convolution padded as "same" needs it at 380 pixels, at any input size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((math.ceil(FROZEN_SIZE / stride) - 1) * stride + kernel - FROZEN_SIZE, 0)
        before, after = total // 2, total - total // 2
        if before == after:
            return F.conv2d(x, self.weight, self.bias, self.stride, padding=before, groups=self.groups)
        padded = F.pad(x, (before, after, before, after))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Block(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner, squeezed = inputs * expansion, max(1, int(inputs * 0.25))
        if expansion > 1:
            self._expand_conv = FrozenPadConv(inputs, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = FrozenPadConv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._se_reduce = FrozenPadConv(inner, squeezed, 1, bias=True)
        self._se_expand = FrozenPadConv(squeezed, inner, 1, bias=True)
        self._project_conv = FrozenPadConv(inner, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        x = swish(self._bn0(self._expand_conv(inputs))) if self.expands else inputs
        x = swish(self._bn1(self._depthwise_conv(x)))
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        x = x * torch.sigmoid(self._se_expand(swish(self._se_reduce(squeezed))))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.skips else x


class EfficientNetB4(nn.Module):
    """Maps at the taps; the classifier `_fc` only takes part in the authors' first phase."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = FrozenPadConv(3, STEM_CHANNELS, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=1e-3)
        self._blocks = nn.ModuleList()
        self.tap_of_block: dict[int, str] = {}
        channels = STEM_CHANNELS
        for stage, (count, kernel, stride, expansion, outputs) in enumerate(STAGES, start=1):
            for index in range(count):
                self._blocks.append(Block(channels, outputs, kernel, 1 if index else stride, expansion))
                channels = outputs
            self.tap_of_block[len(self._blocks) - 1] = f"b{stage}"
        self._conv_head = FrozenPadConv(channels, FINAL_CHANNELS, 1)
        self._bn1 = nn.BatchNorm2d(FINAL_CHANNELS, eps=1e-3)
        self._fc = nn.Linear(FINAL_CHANNELS, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        taps = {}
        x = swish(self._bn0(self._conv_stem(images)))
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.tap_of_block:
                taps[self.tap_of_block[number]] = x
        taps["final"] = swish(self._bn1(self._conv_head(x)))
        return taps


class Attentions(nn.Module):
    """A = (ELU(BN(conv1x1(ReLU(BN(conv3x3))))) + 1) * mask."""

    mask: Tensor

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        mask = torch.zeros(1, 1, 24, 24)
        mask[:, :, 2:-2, 2:-2] = 1
        self.register_buffer("mask", mask)
        self.conv_extract = nn.Conv2d(ATTENTION_CHANNELS, ATTENTION_CHANNELS, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(ATTENTION_CHANNELS)
        self.conv2 = nn.Conv2d(ATTENTION_CHANNELS, num_maps, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_maps)

    def forward(self, features: Tensor) -> Tensor:
        scores = self.bn2(self.conv2(self.bn1(self.conv_extract(features)).clamp(min=0)))
        positive = torch.where(scores > 0, scores + 1, scores.clamp(max=0).exp())
        rows = torch.arange(scores.shape[2]) * 24 // scores.shape[2]
        columns = torch.arange(scores.shape[3]) * 24 // scores.shape[3]
        return positive * self.mask[:, :, rows][:, :, :, columns]


class TextureEnhance(nn.Module):
    """One densely connected branch per map, each on the texture that its map lets through."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        width = TEXTURE_CHANNELS * num_maps
        self.num_maps = num_maps
        self.conv_extract = nn.Conv2d(TEXTURE_CHANNELS, TEXTURE_CHANNELS, 3, padding=1)
        self.conv0 = nn.Conv2d(width, width, 5, padding=2, groups=num_maps)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=num_maps)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, groups=num_maps)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(3 * width, width, 3, padding=1, groups=num_maps)
        self.bn3 = nn.BatchNorm2d(3 * width)
        self.conv_last = nn.Conv2d(4 * width, width, 1, groups=num_maps)
        self.bn4 = nn.BatchNorm2d(4 * width)
        self.bn_last = nn.BatchNorm2d(width)

    def forward(self, features: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """F (N, M, 32, H, W) and D (N, 32, h, w), from b2 (N, 32, H, W) and A (N, M, h, w)."""
        x = self.conv_extract(features)
        size = x.shape[2:]
        pooled = F.adaptive_avg_pool2d(x, maps.shape[2:])
        if x.shape[2] > pooled.shape[2]:
            x = x - F.interpolate(pooled, size=size, mode="nearest")
        gates = resize(maps, size).tanh()
        z = (x[:, None] * gates[:, :, None]).flatten(1, 2)
        grown = z0 = self.conv0(z)
        z1 = self.conv1(self.bn1(z0).clamp(min=0))
        grown = self._join(grown, z1)
        z2 = self.conv2(self.bn2(grown).clamp(min=0))
        grown = self._join(grown, z2)
        z3 = self.conv3(self.bn3(grown).clamp(min=0))
        grown = self._join(grown, z3)
        enhanced = self.bn_last(self.conv_last(self.bn4(grown).clamp(min=0))).clamp(min=0)
        return enhanced.unflatten(1, (self.num_maps, TEXTURE_CHANNELS)), pooled

    def _join(self, grown: Tensor, fresh: Tensor) -> Tensor:
        """The new channels of each map next to its old ones."""
        groups = zip(grown.chunk(self.num_maps, dim=1), fresh.chunk(self.num_maps, dim=1), strict=True)
        return torch.cat([part for pair in groups for part in pair], dim=1)


class AuxiliaryLoss(nn.Module):
    """What the authors' loss keeps in a checkpoint; it does not take part in the forward pass."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.register_buffer("feature_centers", torch.zeros(num_maps, TEXTURE_CHANNELS))
        self.register_buffer("alpha", torch.tensor(0.05))
        self.register_buffer("inner_margin", torch.tensor([0.2, -0.8]))


class OfficialDetector(nn.Module):
    """The whole network in evaluation; its `state_dict()` is laid out like the authors' checkpoints."""

    def __init__(self, num_maps: int = 4, mid_features: int = 256) -> None:
        super().__init__()
        self.net = EfficientNetB4()
        self.attentions = Attentions(num_maps)
        self.texture_enhance = TextureEnhance(num_maps)
        self.projection_local = nn.Sequential(
            nn.Linear(num_maps * TEXTURE_CHANNELS, mid_features), nn.Hardswish(), nn.Linear(mid_features, mid_features)
        )
        self.project_final = nn.Linear(FINAL_CHANNELS, mid_features)
        self.ensemble_classifier_fc = nn.Sequential(
            nn.Linear(2 * mid_features, mid_features), nn.Hardswish(), nn.Linear(mid_features, 2)
        )
        self.auxiliary_loss = AuxiliaryLoss(num_maps)

    def forward(self, images: Tensor) -> OfficialOutput:
        taps = self.net(images)
        maps = self.attentions(taps["b5"])
        enhanced, pooled = self.texture_enhance(taps["b2"], maps)
        regions = unit_rows((resize(maps, enhanced.shape[3:])[:, :, None] * enhanced).sum(dim=(3, 4)))
        centred = pooled - pooled.mean(dim=(2, 3), keepdim=True)
        standard = centred / (centred.std(dim=(2, 3), keepdim=True) + 1e-8)
        vectors = unit_rows((maps[:, :, None] * standard[:, None]).sum(dim=(3, 4)))
        weights = resize(maps.sum(dim=1, keepdim=True), taps["final"].shape[2:]) + 1e-8
        semantics = (weights * taps["final"]).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
        local = hardswish(self.projection_local(regions.flatten(1)))
        wide = hardswish(self.project_final(semantics))
        return OfficialOutput(taps, maps, vectors, self.ensemble_classifier_fc(torch.cat([local, wide], dim=1)))


def swish(x: Tensor) -> Tensor:
    """In one step as in timm: a random network is chaotic, and makes 1e-4 of the rounding of x * sigmoid(x)."""
    return F.silu(x)


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


@cache
def random_detector() -> OfficialDetector:
    """The network with random weights and affine parameters, its norms settled, in evaluation mode.

    Made once for all tests, because it takes a second: copy the dictionary of `state_dict()` to change an entry.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = OfficialDetector()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.Linear):  # wide enough for logits near one
                nn.init.normal_(module.weight, std=1.5 / math.sqrt(module.in_features))
        for block in network.net._blocks:  # small residuals, as in a trained network, do not amplify rounding
            nn.init.uniform_(block._bn2.weight, 0.2, 0.6)
    images = random_images(1, FROZEN_SIZE, seed=7)
    settle(network, lambda: network(images))
    return network.requires_grad_(False)
