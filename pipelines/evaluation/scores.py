"""Scores and labels: as they were read, and joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.scoring.calibration import Calibration
from pipelines.workspace.labels import VideoLabel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]
NOT_SCORED = "not_scored"
COLUMNS = ("keys", "ids", "digests", "labels", "probabilities", "statuses", "cluster_names", "clusters", "datasets",
           "methods", "compressions")  # fmt: skip
"""The columns of `ScoredVideos`, with one value per video."""


@dataclass(frozen=True)
class FaceColumns:
    """F scored faces as they were read."""

    sources: Integers
    """(F,), index into the videos of the `RawScores`."""
    frames: Integers
    tracks: Integers
    areas: Floats
    probabilities: Floats


@dataclass(frozen=True)
class RawScores:
    """Scores without labels: V videos and, where known, their faces."""

    name: str
    """Name of what they were read from."""
    videos: Sequence[str]
    """The `video` column: a path, or the source's name for imported faces."""
    keys: Sequence[str]
    """`video_key`; empty if the file has none."""
    digests: Sequence[str]
    statuses: Sequence[str]
    probabilities: Floats
    """(V,), NaN without a score. All NaN for details: the faces are aggregated later."""
    faces: FaceColumns | None = None
    threshold: float | None = None
    model: str | None = None
    model_sha256: str | None = None
    settings_sha256: str | None = None
    aggregate: str | None = None
    """How face scores became video scores, if known."""
    calibration: Calibration | None = None
    """What `predict` applies to the aggregated probability; those of faces are not calibrated."""
    path: str = ""
    """Absolute path, which distinguishes sources of one name; empty if unknown."""
    note: str | None = None
    """For the report, if the labels come from the folders of the scored videos."""


@dataclass(frozen=True)
class LabelledVideo:
    """One row of a labels file or videos manifest."""

    name: str
    """`video` of a CSV; the path of a manifest."""
    key: str
    about: VideoLabel = field(default_factory=lambda: VideoLabel(None))
    sha256: str = ""
    file: str = ""
    """The labels file, which sources may share; empty for labels of the source itself."""


@dataclass(frozen=True)
class Source:
    """Scores and the labels to join them with."""

    raw: RawScores
    labelled: Sequence[LabelledVideo]
    split: str
    """Which labelled videos to measure: `all`, or a split."""
    workspace: Path | None = None
    """The workspace of its faces, if they can be scored again."""
    scored_splits: Sequence[str] = ()
    """Splits of the workspace that were scored; empty: all."""


@dataclass(frozen=True)
class ScoredVideos:
    """N labelled videos; arrays of length N, in one order."""

    keys: Texts
    """`video_key`."""
    ids: Texts
    """Equal in two sources only for the same video: a row of the labels file, else dataset or source, key and content."""
    digests: Texts
    """SHA-256 of the content, from the scores or else the labels; empty if unknown."""
    labels: Integers
    """0 real, 1 fake."""
    probabilities: Floats
    """NaN where the video has no score."""
    statuses: Texts
    """`ok`, another status of the score's row, or `not_scored` if the scores do not contain the video."""
    cluster_names: Texts
    """Videos with one name are not independent (same group, person or original), also across sources."""
    clusters: Integers
    """The same as numbers: the bootstrap draws the videos of one number together."""
    datasets: Texts
    """Empty text if unknown; likewise the next two."""
    methods: Texts
    compressions: Texts
    threshold: float | None
    """The threshold that the scores were made with; None if unknown or not the same for all."""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, chosen: npt.NDArray[Any]) -> ScoredVideos:
        """The videos of a mask (N,) or of indices."""
        return ScoredVideos(**{name: getattr(self, name)[chosen] for name in COLUMNS}, threshold=self.threshold)


@dataclass(frozen=True)
class ScoredFaces:
    """F scored faces of N videos; arrays of length F."""

    videos: Integers
    """Index of the face's video in the `ScoredVideos`."""
    frames: Integers
    """`frame_index`."""
    tracks: Integers
    areas: Floats
    """Of the box, in square pixels; NaN where there is no box."""
    probabilities: Floats

    def __len__(self) -> int:
        return len(self.videos)


@dataclass(frozen=True)
class Scored:
    """Scores of videos and faces, joined with labels."""

    videos: ScoredVideos
    faces: ScoredFaces | None
    """None if there are only scores of videos; then frames cannot be measured."""
    sources: Sequence[str] = ()
    """Names of what it was read from, for the report."""
    path: str = ""
    """Path of the source; empty for several."""
