"""A checkpoint in the authors' layout computes in our network what it computes in theirs, and nothing else is let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.checkpoints.official_names import MODEL, convert_official_state, official_name
from pipelines.models import build_model
from tests.models.official import NUM_PARAMETERS, OfficialDetector, random_detector
from tests.networks import random_images

MAX_DIFFERENCE = 1e-5
LEFT_OUT = (
    "attentions.mask",
    "auxiliary_loss.alpha",
    "auxiliary_loss.feature_centers",
    "auxiliary_loss.inner_margin",
)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def official() -> OfficialDetector:
    return random_detector()


@pytest.fixture(scope="module")
def converted(official: OfficialDetector) -> nn.Module:
    """Our network with the weights of `official`."""
    return _load(official.state_dict())


@pytest.fixture
def state(official: OfficialDetector) -> State:
    """Entries may be changed; the tensors are those of `official`."""
    return dict(official.state_dict())


def _load(state: State, **overrides: Any) -> nn.Module:
    weights = convert_official_state(state)
    network = build_model(MODEL, **{**weights.overrides, **overrides})
    network.load_state_dict(dict(weights.state), strict=True)
    return network.eval()


def _run(network: Any, images: Tensor) -> dict[str, Tensor]:
    """Everything that there is to compare, the backbone's stages included."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            seen[name] = output.final if name == "final" else output.clone()

        return hook

    stages = {f"b{number}": stage for number, stage in enumerate(network.backbone.net.blocks, start=1)}
    hooks = [
        module.register_forward_hook(keep(name)) for name, module in (stages | {"final": network.backbone}).items()
    ]
    with torch.inference_mode():
        output = network(images)
    for hook in hooks:
        hook.remove()
    return seen | {name: value for name, value in output._asdict().items() if value is not None}


def _run_official(network: OfficialDetector, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        output = network(images)._asdict()
    taps: dict[str, Tensor] = output.pop("taps")
    return taps | output


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_the_comparison_has_the_authors_number_of_parameters(official: OfficialDetector, converted: nn.Module) -> None:
    assert sum(p.numel() for p in official.parameters()) == NUM_PARAMETERS
    assert sum(p.numel() for p in converted.parameters()) == NUM_PARAMETERS


@pytest.mark.parametrize(("size", "sides"), [(380, (190, 95, 47, 23, 11)), (256, (128, 64, 32, 16, 8))])
def test_every_tap_the_maps_and_the_logits_are_those_of_the_authors_network(
    official: OfficialDetector, converted: nn.Module, size: int, sides: tuple[int, ...]
) -> None:
    images = random_images(1, size, seed=size)
    expected, got = _run_official(official, images), _run(converted, images)
    assert expected.keys() == got.keys()
    assert [expected[f"b{number}"].shape[-1] for number in (1, 2, 3, 4, 6)] == list(sides)
    for name, value in expected.items():
        assert value.shape == got[name].shape, name
        assert value.std() > 0.05, f"{name} says nothing"
        assert _difference(value, got[name]) < MAX_DIFFERENCE, name


def test_without_the_fixed_padding_the_result_is_another_one(official: OfficialDetector, converted: nn.Module) -> None:
    images = random_images(1, 380, seed=380)
    expected = _run_official(official, images)
    got = _run(_load(official.state_dict(), padding="same"), images)
    assert expected["b3"].shape != got["b3"].shape
    assert _difference(expected["b2"], got["b2"]) < MAX_DIFFERENCE, "up to there every size is even"
    assert _difference(expected["logits"], got["logits"]) > 1e-2


@pytest.mark.parametrize(
    "change",
    [
        {"attention.bn_extract.bias": 0.0},
        {"texture.dense.2.conv.weight": 0.0},
        {"backbone.net.blocks.6.1.bn2.running_mean": 0.0},
        {"global_head.0.weight": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_comparison_notices_a_single_wrong_tensor(
    official: OfficialDetector, converted: nn.Module, change: dict[str, float]
) -> None:
    images = random_images(1, 96)
    ((name, value),) = change.items()
    expected = _run_official(official, images)["logits"]
    tensor = converted.state_dict()[name]
    before = tensor.clone()
    assert _difference(expected, _run(converted, images)["logits"]) < MAX_DIFFERENCE
    tensor.fill_(value)
    try:
        assert _difference(expected, _run(converted, images)["logits"]) > 100 * MAX_DIFFERENCE
    finally:
        tensor.copy_(before)


def test_every_name_of_ours_has_one_of_theirs_and_the_others_are_named(state: State) -> None:
    weights = convert_official_state(state)
    theirs = [official_name(name) for name in weights.state]
    assert len(set(theirs)) == len(theirs)
    assert set(theirs) | set(LEFT_OUT) == set(state)
    assert weights.left_out == LEFT_OUT
    assert weights.overrides == {"num_attentions": 4, "mid_features": 256}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("backbone.net.conv_stem.weight", "net._conv_stem.weight"),
        ("backbone.net.bn2.running_var", "net._bn1.running_var"),
        ("backbone.net.blocks.0.1.bn1.bias", "net._blocks.1._bn1.bias"),
        ("backbone.net.blocks.0.0.conv_pw.weight", "net._blocks.0._project_conv.weight"),
        ("backbone.net.blocks.1.0.conv_pw.weight", "net._blocks.2._expand_conv.weight"),
        ("backbone.net.blocks.4.5.bn3.weight", "net._blocks.21._bn2.weight"),
        ("backbone.net.blocks.6.1.se.conv_expand.bias", "net._blocks.31._se_expand.bias"),
        ("texture.bn.num_batches_tracked", "texture_enhance.bn4.num_batches_tracked"),
        ("global_head.0.weight", "project_final.weight"),
    ],
)
def test_blocks_are_counted_through_all_stages(ours: str, theirs: str) -> None:
    assert official_name(ours) == theirs


def test_the_number_of_maps_and_the_width_are_read_from_the_shapes() -> None:
    with torch.device("meta"):
        state = dict(OfficialDetector(num_maps=2, mid_features=64).state_dict())
    del state["attentions.mask"]  # has no values here
    weights = convert_official_state(state)
    assert weights.overrides == {"num_attentions": 2, "mid_features": 64}
    assert weights.state["texture.conv.weight"].shape == (64, 128, 1, 1)


def test_the_prefix_of_data_parallel_training_is_dropped(state: State) -> None:
    plain = convert_official_state(state)
    prefixed = convert_official_state({f"module.{name}": value for name, value in state.items()})
    assert prefixed.left_out == plain.left_out
    assert all(torch.equal(value, prefixed.state[name]) for name, value in plain.state.items())
    state["module.net._fc.bias"] = state.pop("net._fc.bias")
    with pytest.raises(ValueError, match=r"1 missing: net\._fc\.bias; 1 left over: module\.net\._fc\.bias"):
        convert_official_state(state)


def test_counters_of_batches_and_training_buffers_may_be_absent(state: State) -> None:
    for name in list(state):
        if name.endswith("num_batches_tracked") or name in LEFT_OUT:
            del state[name]
    weights = convert_official_state(state)
    assert weights.left_out == ()
    assert weights.state["backbone.net.bn1.num_batches_tracked"] == 0
    _load(state)


def _drop(*names: str) -> Callable[[State], object]:
    return lambda state: [state.pop(name) for name in names]


def _add(*names: str) -> Callable[[State], object]:
    return lambda state: state.update({name: torch.ones(1) for name in names})


def _reshape(name: str, *shape: int) -> Callable[[State], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "one missing": (_drop("net._bn0.weight"), r"^1 missing: net\._bn0\.weight; only checkpoints with EfficientNet-B4"),
    "a whole part missing": (
        lambda state: [state.pop(name) for name in list(state) if name.startswith("texture_enhance.")],
        r"^32 missing: texture_enhance\.bn1\.bias, .* and 29 more; only",
    ),
    "one left over": (_add("net._blocks.32._bn0.weight"), r"^1 left over: net\._blocks\.32\._bn0\.weight; only"),
    "several left over": (_add(*"edcba"), r"^5 left over: a, b, c and 2 more; only"),
    "another shape": (
        _reshape("net._conv_stem.weight", 40, 3, 3, 3),
        r"^1 of another shape: net\._conv_stem\.weight \(40, 3, 3, 3\) instead of \(48, 3, 3, 3\); only",
    ),
    "a texture block for another M": (
        _reshape("attentions.conv2.weight", 2, 160, 1, 1),
        r"of another shape: attentions\.bn2\.bias \(4,\) instead of \(2,\), ",
    ),
    "the tensor that tells M missing": (_drop("attentions.conv2.weight"), r"^1 missing: attentions\.conv2\.weight"),
    "a number for the tensor that tells M": (
        _reshape("attentions.conv2.weight"),
        r"conv2\.weight \(\) instead of \(4,",
    ),
    "too many maps": (_reshape("attentions.conv2.weight", 99, 160, 1, 1), "num_attentions must be .*, got 99"),
    "everything at once": (
        lambda state: [_drop("net._fc.bias")(state), _add("x")(state), _reshape("net._fc.weight", 2, 9)(state)],
        r"^1 missing: net\._fc\.bias; 1 left over: x; 1 of another shape: net\._fc\.weight \(2, 9\) instead of \(2, 1792\)",
    ),
    "a mask without a border": (
        lambda state: state.update({"attentions.mask": torch.ones(1, 1, 24, 24)}),
        r"attentions\.mask is not the constant .* 24x24, zeros in a border 2 wide and ones inside",
    ),
    "a mask of another size": (_reshape("attentions.mask", 1, 1, 12, 12), r"attentions\.mask is not the constant"),
    "the first texture block": (
        _reshape("texture_enhance.conv0.weight", 32, 32, 1, 1),
        r"first texture block, without groups \(Texture_Enhance_v1\); only checkpoints with .* \(Texture_Enhance_v2\)",
    ),
    "Xception": (
        lambda state: [_drop("net._conv_stem.weight")(state), _add("net.block1.skip.weight")(state)],
        "it is a network on Xception; only checkpoints with EfficientNet-B4 and the grouped texture block",
    ),
    "nothing": (lambda state: state.clear(), r"^\d+ missing: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_network_is_refused_with_the_names_that_do_not_fit(state: State, case: str) -> None:
    change, message = REFUSED[case]
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_official_state(state)
