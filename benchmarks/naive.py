"""What a user would assemble from the same packages: decord, retinaface-pytorch, a timm backbone, one after another.

32 frames by decord's `get_batch`; RetinaFace on ResNet-50 by `predict_jsons`, one frame at a time; the multi-attention
network on EfficientNet-B4 in float32, contiguous memory, one face at a time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news when it is imported

import cv2
import decord
import numpy as np
import torch
from retinaface.predict_single import Model

from benchmarks.networks import INPUT_PX, MAX_SIDE_PX, make_b4, silence_faces

FRAMES = 32


class NaivePipeline:
    """Holds the networks, loaded and run once. No weights of theirs are at hand: random ones take the same time."""

    def __init__(self) -> None:
        self.detector = Model(max_size=MAX_SIDE_PX, device="cpu")
        silence_faces(self.detector.model)
        self.detector.eval()
        self.classifier = make_b4()
        self.detector.predict_jsons(np.zeros((540, 960, 3), np.uint8))
        self.classify(np.zeros((INPUT_PX, INPUT_PX, 3), np.uint8))

    def run(self, clip: Path, boxes: list[Any]) -> dict[str, float]:
        """Seconds of each stage on one clip.

        Args:
            boxes: (x0, y0, x1, y1) of a face in each frame: the detector has no weights to find any.
        """
        clock = [time.perf_counter()]
        reader = decord.VideoReader(str(clip))
        frames = reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).astype(int).tolist()).asnumpy()
        clock.append(time.perf_counter())
        for frame in frames:
            self.detector.predict_jsons(frame)
        clock.append(time.perf_counter())
        for frame, (x0, y0, x1, y1) in zip(frames, boxes, strict=True):
            self.classify(cv2.resize(frame[int(y0) : int(y1), int(x0) : int(x1)], (INPUT_PX, INPUT_PX)))
        clock.append(time.perf_counter())
        decode, detect, classify = np.diff(clock).tolist()
        return {"decode": decode, "detect": detect, "classify": classify, "whole": clock[-1] - clock[0]}

    @torch.no_grad()
    def classify(self, face: Any) -> float:
        """Fake probability of one face (S, S, 3) uint8."""
        image = torch.from_numpy(face).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
        return float(self.classifier(image[None].contiguous()).logits.softmax(dim=1)[0, 1])
