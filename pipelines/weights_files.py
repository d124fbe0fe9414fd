"""Finding, checking and reading weights files, ours and other people's. Nothing here runs code from a file."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import weights
from pipelines.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

WeightsKind = Literal["detector", "checkpoint"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which other people's files keep the weights."""
RENAMES: tuple[tuple[str, str], ...] = (("module.", ""), ("model.", ""))
"""Prefixes of other people's parameter names and what becomes of them: the one rename table."""


@dataclass(frozen=True)
class WeightsFile:
    """A file that exists, with its digest."""

    name: str
    """Registry name, or the file's name."""
    path: Path
    sha256: str


def resolve_weights(name_or_file: str, *, kind: WeightsKind) -> WeightsFile:
    """The file behind a registry name or a path; embedded files are checked against their digest.

    Raises:
        CheckpointError: unknown name, missing file, wrong kind, or a digest that differs.
    """
    entry = weights.find_entry(name_or_file)
    if entry is None:
        path = Path(name_or_file)
        if not path.is_file():
            known = ", ".join(entry.name for entry in weights.REGISTRY.values() if entry.kind == kind)
            raise CheckpointError(f"{name_or_file} is neither a file nor a known {kind}; known: {known}")
        return WeightsFile(path.name, path, file_digest(path))
    if entry.kind != kind:
        raise CheckpointError(f"{entry.name} is a {entry.kind}, not a {kind}")
    if not entry.is_embedded:
        source = f" from {entry.url}" if entry.url else ""
        raise CheckpointError(
            f"{entry.name} is not part of the package; get the file ({entry.description}){source} and pass its path instead"
        )
    path = weights.embedded_path(entry)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; install deepfake again")
    digest = file_digest(path)
    if not entry.sha256 or not digest.startswith(entry.sha256):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest[:12]}…, not {entry.sha256[:12]}…; install deepfake again"
        )
    return WeightsFile(entry.name, path, digest)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file under the project's names.

    PyTorch files are read with `weights_only=True`: a file that wants to run code is refused.

    Raises:
        CheckpointError: damaged, or not a weights file.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); get it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain weights file: it is damaged or holds code, which is never run; "
            "pass a safetensors file or a state dict saved with torch.save"
        ) from error
    except Exception as error:  # torch reports damaged files with many types
        raise CheckpointError(f"{path} is not a readable weights file ({error}); get it again") from error
    return rename_keys(_unwrap(content, path))


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other people's parameter names as ours, by `RENAMES`; a prefix is dropped only if every name has it."""
    renamed = dict(state)
    for prefix, replacement in RENAMES:
        if renamed and all(name.startswith(prefix) for name in renamed):
            renamed = {replacement + name[len(prefix) :]: value for name, value in renamed.items()}
    return renamed


def describe_mismatch(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    """Which names a strict load would not accept, shortened."""
    parts = []
    for title, names in (("missing", sorted(missing)), ("unexpected", sorted(unexpected))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{title}: {', '.join(names[:3])}{more}")
    return "; ".join(parts)


def _unwrap(content: Any, path: Path) -> Mapping[str, Tensor]:
    import torch

    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no weights; pass a file with a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if len(tensors) != len(content):
        raise CheckpointError(f"{path} holds other things than weights; pass a file with a plain state dict")
    return tensors
