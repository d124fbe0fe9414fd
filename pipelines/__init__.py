"""The library behind `deepfake`: one function per command, each imported when it is first used.

from pipelines import predict
predict("clip.mp4").rows[0].fake_probability
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import CalibrateConfig as CalibrateConfig
    from pipelines.config import DetectConfig as DetectConfig
    from pipelines.config import EvaluateConfig as EvaluateConfig
    from pipelines.config import ExtractConfig as ExtractConfig
    from pipelines.config import ImportConfig as ImportConfig
    from pipelines.config import IndexConfig as IndexConfig
    from pipelines.config import PredictConfig as PredictConfig
    from pipelines.config import RunOptions as RunOptions
    from pipelines.config import Shard as Shard
    from pipelines.diagnosis.finding import Finding as Finding
    from pipelines.errors import CheckpointError as CheckpointError
    from pipelines.errors import ConfigError as ConfigError
    from pipelines.errors import DatasetError as DatasetError
    from pipelines.errors import DeepfakeError as DeepfakeError
    from pipelines.errors import DownloadError as DownloadError
    from pipelines.errors import InputError as InputError
    from pipelines.errors import LeakError as LeakError
    from pipelines.errors import ManifestError as ManifestError
    from pipelines.errors import SettingsChangedError as SettingsChangedError
    from pipelines.errors import StorageError as StorageError
    from pipelines.errors import TrainingDivergedError as TrainingDivergedError
    from pipelines.errors import UnreadableError as UnreadableError
    from pipelines.evaluation.report import Report as Report
    from pipelines.records import EpochRow as EpochRow
    from pipelines.records import FaceRow as FaceRow
    from pipelines.records import FaceScoreRow as FaceScoreRow
    from pipelines.records import FrameRow as FrameRow
    from pipelines.records import ScoreRow as ScoreRow
    from pipelines.records import VideoRow as VideoRow
    from pipelines.scoring.detector import Detector as Detector
    from pipelines.scoring.video_score import ScoredFace as ScoredFace
    from pipelines.scoring.video_score import VideoScore as VideoScore
    from pipelines.stages.calibrate import CalibrateSummary as CalibrateSummary
    from pipelines.stages.calibrate import calibrate as calibrate
    from pipelines.stages.detect_faces import detect_faces as detect_faces
    from pipelines.stages.doctor import diagnose as diagnose
    from pipelines.stages.evaluate import evaluate as evaluate
    from pipelines.stages.export import ExportSummary as ExportSummary
    from pipelines.stages.export import export as export
    from pipelines.stages.extract_frames import extract_frames as extract_frames
    from pipelines.stages.import_faces import import_faces as import_faces
    from pipelines.stages.import_weights import ImportedWeights as ImportedWeights
    from pipelines.stages.import_weights import import_weights as import_weights
    from pipelines.stages.index import IndexSummary as IndexSummary
    from pipelines.stages.index import index_dataset as index_dataset
    from pipelines.stages.inspect import Inspection as Inspection
    from pipelines.stages.inspect import inspect as inspect
    from pipelines.stages.inspect import read_manifest as read_manifest
    from pipelines.stages.merge import MergedScores as MergedScores
    from pipelines.stages.merge import merge_scores as merge_scores
    from pipelines.stages.predict import PredictSummary as PredictSummary
    from pipelines.stages.predict import predict as predict
    from pipelines.stages.predict import predict_faces as predict_faces
    from pipelines.stages.pull_weights import PulledWeights as PulledWeights
    from pipelines.stages.pull_weights import pull_weights as pull_weights
    from pipelines.stages.train import TrainSummary as TrainSummary
    from pipelines.stages.train import preview_augmentations as preview_augmentations
    from pipelines.stages.train import train as train
    from pipelines.system.progress import Progress as Progress
    from pipelines.training.config import TrainConfig as TrainConfig
    from pipelines.training.config import TrainOptions as TrainOptions
    from pipelines.training.config import make_train_config as make_train_config
    from pipelines.workspace.run_loop import StageSummary as StageSummary

    __version__: str

_NAMES_OF = {
    "config": (
        "CalibrateConfig DetectConfig EvaluateConfig ExtractConfig ImportConfig IndexConfig PredictConfig RunOptions Shard"
    ),
    "diagnosis.finding": "Finding",
    "errors": (
        "CheckpointError ConfigError DatasetError DeepfakeError DownloadError InputError LeakError ManifestError "
        "SettingsChangedError StorageError TrainingDivergedError UnreadableError"
    ),
    "evaluation.report": "Report",
    "records": "EpochRow FaceRow FaceScoreRow FrameRow ScoreRow VideoRow",
    "scoring.detector": "Detector",
    "scoring.video_score": "ScoredFace VideoScore",
    "stages.calibrate": "CalibrateSummary calibrate",
    "stages.detect_faces": "detect_faces",
    "stages.doctor": "diagnose",
    "stages.evaluate": "evaluate",
    "stages.export": "ExportSummary export",
    "stages.extract_frames": "extract_frames",
    "stages.import_faces": "import_faces",
    "stages.import_weights": "ImportedWeights import_weights",
    "stages.index": "IndexSummary index_dataset",
    "stages.inspect": "Inspection inspect read_manifest",
    "stages.merge": "MergedScores merge_scores",
    "stages.predict": "PredictSummary predict predict_faces",
    "stages.pull_weights": "PulledWeights pull_weights",
    "stages.train": "TrainSummary preview_augmentations train",
    "system.progress": "Progress",
    "training.config": "TrainConfig TrainOptions make_train_config",
    "workspace.run_loop": "StageSummary",
}
"""The public names by the module that defines them; mypy reads the imports above, and a test compares the two."""
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}
__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Import on demand: `import pipelines` alone loads nothing."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("deepfake")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
