"""The classifier in OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.config import Precision
from pipelines.engines.engine import FaceScores
from pipelines.engines.onnx_file import FORGERY_MAP, PROBABILITY, import_extra, refusing_models
from pipelines.errors import ConfigError

Image = npt.NDArray[np.uint8]
PRECISION_HINT = "INFERENCE_PRECISION_HINT"


class OpenVinoEngine:
    """In float32 or bfloat16, with as many threads as torch."""

    def __init__(self, model: bytes, precision: Precision = "float32") -> None:
        """Compile an ONNX model made by `export`.

        Raises:
            ConfigError: openvino is not installed, or this CPU lacks the precision.
            CheckpointError: it cannot use the model.
        """
        openvino = import_extra("openvino")
        wanted = openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32
        core = openvino.Core()
        settings = {
            PRECISION_HINT: wanted,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": "1",
        }
        with refusing_models("openvino"):
            self.compiled = core.compile_model(core.read_model(model), "CPU", settings)
        if self.compiled.get_property(PRECISION_HINT) != wanted:
            raise ConfigError(f"openvino does not compute in {precision} on this CPU; use --precision float32")

        self.gives_maps = any(FORGERY_MAP in output.names for output in self.compiled.outputs)

    def classify(self, images: Sequence[Image]) -> FaceScores:
        """Scores of network inputs (S, S, 3) uint8."""
        outputs = self.compiled(np.stack(images))
        maps = outputs[FORGERY_MAP] if self.gives_maps else None
        return FaceScores(outputs[PROBABILITY].tolist(), maps)
