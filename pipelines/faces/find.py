"""From decoded frames to aligned faces in bounded batches: the path that `detect-faces` and `predict` share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipelines.faces.crops import FoundFace, FrameFaces, align_faces
from pipelines.faces.detector import FaceDetector


class DecodedFrame(Protocol):
    """A frame as `pipelines.video` gives it."""

    @property
    def index(self) -> int: ...

    @property
    def pts_seconds(self) -> float: ...

    @property
    def image(self) -> npt.NDArray[np.uint8]: ...


def find_faces(
    frames: Iterable[DecodedFrame], detector: FaceDetector, *, margin: float, min_face_px: float = 0
) -> Iterator[FoundFace]:
    """The faces of a video's frames, in order; at most one detector batch of frames is held."""
    return align_faces(_detect(frames, detector), margin=margin, min_face_px=min_face_px)


def _detect(frames: Iterable[DecodedFrame], detector: FaceDetector) -> Iterator[FrameFaces]:
    remaining = iter(frames)
    while batch := list(islice(remaining, detector.batch_size)):
        found = detector.detect([frame.image for frame in batch])
        for frame, faces in zip(batch, found, strict=True):
            yield FrameFaces(frame.index, frame.pts_seconds, frame.image, faces)
