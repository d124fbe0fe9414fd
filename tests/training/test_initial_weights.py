"""A network starts from a checkpoint of its kind or from weights of its backbone, wherever those come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.errors import CheckpointError
from pipelines.models import build_model, model_config
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.training.config import make_train_config
from pipelines.training.initial_weights import load_initial_weights
from pipelines.training.run import make_network

NAME = "mobilenetv2_imagenet"
SMALL = {"backbone": NAME, "num_attentions": 2, "mid_features": 16}
State = dict[str, Tensor]


def _network(seed: int, *, preset: str = "paper") -> torch.nn.Module:
    torch.manual_seed(seed)
    if preset == "backbone":
        return build_model(f"backbone/{NAME}")
    return build_model(f"multi-attention/{preset}", **SMALL, padding="same")


def _body(state: State) -> State:
    """The backbone's weights as others would publish them."""
    for prefix in ("backbone.net.", "net."):
        if any(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _of_imagenet(state: State) -> State:
    return state | {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}


def _without_classifier(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("classifier")}


SOURCES: dict[str, tuple[str, Callable[[State], State]]] = {
    "a paper checkpoint": ("paper", dict),
    "a backbone checkpoint": ("backbone", dict),
    "a body from elsewhere": ("backbone", _body),
    "a body without its classifier": ("backbone", lambda state: _without_classifier(_body(state))),
    "a body of 1000 classes": ("backbone", lambda state: _of_imagenet(_body(state))),
}


@pytest.mark.parametrize("preset", ["paper", "backbone"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_backbone_comes_from_any_of_its_files(tmp_path: Path, preset: str, source: str) -> None:
    kind, change = SOURCES[source]
    given = change(_network(1, preset=kind).state_dict())
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "given.safetensors")
    network = _network(2, preset=preset)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_initial_weights(network, str(tmp_path / "given.safetensors"))  # type: ignore[arg-type]
    body, expected = _body(network.state_dict()), _body(given)
    keeps_classifier = body["classifier.weight"].shape == expected.get("classifier.weight", torch.empty(0)).shape
    for name, value in body.items():
        if not name.startswith("classifier") or keeps_classifier:
            assert torch.equal(value, expected[name]), name
    if not keeps_classifier:
        assert torch.equal(body["classifier.weight"], _body(before)["classifier.weight"])
    if preset == "paper":
        last = network.state_dict()["classifier.2.weight"]
        assert torch.equal(last, given.get("classifier.2.weight", torch.empty(0))) == (kind == "paper")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "extra": torch.zeros(1)}, "unexpected: extra"),
        (lambda state: {name: value for name, value in state.items() if name != "bn1.weight"}, "missing: bn1.weight"),
        (lambda state: {**state, "conv_stem.weight": torch.zeros(16, 3, 3, 3)}, "size mismatch for conv_stem.weight"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[State], State], message: str) -> None:
    save_file(change(_body(_network(1, preset="backbone").state_dict())), tmp_path / "given.safetensors")
    with pytest.raises(CheckpointError, match="does not fit the network: (?s:.*); check --backbone") as caught:
        load_initial_weights(_network(2), str(tmp_path / "given.safetensors"))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_checkpoint_of_another_number_of_maps_is_refused(tmp_path: Path) -> None:
    save_file(_network(1).state_dict(), tmp_path / "given.safetensors")
    config = make_train_config("paper", SMALL | {"num_attentions": 3, "init": str(tmp_path / "given.safetensors")})
    with pytest.raises(CheckpointError, match="size mismatch for attention"):
        make_network(config)


def test_the_network_is_a_function_of_the_seed() -> None:
    first, again, other = (make_network(make_train_config("paper", SMALL | {"seed": seed})) for seed in (1, 1, 2))
    name = "classifier.2.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def _pyramid_network(seed: int) -> FBiFPNMTLNet:
    torch.manual_seed(seed)
    network = build_model("f-bifpn-mtlnet/small", backbone=NAME)
    assert isinstance(network, FBiFPNMTLNet)
    return network


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "a paper checkpoint"])
def test_f_bifpn_mtlnet_takes_a_backbone_without_its_head(tmp_path: Path, source: str) -> None:
    kind, change = SOURCES[source]
    given = change(_network(1, preset=kind).state_dict())
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "given.safetensors")
    network = _pyramid_network(2)
    before = network.laterals.state_dict()["0.0.weight"].clone()
    load_initial_weights(network, str(tmp_path / "given.safetensors"))
    expected = _body(given)
    for name, value in network.backbone.net.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(network.laterals.state_dict()["0.0.weight"], before)


def test_f_bifpn_mtlnet_needs_every_other_weight(tmp_path: Path) -> None:
    given = _body(_network(1, preset="backbone").state_dict())
    del given["blocks.3.0.conv_pw.weight"]
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "given.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.3\.0\.conv_pw\.weight"):
        load_initial_weights(_pyramid_network(2), str(tmp_path / "given.safetensors"))


def _save(network: torch.nn.Module, model: str, path: Path) -> str:
    save_checkpoint(path, network.state_dict(), CheckpointHeader(model, model_config(network), Preprocessing()))
    return str(path)


def test_f_bifpn_mtlnet_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    given, network = _pyramid_network(1), _pyramid_network(2)
    load_initial_weights(network, _save(given, "f-bifpn-mtlnet/small", tmp_path / "given.safetensors"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, given.state_dict()[name]), name


@pytest.mark.parametrize("to_pyramid", [True, False])
def test_a_checkpoint_of_the_other_network_is_refused_by_name(tmp_path: Path, to_pyramid: bool) -> None:
    pyramid, attention = _pyramid_network(1), _network(1)
    given, model = (attention, "multi-attention/paper") if to_pyramid else (pyramid, "f-bifpn-mtlnet/small")
    path = _save(given, model, tmp_path / "given.safetensors")
    wanted = "f-bifpn-mtlnet" if to_pyramid else "multi-attention"
    with pytest.raises(CheckpointError, match=f"checkpoint of {model}, and this preset trains {wanted}"):
        load_initial_weights(pyramid if to_pyramid else attention, path)  # type: ignore[arg-type]
