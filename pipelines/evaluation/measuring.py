"""Every metric with its interval: for all videos, and for each dataset, compression and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.bootstrap import Estimate, measure_with_intervals
from pipelines.evaluation.protocols import ScoredFrames
from pipelines.evaluation.scores import ScoredVideos

UNKNOWN_PROBABILITY = 0.5
"""Stands in for a missing score in `video_all`."""
LEVELS: Mapping[str, str] = {
    "video": "videos that have a score",
    "video_all": "all videos, those without a score as 0.5",
    "frame": "frames with a face",
}
Mask = npt.NDArray[np.bool_]
Part = tuple[str | None, str | None, str | None]
"""Dataset, compression and method; None where there are several."""


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap."""

    rounds: int = 1000
    confidence: float = 0.95
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Section:
    """A set of videos and what was measured on it."""

    dataset: str | None
    """None if there are several; likewise the next two."""
    compression: str | None
    method: str | None
    """The fakes are of this method; the real videos are those of the same dataset and compression."""
    videos_real: int
    videos_fake: int
    videos_scored: int
    clusters: int
    frames: int | None
    levels: Mapping[str, Mapping[str, Estimate]]
    """By level, then by metric."""

    @property
    def title(self) -> str:
        """Such as `ffpp c23 FaceSwap`, or `all`."""
        return title_of((self.dataset, self.compression, self.method))

    @property
    def coverage(self) -> float:
        """Share of the videos that have a score."""
        return self.videos_scored / max(1, self.videos_real + self.videos_fake)


def measure_sections(
    videos: ScoredVideos,
    frames: ScoredFrames | None,
    threshold: float | None,
    bootstrap: Bootstrap,
    *,
    frame_threshold: float | None,
) -> list[Section]:
    """All videos first, then every part that differs from all parts before it.

    Args:
        frame_threshold: None if `threshold` is one of calibrated probabilities, which those of frames are not.
    """
    sections = []
    for (dataset, compression, method), mask in parts_of(videos):
        empty = Section(dataset, compression, method, 0, 0, 0, 0, None, {})
        sections.append(_measure(empty, videos, frames, mask, (threshold, frame_threshold), bootstrap))
    return sections


def measure_whole(videos: ScoredVideos, frames: ScoredFrames | None, bootstrap: Bootstrap) -> Section:
    """All videos, without their parts."""
    empty = Section(None, None, None, 0, 0, 0, 0, None, {})
    return _measure(empty, videos, frames, np.ones(len(videos), dtype=bool), (None, None), bootstrap)


def title_of(part: Part) -> str:
    """Such as `ffpp c23 FaceSwap`, or `all`."""
    return " ".join(name for name in part if name) or "all"


def parts_of(videos: ScoredVideos) -> Iterator[tuple[Part, Mask]]:
    """All videos first, then every part that differs from all parts before it."""
    seen: set[bytes] = set()
    for part, mask in _parts(videos):
        if mask.tobytes() not in seen:
            seen.add(mask.tobytes())
            yield part, mask


def _parts(videos: ScoredVideos) -> Iterator[tuple[Part, Mask]]:
    """The videos of each part. A method's fakes come with the real videos of the same dataset and compression."""
    yield (None, None, None), np.ones(len(videos), dtype=bool)
    real = videos.labels == 0
    for dataset in _names(videos.datasets) or [None]:
        in_dataset = np.ones(len(videos), dtype=bool) if dataset is None else videos.datasets == dataset
        yield (dataset, None, None), in_dataset
        for compression in _names(videos.compressions[in_dataset]) or [None]:
            chosen = in_dataset if compression is None else in_dataset & (videos.compressions == compression)
            yield (dataset, compression, None), chosen
            for method in _names(videos.methods[chosen & ~real]):
                yield (dataset, compression, method), chosen & (real | (videos.methods == method))


def _names(column: npt.NDArray[Any]) -> Sequence[str | None]:
    return sorted({str(name) for name in column if name})


def _measure(
    section: Section,
    videos: ScoredVideos,
    frames: ScoredFrames | None,
    mask: Mask,
    thresholds: tuple[float | None, float | None],
    bootstrap: Bootstrap,
) -> Section:
    """`thresholds`: for videos and for frames."""
    part = videos.select(mask)
    has_score = ~np.isnan(part.probabilities)
    scored = part.select(has_score)

    def estimate(labels: Any, probabilities: Any, clusters: Any, of_frames: bool = False) -> dict[str, Estimate]:
        threshold = thresholds[of_frames]
        return measure_with_intervals(labels, probabilities, clusters, threshold=threshold, **vars(bootstrap))

    levels = {"video": estimate(scored.labels, scored.probabilities, scored.clusters)}
    levels["video_all"] = levels["video"]
    if not has_score.all():
        filled = np.where(has_score, part.probabilities, UNKNOWN_PROBABILITY)
        levels["video_all"] = estimate(part.labels, filled, part.clusters)
    num_frames = None
    if frames is not None:
        chosen = mask[frames.videos]
        owners = frames.videos[chosen]
        num_frames = len(owners)
        probabilities = frames.probabilities[chosen]
        levels["frame"] = estimate(videos.labels[owners], probabilities, videos.clusters[owners], of_frames=True)
    return replace(
        section,
        videos_real=int((part.labels == 0).sum()),
        videos_fake=int((part.labels == 1).sum()),
        videos_scored=int(has_score.sum()),
        clusters=len(np.unique(part.clusters)),
        frames=num_frames,
        levels=levels,
    )
