"""`weights import`: detectors trained by others become checkpoints of this project.

A PyTorch file is read with `weights_only=True`: what is not plain data is refused or, where training logs often hold it,
read as an empty placeholder. No code from a file is ever run.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pipelines.checkpoints import official_names as official
from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.config import ALIGNED_SIZE_PX, DetectConfig
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model, model_config
from pipelines.system.file_digest import file_digest

Layout = Literal["multi-attention-official"]
SUFFIX = ".safetensors"
WRAPPER = "state_dict"
"""The authors save dict(logs, state_dict, optimizer_state, scheduler_state)."""
PASS_INSTEAD = "pass the authors' checkpoint as it was released, a PyTorch file"
_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
"""How files of `torch.save` begin, since version 1.6 and before."""


@dataclass(frozen=True)
class ImportedWeights:
    """The result of an import."""

    path: Path
    source_sha256: str
    tensors: int
    """Written, batch norms' statistics and counters included."""
    left_out: tuple[str, ...]
    """Names in the source that are not weights of the network."""
    num_attentions: int
    """M."""


def import_weights(
    source: Path | str,
    output: Path | str,
    *,
    layout: Layout = "multi-attention-official",
    margin: float = 1.0,
    overwrite: bool = False,
) -> ImportedWeights:
    """Convert a detector trained by its authors into a checkpoint for `predict`.

    Args:
        source: `torch.save` of a state dict, or of a dictionary that has one under `state_dict`.
        output: the checkpoint to write, `.safetensors`.
        layout: whose parameter names the source has.
        margin: of the aligned faces given to the network. The file does not record how the authors cropped.
        overwrite: replace an existing output.

    Raises:
        CheckpointError: the source is missing, damaged, of another kind, or of another network.
        ConfigError: the output cannot be written there, or a setting is wrong.
    """
    source, output = Path(source), Path(output)
    if layout not in get_args(Layout):
        raise ConfigError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout}")
    DetectConfig(margin=margin)  # the stage that will align the faces: its rule for margins holds
    _check_output(source, output, overwrite=overwrite)
    state = _read_state(source)
    try:
        converted = official.convert_official_state(state)
    except ValueError as error:
        raise CheckpointError(f"{source} does not fit the layout {layout}: {error}") from error
    network = build_model(official.MODEL, **converted.overrides)
    network.load_state_dict(dict(converted.state), strict=True)
    digest = file_digest(source)
    provenance = {
        "layout": layout,
        "source": source.name,
        "source_sha256": digest,
        "left_out": list(converted.left_out),
    }
    contract = Preprocessing(
        margin=margin,
        crop_box=(0, 0, ALIGNED_SIZE_PX, ALIGNED_SIZE_PX),
        input_size=ALIGNED_SIZE_PX,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    header = CheckpointHeader(official.MODEL, model_config(network), contract, provenance=provenance)
    save_checkpoint(output, network.state_dict(), header)
    return ImportedWeights(
        output, digest, len(converted.state), converted.left_out, int(converted.overrides["num_attentions"])
    )


def _check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Before any work: reading and converting take a while."""
    if output.suffix != SUFFIX:
        raise ConfigError(f"the output must end in {SUFFIX}, got {output.name}; for example {source.stem}{SUFFIX}")
    if not output.parent.is_dir():
        raise ConfigError(f"the folder {output.parent} does not exist; make it, or name another output")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(f"{output} is the source itself; name another output")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; name another output, or give --overwrite to replace it")


def _read_state(source: Path) -> Mapping[str, Tensor]:
    """The state dict in a PyTorch file, under the names that it has there."""
    _refuse_other_files(source)
    try:
        with torch.serialization.safe_globals(_PLACEHOLDERS):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is damaged or holds code{_describe_global(error)}, which is never run; "
            "get it again from its authors, or pass a file with its state_dict alone, saved with torch.save"
        ) from error
    except Exception as error:  # torch reports damaged files with many types
        raise CheckpointError(
            f"{source} is not a whole PyTorch file ({_first_line(error)}); get it again from its authors"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get(WRAPPER), Mapping):
        content = content[WRAPPER]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{source} holds no state dict; {PASS_INSTEAD}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{source} holds no state dict: {name!r} is {_kind_of(value)}; {PASS_INSTEAD}")
    return content


def _refuse_other_files(source: Path) -> None:
    """By their first bytes, since PyTorch's own messages about them lead elsewhere."""
    try:
        with source.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source} does not exist; {PASS_INSTEAD}") from error
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}; {PASS_INSTEAD}") from error
    if start[8:] == b"{":
        raise CheckpointError(
            f"{source} is a safetensors file already; if deepfake wrote it, use it as it is, else {PASS_INSTEAD}"
        )
    if not start.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        raise CheckpointError(f"{source} is not a PyTorch file (a text, or a web page in its place?); {PASS_INSTEAD}")
    if start.startswith(_ZIP_MAGIC) and _is_torchscript(source):
        raise CheckpointError(f"{source} is a TorchScript program, not a checkpoint; {PASS_INSTEAD}")


def _is_torchscript(source: Path) -> bool:
    try:
        with zipfile.ZipFile(source) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # cut off: torch.load says so
        return False


def _describe_global(error: Exception) -> str:
    """What the pickle wanted to call, if torch says so; the rest of torch's message advises to run it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({found[1]})" if found else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _kind_of(value: Any) -> str:
    return "no tensor" if isinstance(value, _Placeholder) else f"of type {type(value).__name__}"


class _Placeholder:
    """Takes the place of a NumPy value: its pickle calls the name with arguments, then hands it a state."""

    def __new__(cls, *_arguments: object) -> _Placeholder:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Nothing is kept."""


def _make_placeholders() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Stand-ins for what NumPy's scalars and arrays are pickled with.

    Training logs hold such values, and nothing here reads them. NumPy's own functions are not allowed in: given crafted
    arguments they can be made to read memory that is not theirs. Both names of NumPy's core module occur in files.
    """
    names = [("numpy", "dtype"), ("numpy", "ndarray")]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [(module, "scalar"), (module, "_reconstruct")]
    return [type(name, (_Placeholder,), {"__module__": module}) for module, name in names]


_PLACEHOLDERS = _make_placeholders()
