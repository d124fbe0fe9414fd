"""The settings that scores are made with: the checkpoint's contract and calibration with the config's overrides."""

from __future__ import annotations

import logging
import platform
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.checkpoints.checkpoint import CheckpointHeader, read_header
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import WeightsFile, resolve_weights
from pipelines.config import PredictConfig, settings_of
from pipelines.engines.onnx_file import is_onnx, read_onnx_header
from pipelines.errors import CheckpointError, ConfigError, ManifestError
from pipelines.records import ScoreRow, VideoRow
from pipelines.scoring.calibration import Calibration, Verdict
from pipelines.scoring.video_score import VideoScore
from pipelines.workspace.manifest import Provenance, digest_json

log = logging.getLogger(__name__)
DIGITS = 12
"""Shown of a digest."""
COMPUTING = (
    "deepfake", "torch", "torchvision", "timm", "numpy", "av", "decord2", "opencv-python", "opencv-python-headless",
    "onnxruntime", "openvino",
)  # fmt: skip
"""Packages whose version may change the last digits of a score."""
OVERRIDES = ("frames", "max_side", "min_score", "aggregate", "threshold")


@dataclass(frozen=True)
class Settings:
    """The settings of a run, resolved against the checkpoint's contract."""

    config: PredictConfig
    checkpoint: WeightsFile
    contract: Preprocessing
    detector: WeightsFile
    """The face detector; with `faces`, the one that found them, whose file is not needed."""
    faces: Provenance | None = None
    """Provenance of a workspace's faces if those are scored."""
    calibration: Calibration | None = None
    """Applied to the videos' probabilities."""

    @property
    def sha256(self) -> str:
        """Digest of everything that a score depends on except the video."""
        return digest_json(self.values)

    @property
    def values(self) -> dict[str, Any]:
        """The values behind the digest."""
        values = {
            "checkpoint": self.checkpoint.sha256,
            "contract": self.contract.to_json(),
            "detector": self.detector.sha256,
            "decoder": self.config.decoder,
            "min_frames": self.config.min_frames,
            "faces": self.faces.to_json() if self.faces else None,
        }
        if self.calibration:  # no key otherwise: scores without a calibration keep their digest
            values["calibration"] = self.calibration.to_json()
        if self.is_other_arithmetic:  # likewise: scores of torch in float32 keep theirs
            values["engine"], values["precision"] = self.config.engine, self.config.precision
        if self.config.min_face_px:  # likewise
            values["min_face_px"] = self.config.min_face_px
        if self.config.precision != PredictConfig.precision and self.faces is None:
            values["detector_precision"] = self.config.precision  # earlier versions always used float32
        return values

    def to_record(self) -> dict[str, Any]:
        """For tracing scores: the settings behind their digest, and the versions of the packages that computed them."""
        return {"settings_sha256": self.sha256, "settings": self.values, "versions": read_versions()}

    @property
    def is_other_arithmetic(self) -> bool:
        """Whether engine or precision differ from the default."""
        return (self.config.engine, self.config.precision) != (PredictConfig.engine, PredictConfig.precision)

    def calibrate(self, probability: float) -> float:
        """The calibrated probability of a video from the aggregated one."""
        return float(self.calibration.apply(probability)) if self.calibration else probability

    def judge(self, probability: float) -> Verdict:
        """The verdict on a video's (calibrated) probability."""
        if self.calibration:
            return self.calibration.verdict(probability)
        return "fake" if probability >= self.contract.threshold else "real"

    def describe_weights(self) -> str:
        """One line for display: names and first digits of the digests."""
        calibrated = "calibrated" if self.calibration else "not calibrated"
        computed = f", computed by {self.config.engine} in {self.config.precision}" if self.is_other_arithmetic else ""
        return (
            f"{self.checkpoint.name} ({self.checkpoint.sha256[:DIGITS]}, {calibrated}{computed}), "
            f"faces by {self.detector.name} ({self.detector.sha256[:DIGITS]})"
        )

    def to_provenance(self, stage: str, version: int) -> Provenance:
        values = settings_of(
            self.config,
            detector=self.detector.name,
            detector_sha256=self.detector.sha256,
            checkpoint=self.checkpoint.name,
            checkpoint_sha256=self.checkpoint.sha256,
        )
        return Provenance(stage, version, values, self.faces)

    def make_row(self, video: VideoRow, score: VideoScore) -> ScoreRow:
        """The row of a score file."""
        return ScoreRow(
            video=video.path,
            video_key=video.video_key,
            sha256=video.sha256,
            status=score.status,
            fake_probability=score.fake_probability,
            verdict=score.verdict,
            threshold=self.contract.threshold,
            frames=score.num_frames,
            faces=len(score.faces),
            tracks=score.num_tracks,
            model=self.checkpoint.name,
            model_sha256=self.checkpoint.sha256,
            settings_sha256=self.sha256,
            error=score.error,
        )


def resolve_settings(config: PredictConfig, faces: Provenance | None = None) -> Settings:
    """The checkpoint's contract and calibration with the config's overrides.

    Logs a warning if the detector is not the checkpoint's own, or if its calibration does not apply.

    Raises:
        CheckpointError: checkpoint or detector is missing, damaged or of another kind.
        ManifestError: the workspace's faces have another geometry than the checkpoint's.
    """
    checkpoint = resolve_weights(config.checkpoint, kind="checkpoint")
    header = _read_header(checkpoint, config)
    contract, calibration = _resolve_contract(header, config)
    if faces is not None:
        _check_geometry(faces, contract)
        path = Path(faces.settings["detector"])
        detector = WeightsFile(path.name, path, faces.settings["detector_sha256"])
    else:
        detector = _resolve_detector(config, contract)
    if contract.detector_sha256 and detector.sha256 and detector.sha256 != contract.detector_sha256:
        log.warning(
            "the checkpoint was trained with the detector %s, this run uses %s", contract.detector, detector.name
        )
    return Settings(config, checkpoint, contract, detector, faces, calibration)


def _read_header(checkpoint: WeightsFile, config: PredictConfig) -> CheckpointHeader:
    """The header of a checkpoint, or of an ONNX file made from one."""
    if not is_onnx(checkpoint.path):
        return read_header(checkpoint.path)
    if config.engine == "torch":
        raise ConfigError(
            f"{checkpoint.path} is an ONNX file, which torch does not run; "
            "add --engine onnxruntime or --engine openvino, or pass the checkpoint that it was made from"
        )
    return read_onnx_header(checkpoint.path)


def _resolve_contract(header: CheckpointHeader, config: PredictConfig) -> tuple[Preprocessing, Calibration | None]:
    """The contract and calibration of the run; a threshold set by the user leaves no band between real and fake."""
    overrides = {name: getattr(config, name) for name in OVERRIDES if getattr(config, name) is not None}
    contract = replace(header.preprocessing, **overrides)
    if header.calibration is None:
        return contract, None
    calibration = Calibration.from_json(header.calibration)
    if contract.aggregate != calibration.aggregate:
        log.warning(
            "the checkpoint's calibration was fitted for --aggregate %s and is not applied to %s",
            calibration.aggregate,
            contract.aggregate,
        )
        # the contract's threshold applies to calibrated probabilities
        threshold = Preprocessing.threshold if config.threshold is None else config.threshold
        return replace(contract, threshold=threshold), None
    if config.threshold is not None:
        calibration = replace(calibration, real_below=config.threshold, fake_from=config.threshold)
    return replace(contract, threshold=calibration.fake_from), calibration


def _resolve_detector(config: PredictConfig, contract: Preprocessing) -> WeightsFile:
    try:
        return resolve_weights(config.detector or contract.detector, kind="detector")
    except CheckpointError as error:
        if config.detector:
            raise
        raise CheckpointError(
            f"the checkpoint was trained with the detector {contract.detector}, which is not part of the package; "
            "pass its file with --detector"
        ) from error


def _check_geometry(provenance: Provenance, contract: Preprocessing) -> None:
    margin: Any = provenance.settings["margin"]
    if margin != contract.margin:
        raise ManifestError(
            f"the workspace's faces have margin {margin}, the checkpoint needs {contract.margin}; "
            f"make them again in another workspace: deepfake detect-faces --margin {contract.margin}"
        )


def read_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that compute scores."""
    versions = {"python": platform.python_version()}
    for package in COMPUTING:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
