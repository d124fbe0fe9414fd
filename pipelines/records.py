"""The rows of every manifest, one dataclass each, and their Parquet schemas."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal

import pyarrow as pa

Label = Literal["real", "fake"]
Split = Literal["train", "val", "test"]
Status = Literal["ok", "no_face", "too_few_frames", "unreadable", "failed"]
LABELS: tuple[Label, ...] = ("real", "fake")
"""In the order of the class indices 0 and 1."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
FINISHED: tuple[Status, ...] = ("ok", "no_face", "too_few_frames")
"""Final results; videos with any other status are tried again by the next run."""
LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Left and right as seen in the image."""


@dataclass(frozen=True)
class VideoRow:
    """One row of `videos.parquet`: an input and its status."""

    video_id: str
    """First 16 hex digits of `sha256`; empty if the file could not be read."""
    sha256: str
    video_key: str
    path: str
    label: str | None = None
    split: str | None = None
    original: str | None = None
    """The video_key of the video a fake was made from; a split keeps both on one side."""
    identity: str | None = None
    """The people shown, separated by `;`: a face swap shows the target's body and the source's face."""
    group: str | None = None
    """A common origin (a part, a pair): automatic splits keep a group on one side."""
    dataset: str | None = None
    method: str | None = None
    """How a fake was made."""
    compression: str | None = None
    """As named by the data set, such as c23."""
    mask: str | None = None
    """Path of the video that marks the manipulated region."""
    status: str = "ok"
    error: str | None = None
    rows: int = 0

    @property
    def identities(self) -> tuple[str, ...]:
        """The names in `identity`, each once; empty if unknown."""
        names = (name.strip() for name in (self.identity or "").split(";"))
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class FrameRow:
    """One extracted frame."""

    video_id: str
    frame_index: int
    """Position in presentation order, from 0."""
    pts: int
    time_base_num: int
    time_base_den: int
    pts_seconds: float
    width_px: int
    height_px: int
    rotation_degrees: int
    """Clockwise rotation that was applied; width and height are those after it."""
    path: str
    """Relative to the stage's folder."""


@dataclass(frozen=True)
class FaceRow:
    """One detected and aligned face. Boxes and points are in frame pixels unless the name says crop."""

    video_id: str
    frame_index: int
    face_index: int
    pts_seconds: float
    track: int
    x0_px: float | None
    y0_px: float | None
    x1_px: float | None
    y1_px: float | None
    score: float | None
    """Detector score; null for an imported face that was not detected again and is kept as is."""
    left_eye_x_px: float | None
    left_eye_y_px: float | None
    right_eye_x_px: float | None
    right_eye_y_px: float | None
    nose_x_px: float | None
    nose_y_px: float | None
    left_mouth_x_px: float | None
    left_mouth_y_px: float | None
    right_mouth_x_px: float | None
    right_mouth_y_px: float | None
    left_eye_x_crop_px: float | None
    left_eye_y_crop_px: float | None
    right_eye_x_crop_px: float | None
    right_eye_y_crop_px: float | None
    nose_x_crop_px: float | None
    nose_y_crop_px: float | None
    left_mouth_x_crop_px: float | None
    left_mouth_y_crop_px: float | None
    right_mouth_x_crop_px: float | None
    right_mouth_y_crop_px: float | None
    valid_share: float
    """Share of the crop that lies inside the source picture, 0..1."""
    crop_path: str
    """Relative to the stage's folder."""
    mask_path: str | None = None
    """8-bit grey PNG in the crop's frame, relative to the stage's folder: 255 manipulated, 0 not. Null if unknown or real."""


@dataclass(frozen=True)
class EpochRow:
    """One finished training epoch."""

    epoch: int
    phase: str
    """`backbone` or `network`."""
    learning_rate: float
    train_loss: float
    train_ce: float
    train_ce_augmented: float | None
    """Cross-entropy of the augmented images, in epochs with attention-guided augmentation."""
    train_auxiliary: float | None
    """Regional independence or additive-margin loss, unweighted."""
    train_match: float | None
    val_auc: float
    """At video level, by the mean over a video's faces."""
    val_log_loss: float
    val_videos: int
    attention_cosine: float | None
    """Mean cosine between the attention maps of a validation face: 0 if disjoint, 1 if all maps are equal."""
    images: int
    is_best: bool
    train_attention: float | None = None
    """Of F-BiFPN-MTLNet, unweighted, like the next two: cross-entropy of the forgery-attention maps."""
    train_mask: float | None = None
    train_consistency: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scores, columns in the published order."""

    video: str
    video_key: str
    sha256: str
    status: str
    fake_probability: float | None
    verdict: str | None
    threshold: float
    frames: int
    faces: int
    tracks: int
    model: str
    model_sha256: str
    settings_sha256: str
    error: str | None


@dataclass(frozen=True)
class FaceScoreRow:
    """One scored face: a row of the `--details` files."""

    video: str
    video_key: str
    sha256: str
    frame_index: int
    pts_seconds: float
    face_index: int
    track: int
    x0_px: float | None
    y0_px: float | None
    x1_px: float | None
    y1_px: float | None
    fake_probability: float
    """The network's output, uncalibrated even if the video's probability is calibrated."""
    forgery_map: bytes | None = None
    """A grey PNG of the network's forgery map, 0 genuine to 255 forged, over the network's input. This and the columns that
    follow are null for networks without a mask branch, and are missing from older files."""
    forged_share: float | None = None
    """Share of the map at 0.5 or above."""
    forgery_peak: float | None = None
    """The map's largest value, 0..1."""
    forgery_x_px: float | None = None
    """Its place in the frame; null for an imported face that was not found again."""
    forgery_y_px: float | None = None


_ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    bytes: pa.binary(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


@cache
def schema_of(row_type: type) -> pa.Schema:
    """The Arrow schema of a row class: `X | None` becomes a nullable column."""
    hints = typing.get_type_hints(row_type)
    return pa.schema([_field(field.name, hints[field.name]) for field in fields(row_type)])


def rows_to_table(rows: Iterable[Any], row_type: type) -> pa.Table:
    """An Arrow table of the rows, in the columns' declared order; bytes of a name that are not valid UTF-8 are escaped."""
    records = [asdict(row) for row in rows]
    try:
        return pa.Table.from_pylist(records, schema=schema_of(row_type))
    except UnicodeEncodeError:
        escaped = [{name: _escape(value) for name, value in record.items()} for record in records]
        return pa.Table.from_pylist(escaped, schema=schema_of(row_type))


def table_to_rows(table: pa.Table, row_type: type) -> list[Any]:
    """The rows of a table that has the class's columns."""
    return [row_type(**record) for record in table.select(schema_of(row_type).names).to_pylist()]


def _escape(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _field(name: str, hint: Any) -> pa.Field:
    if isinstance(hint, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return pa.field(name, _ARROW_TYPES[inner], nullable=True)
    return pa.field(name, _ARROW_TYPES[hint], nullable=False)
