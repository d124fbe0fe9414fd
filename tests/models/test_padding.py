"""Fixed padding is that of a 380 px input at every size; where every strided convolution meets an even size it is `same`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models import build_model
from pipelines.models.backbone import Backbone
from pipelines.models.padding import StaticPadConv2d, fix_padding
from tests.networks import random_images, settle

SMALL = "tf_efficientnet_b0"
"""The same family as EfficientNet-B4, with kernels of 3 and 5 in its strided convolutions."""


@pytest.fixture(scope="module")
def pair() -> tuple[Backbone, Backbone]:
    """The same weights with `same` and with fixed padding."""
    torch.manual_seed(0)
    same = Backbone(SMALL)
    settle(same, lambda: same(random_images(4, 64)))
    fixed = Backbone(SMALL, padding="static-380").eval()
    fixed.load_state_dict(same.state_dict(), strict=True)
    return same, fixed


@pytest.mark.parametrize(("kernel", "pad"), [(3, (0, 1, 0, 1)), (5, (1, 2, 1, 2))])
@pytest.mark.parametrize("side", [12, 11])
def test_kernels_of_3_and_5_are_padded_as_the_authors_do(kernel: int, pad: tuple[int, ...], side: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride=2, groups=2)
    images = torch.randn(2, 4, side, side)
    expected = F.conv2d(F.pad(images, pad), conv.weight, conv.bias, stride=2, groups=2)
    net = nn.Sequential(conv)
    fix_padding(net)
    assert torch.equal(net(images), expected)
    assert expected.shape[-1] == side // 2
    assert isinstance(net[0], StaticPadConv2d) and net[0].weight is conv.weight and net[0].bias is conv.bias


def test_only_convolutions_of_stride_2_are_replaced() -> None:
    with torch.device("meta"):
        net = Backbone("tf_efficientnet_b4", padding="static-380").net
    replaced = {
        name: (each.kernel_size[0], each.stride, each.groups)
        for name, each in net.named_modules()
        if isinstance(each, StaticPadConv2d)
    }
    assert replaced == {
        "conv_stem": (3, (2, 2), 1),
        "blocks.1.0.conv_dw": (3, (2, 2), 144),
        "blocks.2.0.conv_dw": (5, (2, 2), 192),
        "blocks.3.0.conv_dw": (3, (2, 2), 336),
        "blocks.5.0.conv_dw": (5, (2, 2), 960),
    }


def _taps(backbone: Backbone, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return list(backbone(images))


@pytest.mark.parametrize("side", [64, 96, 256])
def test_both_paddings_coincide_where_every_strided_convolution_meets_an_even_size(
    pair: tuple[Backbone, Backbone], side: int
) -> None:
    images = random_images(1, side)
    for same, fixed in zip(*(_taps(each, images) for each in pair), strict=True):
        torch.testing.assert_close(fixed, same, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("side", "same_sides", "fixed_sides"), [(380, [95, 24, 12], [95, 23, 11]), (75, [19, 5, 3], [18, 4, 2])]
)
def test_they_differ_at_380_and_at_odd_sizes(
    pair: tuple[Backbone, Backbone], side: int, same_sides: list[int], fixed_sides: list[int]
) -> None:
    same, fixed = (_taps(each, random_images(1, side)) for each in pair)
    assert [each.shape[-1] for each in same] == same_sides
    assert [each.shape[-1] for each in fixed] == fixed_sides


@pytest.mark.parametrize("name", ["resnet18", "legacy_xception", "convnext_tiny"])
def test_fixed_padding_is_refused_for_other_networks(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=f"static-380 is for EfficientNet, not for {name}; use padding same"),
    ):
        build_model("multi-attention/reference", backbone=name)


@pytest.mark.parametrize("kernel", [(7, 7), (1, 1), (3, 5)])
def test_fixed_padding_is_refused_for_kernels_that_the_authors_network_lacks(kernel: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"static-380 padding is defined for kernels of 3 and 5, not for \(\d, \d\)"):
        fix_padding(nn.Sequential(nn.Conv2d(3, 4, kernel, stride=2)))
