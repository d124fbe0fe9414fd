"""From scores of faces to scores of frames and videos, by published protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipelines.config import Aggregate
from pipelines.evaluation.scores import Floats, Integers, Scored, ScoredFaces
from pipelines.scoring.aggregate import aggregate_video

Level = Literal["frame", "video"]


@dataclass(frozen=True)
class Protocol:
    """How published results were computed."""

    name: str
    level: Level
    """Level of the quoted figure."""
    frames: int
    """Per video, spread evenly."""
    face: Literal["largest", "most-suspicious"]
    """Which face gives the score of a frame with several faces."""
    counts_missing: bool
    """Whether a video without a face counts as 0.5; otherwise it is left out."""
    source: str

    @property
    def quoted(self) -> str:
        """The level of the report's figures that is quoted."""
        return "video_all" if self.counts_missing else self.level

    def __str__(self) -> str:
        missing = "count as 0.5" if self.counts_missing else "are left out"
        return (
            f"{self.name}: {self.level} level, {self.frames} frames per video, the {self.face} face of a frame, "
            f"video score the mean of its frames; videos without a face {missing} ({self.source})"
        )


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("paper", "frame", 30, "largest", False, "Zhao et al. 2021, section 4"),
        Protocol("deepfakebench", "frame", 32, "largest", False, "Yan et al. 2023"),
        Protocol("sbi", "video", 32, "most-suspicious", True, "Shiohara and Yamasaki 2022"),
    )
}


@dataclass(frozen=True)
class ScoredFrames:
    """K frames, ordered by video and time; arrays of length K."""

    videos: Integers
    """Index of the frame's video."""
    probabilities: Floats


def frames_of(faces: ScoredFaces, face: Literal["largest", "most-suspicious"], count: int | None) -> ScoredFrames:
    """One score a frame, and at most `count` frames a video: the first, the last and evenly between them."""
    preference = faces.probabilities if face == "most-suspicious" else np.nan_to_num(faces.areas, nan=0.0)
    # of equally large faces the more suspicious one, so that the order of the rows does not matter
    order = np.lexsort((faces.probabilities, preference, faces.frames, faces.videos))
    videos, frames = faces.videos[order], faces.frames[order]
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (videos[1:] != videos[:-1]) | (frames[1:] != frames[:-1])
    found = ScoredFrames(videos[is_last], faces.probabilities[order][is_last])
    if count is None:
        return found
    chosen = _spread(found.videos, count)
    return ScoredFrames(found.videos[chosen], found.probabilities[chosen])


def apply_protocol(scored: Scored, protocol: Protocol) -> tuple[Scored, ScoredFrames]:
    """Frames and videos as the protocol scores them."""
    assert scored.faces is not None
    frames = frames_of(scored.faces, protocol.face, protocol.frames)
    number = len(scored.videos)
    counts = np.bincount(frames.videos, minlength=number)
    sums = np.bincount(frames.videos, weights=frames.probabilities, minlength=number)
    means = np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)
    return replace(scored, videos=replace(scored.videos, probabilities=means)), frames


def aggregate_videos(scored: Scored, method: Aggregate) -> Scored:
    """The videos' probabilities from their faces, by one of the methods of `predict`."""
    assert scored.faces is not None
    faces = scored.faces
    order = np.argsort(faces.videos, kind="stable")
    present, starts = np.unique(faces.videos[order], return_index=True)
    probabilities = np.full(len(scored.videos), np.nan)
    for video, members in zip(present, np.split(order, starts)[1:], strict=True):
        probabilities[video] = aggregate_video(faces.probabilities[members], faces.tracks[members], method)
    return replace(scored, videos=replace(scored.videos, probabilities=probabilities))


def _spread(videos: Integers, count: int) -> Integers:
    """Of rows that are sorted by video the indices of at most `count` a video."""
    _, starts, numbers = np.unique(videos, return_index=True, return_counts=True)
    picks = [
        start + (np.arange(number) if number <= count else np.linspace(0, number - 1, count).round().astype(np.int64))
        for start, number in zip(starts, numbers, strict=True)
    ]
    return np.concatenate(picks) if picks else np.empty(0, dtype=np.int64)
