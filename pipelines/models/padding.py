"""Fixed padding of strided convolutions, as in the authors' backbone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_STATIC_380 = {3: (0, 1, 0, 1), 5: (1, 2, 1, 2)}
"""Kernel side to (left, right, top, bottom)."""


class StaticPadConv2d(nn.Conv2d):
    """A strided convolution with the padding for a 380 px network input, at any input size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of the base class
        padded = F.pad(input, _STATIC_380[self.kernel_size[0]])
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def fix_padding(net: nn.Module) -> None:
    """Replace every convolution of stride 2 in a timm EfficientNet, keeping its weights.

    Raises:
        ValueError: the authors' network has no padding for a kernel size.
    """
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                setattr(parent, name, _with_static_padding(child))


def _with_static_padding(conv: nn.Conv2d) -> StaticPadConv2d:
    side = conv.kernel_size[0]
    if side not in _STATIC_380 or conv.kernel_size != (side, side):
        raise ValueError(
            f"static-380 padding is defined for kernels of 3 and 5, not for {conv.kernel_size}; use padding same"
        )
    fixed = StaticPadConv2d(
        conv.in_channels, conv.out_channels, side, stride=2, groups=conv.groups, bias=conv.bias is not None
    )
    fixed.weight, fixed.bias = conv.weight, conv.bias
    return fixed
