"""From decoded frames to tracked, aligned faces in bounded batches, for `detect-faces` and `predict` alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipelines.faces.align import align_face
from pipelines.faces.crops import FoundFace
from pipelines.faces.detector import FaceDetector
from pipelines.faces.tracks import Tracker


class DecodedFrame(Protocol):
    """A frame as `pipelines.video` gives it."""

    @property
    def index(self) -> int: ...

    @property
    def pts_seconds(self) -> float: ...

    @property
    def image(self) -> npt.NDArray[np.uint8]: ...


def find_faces(frames: Iterable[DecodedFrame], detector: FaceDetector, *, margin: float) -> Iterator[FoundFace]:
    """Detect, track and align the faces of a video's frames, in order; at most one detector batch of frames is held."""
    remaining, tracker = iter(frames), Tracker()
    while batch := list(islice(remaining, detector.batch_size)):
        for frame, faces in zip(batch, detector.detect([frame.image for frame in batch]), strict=True):
            for index, track in enumerate(tracker.assign(faces.boxes)):
                aligned = align_face(frame.image, faces.landmarks[index], margin=margin)
                if aligned is None:
                    continue
                yield FoundFace(
                    frame_index=frame.index,
                    pts_seconds=frame.pts_seconds,
                    face_index=index,
                    track=track,
                    box=faces.boxes[index],
                    score=float(faces.scores[index]),
                    landmarks=faces.landmarks[index],
                    aligned=aligned,
                )
