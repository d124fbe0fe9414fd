"""The interface of every engine, and the function that loads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import WeightsFile
from pipelines.config import EngineName, Precision, check_engine

Image = npt.NDArray[np.uint8]


class Engine(Protocol):
    """A loaded classifier."""

    def classify(self, images: Sequence[Image]) -> list[float]:
        """Fake probabilities of network inputs (S, S, 3) uint8, RGB, one or more; float32 in any precision."""


def load_engine(
    name: EngineName,
    precision: Precision,
    *,
    checkpoint: str | WeightsFile,
    contract: Preprocessing,
    device: torch.device,
) -> Engine:
    """Load a checkpoint's classifier into an engine.

    Args:
        checkpoint: registry name, checkpoint file, or, for all engines but torch, an `.onnx` file made by `export`.
        device: for torch; the others compute on the CPU, with as many threads as torch.

    Raises:
        CheckpointError: the file cannot be loaded.
        ConfigError: the combination does not exist, the engine is not installed, or this machine lacks the precision.
    """
    check_engine(name, precision)
    if name == "torch":
        from pipelines.engines.torch_engine import TorchEngine

        return TorchEngine(checkpoint, contract, device, precision)
    from pipelines.engines.export import load_onnx

    model = load_onnx(checkpoint, package=name)
    if name == "onnxruntime":
        from pipelines.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model)
    from pipelines.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(model, precision)
