"""Settings of every stage: a `...Config` changes rows and is recorded, `RunOptions` says how to run and is not.

Every default of the command line lives here, or in `training/config.py` for `train`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipelines.errors import ConfigError

Decoder = Literal["auto", "pyav", "decord"]
FrameFormat = Literal["png", "jpg"]
Aggregate = Literal["max-track", "mean", "confident"]

DEFAULT_DETECTOR = "retinaface-mobilenet0.25"
DEFAULT_CHECKPOINT = "multi-attention-default"
DEFAULT_FRAMES = 32
ALIGNED_SIZE_PX = 380


@dataclass(frozen=True)
class RunOptions:
    """How to run: never changes a row."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:n or mps."""
    workers: int = 0
    """Videos (or loader threads) at once; 0 lets the stage choose."""
    batch_size: int = 8
    """Frames per detector batch and faces per network batch."""
    overwrite: bool = False
    """Discard what the stage has made before."""
    verify: bool = False
    """Hash every input again instead of trusting path, size and modification time."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "must be >= 1", self.batch_size)
        check(self.workers >= 0, "workers", "must be >= 0", self.workers)


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of `extract-frames`."""

    frames: int = DEFAULT_FRAMES
    """Frames spread over the whole video; not used when `fps` is given."""
    fps: float | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    decoder: Decoder = "auto"
    format: FrameFormat = "png"

    def __post_init__(self) -> None:
        check(self.frames >= 1, "frames", "must be >= 1", self.frames)
        check(self.fps is None or 0 < self.fps < float("inf"), "fps", "must be > 0", self.fps)
        start = self.start_seconds or 0.0
        check(start >= 0, "start", "must be >= 0", self.start_seconds)
        check(self.end_seconds is None or self.end_seconds > start, "end", f"must be > {start:g}", self.end_seconds)
        check_choices(self)


@dataclass(frozen=True)
class DetectConfig:
    """Settings of `detect-faces`."""

    detector: str = DEFAULT_DETECTOR
    max_side: int = 960
    """Frames whose long side is larger are reduced to this for the network, in pixels."""
    min_score: float = 0.8
    margin: float = 1.0
    """1.0 is the template; larger shows more around the face."""
    min_face_px: int = 0
    """Faces whose shorter box side is smaller are left out, in frame pixels."""

    def __post_init__(self) -> None:
        check(self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        check(0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        check(0.25 <= self.margin <= 4, "margin", "must be between 0.25 and 4", self.margin)
        check(self.min_face_px >= 0, "min_face_px", "must be >= 0", self.min_face_px)


@dataclass(frozen=True)
class ImportConfig:
    """Settings of `import-faces`."""

    detector: str = DEFAULT_DETECTOR
    min_score: float = 0.5
    """Lower than in `detect-faces`: the picture is known to be a face."""
    margin: float = 1.0
    as_is: bool = False
    """The pictures are aligned already: only resize them."""

    def __post_init__(self) -> None:
        check(0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        check(0.25 <= self.margin <= 4, "margin", "must be between 0.25 and 4", self.margin)


@dataclass(frozen=True)
class PredictConfig:
    """Settings of `predict`; None takes the value that the checkpoint carries."""

    checkpoint: str = DEFAULT_CHECKPOINT
    detector: str | None = None
    frames: int | None = None
    decoder: Decoder = "auto"
    max_side: int | None = None
    min_score: float | None = None
    aggregate: Aggregate | None = None
    threshold: float | None = None
    min_frames: int = 1

    def __post_init__(self) -> None:
        check(self.frames is None or self.frames >= 1, "frames", "must be >= 1", self.frames)
        check(self.min_frames >= 1, "min_frames", "must be >= 1", self.min_frames)
        check(self.threshold is None or 0 <= self.threshold <= 1, "threshold", "must be in [0, 1]", self.threshold)
        check(self.max_side is None or self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        check(self.min_score is None or 0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        check_choices(self)


def find_wrong_choice(config: Any) -> str | None:
    """What is wrong with a config's `Literal` fields, if something is; one that may be None may be None."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        for kind in [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]:
            if value is not None and value not in get_args(kind):
                return f"{name} must be one of {', '.join(get_args(kind))}, got {value}"
    return None


def settings_of(config: Any, **extra: Any) -> dict[str, Any]:
    """The settings as plain JSON values, for the provenance; `extra` adds what was resolved (digests)."""
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    return settings | extra


def check_crop_box(box: tuple[int, ...], aligned_size: int) -> None:
    """Refuse a box that is no square inside the aligned frame."""
    inside = len(box) == 4 and 0 <= box[0] < box[2] <= aligned_size and 0 <= box[1] < box[3] <= aligned_size
    is_square = inside and box[2] - box[0] == box[3] - box[1]
    check(is_square, "crop_box", f"must be a square x0 y0 x1 y1 inside 0..{aligned_size}", box)


def check(ok: bool, name: str, rule: str, got: object) -> None:
    """Refuse a value, naming the rule and what was given."""
    if not ok:
        raise ConfigError(f"{name} {rule}, got {got}")


def check_choices(config: Any, prefix: str = "") -> None:
    """Refuse a value that is none of its `Literal`'s."""
    wrong = find_wrong_choice(config)
    if wrong:
        raise ConfigError(prefix + wrong)
