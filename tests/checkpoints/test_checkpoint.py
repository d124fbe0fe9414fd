"""A checkpoint brings back the same network and contract; whatever is none, or asks for something else, is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.checkpoints.checkpoint import FORMAT, load_checkpoint, read_header, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.errors import CheckpointError, StorageError
from pipelines.models import build_model
from tests.conftest import CROP_BOX, INPUT_SIZE, TINY_NETWORK

IMAGES = torch.rand(2, 3, INPUT_SIZE, INPUT_SIZE, generator=torch.Generator().manual_seed(1))


def _change_header(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint with another header."""
    with source.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    value = json.loads(metadata["deepfake"])
    change(value)
    save_file(load_file(source), target, metadata={"deepfake": json.dumps(value)})
    return target


def test_a_checkpoint_brings_back_the_same_network(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(str(checkpoint), build_model)
    assert not loaded.network.training
    with torch.inference_mode():
        expected = loaded.network(IMAGES).logits
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, loaded.network.state_dict(), loaded.header)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(str(again), build_model).network(IMAGES).logits, expected)
    assert again.read_bytes() == checkpoint.read_bytes()


def test_the_header_says_everything_that_is_needed_to_use_the_weights(checkpoint: Path, detector_file: Path) -> None:
    header = read_header(checkpoint)
    assert header.model == "multi-attention/paper"
    assert {name: header.model_config[name] for name in TINY_NETWORK} == TINY_NETWORK
    contract = header.preprocessing
    assert (contract.crop_box, contract.input_size, contract.detector) == (CROP_BOX, INPUT_SIZE, str(detector_file))
    assert header.to_json()["class_names"] == ["real", "fake"]
    assert set(header.to_json()["preprocessing"]) == {field.name for field in fields(Preprocessing)}
    assert header.to_json()["format"] == FORMAT


def test_a_contract_survives_json() -> None:
    contract = Preprocessing(input_size=160, crop_box=CROP_BOX, mean=(0.1, 0.2, 0.3), threshold=0.4, aggregate="mean")
    assert Preprocessing.from_json(json.loads(json.dumps(contract.to_json()))) == contract


def _drop(value: dict[str, Any], name: str) -> None:
    del value[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["preprocessing"].update(template="arcface-112"), "template is arcface-112, .* uses wm-380"),
        (lambda h: h["preprocessing"].update(aligned_size=256, crop_box=[0, 0, 9, 9]), "aligned_size is 256"),
        (lambda h: h["preprocessing"].update(interpolation="cubic"), "interpolation is cubic"),
        (lambda h: h["preprocessing"].update(color_order="bgr"), "color_order is bgr"),
        (lambda h: h["preprocessing"].update(class_names=["fake", "real"]), "class_names is .*fake.*real"),
        (lambda h: h["preprocessing"].update(crop_box=[0, 0, 400, 380]), "crop_box must be .*inside 0..380, got"),
        (lambda h: h["preprocessing"].update(sharpening=2), "missing or unknown field: sharpening"),
        (lambda h: _drop(h["preprocessing"], "margin"), "missing or unknown field: margin"),
        (lambda h: h.update(format="deepfake-checkpoint-9"), "format deepfake-checkpoint-9, .* reads"),
        (lambda h: _drop(h, "model_config"), "damaged header"),
        (lambda h: h.update(model="multi-attention/unheard-of"), "network that cannot be built: unknown model"),
        (lambda h: h["model_config"].update(backbone="no_such_net"), "cannot be built: timm has no network"),
        (lambda h: h["model_config"].update(wings=2), "cannot be built"),
        (lambda h: h["model_config"].update(dense_layers=2), "does not fit its own config; unexpected: texture"),
        (lambda h: h["model_config"].update(dense_layers=4), "does not fit its own config; missing: texture"),
        (lambda h: h["model_config"].update(num_attentions=3), "does not fit its own config"),
    ],
)
def test_a_checkpoint_that_asks_for_something_else_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = _change_header(checkpoint, tmp_path / "changed.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(path), build_model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors file; pass a checkpoint made by: deepfake train"),
        (b"\x00\x01", "is not a safetensors file"),
        (bytes(range(256)) * 40, "is not a safetensors file"),
        (b"video,label\na.mp4,real\n", "is not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "is not a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "is not a deepfake checkpoint: it has no preprocessing contract"),
    ],
)
def test_another_file_is_refused_with_what_to_pass_instead(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(path), build_model)


def test_a_cut_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is not a whole safetensors file .*; get it again"):
        load_checkpoint(str(path), build_model)


def test_a_detector_is_no_checkpoint(detector_file: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a deepfake checkpoint: it has no preprocessing contract"):
        load_checkpoint(str(detector_file), build_model)


def test_a_missing_checkpoint_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a file nor a known checkpoint; known: multi-attention-default"):
        load_checkpoint(str(tmp_path / "missing.safetensors"), build_model)


def test_a_checkpoint_that_can_not_be_written_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    header = read_header(checkpoint)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not write"):
        save_checkpoint(
            tmp_path / "file" / "best.safetensors", build_model(header.model, **TINY_NETWORK).state_dict(), header
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
