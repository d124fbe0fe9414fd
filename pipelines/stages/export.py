"""`export`: a checkpoint as one ONNX file for other runtimes, compared with torch before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipelines.checkpoints.checkpoint import load_checkpoint
from pipelines.config import DEFAULT_CHECKPOINT
from pipelines.engines.comparison import compare_with_torch, find_example_faces, make_random_inputs
from pipelines.engines.export import export_onnx
from pipelines.engines.onnx_file import SUFFIX, import_extra, is_onnx
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model
from pipelines.system.atomic_files import replace_atomically

Format = Literal["onnx"]
TOLERANCE = 1e-4
"""Largest difference of a face's fake probability, and of any value of its forgery map, float32 against float32."""


@dataclass(frozen=True)
class ExportSummary:
    """What was written, and how it compares with torch."""

    path: Path
    num_bytes: int
    checkpoint: str
    checkpoint_sha256: str
    num_images: int
    """Random images and real faces that were compared."""
    num_faces: int
    """Real faces among them; 0 without the example clip."""
    largest_difference: float
    """Largest difference between the fake probabilities of one image."""
    largest_map_difference: float | None = None
    """Largest difference between two values of one image's forgery maps; None for a network without a mask branch."""


def export(
    output: Path | str,
    *,
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    format: Format = "onnx",  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> ExportSummary:
    """Write a checkpoint's network as one file for other runtimes, such as those of `predict --engine`.

    The file takes `images` (N, S, S, 3) uint8 RGB, as the preprocessing contract cuts them, N free, and gives
    `fake_probability` (N,) float32; for a network with a mask branch also `forgery_map` (N, h, w) float32. Its metadata
    holds the checkpoint's header and digest.

    Args:
        output: the file to write, `.onnx`.
        checkpoint: registry name or checkpoint file.
        overwrite: replace an existing output.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or the file gives other results than torch.
        ConfigError: the output cannot be written there, or the extra is not installed.
        StorageError: the output could not be written.
    """
    output = Path(output)
    if format not in get_args(Format):
        raise ConfigError(f"format must be one of {', '.join(get_args(Format))}, got {format}")
    _check_output(output, overwrite=overwrite)
    if is_onnx(checkpoint):
        raise ConfigError(f"{checkpoint} is an ONNX file already; pass a checkpoint made by: deepfake train")
    import_extra("onnxruntime")  # before the work, not after it
    loaded = load_checkpoint(checkpoint, build_model)
    contract = loaded.header.preprocessing
    faces = find_example_faces(contract)
    images = [*make_random_inputs(contract.input_size), *faces]
    with replace_atomically(output) as temporary:
        temporary.write_bytes(export_onnx(loaded))
        differences = compare_with_torch(temporary.read_bytes(), loaded.file, contract, images)
        for results, difference in (
            ("probabilities", differences.probability),
            ("forgery maps", differences.forgery_map),
        ):
            if difference is not None and not difference <= TOLERANCE:  # NaN too
                raise CheckpointError(
                    f"the ONNX model of {checkpoint} gives other {results} than torch, by up to {difference:.2g}; "
                    f"{output} was not written; try other versions of onnxscript and onnxruntime"
                )
        num_bytes = temporary.stat().st_size
    return ExportSummary(output, num_bytes, loaded.file.name, loaded.file.sha256, len(images), len(faces), *differences)


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before the work."""
    if output.suffix != SUFFIX:
        raise ConfigError(f"the output must end in {SUFFIX}, got {output.name}")
    if not output.parent.is_dir():
        raise ConfigError(f"the folder {output.parent} does not exist; make it, or name another output")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; name another output, or give --overwrite to replace it")
