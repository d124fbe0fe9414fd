"""Our pipeline, stage by stage and as a whole, with the embedded networks or with the large ones of the naive pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import make_resnet50, save_b4
from pipelines import PredictConfig
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input
from pipelines.config import EngineName, Precision
from pipelines.engines.engine import load_engine
from pipelines.faces.align import align_face
from pipelines.faces.find import find_faces
from pipelines.scoring.detector import Detector, in_batches
from pipelines.system.prefetch import read_ahead
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

BATCH = 8


def make_scorer(precision: Precision = "float32", engine: EngineName = "torch", batch_size: int = BATCH) -> Detector:
    """The embedded face detector and classifier."""
    return Detector(batch_size=batch_size, config=PredictConfig(precision=precision, engine=engine))


class Embedded:
    """The embedded networks, loaded and run once."""

    def __init__(self, precision: Precision = "float32") -> None:
        self.scorer = make_scorer(precision)
        assert self.scorer.face_detector
        size = self.scorer.contract.input_size
        self.scorer.face_detector.detect([np.zeros((540, 960, 3), np.uint8)] * BATCH)
        self.scorer.classify([np.zeros((size, size, 3), np.uint8)] * BATCH)

    def run(self, clip: Path, _boxes: Any) -> dict[str, float]:
        """Seconds of each stage alone, and of all together, where decoding runs in parallel with the networks."""
        scorer = self.scorer
        assert scorer.face_detector
        clock = [time.perf_counter()]
        frames = decode(clip, scorer.contract)
        clock.append(time.perf_counter())
        faces = list(find_faces(frames, scorer.face_detector, margin=scorer.contract.margin))
        clock.append(time.perf_counter())
        for batch in in_batches(faces, BATCH):
            scorer.classify([cut_input(face.aligned.crop, scorer.contract) for face in batch])
        clock.append(time.perf_counter())
        scorer.score(clip)
        clock.append(time.perf_counter())
        decoded, detected, classified, whole = np.diff(clock).tolist()
        return {"decode": decoded, "detect": detected, "classify": classified, "whole": whole}


class Large:
    """ResNet-50 and B4, with random weights: aligned are the faces that the embedded detector finds in the same frames."""

    def __init__(
        self, folder: Path, max_side: int, precision: Precision, engine: EngineName, landmarks: list[Any]
    ) -> None:
        self.detector = make_resnet50(max_side, precision)
        self.contract = Preprocessing()
        checkpoint = str(save_b4(folder / "b4.safetensors"))
        self.classify = load_engine(
            engine, precision, checkpoint=checkpoint, contract=self.contract, device=self.detector.device
        ).classify
        self.landmarks = landmarks
        self.detector.detect([np.zeros((540, 960, 3), np.uint8)] * BATCH)
        self.classify([np.zeros((self.contract.input_size, self.contract.input_size, 3), np.uint8)] * BATCH)

    def run(self, clip: Path, _boxes: Any) -> dict[str, float]:
        """As `Embedded.run`."""
        clock = [time.perf_counter()]
        frames = decode(clip, self.contract)
        clock.append(time.perf_counter())
        for batch in in_batches(frames, BATCH):
            self.detector.detect([frame.image for frame in batch])
        clock.append(time.perf_counter())
        self._classify(frames, 0)
        clock.append(time.perf_counter())
        with open_video(clip) as reader:
            ahead = read_ahead(ChosenFrames(reader, clip, count=self.contract.frames), depth=BATCH)
            for number, batch in enumerate(in_batches(ahead, BATCH)):
                self.detector.detect([frame.image for frame in batch])
                self._classify(batch, number * BATCH)
        clock.append(time.perf_counter())
        decoded, detected, classified, whole = np.diff(clock).tolist()
        return {"decode": decoded, "detect": detected, "classify": classified, "whole": whole}

    def _classify(self, frames: list[Any], first: int) -> None:
        for batch in in_batches(enumerate(frames, first), BATCH):
            faces = [align_face(frame.image, self.landmarks[place]) for place, frame in batch]
            self.classify([cut_input(face.crop, self.contract) for face in faces if face])


def decode(clip: Path, contract: Preprocessing) -> list[Any]:
    """The frames that `predict` takes of a clip."""
    with open_video(clip) as reader:
        return list(ChosenFrames(reader, clip, count=contract.frames))


def locate_faces(clip: Path) -> tuple[list[Any], list[Any]]:
    """Box and landmarks of the surest face of each frame, by the embedded detector."""
    scorer = make_scorer()
    assert scorer.face_detector
    boxes, landmarks = [], []
    for frame in decode(clip, scorer.contract):
        faces = scorer.face_detector.detect([frame.image])[0]
        if not len(faces):
            raise ValueError(f"{clip} has a frame without a face: choose a clip of a talking head")
        boxes.append(faces.boxes[0].tolist())
        landmarks.append(faces.landmarks[0].tolist())
    return boxes, landmarks


def profile(clip: Path) -> dict[str, float]:
    """Seconds of `predict` on a clip within each function that does a part of the work, in one thread of control."""
    from pipelines.faces import detector, find
    from pipelines.scoring import detector as scoring

    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            return result

        return call

    scorer = make_scorer()
    assert scorer.face_detector
    scorer.score(clip)
    found = scorer.face_detector
    found.network.forward = timed("detector: network", found.network.forward)  # type: ignore[method-assign]
    found._prepare = timed("detector: normalise", found._prepare)  # type: ignore[method-assign]
    detector._resize = timed("detector: reduce frames", detector._resize)
    detector.select_faces = timed("detector: decode and suppress", detector.select_faces)
    find.align_face = timed("align", find.align_face)
    scoring.cut_input = timed("cut the input", scoring.cut_input)
    scorer.engine.classify = timed("classifier", scorer.engine.classify)  # type: ignore[method-assign]
    scoring.read_ahead = lambda items, depth: items  # one after another, so that times add up
    started = time.perf_counter()
    scorer.score(clip)
    whole = time.perf_counter() - started
    return seconds | {"decode, track, aggregate": whole - sum(seconds.values())}
