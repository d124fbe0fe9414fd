"""The library behind `deepfake`: one function per command, loaded when it is first used.

from pipelines import predict
predict("clip.mp4").rows[0].fake_probability
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.config import (
        CalibrateConfig,
        DetectConfig,
        EvaluateConfig,
        ExtractConfig,
        ImportConfig,
        IndexConfig,
        PredictConfig,
        RunOptions,
    )
    from pipelines.diagnosis.finding import Finding
    from pipelines.stages.calibrate import calibrate
    from pipelines.stages.detect_faces import detect_faces
    from pipelines.stages.doctor import diagnose
    from pipelines.stages.evaluate import evaluate
    from pipelines.stages.export import export
    from pipelines.stages.extract_frames import extract_frames
    from pipelines.stages.import_faces import import_faces
    from pipelines.stages.import_weights import import_weights
    from pipelines.stages.index import index_dataset
    from pipelines.stages.inspect import inspect, read_manifest
    from pipelines.stages.merge import merge_scores, merge_stage
    from pipelines.stages.predict import predict, predict_faces
    from pipelines.stages.pull_weights import PulledWeights, pull_weights
    from pipelines.stages.train import preview_augmentations, train
    from pipelines.training.config import TrainConfig, TrainOptions, make_train_config

_HOMES = {
    "CalibrateConfig": "config",
    "DetectConfig": "config",
    "EvaluateConfig": "config",
    "ExtractConfig": "config",
    "Finding": "diagnosis.finding",
    "ImportConfig": "config",
    "IndexConfig": "config",
    "PredictConfig": "config",
    "PulledWeights": "stages.pull_weights",
    "RunOptions": "config",
    "Shard": "config",
    "TrainConfig": "training.config",
    "TrainOptions": "training.config",
    "calibrate": "stages.calibrate",
    "detect_faces": "stages.detect_faces",
    "diagnose": "stages.doctor",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "extract_frames": "stages.extract_frames",
    "import_faces": "stages.import_faces",
    "import_weights": "stages.import_weights",
    "index_dataset": "stages.index",
    "inspect": "stages.inspect",
    "make_train_config": "training.config",
    "merge_scores": "stages.merge",
    "merge_stage": "stages.merge",
    "predict": "stages.predict",
    "predict_faces": "stages.predict",
    "preview_augmentations": "stages.train",
    "pull_weights": "stages.pull_weights",
    "read_manifest": "stages.inspect",
    "train": "stages.train",
}
__all__ = [  # noqa: RUF022 - by kind
    "CalibrateConfig",
    "DetectConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "Finding",
    "ImportConfig",
    "IndexConfig",
    "PredictConfig",
    "PulledWeights",
    "RunOptions",
    "Shard",
    "TrainConfig",
    "TrainOptions",
    "calibrate",
    "detect_faces",
    "diagnose",
    "evaluate",
    "export",
    "extract_frames",
    "import_faces",
    "import_weights",
    "index_dataset",
    "inspect",
    "make_train_config",
    "merge_scores",
    "merge_stage",
    "predict",
    "predict_faces",
    "preview_augmentations",
    "pull_weights",
    "read_manifest",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import on demand: `import pipelines` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
