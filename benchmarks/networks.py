"""The two large networks with random weights: what they compute takes as long with any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.faces.detector import FaceDetector
from pipelines.faces.retinaface import build_retinaface
from pipelines.models import build_model, model_config
from pipelines.models.batch_norm_fusion import fold_batch_norms

MAX_SIDE_PX = 960
INPUT_PX = 380
B4 = "multi-attention/paper"


def make_b4() -> nn.Module:
    """Multi-attention on EfficientNet-B4 at 380 px, as the paper has it."""
    torch.manual_seed(0)
    return build_model(B4).eval()


def save_b4(path: Path) -> Path:
    """The same as a checkpoint."""
    network = make_b4()
    contract = Preprocessing(input_size=INPUT_PX)
    save_checkpoint(path, network.state_dict(), CheckpointHeader(B4, model_config(network), contract))
    return path


def silence_faces(network: Any) -> None:
    """A detector with random weights would find faces everywhere: let it find none, as in most of a picture."""
    with torch.no_grad():
        for head in network.ClassHead:
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.copy_(torch.tensor([9.0, -9.0] * 2))


def make_resnet50(max_side: int, precision: Any) -> FaceDetector:
    """RetinaFace on ResNet-50 in our detector."""
    torch.manual_seed(0)
    network = build_retinaface("resnet50").eval()
    silence_faces(network)
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    return FaceDetector(network, "resnet50", max_side=max_side, precision=precision)
