"""The classifier in ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.engines.engine import FaceScores
from pipelines.engines.onnx_file import FORGERY_MAP, INPUT, PROBABILITY, import_extra, refusing_models

Image = npt.NDArray[np.uint8]


class OnnxRuntimeEngine:
    """In float32, with as many threads as torch."""

    def __init__(self, model: bytes) -> None:
        """Prepare an ONNX model made by `export`.

        Raises:
            ConfigError: onnxruntime is not installed.
            CheckpointError: it cannot use the model.
        """
        runtime = import_extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: the library writes nothing to stderr
        with refusing_models("onnxruntime"):
            self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = {output.name for output in self.session.get_outputs()}
        self.outputs = [PROBABILITY, FORGERY_MAP] if FORGERY_MAP in given else [PROBABILITY]

    def classify(self, images: Sequence[Image]) -> FaceScores:
        """Scores of network inputs (S, S, 3) uint8."""
        probabilities, *maps = self.session.run(self.outputs, {INPUT: np.stack(images)})
        return FaceScores(probabilities.tolist(), maps[0] if maps else None)
