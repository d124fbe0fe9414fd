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
"""Of `ScoredVideos`, each with a value a video."""


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
    """What they were read from."""
    videos: Sequence[str]
    """The `video` column: a path, or the source's name for imported faces."""
    keys: Sequence[str]
    """`video_key`; empty text where the file does not know it."""
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
    """How the videos' probabilities came from their faces, where that is known."""
    calibration: Calibration | None = None
    """What `predict` makes of the aggregated faces; the faces themselves are as the network scores them."""
    path: str = ""
    """Where it lies, absolute: tells sources of one name apart. Empty text where nobody has said."""
    note: str | None = None
    """What people must know if the labels come from the scores' own folders."""


@dataclass(frozen=True)
class LabelledVideo:
    """One row of a labels file or videos manifest."""

    name: str
    """`video` of a CSV; the path of a manifest."""
    key: str
    about: VideoLabel = field(default_factory=lambda: VideoLabel(None))
    sha256: str = ""
    file: str = ""
    """The labels file that it stands in, which sources may share; empty text for what a source says itself."""


@dataclass(frozen=True)
class Source:
    """Scores and the labels that may fit them."""

    raw: RawScores
    labelled: Sequence[LabelledVideo]
    split: str
    """Which of the labelled videos are meant; `all`, or a side."""
    workspace: Path | None = None
    """Where its faces lie, if they can be scored again."""
    scored_splits: Sequence[str] = ()
    """Of the workspace's videos only these were scored; none: all."""


@dataclass(frozen=True)
class ScoredVideos:
    """N labelled videos; arrays of length N, in one order."""

    keys: Texts
    """`video_key`."""
    ids: Texts
    """Equal in two sources only for one video: a row of the labels file, else data set or source, key and content."""
    digests: Texts
    """Of the content, as the scores know it, else the labels; empty text where neither does."""
    labels: Integers
    """0 real, 1 fake."""
    probabilities: Floats
    """NaN where the video has no score."""
    statuses: Texts
    """`ok`, another status of the score's row, or `not_scored` where the scores do not know the video."""
    cluster_names: Texts
    """Videos of one name are not independent (same group, person or original); so too in different sources."""
    clusters: Integers
    """The same as numbers: a bootstrap draws the videos of one number together."""
    datasets: Texts
    """Empty text where nobody has said; so too for the next two."""
    methods: Texts
    compressions: Texts
    threshold: float | None
    """The one that the scores were made with; None if they do not say, or not agree."""

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
    """What is measured."""

    videos: ScoredVideos
    faces: ScoredFaces | None
    """None where only scores of videos are known: then nothing can be said of frames."""
    sources: Sequence[str] = ()
    """What it was read from, for the report."""
    path: str = ""
    """Where the one source lies; empty text for several."""
