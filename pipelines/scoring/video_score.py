"""The score of one video with its faces, and the details file that stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.records import FaceRow, FaceScoreRow, VideoRow, rows_to_table
from pipelines.scoring.calibration import Verdict
from pipelines.workspace.manifest import Provenance, write_table


@dataclass(frozen=True)
class ForgeryMap:
    """Where the network finds a face forged."""

    image: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    """(h, w), 0 genuine to 255 forged, over the network's input: the contract's `crop_box` of the aligned face."""
    forged_share: float
    """Share of the map at 0.5 or above, 0..1."""
    peak: float
    """Its largest value, 0..1."""
    peak_place: tuple[float, float] | None
    """x, y of the largest value in frame pixels, where 0 is the centre of the first one; the first place if several are
    equal. Outside the frame where the crop is. None for an imported face that was not found again."""


@dataclass(frozen=True)
class ScoredFace:
    """One face's probability and place."""

    frame_index: int
    pts_seconds: float
    face_index: int
    track: int
    box: tuple[float, float, float, float] | None
    """x0 y0 x1 y1 in frame pixels; None for an imported face that was not found again."""
    fake_probability: float = math.nan
    """Of the classifier, not calibrated; NaN until the face is classified."""
    forgery_map: ForgeryMap | None = None
    """None for a network without a mask branch."""

    @classmethod
    def from_row(cls, row: FaceRow) -> ScoredFace:
        """A stored face, not yet classified."""
        box = None
        if row.x0_px is not None and row.y0_px is not None and row.x1_px is not None and row.y1_px is not None:
            box = (row.x0_px, row.y0_px, row.x1_px, row.y1_px)
        return cls(row.frame_index, row.pts_seconds, row.face_index, row.track, box)


@dataclass(frozen=True)
class VideoScore:
    """The result of scoring one video, image or array."""

    status: str
    """ok, no_face, too_few_frames, unreadable or failed."""
    fake_probability: float | None = None
    """Calibrated if the checkpoint is; None unless the status is ok."""
    verdict: Verdict | None = None
    num_frames: int = 0
    num_tracks: int = 0
    """Tracks that count: at least a quarter as long as the longest."""
    faces: list[ScoredFace] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class StoredFaces:
    """The face crops of one video in a workspace, to be scored in place of the video."""

    video: Path
    """For messages."""
    folder: Path = field(repr=False)
    """The stage folder, which the rows' `crop_path` is relative to."""
    rows: tuple[FaceRow, ...] = field(repr=False)
    num_frames: int
    """Frames that were decoded."""
    note: str | None = None
    """The video's `error` in the earlier stage; it becomes the score's."""


def write_details(
    path: Path, video: VideoRow, faces: Sequence[ScoredFace], provenance: Provenance, notes: Mapping[str, str]
) -> None:
    """One Parquet file per video: a row per frame and face."""
    rows = []
    for face in faces:
        x0, y0, x1, y1 = face.box or (None,) * 4
        rows.append(
            FaceScoreRow(
                video=video.path,
                video_key=video.video_key,
                sha256=video.sha256,
                frame_index=face.frame_index,
                pts_seconds=face.pts_seconds,
                face_index=face.face_index,
                track=face.track,
                x0_px=x0,
                y0_px=y0,
                x1_px=x1,
                y1_px=y1,
                fake_probability=face.fake_probability,
                **_forgery_columns(face.forgery_map),
            )
        )
    write_table(rows_to_table(rows, FaceScoreRow), path, provenance, notes=notes)


def _forgery_columns(forgery: ForgeryMap | None) -> dict[str, Any]:
    if forgery is None:
        return {}
    from pipelines.system.image_files import encode_image  # OpenCV: the process that hands out videos may do without

    x, y = forgery.peak_place or (None, None)
    return {
        "forgery_map": encode_image(forgery.image, ".png"),
        "forged_share": forgery.forged_share,
        "forgery_peak": forgery.peak,
        "forgery_x_px": x,
        "forgery_y_px": y,
    }
