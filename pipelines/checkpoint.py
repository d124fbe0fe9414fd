"""Checkpoints: one safetensors file with the weights and, in its header, everything that is needed to use them.

Reading the header imports no torch: `inspect` and the checks before a run are instant.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import CheckpointError
from pipelines.manifest import replace_atomically
from pipelines.preprocessing import Preprocessing
from pipelines.weights_files import WeightsFile, describe_mismatch, read_state, resolve_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "deepfake-checkpoint-1"
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself."""

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
    with replace_atomically(path) as beside:
        beside.write_bytes(save(tensors, metadata=metadata))  # by Python, so a full disk is an OSError


def read_header(path: Path) -> CheckpointHeader:
    """The header of a checkpoint file.

    Raises:
        CheckpointError: not one of our checkpoints; the message says what it is instead, where that can be told.
    """
    metadata = read_safetensors_metadata(path)
    if "deepfake" not in metadata:
        raise CheckpointError(
            f"{path} is not a deepfake checkpoint: it has no preprocessing contract; pass a file made by: deepfake train"
        )
    return parse_header(metadata["deepfake"], path)


def parse_header(text: str, path: Path) -> CheckpointHeader:
    """The header from its JSON, as it stands in the file `path`.

    Raises:
        CheckpointError: damaged, or of another format than this version's.
    """
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {value['format']}, this version of deepfake reads {FORMAT}")
        return CheckpointHeader(
            model=value["model"],
            model_config=value["model_config"],
            preprocessing=Preprocessing.from_json(value["preprocessing"]),
            calibration=value["calibration"],
            provenance=value["provenance"],
        )
    except (ValueError, KeyError, TypeError) as error:
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
            header = json.loads(file.read(length))
            metadata = header.get("__metadata__", {})
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}") from error
    except (ValueError, struct.error, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file; pass a checkpoint made by: deepfake train") from error
    return dict(metadata)


def load_checkpoint(name_or_file: str, device: Any = "cpu") -> Checkpoint:
    """A checkpoint from a registry name or a file, its network built and loaded strictly.

    Raises:
        CheckpointError: missing, damaged, of another kind, or not fitting its own config.
    """
    import torch

    from pipelines.models import build_model

    file = resolve_weights(name_or_file, kind="checkpoint")
    header = read_header(file.path)
    try:
        network = build_model(header.model, **header.model_config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.path} names a network that can not be built: {error}") from error
    state = read_state(file.path)
    expected = network.state_dict()
    mismatch = describe_mismatch(expected.keys() - state.keys(), state.keys() - expected.keys())
    if mismatch:
        raise CheckpointError(f"{file.path} does not fit its own config; {mismatch}")
    try:
        network.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{file.path} does not fit its own config: {error}") from error
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Checkpoint(file, header, network)
