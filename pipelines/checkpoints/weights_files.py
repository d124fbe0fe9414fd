"""Find, check and read weights files, ours and others'. Nothing here runs code from a file."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import weights
from pipelines.checkpoints.cache import pulled_path
from pipelines.errors import CheckpointError
from pipelines.system.file_digest import file_digest
from weights import WeightsEntry

if TYPE_CHECKING:
    from torch import Tensor

WeightsKind = Literal["detector", "checkpoint"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys that contain the weights in third-party files."""
RENAMES: tuple[tuple[str, str], ...] = (("module.", ""), ("model.", ""))
"""Prefixes of parameter names in third-party files, and our names for them."""
MAX_UNPACKED_BYTES = 1 << 30
"""Limit for the file in a .zip: it is unpacked in memory, and a small .zip can contain a very large file."""


@dataclass(frozen=True)
class WeightsFile:
    """A file that exists, with its digest."""

    name: str
    """Registry name, or the file's name."""
    path: Path
    sha256: str


def resolve_weights(name_or_file: str | Path | WeightsFile, *, kind: WeightsKind) -> WeightsFile:
    """The file behind a registry name or a path; embedded and pulled files are checked against their digest.

    A file that is resolved already is returned as it is, and not hashed again.

    Raises:
        CheckpointError: unknown name, missing or not yet pulled file, wrong kind, or a digest that differs.
    """
    if isinstance(name_or_file, WeightsFile):
        return name_or_file
    name_or_file = str(name_or_file)
    entry = weights.find_entry(name_or_file)
    if entry is None:
        path = Path(name_or_file)
        if not os.path.isfile(path):  # False for an impossible name too
            known = ", ".join(entry.name for entry in weights.REGISTRY.values() if entry.kind == kind)
            raise CheckpointError(f"{name_or_file} is neither a file nor a known {kind}; known: {known}")
        return WeightsFile(path.name, path, _weights_digest(path))
    if entry.kind != kind:
        raise CheckpointError(f"{entry.name} is a {entry.kind}, not a {kind}")
    path, remedy = _registered_file(entry)
    digest = _weights_digest(path)
    if not is_digest_of(entry, digest):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {digest[:12]}…, not {entry.sha256[:12]}…; {remedy}")
    return WeightsFile(entry.name, path, digest)


def _registered_file(entry: WeightsEntry) -> tuple[Path, str]:
    """The file of an entry, and what to do if it is damaged."""
    if entry.is_embedded:
        path = weights.embedded_path(entry)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; install deepfake again")
        return path, "install deepfake again"
    pulled = pulled_path(entry)
    if pulled is None:
        raise CheckpointError(
            f"{entry.name} is not part of the package and has no address to pull it from; "
            f"get the file ({entry.description}) by hand and pass its path instead"
        )
    command = f"run: deepfake weights pull {entry.name}"
    if not pulled.is_file():
        raise CheckpointError(
            f"{entry.name} is not part of the package; {command} (or get {entry.url} and pass the file's path instead)"
        )
    return pulled, command


def is_digest_of(entry: WeightsEntry, digest: str) -> bool:
    """Whether a SHA-256 is the registered one, or begins with the digits that the publisher gives."""
    return bool(entry.sha256) and digest.startswith(entry.sha256)


def _weights_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file under the project's names.

    PyTorch files are read with `weights_only=True`: a file that wants to run code is refused. One that is packed alone
    into a .zip is read in there.

    Raises:
        CheckpointError: damaged, or not a weights file.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (
            SafetensorError,
            OSError,
            ValueError,
            KeyError,
            AttributeError,
        ) as error:  # also a type that torch lacks
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); get it again") from error
    source = _unpack(path) if _is_packed(path) else path
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain weights file: it is damaged or holds code, which is never run; "
            "pass a safetensors file or a state dict saved with torch.save"
        ) from error
    except Exception as error:  # torch reports damaged files with many types
        raise CheckpointError(f"{path} is not a readable weights file ({error}); get it again") from error
    return rename_keys(_unwrap(content, path))


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate third-party parameter names by `RENAMES`; a prefix is dropped only if every name has it."""
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


def _is_packed(path: Path) -> bool:
    """Whether this is an ordinary .zip, and not PyTorch's own format, which is a .zip with several members."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        with zipfile.ZipFile(path) as packed:
            return not any(name.endswith("/data.pkl") for name in packed.namelist())
    except (OSError, zipfile.BadZipFile):
        return False  # torch says what is wrong with it


def _unpack(path: Path) -> io.BytesIO:
    """The only file in a .zip, in memory. Its name, which could lead out of a folder, is not used."""
    with zipfile.ZipFile(path) as packed:
        files = [member for member in packed.infolist() if not member.is_dir()]
        if len(files) != 1:
            raise CheckpointError(f"{path} holds {len(files)} files; pass a .zip of one PyTorch file, or that file")
        if files[0].file_size > MAX_UNPACKED_BYTES:
            raise CheckpointError(
                f"{path} holds a file of {files[0].file_size / 1e9:.1f} GB, and more than {MAX_UNPACKED_BYTES / 1e9:.1f} GB "
                "are not unpacked; if it is right, unpack it and pass the file in it"
            )
        try:
            return io.BytesIO(packed.read(files[0]))
        except Exception as error:  # each way of packing has its own type
            raise CheckpointError(f"{path} cannot be unpacked ({error}); get it again") from error


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
