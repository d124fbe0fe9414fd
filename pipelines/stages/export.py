"""Stage `export`: a checkpoint as one ONNX file that other runtimes read, compared with torch before it is left there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.checkpoint import load_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input
from pipelines.config import DEFAULT_CHECKPOINT, DEFAULT_DETECTOR
from pipelines.engines.export import export_onnx
from pipelines.engines.onnx_file import SUFFIX, import_extra, is_onnx
from pipelines.engines.onnxruntime_engine import OnnxRuntimeEngine
from pipelines.engines.torch_engine import TorchEngine
from pipelines.errors import CheckpointError, ConfigError
from pipelines.faces.detector import load_detector
from pipelines.faces.find import find_faces
from pipelines.models import build_model
from pipelines.system.atomic_files import replace_atomically
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

Format = Literal["onnx"]
Image = npt.NDArray[np.uint8]

TOLERANCE = 1e-4
"""Of a face's fake probability, float32 against float32."""
NUM_RANDOM = 6
NUM_FRAMES = 4
"""Of the example clip."""
EXAMPLE_CLIP = Path(__file__).parents[2] / "examples" / "astronaut.mp4"
"""Beside the packages in a checkout; an installed package has none."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSummary:
    """What was written, and how it compares with torch."""

    path: Path
    num_bytes: int
    checkpoint: str
    checkpoint_sha256: str
    num_images: int
    """Random images and real faces that both computed."""
    num_faces: int
    """Real faces among them; 0 where the example clip is not there."""
    largest_difference: float
    """Of the fake probabilities of one image."""


def export(
    output: Path | str,
    *,
    checkpoint: str = DEFAULT_CHECKPOINT,
    format: Format = "onnx",  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> ExportSummary:
    """Write a checkpoint's network as one file for other runtimes, such as those of `predict --engine`.

    The file takes `images` (N, S, S, 3) uint8 RGB, as the preprocessing contract cuts them, N free, and gives
    `fake_probability` (N,) float32. Its metadata holds the checkpoint's header and digest.

    Args:
        output: the file to write, `.onnx`.
        checkpoint: registry name or checkpoint file.
        overwrite: replace an output that is there.

    Raises:
        CheckpointError: the checkpoint can not be loaded, or the file gives other probabilities than torch.
        ConfigError: the output can not be written where it shall be, or the extra is not installed.
        StorageError: the output could not be written.
    """
    output = Path(output)
    if format not in get_args(Format):
        raise ConfigError(f"format must be one of {', '.join(get_args(Format))}, got {format}")
    _check_output(output, overwrite=overwrite)
    if is_onnx(checkpoint):
        raise ConfigError(f"{checkpoint} is an ONNX file already; pass a checkpoint made by: deepfake train")
    import_extra("onnxruntime")  # before the work that it shall check
    loaded = load_checkpoint(checkpoint, build_model)
    contract = loaded.header.preprocessing
    faces = find_example_faces(contract)
    images = [*make_random_inputs(contract.input_size), *faces]
    with replace_atomically(output) as beside:
        beside.write_bytes(export_onnx(loaded))
        difference = compare_with_torch(beside.read_bytes(), checkpoint, contract, images)
        if not difference <= TOLERANCE:  # also where it is no number
            raise CheckpointError(
                f"the ONNX model of {checkpoint} gives other probabilities than torch, by up to {difference:.2g}; "
                f"{output} was not written; try other versions of onnxscript and onnxruntime"
            )
        num_bytes = beside.stat().st_size
    return ExportSummary(output, num_bytes, loaded.file.name, loaded.file.sha256, len(images), len(faces), difference)


def compare_with_torch(model: bytes, checkpoint: str, contract: Preprocessing, images: Sequence[Image]) -> float:
    """The largest difference of fake probabilities between an ONNX model and torch, both in float32."""
    expected = TorchEngine(checkpoint, contract, torch.device("cpu")).classify(images)
    got = OnnxRuntimeEngine(model).classify(images)
    return float(np.abs(np.subtract(got, expected)).max())


def make_random_inputs(size_px: int) -> list[Image]:
    """Network inputs (S, S, 3) uint8 from noise of one pixel to noise of half a picture."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(NUM_RANDOM):
        cell_px = max(1, size_px * number // (2 * NUM_RANDOM))
        cells = -(-size_px // cell_px)
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        images.append(coarse.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[:size_px, :size_px].copy())
    return images


def find_example_faces(contract: Preprocessing) -> list[Image]:
    """Network inputs (S, S, 3) uint8 of real faces; none where the example clip is not there."""
    if not EXAMPLE_CLIP.is_file():
        log.info("%s is not there: the file is compared with torch on random images only", EXAMPLE_CLIP.name)
        return []
    detector = load_detector(DEFAULT_DETECTOR, max_side=contract.max_side, min_score=contract.min_score)
    with open_video(EXAMPLE_CLIP) as reader:
        frames = ChosenFrames(reader, EXAMPLE_CLIP, count=NUM_FRAMES)
        found = find_faces(frames, detector, margin=contract.margin)
        return [cut_input(face.aligned.crop, contract) for face in found]


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Before any work: the export takes a while."""
    if output.suffix != SUFFIX:
        raise ConfigError(f"the output must end in {SUFFIX}, got {output.name}")
    if not output.parent.is_dir():
        raise ConfigError(f"the folder {output.parent} does not exist; make it, or name another output")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; name another output, or give --overwrite to replace it")
