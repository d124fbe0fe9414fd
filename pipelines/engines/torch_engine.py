"""The classifier in torch: the reference that the other engines must match."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.checkpoint import load_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, to_network_input
from pipelines.checkpoints.weights_files import WeightsFile
from pipelines.config import Precision
from pipelines.engines.engine import FaceScores
from pipelines.models import build_model
from pipelines.models.batch_norm_fusion import try_fold

Image = npt.NDArray[np.uint8]


class TorchEngine:
    """In float32, or by autocast in bfloat16; weights and images in channels-last memory, batch norms folded."""

    def __init__(
        self,
        checkpoint: str | WeightsFile,
        contract: Preprocessing,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        size = contract.input_size
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        folded = try_fold(load_checkpoint(checkpoint, build_model).network, to_network_input([noise], contract))
        self.network = folded.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.contract = contract
        self.device = device
        self.is_bf16 = precision == "bf16"

    @torch.inference_mode()
    def classify(self, images: Sequence[Image]) -> FaceScores:
        """Scores of network inputs (S, S, 3) uint8."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            output = self.network(to_network_input(images, self.contract, self.device))
        probabilities = output.logits.float().softmax(dim=1)[:, 1].tolist()
        maps = output.forgery_map
        return FaceScores(probabilities, None if maps is None else maps.cpu().numpy())
