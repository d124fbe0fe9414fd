"""Weights are found, checked against their digests, and read without running what is in them."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weights
from pipelines.checkpoints.weights_files import describe_mismatch, read_state, rename_keys, resolve_weights
from pipelines.config import DEFAULT_CHECKPOINT, DEFAULT_DETECTOR
from pipelines.errors import CheckpointError
from pipelines.faces.detector import load_detector
from pipelines.system.file_digest import file_digest
from weights import REGISTRY, WeightsEntry, embedded_path

TENSORS = {"a.weight": torch.arange(3.0), "a.bias": torch.ones(1)}
EMBEDDED = [entry for entry in REGISTRY.values() if entry.is_embedded]


class RunsCode:
    """A pickle of this makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_the_registry_names_the_defaults_and_says_what_each_file_is() -> None:
    assert set(REGISTRY) == {
        "retinaface-mobilenet0.25",
        "retinaface-mobilenet0.25-official",
        "retinaface-resnet50-official",
        "multi-attention-default",
    }
    assert REGISTRY[DEFAULT_DETECTOR].kind == "detector" and REGISTRY[DEFAULT_DETECTOR].is_embedded
    assert REGISTRY[DEFAULT_CHECKPOINT].kind == "checkpoint" and REGISTRY[DEFAULT_CHECKPOINT].is_embedded
    for name, entry in REGISTRY.items():
        assert entry.name == name
        assert entry.licence and entry.description
        assert entry.is_embedded or entry.sha256


@pytest.mark.parametrize("entry", EMBEDDED, ids=lambda entry: entry.name)
def test_every_embedded_file_is_the_one_whose_digest_is_registered(entry: WeightsEntry) -> None:
    file = resolve_weights(entry.name, kind=entry.kind)
    assert (file.name, file.path) == (entry.name, embedded_path(entry))
    assert file.sha256 == entry.sha256 == file_digest(file.path)


@pytest.mark.parametrize("entry", EMBEDDED, ids=lambda entry: entry.name)
def test_every_embedded_file_has_a_model_card_that_names_its_licence(entry: WeightsEntry) -> None:
    assert entry.card is not None
    card = embedded_path(entry).with_name(entry.card)
    assert "licen" in card.read_text("utf-8").lower()


def test_a_file_is_taken_as_it_is_with_its_digest(detector_file: Path) -> None:
    file = resolve_weights(str(detector_file), kind="detector")
    assert (file.name, file.path, file.sha256) == (detector_file.name, detector_file, file_digest(detector_file))


@pytest.fixture
def _nothing_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_CACHE", str(tmp_path))


@pytest.mark.usefixtures("_nothing_pulled")
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nothing", "detector", "nothing is neither a file nor a known detector; known: retinaface-mobilenet0.25, "),
        ("nothing", "checkpoint", "neither a file nor a known checkpoint; known: multi-attention-default$"),
        ("", "checkpoint", "neither a file nor a known checkpoint"),
        (DEFAULT_DETECTOR, "checkpoint", "retinaface-mobilenet0.25 is a detector, not a checkpoint"),
        (DEFAULT_CHECKPOINT, "detector", "multi-attention-default is a checkpoint, not a detector"),
        (
            "retinaface-resnet50-official",
            "detector",
            r"run: deepfake weights pull retinaface-resnet50-official \(or get https://.* and pass the file's path instead\)$",
        ),
        (
            "retinaface-mobilenet0.25-official",
            "detector",
            r"get the file \(mobilenet0.25_Final.pth .* and pass its path",
        ),
    ],
)
def test_a_name_that_leads_to_no_file_is_refused_with_what_to_do(name: str, kind: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_weights(name, kind=kind)


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_an_embedded_file_with_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"damaged")
    monkeypatch.setitem(
        weights.REGISTRY, "damaged", replace(REGISTRY[DEFAULT_DETECTOR], name="damaged", file=str(path), sha256=digest)
    )
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 is .*; install deepfake again"):
        resolve_weights("damaged", kind="detector")
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing; install deepfake again"):
        resolve_weights("damaged", kind="detector")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_other_peoples_files_come_back_under_our_names(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    content: dict[str, Any] = {prefix + name: value for name, value in TENSORS.items()}
    path = tmp_path / "weights.pth"
    torch.save({wrapper: content} if wrapper else content, path)
    state = read_state(path)
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[name], value) for name, value in TENSORS.items())


def test_a_prefix_stays_if_not_every_name_has_it() -> None:
    names = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert rename_keys(names).keys() == names.keys()
    assert rename_keys({}) == {}


def test_a_safetensors_file_is_read_as_it_is(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.safetensors")
    assert read_state(tmp_path / "weights.safetensors").keys() == TENSORS.keys()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights.pkl"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_code_in_a_file_is_never_run(tmp_path: Path, name: str, writer: str) -> None:
    path, mark = tmp_path / name, tmp_path / "code-was-run"
    content = {"a.weight": RunsCode(mark)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged or holds code, which is never run; pass a safetensors file"):
        read_state(path)
    with pytest.raises(CheckpointError):
        load_detector(str(path))
    assert not mark.exists()


def _saved(content: Any, *, as_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


def _pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("as_zip", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("name", ["weights.pth", "../../weights.pth", "folder/weights.pth"])
def test_a_file_alone_in_a_zip_is_read_in_there(tmp_path: Path, method: int, as_zip: bool, name: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    content = _saved({"state_dict": TENSORS}, as_zip=as_zip)
    state = read_state(_pack(folder / "weights.zip", {"folder/": b"", name: content}, method))
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[key], value) for key, value in TENSORS.items())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["weights.zip"]


@pytest.mark.parametrize("as_zip", [True, False], ids=["new format", "old format"])
def test_a_pytorch_file_is_read_whatever_its_name(tmp_path: Path, as_zip: bool) -> None:
    (tmp_path / "weights.zip").write_bytes(_saved(TENSORS, as_zip=as_zip))
    assert read_state(tmp_path / "weights.zip").keys() == TENSORS.keys()


@pytest.mark.parametrize("as_zip", [True, False], ids=["new format", "old format"])
def test_code_in_a_zip_is_never_run(tmp_path: Path, as_zip: bool) -> None:
    mark = tmp_path / "code-was-run"
    path = _pack(tmp_path / "weights.zip", {"weights.pth": _saved({"a": RunsCode(mark)}, as_zip=as_zip)})
    with pytest.raises(CheckpointError, match="holds code, which is never run"):
        read_state(path)
    assert not mark.exists()


WHOLE = {"weights.pth": _saved(TENSORS)}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "is damaged or holds code"),
        ({"folder/": b""}, "holds 0 files; pass a .zip of one PyTorch file, or that file"),
        ({**WHOLE, "readme.txt": b"text"}, "holds 2 files"),
        ({"readme.txt": b"text"}, "is damaged or holds code|is not a readable weights file"),
        ({"inner.zip": b"PK\x03\x04"}, "is not a readable weights file"),
        ({"weights.pth": b""}, "is not a readable weights file"),
        ({"weights.pth": bytes(3_000_001)}, "holds a file of 0.0 GB, and more than 0.0 GB are not unpacked"),
    ],
)
def test_a_zip_of_anything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], message: str
) -> None:
    monkeypatch.setattr("pipelines.checkpoints.weights_files.MAX_UNPACKED_BYTES", 3_000_000)
    with pytest.raises(CheckpointError, match=message):
        read_state(_pack(tmp_path / "weights.zip", members))


@pytest.mark.parametrize("claimed", [10, 3_000_000])
def test_a_zip_that_lies_about_its_size_is_refused(tmp_path: Path, claimed: int) -> None:
    """The size in both headers is overwritten: only so much may be unpacked, and then its checksum is wrong."""
    size = 50_000_000
    path = _pack(tmp_path / "weights.zip", {"weights.pth": bytes(size)})
    content = path.read_bytes()
    assert content.count(size.to_bytes(4, "little")) == 2
    path.write_bytes(content.replace(size.to_bytes(4, "little"), claimed.to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match="cannot be unpacked .*; get it again"):
        read_state(path)


@pytest.mark.parametrize("place", [60, 400])
def test_a_damaged_zip_is_refused(tmp_path: Path, place: int) -> None:
    path = _pack(tmp_path / "weights.zip", WHOLE)
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_state(path)
    path.write_bytes(content[:-30])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no weights; pass a file with a state dict"),
        ([1, 2], "holds no weights"),
        ({"state_dict": {}}, "holds other things than weights|holds no weights"),
        ({"a": torch.ones(1), "epoch": 3}, "holds other things than weights; pass a file with a plain state dict"),
    ],
)
def test_a_file_with_other_things_than_weights_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 8], ids=["empty", "text", "bytes"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_state(path)


def test_a_checkpoint_is_no_detector(checkpoint: Path) -> None:
    with pytest.raises(
        CheckpointError, match="is not a RetinaFace detector; pass a detector's weights, or a name listed"
    ):
        load_detector(str(checkpoint))


def test_a_mismatch_is_described_by_the_first_names() -> None:
    assert describe_mismatch([], []) == ""
    assert describe_mismatch(["b", "a"], []) == "missing: a, b"
    assert describe_mismatch(["a"], ["e", "d", "c", "b"]) == "missing: a; unexpected: b, c, d and 1 more"
