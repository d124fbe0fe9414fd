"""The two networks at work: a video, or its stored crops, to a score. Batches are bounded, whatever the length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.preprocessing import Preprocessing, cut_input
from pipelines.config import Aggregate, Decoder, EngineName, Precision, RunOptions
from pipelines.engines.engine import load_engine
from pipelines.errors import InputError
from pipelines.faces.crops import FoundFace
from pipelines.faces.detector import load_detector
from pipelines.faces.find import find_faces
from pipelines.records import FaceRow
from pipelines.scoring.aggregate import aggregate_video, counted_tracks
from pipelines.scoring.video_score import ScoredFace, VideoScore
from pipelines.system.device import choose_device
from pipelines.system.image_files import read_image
from pipelines.system.prefetch import read_ahead
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

Image = npt.NDArray[np.uint8]
T = TypeVar("T")


class VideoScorer:
    """Scores one video at a time with loaded networks."""

    def __init__(
        self,
        *,
        checkpoint: str,
        detector: str | None,
        contract: Preprocessing,
        decoder: Decoder = "auto",
        min_face_px: int = 0,
        engine: EngineName = "torch",
        precision: Precision = "float32",
        options: RunOptions,
    ) -> None:
        """Load the networks; `detector` None is for stored crops only.

        Raises:
            CheckpointError: a file can not be loaded.
            ConfigError: the device is not there, or the engine not installed.
        """
        self.device = choose_device(options.device)
        self.engine = load_engine(engine, precision, checkpoint=checkpoint, contract=contract, device=self.device)
        self.contract = contract
        self.decoder: Decoder = decoder
        self.batch_size = options.batch_size
        self.detector = detector and load_detector(
            detector,
            max_side=contract.max_side,
            min_score=contract.min_score,
            min_face_px=min_face_px,
            device=self.device,
            batch_size=options.batch_size,
            precision=precision,
        )

    def score_video(self, path: Path) -> VideoScore:
        """Decode, detect, align, classify and aggregate one video or image.

        Raises:
            UnreadableError: the file does not open or decode.
        """
        if not self.detector:
            raise ValueError("this scorer was made for stored crops: it has no detector")
        with open_video(path, decoder=self.decoder) as reader:
            frames = ChosenFrames(reader, path, count=self.contract.frames)
            ahead = read_ahead(frames, depth=self.batch_size)
            found = find_faces(ahead, self.detector, margin=self.contract.margin, min_face_px=self.detector.min_face_px)
            faces = list(self._score_found(found))
            return self._aggregate(faces, frames.num_decoded, frames.note)

    def score_crops(self, folder: Path, rows: Sequence[FaceRow], num_frames: int) -> VideoScore:
        """The same from the crops of a `detect-faces` stage.

        Raises:
            InputError: a crop is missing or damaged.
        """
        inputs = read_ahead(
            ((row, cut_input(read_image(folder / row.crop_path), self.contract)) for row in rows), depth=self.batch_size
        )
        faces = []
        for batch in in_batches(inputs, self.batch_size):
            for (row, _), probability in zip(batch, self.classify([image for _, image in batch]), strict=True):
                box = (row.x0_px, row.y0_px, row.x1_px, row.y1_px)
                faces.append(
                    ScoredFace(
                        frame_index=row.frame_index,
                        pts_seconds=row.pts_seconds,
                        face_index=row.face_index,
                        track=row.track,
                        box=None if None in box else box,  # type: ignore[arg-type]
                        fake_probability=probability,
                    )
                )
        return self._aggregate(faces, num_frames, None)

    def classify(self, inputs: Sequence[Image]) -> list[float]:
        """Fake probabilities of network inputs (S, S, 3) uint8.

        Raises:
            InputError: the network gives something else.
        """
        probabilities = self.engine.classify(inputs)
        if self.contract.mirrored:
            mirrored = self.engine.classify([np.ascontiguousarray(image[:, ::-1]) for image in inputs])
            probabilities = [(one + other) / 2 for one, other in zip(probabilities, mirrored, strict=True)]
        if len(probabilities) != len(inputs) or not all(0 <= probability <= 1 for probability in probabilities):
            raise InputError("the checkpoint gives no probabilities for these faces; use another one")
        return probabilities

    def _score_found(self, found: Iterable[FoundFace]) -> Iterator[ScoredFace]:
        for batch in in_batches(found, self.batch_size):
            inputs = [cut_input(face.aligned.crop, self.contract) for face in batch]
            for face, probability in zip(batch, self.classify(inputs), strict=True):
                x0, y0, x1, y1 = (float(value) for value in face.box)
                yield ScoredFace(
                    frame_index=face.frame_index,
                    pts_seconds=face.pts_seconds,
                    face_index=face.face_index,
                    track=face.track,
                    box=(x0, y0, x1, y1),
                    fake_probability=probability,
                )

    def _aggregate(self, faces: list[ScoredFace], num_frames: int, note: str | None) -> VideoScore:
        if not faces:
            return VideoScore(status="no_face", num_frames=num_frames, error=note)
        tracks = [face.track for face in faces]
        method: Aggregate = self.contract.aggregate  # type: ignore[assignment]
        probability = aggregate_video([face.fake_probability for face in faces], tracks, method)
        return VideoScore("ok", probability, num_frames, len(counted_tracks(tracks)), faces, note)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
