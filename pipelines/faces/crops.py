"""A face found in a video, and its manifest row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.faces.align import AlignedFace
from pipelines.records import LANDMARK_NAMES, FaceRow


@dataclass(frozen=True)
class FoundFace:
    """One face of one frame, aligned, with its place in the video."""

    frame_index: int
    pts_seconds: float
    face_index: int
    """Rank by detector score within the frame, from 0."""
    track: int
    box: npt.NDArray[np.float64]
    """(4,) x0 y0 x1 y1 in frame pixels."""
    score: float
    landmarks: npt.NDArray[np.float64]
    """(5, 2) in frame pixels."""
    aligned: AlignedFace


def make_face_row(face: FoundFace, video_id: str, crop_path: str) -> FaceRow:
    """The manifest row of a face."""
    x0, y0, x1, y1 = (float(value) for value in face.box)
    return FaceRow(
        video_id=video_id,
        frame_index=face.frame_index,
        face_index=face.face_index,
        pts_seconds=face.pts_seconds,
        track=face.track,
        x0_px=x0,
        y0_px=y0,
        x1_px=x1,
        y1_px=y1,
        score=face.score,
        **landmark_columns(face.landmarks, "px"),
        **landmark_columns(face.aligned.landmarks, "crop_px"),
        valid_share=face.aligned.valid_share,
        crop_path=crop_path,
    )


def landmark_columns(landmarks: npt.NDArray[np.float64] | None, unit: str) -> dict[str, Any]:
    """Five points (5, 2) as the columns `left_eye_x_<unit>`, `left_eye_y_<unit>`, …; None gives empty columns."""
    return {
        f"{name}_{axis}_{unit}": None if landmarks is None else float(landmarks[i, j])
        for i, name in enumerate(LANDMARK_NAMES)
        for j, axis in enumerate("xy")
    }


def landmarks_of(row: FaceRow, unit: str = "px") -> npt.NDArray[np.float64]:
    """(5, 2) from the columns `left_eye_x_<unit>`, …: in frame pixels, or with `crop_px` in crop pixels; NaN if unknown."""
    columns = [[getattr(row, f"{name}_{axis}_{unit}") for axis in "xy"] for name in LANDMARK_NAMES]
    return np.array(columns, dtype=np.float64)


def mask_path_of(crop_path: str) -> str:
    """Where the mask of a crop lies: `crops/…/00000003_00_mask.png` beside `crops/…/00000003_00.png`."""
    return f"{crop_path.removesuffix('.png')}_mask.png"
