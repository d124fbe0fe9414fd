"""How far an ONNX model is from torch, on random images and on real faces."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.preprocessing import Preprocessing, cut_input
from pipelines.checkpoints.weights_files import WeightsFile
from pipelines.config import DEFAULT_DETECTOR
from pipelines.engines.onnxruntime_engine import OnnxRuntimeEngine
from pipelines.engines.torch_engine import TorchEngine
from pipelines.faces.detector import load_detector
from pipelines.faces.find import find_faces
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

Image = npt.NDArray[np.uint8]

NUM_RANDOM = 6
NUM_FRAMES = 4
"""Taken from the example clip."""
EXAMPLE_CLIP = Path(__file__).parents[2] / "examples" / "astronaut.mp4"
"""Exists in a checkout only; an installed package has no examples."""

log = logging.getLogger(__name__)


class Differences(NamedTuple):
    """The largest absolute differences between an ONNX model and torch, both in float32; NaN or infinity is possible."""

    probability: float
    """Of an image's fake probability."""
    forgery_map: float | None
    """Of a value of an image's forgery map; infinite if only one of the two gives maps, None if neither does."""


def compare_with_torch(
    model: bytes, checkpoint: str | WeightsFile, contract: Preprocessing, images: Sequence[Image]
) -> Differences:
    """How far an ONNX model is from the checkpoint that it was made of."""
    expected = TorchEngine(checkpoint, contract, torch.device("cpu")).classify(images)
    got = OnnxRuntimeEngine(model).classify(images)
    of_maps = None
    if (got.forgery_maps is None) != (expected.forgery_maps is None):
        of_maps = float("inf")
    elif got.forgery_maps is not None and expected.forgery_maps is not None:
        of_maps = float(np.abs(got.forgery_maps - expected.forgery_maps).max())
    return Differences(float(np.abs(np.subtract(got.probabilities, expected.probabilities)).max()), of_maps)


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
    """Network inputs (S, S, 3) uint8 of real faces; none without the example clip."""
    if not EXAMPLE_CLIP.is_file():
        log.info("%s is missing: the file is compared with torch on random images only", EXAMPLE_CLIP.name)
        return []
    detector = load_detector(DEFAULT_DETECTOR, max_side=contract.max_side, min_score=contract.min_score)
    with open_video(EXAMPLE_CLIP) as reader:
        frames = ChosenFrames(reader, EXAMPLE_CLIP, count=NUM_FRAMES)
        found = find_faces(frames, detector, margin=contract.margin)
        return [cut_input(face.aligned.crop, contract) for face in found]
