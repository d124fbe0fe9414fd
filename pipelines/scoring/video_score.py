"""The score of one video with the faces it rests on, and the details file that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.records import FaceScoreRow, VideoRow, rows_to_table
from pipelines.workspace.manifest import Provenance, write_table


@dataclass(frozen=True)
class ScoredFace:
    """One face's probability and place."""

    frame_index: int
    pts_seconds: float
    face_index: int
    track: int
    box: tuple[float, float, float, float] | None
    """x0 y0 x1 y1 in frame pixels; None for an imported face that was not found again."""
    fake_probability: float


@dataclass(frozen=True)
class VideoScore:
    """What scoring one video gave."""

    status: str
    fake_probability: float | None = None
    num_frames: int = 0
    num_tracks: int = 0
    """Tracks that count: at least a quarter as long as the longest."""
    faces: list[ScoredFace] = field(default_factory=list)
    error: str | None = None


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
            )
        )
    write_table(rows_to_table(rows, FaceScoreRow), path, provenance, notes=notes)
