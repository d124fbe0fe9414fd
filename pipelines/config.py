"""Settings of every stage: a `...Config` changes rows and is recorded, `RunOptions` says how to run and is not.

Every default of the command line lives here and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.errors import ConfigError

Decoder = Literal["auto", "pyav", "decord"]
FrameFormat = Literal["png", "jpg"]
Aggregate = Literal["max-track", "mean", "confident"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]
AugmentMode = Literal["soft", "none"]

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
        _check(self.batch_size >= 1, "batch_size", "must be >= 1", self.batch_size)
        _check(self.workers >= 0, "workers", "must be >= 0", self.workers)


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
        _check(self.frames >= 1, "frames", "must be >= 1", self.frames)
        _check(self.fps is None or 0 < self.fps < float("inf"), "fps", "must be > 0", self.fps)
        start = self.start_seconds or 0.0
        _check(start >= 0, "start", "must be >= 0", self.start_seconds)
        _check(self.end_seconds is None or self.end_seconds > start, "end", f"must be > {start:g}", self.end_seconds)
        _check_choice(self.decoder, Decoder, "decoder")
        _check_choice(self.format, FrameFormat, "format")


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
        _check(self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        _check(0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        _check(0.25 <= self.margin <= 4, "margin", "must be between 0.25 and 4", self.margin)
        _check(self.min_face_px >= 0, "min_face_px", "must be >= 0", self.min_face_px)


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
        _check(0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        _check(0.25 <= self.margin <= 4, "margin", "must be between 0.25 and 4", self.margin)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`; the defaults are the preset `paper` (section 4.1 of the paper)."""

    preset: Literal["paper"] = "paper"
    backbone: str = "tf_efficientnet_b4"
    texture_tap: str = "L2"
    attention_tap: str = "L5"
    num_attentions: int = 4
    drop_path_rate: float = 0.2
    init: str = "none"
    """none, a weights file of the backbone, or a checkpoint file or name."""
    input_size: int = ALIGNED_SIZE_PX
    crop_box: tuple[int, int, int, int] = (0, 0, ALIGNED_SIZE_PX, ALIGNED_SIZE_PX)
    """x0 y0 x1 y1 in the aligned frame, x1 and y1 exclusive."""
    epochs: int = 20
    backbone_epochs: int = 0
    """First epochs that train the backbone alone, on plain cross-entropy."""
    augment: AugmentMode = "soft"
    """Attention-guided augmentation (section 3.5)."""
    augment_epochs: int = 0
    """Last epochs that use it; 0 means all epochs of the full network."""
    samples_per_epoch: int = 0
    """Faces drawn per epoch, half real and half fake; 0 means as many as there are."""
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    train_batch_size: int = 48
    ema_decay: float = 0.0
    """Exponential moving average of the weights that is validated and saved; 0 switches it off."""
    ril_weight: float = 1.0
    """Weight of the regional independence loss (lambda_2 of equation 5)."""
    val_fraction: float = 0.1
    """Share of the groups held out when the manifest has no split `val`."""
    frames: int = DEFAULT_FRAMES
    """Frames per video that `predict` shall use with this checkpoint."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("input_size", "epochs", "train_batch_size", "num_attentions", "frames"):
            _check(getattr(self, name) >= 1, name, "must be >= 1", getattr(self, name))
        for name in (
            "backbone_epochs",
            "augment_epochs",
            "samples_per_epoch",
            "warmup_steps",
            "weight_decay",
            "ril_weight",
            "seed",
        ):
            _check(getattr(self, name) >= 0, name, "must be >= 0", getattr(self, name))
        _check(
            self.train_batch_size % 2 == 0,
            "train_batch_size",
            "must be even (half real, half fake)",
            self.train_batch_size,
        )
        _check(self.learning_rate > 0, "learning_rate", "must be > 0", self.learning_rate)
        _check(
            self.backbone_epochs < self.epochs,
            "backbone_epochs",
            f"must be < epochs ({self.epochs})",
            self.backbone_epochs,
        )
        _check(0 <= self.ema_decay < 1, "ema_decay", "must be in [0, 1)", self.ema_decay)
        _check(0 < self.val_fraction < 1, "val_fraction", "must be between 0 and 1", self.val_fraction)
        _check(0 <= self.drop_path_rate < 1, "drop_path_rate", "must be in [0, 1)", self.drop_path_rate)
        check_crop_box(self.crop_box, ALIGNED_SIZE_PX)
        _check_choice(self.optimizer, Optimizer, "optimizer")
        _check_choice(self.schedule, Schedule, "schedule")
        _check_choice(self.augment, AugmentMode, "augment")


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
        _check(self.frames is None or self.frames >= 1, "frames", "must be >= 1", self.frames)
        _check(self.min_frames >= 1, "min_frames", "must be >= 1", self.min_frames)
        _check(self.threshold is None or 0 <= self.threshold <= 1, "threshold", "must be in [0, 1]", self.threshold)
        _check(self.max_side is None or self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        _check(self.min_score is None or 0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        _check_choice(self.decoder, Decoder, "decoder")
        if self.aggregate is not None:
            _check_choice(self.aggregate, Aggregate, "aggregate")


def settings_of(config: Any, **extra: Any) -> dict[str, Any]:
    """The settings as plain JSON values, for the provenance; `extra` adds what was resolved (digests)."""
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    return settings | extra


def check_crop_box(box: tuple[int, ...], aligned_size: int) -> None:
    """Refuse a box that is no square inside the aligned frame."""
    inside = len(box) == 4 and 0 <= box[0] < box[2] <= aligned_size and 0 <= box[1] < box[3] <= aligned_size
    is_square = inside and box[2] - box[0] == box[3] - box[1]
    _check(is_square, "crop_box", f"must be a square x0 y0 x1 y1 inside 0..{aligned_size}", box)


def _check(ok: bool, name: str, rule: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"{name} {rule}, got {got}")


def _check_choice(value: str, choices: Any, name: str) -> None:
    known = choices.__args__
    _check(value in known, name, f"must be one of {', '.join(known)}", value)
