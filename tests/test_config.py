"""Settings check themselves and say what they got."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.config import (
    DetectConfig,
    ExtractConfig,
    ImportConfig,
    PredictConfig,
    RunOptions,
    check_crop_box,
    settings_of,
)
from pipelines.errors import ConfigError
from pipelines.training.config import TrainConfig, TrainOptions
from pipelines.training.settings import list_settings

CONFIGS = (ExtractConfig, DetectConfig, ImportConfig, PredictConfig)
"""Those of `train` are nested: tests/training/test_settings.py."""


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (RunOptions, {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        (RunOptions, {"workers": -1}, "workers must be >= 0, got -1"),
        (ExtractConfig, {"frames": 0}, "frames must be >= 1, got 0"),
        (ExtractConfig, {"fps": 0.0}, "fps must be > 0, got 0.0"),
        (ExtractConfig, {"fps": float("nan")}, "fps must be > 0, got nan"),
        (ExtractConfig, {"fps": float("inf")}, "fps must be > 0, got inf"),
        (ExtractConfig, {"start_seconds": -1.0}, "start must be >= 0, got -1.0"),
        (ExtractConfig, {"end_seconds": 0.0}, "end must be > 0, got 0.0"),
        (ExtractConfig, {"start_seconds": 2.5, "end_seconds": 2.5}, "end must be > 2.5, got 2.5"),
        (ExtractConfig, {"decoder": "vlc"}, "decoder must be one of auto, pyav, decord, got vlc"),
        (ExtractConfig, {"format": "gif"}, "format must be one of png, jpg, got gif"),
        (DetectConfig, {"max_side": 31}, "max_side must be >= 32, got 31"),
        (DetectConfig, {"min_score": 0.0}, "min_score must be between 0 and 1, got 0.0"),
        (DetectConfig, {"min_score": 1.0}, "min_score must be between 0 and 1, got 1.0"),
        (DetectConfig, {"margin": 0.2}, "margin must be between 0.25 and 4, got 0.2"),
        (DetectConfig, {"min_face_px": -1}, "min_face_px must be >= 0, got -1"),
        (ImportConfig, {"min_score": float("nan")}, "min_score must be between 0 and 1, got nan"),
        (ImportConfig, {"margin": 5.0}, "margin must be between 0.25 and 4, got 5.0"),
        (PredictConfig, {"frames": 0}, "frames must be >= 1, got 0"),
        (PredictConfig, {"min_frames": 0}, "min_frames must be >= 1, got 0"),
        (PredictConfig, {"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        (PredictConfig, {"max_side": 8}, "max_side must be >= 32, got 8"),
        (PredictConfig, {"min_score": 0.0}, "min_score must be between 0 and 1, got 0.0"),
        (PredictConfig, {"aggregate": "median"}, "aggregate must be one of max-track, mean, got median"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_the_rule_and_what_it_was(
    config: type, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)


@pytest.mark.parametrize(
    "box", [(0, 0, 380, 380), (94, 118, 286, 310), (0, 0, 1, 1)], ids=["whole", "tight", "one pixel"]
)
def test_a_box_inside_the_aligned_frame_is_accepted(box: tuple[int, int, int, int]) -> None:
    assert Preprocessing(crop_box=box).crop_box == box


@pytest.mark.parametrize(
    "box", [(0, 0, 10, 20), (0, 0, 0, 380), (10, 10, 5, 20), (-1, 0, 5, 5), (0, 0, 5), (0, 0, 5, 381)]
)
def test_a_box_that_is_empty_outside_or_no_square_is_refused(box: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="crop_box must be"):
        check_crop_box(box, 380)


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_are_plain_json_with_every_field_and_what_was_resolved(config: type) -> None:
    settings = settings_of(config(), extra_sha256="abc")
    assert json.loads(json.dumps(settings)) == settings
    assert set(settings) == {field.name for field in fields(config)} | {"extra_sha256"}


@pytest.mark.parametrize("config", CONFIGS)
def test_how_to_run_is_no_setting(config: type) -> None:
    assert not {field.name for field in fields(config)} & {field.name for field in fields(RunOptions)}


def test_how_to_train_is_no_setting() -> None:
    assert list_settings(TrainConfig()).keys() & {field.name for field in fields(TrainOptions)} == set()
