"""The classifier in torch: the engine that defines what the others must give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoint import load_checkpoint
from pipelines.config import Precision
from pipelines.preprocessing import Preprocessing, to_network_input

Image = npt.NDArray[np.uint8]


class TorchEngine:
    """In float32, or by autocast in bfloat16; weights and images in channels-last memory.

    Batch norms are not folded into the convolutions: that would change the last bits of every score.
    """

    def __init__(
        self, checkpoint: str, contract: Preprocessing, device: torch.device, precision: Precision = "float32"
    ) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it can not be loaded.
        """
        self.network = load_checkpoint(checkpoint, device).network
        self.contract = contract
        self.device = device
        self.is_bf16 = precision == "bf16"

    @torch.inference_mode()
    def classify(self, images: Sequence[Image]) -> list[float]:
        """Fake probabilities of network inputs (S, S, 3) uint8."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits = self.network(to_network_input(images, self.contract, self.device)).logits
        return [float(value) for value in logits.float().softmax(dim=1)[:, 1].cpu()]
