"""The interface of every engine, and the function that loads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import WeightsFile
from pipelines.config import EngineName, Precision, check_engine

Image = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]


class FaceScores(NamedTuple):
    """What a classifier says of N network inputs, in float32 whatever precision it computes in."""

    probabilities: list[float]
    """Fake probabilities."""
    forgery_maps: Maps | None = None
    """(N, h, w) in 0..1: the probability that a place of the input is forged. A map covers the whole input; h and w are
    the network's. None for a network without a mask branch."""


class Engine(Protocol):
    """A loaded classifier."""

    def classify(self, images: Sequence[Image]) -> FaceScores:
        """Scores of network inputs (S, S, 3) uint8, RGB, one or more."""


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
