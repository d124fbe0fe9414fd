"""Scores of a network on the validation videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.preprocessing import to_network_input
from pipelines.data.faces import FaceImages
from pipelines.models.multi_attention.attention import pairwise_cosine
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.scoring.metrics import log_loss, mean_by_group, roc_auc
from pipelines.training.step import Network, Phase

BATCH_SIZE = 64


@dataclass(frozen=True)
class ValidationScores:
    """Video-level metrics; a video's score is the mean over its faces."""

    auc: float
    log_loss: float
    videos: int
    attention_cosine: float | None


def validate(network: Network, images: FaceImages, phase: Phase, device: torch.device) -> ValidationScores:
    """Score all faces and compute the metrics per video."""
    probabilities, cosine = score_faces(network, images, phase, device)
    videos = [face.video_id for face in images.faces]
    _, scores = mean_by_group(videos, probabilities)
    _, truth = mean_by_group(videos, [face.label for face in images.faces])
    return ValidationScores(roc_auc(truth, scores), log_loss(truth, scores), len(scores), cosine)


@torch.inference_mode()
def score_faces(
    network: Network, images: FaceImages, phase: Phase, device: torch.device
) -> tuple[npt.NDArray[np.float64], float | None]:
    """Fake probabilities (N,), and the mean cosine similarity of a face's attention maps.

    The phase `backbone` uses the backbone's classifier and has no maps.
    """
    network.eval()
    parts, cosines = [], []
    for indices in _in_batches(range(len(images))):
        inputs = to_network_input([images.evaluation_image(i) for i in indices], images.contract, device)
        if phase == "backbone":
            assert isinstance(network, MultiAttentionDetector)
            logits = network.classify_backbone(inputs)
        else:
            output = network(inputs)
            logits = output.logits
            if output.attention_maps is not None and output.attention_maps.shape[1] > 1:
                cosines.append(pairwise_cosine(output.attention_maps).cpu())
        parts.append(logits.float().softmax(dim=1)[:, 1].cpu().double().numpy())
    return np.concatenate(parts), float(torch.cat(cosines).mean()) if cosines else None


def _in_batches(indices: range) -> Iterator[range]:
    for start in range(0, len(indices), BATCH_SIZE):
        yield indices[start : start + BATCH_SIZE]
