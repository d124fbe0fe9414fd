"""Checkpoints: one safetensors file with the weights and, in its header, everything that is needed to use them.

Reading the header imports no torch: `inspect` and the checks before a run are instant. Whoever made the file may be a
stranger: no code in it is run, and nothing is made so large as it claims before it was compared with what is there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import WeightsFile, describe_mismatch, read_state, resolve_weights
from pipelines.errors import CheckpointError
from pipelines.system.atomic_files import replace_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "deepfake-checkpoint-1"
_MAX_HEADER_BYTES = 10_000_000
"""A hundred times the size of a checkpoint's header; parsed JSON takes many times its length in memory."""
_HEADER_TYPES = {"model": str, "model_config": dict, "calibration": dict | None, "provenance": dict}


@dataclass(frozen=True)
class CheckpointHeader:
    """The header of a checkpoint."""

    model: str
    """Name for `build_model`."""
    model_config: Mapping[str, Any]
    preprocessing: Preprocessing
    calibration: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "model_config": dict(self.model_config),
            "class_names": list(self.preprocessing.class_names),
            "preprocessing": self.preprocessing.to_json(),
            "calibration": dict(self.calibration) if self.calibration else None,
            "provenance": dict(self.provenance),
        }


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the network in evaluation mode, and its header."""

    file: WeightsFile
    header: CheckpointHeader
    network: nn.Module


def save_checkpoint(path: Path, state: Mapping[str, Tensor], header: CheckpointHeader) -> None:
    """Write atomically."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    metadata = {"deepfake": json.dumps(header.to_json(), sort_keys=True)}
    with replace_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))  # by Python, so a full disk is an OSError


def read_header(path: Path) -> CheckpointHeader:
    """The header of a checkpoint file.

    Raises:
        CheckpointError: not one of our checkpoints; the message says what it is instead, if known.
    """
    metadata = read_safetensors_metadata(path)
    if "deepfake" not in metadata:
        raise CheckpointError(
            f"{path} is not a deepfake checkpoint: it has no preprocessing contract; pass a file made by: deepfake train"
        )
    return parse_header(metadata["deepfake"], path)


def parse_header(text: str, path: Path) -> CheckpointHeader:
    """The header from the JSON in the file `path`.

    Raises:
        CheckpointError: damaged, or of another format than this version's.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
        if value["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {value['format']}, this version of deepfake reads {FORMAT}")
        for name, kind in _HEADER_TYPES.items():
            if not isinstance(value[name], kind):
                raise TypeError(f"{name} is {type(value[name]).__name__}")
        header = CheckpointHeader(
            model=value["model"],
            model_config=value["model_config"],
            preprocessing=Preprocessing.from_json(value["preprocessing"]),
            calibration=value["calibration"],
            provenance=value["provenance"],
        )
        if value["class_names"] != list(header.preprocessing.class_names):
            raise ValueError(f"class_names are {value['class_names']}")
        return header
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header ({error!r}); get it again") from error


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The free-form metadata in a safetensors header: 8 bytes of length, then JSON.

    Raises:
        CheckpointError: not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError("no header")
            content = file.read(length)
            if len(content) < length:
                raise ValueError("a cut header")
            header = json.loads(content, object_pairs_hook=_once_each)
            metadata = header.get("__metadata__", {})
            if not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("metadata that are not text")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, struct.error, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file; pass a checkpoint made by: deepfake train") from error
    return dict(metadata)


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate names: readers differ in which value they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def load_checkpoint(
    name_or_file: str | Path | WeightsFile, build_network: Callable[..., nn.Module], device: Any = "cpu"
) -> Checkpoint:
    """A checkpoint from a registry name or a file, its network built by `build_network(model, **model_config)` and loaded
    strictly.

    Raises:
        CheckpointError: missing, damaged, of another kind, not fitting its own config, or with weights that are no numbers.
    """
    import torch

    file = resolve_weights(name_or_file, kind="checkpoint")
    header = read_header(file.path)
    with torch.device("meta"):  # sizes without memory: a small file can name a network that fills any machine
        expected = _build(build_network, header, file.path).state_dict()
    state = read_state(file.path)
    _refuse_misfits(state, expected, file.path)
    network = _build(build_network, header, file.path)
    network.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, strict=True)
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Checkpoint(file, header, network)


def _build(build_network: Callable[..., nn.Module], header: CheckpointHeader, path: Path) -> nn.Module:
    try:
        return build_network(header.model, **header.model_config)
    except Exception as error:  # wrong sizes are refused by torch and timm with many types
        raise CheckpointError(f"{path} names a network that cannot be built: {error}") from error


def _refuse_misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that do not fit the network, or are infinite or NaN."""
    mismatch = describe_mismatch(expected.keys() - state.keys(), state.keys() - expected.keys())
    if mismatch:
        raise CheckpointError(f"{path} does not fit its own config; {mismatch}")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            sizes = f"{name} is {tuple(value.shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{path} does not fit its own config: {sizes}")
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{path} holds weights that are infinite or NaN, in {name}; pass an earlier checkpoint, or get it again"
            )
