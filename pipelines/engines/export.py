"""From a checkpoint to the same network as an ONNX model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipelines.checkpoints.checkpoint import Checkpoint, load_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import WeightsFile, resolve_weights
from pipelines.engines.onnx_file import (
    FORGERY_MAP,
    INPUT,
    PROBABILITY,
    SOURCE_KEY,
    SOURCE_SHA256_KEY,
    import_extra,
    is_onnx,
    read_onnx_header,
    write_metadata,
)
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model
from pipelines.models.outputs import DetectorOutput

EXAMPLE_BATCH = 2
"""The exporter would take a batch of one for a fixed size."""
FIRST_TORCH = (2, 9)
"""The exporter of torch 2.5 fails on batch norm; the versions in between were not tested."""

log = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A checkpoint's network with its normalisation and softmax: from uint8 images to probabilities, and to maps if any."""

    def __init__(self, network: nn.Module, contract: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.mean = nn.Buffer(torch.tensor(contract.mean))
        self.std = nn.Buffer(torch.tensor(contract.std))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N,) and (N, h, w) float32 from (N, S, S, 3) uint8, step by step as `to_network_input` and the torch engine."""
        normalised = images.float().div(255).sub(self.mean).div(self.std).permute(0, 3, 1, 2)
        output: DetectorOutput = self.network(normalised)
        probabilities = output.logits.softmax(dim=1)[:, 1]
        maps = output.forgery_map
        return (probabilities,) if maps is None else (probabilities, maps)


def load_onnx(checkpoint: str | WeightsFile, *, package: str) -> bytes:
    """The ONNX model of a checkpoint: read from an `.onnx` file, or converted now, which takes some seconds.

    Args:
        package: the runtime for it; checked before the conversion.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another kind.
        ConfigError: an extra is not installed, or torch is too old.
    """
    import_extra(package)
    file = resolve_weights(checkpoint, kind="checkpoint")
    if is_onnx(file.path):
        read_onnx_header(file.path)
        return file.path.read_bytes()
    log.info("converting %s to ONNX; to do this once only: deepfake export, then --checkpoint FILE.onnx", file.name)
    return export_onnx(load_checkpoint(file, build_model))


def export_onnx(checkpoint: Checkpoint) -> bytes:
    """The ONNX model of a loaded checkpoint, with its header in the metadata. The batch size is free.

    Raises:
        CheckpointError: the network uses an operation that does not translate.
        ConfigError: the package onnx or onnxscript is not installed, or torch is too old.
    """
    for package in ("onnx", "onnxscript.optimizer"):
        import_extra(package)
    _check_torch()
    contract = checkpoint.header.preprocessing
    classifier = Classifier(checkpoint.network, contract).eval()
    images = torch.zeros(EXAMPLE_BATCH, contract.input_size, contract.input_size, 3, dtype=torch.uint8)
    try:
        program = _trace(classifier, images)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{checkpoint.header.model} does not translate to ONNX ({reason}); use --engine torch"
        ) from error
    _simplify(program)
    model = program.model_proto
    source = {SOURCE_KEY: checkpoint.file.name, SOURCE_SHA256_KEY: checkpoint.file.sha256}
    write_metadata(model, checkpoint.header, source)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _trace(classifier: Classifier, images: Tensor) -> torch.onnx.ONNXProgram:
    with _quiet(), torch.no_grad():  # with gradients the ReLU6 of training would be traced
        names = (PROBABILITY, FORGERY_MAP)[: len(classifier(images))]
        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            optimize=False,  # see _simplify
            verbose=False,
            input_names=[INPUT],
            output_names=names,
            dynamic_shapes={INPUT: {0: torch.export.Dim("faces")}},
        )
    if program is None:
        raise ValueError("torch.onnx.export returned no model")
    return program


def _simplify(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants, and nothing else.

    The exporter's own optimisation also drops additions of 1e-8, which it takes for zero: the plain mean that
    `pool_semantics` falls back to where every map is dead would become 0 / 0.
    """
    optimizer = import_extra("onnxscript.optimizer")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)


def _check_torch() -> None:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < FIRST_TORCH:
        needed = ".".join(map(str, FIRST_TORCH))
        raise ConfigError(
            f"exporting to ONNX needs torch {needed}, this is {torch.__version__}; pip install 'deepfake[onnx]'"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about itself and about operators that the network does not use."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
