"""What a run of `predict` scores with: the checkpoint's contract and calibration with what the config overrides."""

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
from pipelines.scoring.calibration import Calibration, Verdict
from pipelines.workspace.manifest import Provenance, digest_json

log = logging.getLogger(__name__)
DIGITS = 12
"""Of a digest, where people read it."""
COMPUTING = (
    "deepfake", "torch", "torchvision", "timm", "numpy", "av", "decord2", "opencv-python", "opencv-python-headless",
    "onnxruntime", "openvino",
)  # fmt: skip
"""Packages of which another version may give other digits."""
OVERRIDES = ("frames", "max_side", "min_score", "aggregate", "threshold")


@dataclass(frozen=True)
class Settings:
    """The settings of a run, resolved against the checkpoint's contract."""

    config: PredictConfig
    checkpoint: WeightsFile
    contract: Preprocessing
    detector: str
    detector_sha256: str
    faces: Provenance | None = None
    """Of the workspace's faces, where those are scored."""
    calibration: Calibration | None = None
    """Of the videos' probabilities, as this run applies it."""

    @property
    def sha256(self) -> str:
        """Digest of everything that a score depends on beside the video."""
        return digest_json(self.values)

    @property
    def values(self) -> dict[str, Any]:
        """What the digest is of."""
        values = {
            "checkpoint": self.checkpoint.sha256,
            "contract": self.contract.to_json(),
            "detector": self.detector_sha256,
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
            values["detector_precision"] = self.config.precision  # it was float32 in any case once
        return values

    def to_record(self) -> dict[str, Any]:
        """What scores are traced by: the settings behind their digest, and the versions of what computed them."""
        return {"settings_sha256": self.sha256, "settings": self.values, "versions": read_versions()}

    @property
    def is_other_arithmetic(self) -> bool:
        """Not by the engine and in the precision that scores have by default."""
        return (self.config.engine, self.config.precision) != (PredictConfig.engine, PredictConfig.precision)

    def calibrate(self, probability: float) -> float:
        """The probability of a video from the aggregated one."""
        return float(self.calibration.apply(probability)) if self.calibration else probability

    def judge(self, probability: float) -> Verdict:
        """The verdict on a video's (calibrated) probability."""
        if self.calibration:
            return self.calibration.verdict(probability)
        return "fake" if probability >= self.contract.threshold else "real"

    def describe_weights(self) -> str:
        """One line for people: names and first digits of the digests."""
        calibrated = "calibrated" if self.calibration else "not calibrated"
        computed = f", computed by {self.config.engine} in {self.config.precision}" if self.is_other_arithmetic else ""
        return (
            f"{self.checkpoint.name} ({self.checkpoint.sha256[:DIGITS]}, {calibrated}{computed}), "
            f"faces by {Path(self.detector).name} ({self.detector_sha256[:DIGITS]})"
        )

    def to_provenance(self, stage: str, version: int) -> Provenance:
        values = settings_of(
            self.config,
            detector=Path(self.detector).name,
            detector_sha256=self.detector_sha256,
            checkpoint=self.checkpoint.name,
            checkpoint_sha256=self.checkpoint.sha256,
        )
        return Provenance(stage, version, values, self.faces)


def resolve_settings(config: PredictConfig, faces: Provenance | None = None) -> Settings:
    """The checkpoint's contract and calibration with what the config overrides.

    Warns of a detector other than the checkpoint's own, and of a calibration that does not hold for the run.

    Raises:
        CheckpointError: checkpoint or detector is missing, damaged or of another kind.
        ManifestError: the workspace's faces have another geometry than the checkpoint's.
    """
    checkpoint = resolve_weights(config.checkpoint, kind="checkpoint")
    header = _read_header(checkpoint, config)
    contract, calibration = _resolve_contract(header, config)
    if faces is not None:
        _check_geometry(faces, contract)
        detector, sha256 = faces.settings["detector"], faces.settings["detector_sha256"]
    else:
        detector = config.detector or contract.detector
        sha256 = _resolve_detector(config, contract).sha256
    if contract.detector_sha256 and sha256 and sha256 != contract.detector_sha256:
        log.warning("the checkpoint was trained with the detector %s, this run uses %s", contract.detector, detector)
    return Settings(config, checkpoint, contract, detector, sha256, faces, calibration)


def _read_header(checkpoint: WeightsFile, config: PredictConfig) -> CheckpointHeader:
    """Of a checkpoint, or of what `export` made of one."""
    if not is_onnx(checkpoint.path):
        return read_header(checkpoint.path)
    if config.engine == "torch":
        raise ConfigError(
            f"{checkpoint.path} is an ONNX file, which torch does not run; "
            "add --engine onnxruntime or --engine openvino, or pass the checkpoint that it was made from"
        )
    return read_onnx_header(checkpoint.path)


def _resolve_contract(header: CheckpointHeader, config: PredictConfig) -> tuple[Preprocessing, Calibration | None]:
    """The contract and calibration of the run; a threshold of the user's own leaves no band between real and fake."""
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
        # the contract's threshold is one of calibrated probabilities
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
    """Of Python and of the packages that compute scores, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in COMPUTING:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
