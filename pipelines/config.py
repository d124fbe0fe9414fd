"""Settings of every stage: a `...Config` changes rows and is recorded, `RunOptions` says how to run and is not.

The command line takes its defaults from here, and those of `train` from `training/config.py`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.records import VideoRow

Decoder = Literal["auto", "pyav", "decord"]
FrameFormat = Literal["png", "jpg"]
SplitChoice = Literal["auto", "deal", "train", "val", "test", "none"]
Aggregate = Literal["max-track", "mean"]
EngineName = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["float32", "bf16"]

EvaluatedSplit = Literal["all", "train", "val", "test"]
ProtocolName = Literal["paper", "deepfakebench", "sbi"]
Perturbed = Literal["faces", "videos"]
CalibrationMethod = Literal["temperature", "isotonic"]

ID_DIGITS = 16
"""Hexadecimal digits of a content's SHA-256 that identify a video."""
DEFAULT_DETECTOR = "retinaface-mobilenet0.25"
DEFAULT_CHECKPOINT = "multi-attention-default"
DEFAULT_FRAMES = 32
ALIGNED_SIZE_PX = 380
MAX_INPUT_SIZE_PX = 2048
"""Five times the aligned face; memory grows with the square, and a downloaded checkpoint may ask for any size."""
ENGINE_PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "torch": ("float32", "bf16"),
    "onnxruntime": ("float32",),
    "openvino": ("float32", "bf16"),
}
"""The supported combinations of `--engine` and `--precision`."""


@dataclass(frozen=True)
class Shard:
    """Slice `index` of `count`, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"shard must be i/n with i from 1 to n, got {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/3`.

        Raises:
            ConfigError: anything else.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if not match:
            raise ConfigError(f"shard must be i/n, such as 2/3, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, video: VideoRow) -> bool:
        """Whether the video belongs here: by its id alone, whatever other videos there are.

        One that could not be read has no id and goes by its key.
        """
        digits = video.video_id or _digest_key(video.video_key)
        return int(digits, 16) % self.count == self.index - 1


@dataclass(frozen=True)
class RunOptions:
    """How to run: never changes a row."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:n or mps."""
    workers: int = 0
    """Videos (or loader threads) at once; 0 lets the stage choose. From 2 on, `predict` and `detect-faces` start that
    many processes, which needs `if __name__ == "__main__":` in a script."""
    batch_size: int = 8
    """Frames per detector batch and faces per network batch."""
    overwrite: bool = False
    """Discard what the stage has made before."""
    verify: bool = False
    """Hash every input again instead of trusting path, size and modification time."""
    shard: Shard | None = None
    """Work on this slice of the items only; a run without a shard completes a stage, `merge` joins scores."""
    isolate: bool = False
    """`predict`, `extract-frames`, `detect-faces` and `import-faces` use worker processes, `workers` of them: if a file
    crashes one, only that file is marked failed. A script then needs `if __name__ == "__main__":`."""
    timeout_seconds: float | None = None
    """Longest time for one video; a slower one is marked failed. Needs `isolate`."""
    max_memory_mb: int | None = None
    """Most memory of a worker process in MiB; a video that exceeds it is marked failed. Needs `isolate`."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", "must be >= 1", self.batch_size)
        check(self.workers >= 0, "workers", "must be >= 0", self.workers)
        limits = {"timeout": self.timeout_seconds, "max_memory": self.max_memory_mb}
        for name, value in limits.items():
            check(value is None or 0 < value < float("inf"), name, "must be > 0", value)
            check(value is None or self.isolate, name, "needs worker processes (isolate=True)", value)

    @property
    def uses_processes(self) -> bool:
        """Whether `predict` and `detect-faces` use worker processes."""
        return self.isolate or self.workers > 1


@dataclass(frozen=True)
class IndexConfig:
    """Settings of `index`."""

    split: SplitChoice = "auto"
    """auto: as the data set's lists say, else dealt; deal: dealt whatever they say; or one side for all, or none."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of train, val and test, where they are dealt."""
    seed: int = 0
    drop_leaks: bool = False
    """Videos of train and val that share something with what is held out from them lose their split."""

    def __post_init__(self) -> None:
        is_share = len(self.fractions) == 3 and all(0 <= fraction <= 1 for fraction in self.fractions)
        whole = is_share and abs(sum(self.fractions) - 1) < 1e-6
        check(whole, "fractions", "must be three shares of train, val and test that sum to 1", self.fractions)
        check_choices(self)


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
    """Leave out faces whose shorter box side is smaller, in frame pixels; larger values make detection faster."""
    precision: Precision = "float32"
    """Of the network's arithmetic."""

    def __post_init__(self) -> None:
        check(self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        check(0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        check(0.25 <= self.margin <= 4, "margin", "must be between 0.25 and 4", self.margin)
        check(self.min_face_px >= 0, "min_face_px", "must be >= 0", self.min_face_px)
        check_choices(self)


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
    min_face_px: int = 0
    """Leave out faces whose shorter box side is smaller, in frame pixels; larger values make detection faster."""
    aggregate: Aggregate | None = None
    threshold: float | None = None
    """Fake at or above this probability, real below; the verdict `uncertain` is not used then."""
    min_frames: int = 1
    engine: EngineName = "torch"
    """Runtime of the classifier; the face detector always runs in torch."""
    precision: Precision = "float32"
    """Arithmetic of both networks; scores are float32."""

    def __post_init__(self) -> None:
        check(self.frames is None or self.frames >= 1, "frames", "must be >= 1", self.frames)
        check(self.min_frames >= 1, "min_frames", "must be >= 1", self.min_frames)
        check(self.min_face_px >= 0, "min_face_px", "must be >= 0", self.min_face_px)
        check(self.threshold is None or 0 <= self.threshold <= 1, "threshold", "must be in [0, 1]", self.threshold)
        check(self.max_side is None or self.max_side >= 32, "max_side", "must be >= 32", self.max_side)
        check(self.min_score is None or 0 < self.min_score < 1, "min_score", "must be between 0 and 1", self.min_score)
        check_choices(self)
        check_engine(self.engine, self.precision)


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `evaluate`."""

    checkpoint: str = DEFAULT_CHECKPOINT
    """Scores workspaces and Parquet files of face crops."""
    split: EvaluatedSplit | None = None
    """None: `test`, or all if the labels have no splits."""
    protocol: ProtocolName | None = None
    aggregate: Aggregate | None = None
    """How face scores become a video score. None: as the scores were made; for details, `max-track`."""
    threshold: float | None = None
    """Label as fake at or above this probability, in addition to 0.5. None: the scores' own threshold."""
    bootstrap: int = 1000
    """Bootstrap rounds of the intervals; 0: no intervals."""
    confidence: float = 0.95
    seed: int = 0
    perturb: Perturbed | None = None
    perturbations: tuple[str, ...] = ()
    """Only these, such as `jpeg`; empty: all."""
    localisation: bool = False
    """Also compare forgery maps with the true masks of faces."""

    def __post_init__(self) -> None:
        check(self.threshold is None or 0 <= self.threshold <= 1, "threshold", "must be in [0, 1]", self.threshold)
        check(self.bootstrap >= 0, "bootstrap", "must be >= 0", self.bootstrap)
        check(0 < self.confidence < 1, "confidence", "must be between 0 and 1", self.confidence)
        check(not (self.protocol and self.aggregate), "aggregate", "cannot be combined with a protocol", self.aggregate)
        check_choices(self)


@dataclass(frozen=True)
class CalibrateConfig:
    """Settings of `calibrate`."""

    checkpoint: str = DEFAULT_CHECKPOINT
    method: CalibrationMethod = "temperature"
    split: EvaluatedSplit | None = None
    """None: `val`, or all if the labels have no splits."""
    target_fpr: float = 0.01
    """Share of real videos that may be called fake."""
    target_fnr: float = 0.05
    """Share of fakes that may be called real; uncertain lies in between."""
    aggregate: Aggregate | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check(0 < self.target_fpr < 1, "target_fpr", "must be between 0 and 1", self.target_fpr)
        check(0 < self.target_fnr < 1, "target_fnr", "must be between 0 and 1", self.target_fnr)
        check_choices(self)


def find_wrong_choice(config: Any) -> str | None:
    """What is wrong with a config's `Literal` fields, if something is; one that may be None may be None."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        may_be_none = type(None) in get_args(hint)
        for kind in [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]:
            if value not in get_args(kind) and not (value is None and may_be_none):
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


def refuse_shard(options: RunOptions, command: str) -> None:
    """Refuse a shard in a command that needs all videos, or it would silently leave the rest out."""
    check(options.shard is None, "shard", f"is not an option of {command}", options.shard)


def check_engine(engine: EngineName, precision: Precision) -> None:
    """Refuse a combination that does not exist, naming those that do."""
    known = "; ".join(f"{name}: {', '.join(precisions)}" for name, precisions in ENGINE_PRECISIONS.items())
    rule = f"must be one that the engine {engine} computes in ({known})"
    check(precision in ENGINE_PRECISIONS[engine], "precision", rule, precision)


def check_choices(config: Any, prefix: str = "") -> None:
    """Refuse a value that is none of its `Literal`'s."""
    wrong = find_wrong_choice(config)
    if wrong:
        raise ConfigError(prefix + wrong)


def _digest_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:ID_DIGITS]
