"""Weights in the layout of the authors' code (github.com/yoctta/multiple-attention) become those of the preset `reference`.

Their checkpoints hold an EfficientNet-B4 under `net.` with different names (`_blocks.n`, counted through all stages), the
attention head `attentions`, the texture block `texture_enhance` and the classifier's layers. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.models import build_model
from pipelines.models.multi_attention.attention import EDGE_CELLS, EDGE_GRID, mask_edges

MODEL = "multi-attention/reference"
SUPPORTED = "only checkpoints with EfficientNet-B4 and the grouped texture block (Texture_Enhance_v2) can be converted"
BLOCKS_PER_STAGE = (2, 4, 4, 6, 6, 8, 2)
"""EfficientNet-B4: their block n is block i of stage s in timm."""

MASK = "attentions.mask"
TRAINING_ONLY_PREFIX = "auxiliary_loss."
"""The centres and constants of their regional independence loss."""
COUNTER = ".num_batches_tracked"
"""Of batch norms; old PyTorch versions wrote none, and nothing reads it in evaluation mode."""
_NAMES_SHOWN = 3

_MODULES = {
    "backbone.net.conv_stem": "net._conv_stem",
    "backbone.net.bn1": "net._bn0",
    "backbone.net.conv_head": "net._conv_head",
    "backbone.net.bn2": "net._bn1",
    "backbone.net.classifier": "net._fc",
    "attention.conv_extract": "attentions.conv_extract",
    "attention.bn_extract": "attentions.bn1",
    "attention.conv": "attentions.conv2",
    "attention.bn": "attentions.bn2",
    "texture.extract": "texture_enhance.conv_extract",
    "texture.stem": "texture_enhance.conv0",
    "texture.dense.0.bn": "texture_enhance.bn1",
    "texture.dense.0.conv": "texture_enhance.conv1",
    "texture.dense.1.bn": "texture_enhance.bn2",
    "texture.dense.1.conv": "texture_enhance.conv2",
    "texture.dense.2.bn": "texture_enhance.bn3",
    "texture.dense.2.conv": "texture_enhance.conv3",
    "texture.bn": "texture_enhance.bn4",
    "texture.conv": "texture_enhance.conv_last",
    "texture.bn_out": "texture_enhance.bn_last",
    "local_head.0": "projection_local.0",
    "local_head.2": "projection_local.2",
    "global_head.0": "project_final",
    "classifier.0": "ensemble_classifier_fc.0",
    "classifier.2": "ensemble_classifier_fc.2",
}
"""Our modules and theirs, but for the blocks of the backbone."""
_SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_FIRST_STAGE_BLOCK = _SQUEEZE | {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
"""Blocks without expansion: timm's counting of norms starts at the depthwise convolution, theirs does not."""
_BLOCK = _SQUEEZE | {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


@dataclass(frozen=True)
class OfficialWeights:
    """A converted checkpoint."""

    state: Mapping[str, Tensor]
    """Under our names, complete: it loads strictly into `build_model(MODEL, **overrides)`."""
    overrides: Mapping[str, Any]
    """What its shapes say: `num_attentions` and `mid_features`."""
    left_out: tuple[str, ...]
    """Their names of what is no weight: the constant border mask, and what only their loss reads."""


def convert_official_state(state: Mapping[str, Tensor]) -> OfficialWeights:
    """The authors' state dict under our names; each of its entries is used, or known and left out.

    Args:
        state: names to tensors; all names may begin with `module.`, as data-parallel training writes them.

    Raises:
        ValueError: another backbone or texture block; names left over or missing; shapes or a mask of another network.
    """
    theirs = _without_prefix(state, "module.")
    _refuse_other_networks(theirs)
    left_out = tuple(sorted(name for name in theirs if name == MASK or name.startswith(TRAINING_ONLY_PREFIX)))
    if MASK in theirs:
        _check_mask(theirs[MASK])
    overrides = _read_sizes(theirs)
    with torch.device("meta"):  # names and shapes, no memory
        expected = build_model(MODEL, **overrides).state_dict()
    names = {name: official_name(name) for name in expected}
    weights = {name: value for name, value in theirs.items() if name not in left_out}
    _check_fit(weights, {names[name]: value for name, value in expected.items()})
    return OfficialWeights(
        state={ours: weights[name] if name in weights else torch.tensor(0) for ours, name in names.items()},
        overrides=overrides,
        left_out=left_out,
    )


def official_name(name: str) -> str:
    """Their name of one of our parameters or buffers.

    Raises:
        KeyError: not a name of the reference network on EfficientNet-B4.
    """
    module, _, leaf = name.rpartition(".")
    if module.startswith("backbone.net.blocks."):
        _, _, _, stage, index, part = module.split(".", maxsplit=5)
        block = sum(BLOCKS_PER_STAGE[: int(stage)]) + int(index)
        parts = _BLOCK if int(stage) else _FIRST_STAGE_BLOCK
        return f"net._blocks.{block}.{parts[part]}.{leaf}"
    return f"{_MODULES[module]}.{leaf}"


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _refuse_other_networks(theirs: Mapping[str, Tensor]) -> None:
    """Variants that their code can make as well, recognised by parameters that only they have."""
    if "net._conv_stem.weight" not in theirs and any(name.startswith("net.block1.") for name in theirs):
        raise ValueError(f"it is a network on Xception; {SUPPORTED}")
    stem = theirs.get("texture_enhance.conv0.weight")
    if stem is not None and stem.shape[2:] == (1, 1):
        raise ValueError(f"it has the first texture block, without groups (Texture_Enhance_v1); {SUPPORTED}")


def _check_mask(mask: Tensor) -> None:
    """Our network computes the mask; a checkpoint with another one would be another network."""
    expected = mask_edges(torch.ones(1, 1, EDGE_GRID, EDGE_GRID))
    if mask.shape != expected.shape or not torch.equal(mask.float(), expected):
        raise ValueError(
            f"{MASK} is not the constant that the network has: {EDGE_GRID}x{EDGE_GRID}, zeros in a border "
            f"{EDGE_CELLS} wide and ones inside"
        )


def _read_sizes(theirs: Mapping[str, Tensor]) -> dict[str, Any]:
    """M and the width of the hidden layers; the preset's own where the tensor is missing, which is reported later."""
    tensors = {"num_attentions": "attentions.conv2.weight", "mid_features": "ensemble_classifier_fc.0.weight"}
    return {
        field: int(theirs[name].shape[0]) for field, name in tensors.items() if name in theirs and theirs[name].ndim
    }


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Every name and every shape, or a message with counts and the first few of each."""
    missing = sorted(name for name in expected.keys() - weights.keys() if not name.endswith(COUNTER))
    left_over = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(weights.keys() & expected.keys())
        if weights[name].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("left over", left_over), ("of another shape", misshapen))
    problems = [f"{len(entries)} {title}: {_first(entries)}" for title, entries in kinds if entries]
    if problems:
        raise ValueError(f"{'; '.join(problems)}; {SUPPORTED}")


def _first(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _NAMES_SHOWN} more" if len(entries) > _NAMES_SHOWN else ""
    return ", ".join(entries[:_NAMES_SHOWN]) + more
