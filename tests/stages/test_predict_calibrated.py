"""A calibrated checkpoint changes what `predict` says of a video, by the calibration's rule and by nothing else."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipelines import PredictConfig, RunOptions, predict, predict_faces
from pipelines.checkpoints.checkpoint import load_checkpoint, read_header, save_checkpoint
from pipelines.checkpoints.weights_files import read_state
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model
from pipelines.records import ScoreRow
from pipelines.scoring.aggregate import aggregate_video
from pipelines.scoring.calibration import Calibration, write_calibrated_copy
from pipelines.scoring.score_files import read_scores
from pipelines.workspace.manifest import read_note, read_provenance
from tests.conftest import Deepfake
from tests.support import differences, encode_png, make_noise, temporary_files

CALIBRATION = Calibration(
    method="temperature",
    aggregate="max-track",
    real_below=0.1,
    fake_from=0.8,
    target_fpr=0.05,
    target_fnr=0.1,
    videos_real=30,
    videos_fake=20,
    ece_before=0.2,
    ece_after=0.1,
    source="val",
    temperature=4.0,
)
BY_KNOTS = replace(CALIBRATION, method="isotonic", temperature=None, knots_x=(0.0, 1.0), knots_y=(0.9, 0.95))


@pytest.fixture(scope="module")
def calibrated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a temperature of four."""
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.safetensors"
    write_calibrated_copy(checkpoint, path, CALIBRATION)
    return path


@pytest.fixture
def config(calibrated: Path) -> PredictConfig:
    return PredictConfig(checkpoint=str(calibrated))


@pytest.fixture(scope="module")
def picture(face_pictures: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people in one frame: enough to tell the aggregations apart, and sooner scored than a clip."""
    path = tmp_path_factory.mktemp("picture") / "two.png"
    path.write_bytes(encode_png(np.concatenate([face_pictures["real"][0], face_pictures["real"][3]], axis=1)))
    return path


@pytest.fixture(scope="module")
def raw(picture: Path, checkpoint: Path) -> float:
    """What the checkpoint says of the picture without a calibration."""
    return _probability(predict(picture, PredictConfig(checkpoint=str(checkpoint))).rows[0])


def _probability(row: ScoreRow) -> float:
    assert row.fake_probability is not None
    return row.fake_probability


def _at_temperature_four(probability: float) -> float:
    """sigmoid(logit(p) / 4) by roots."""
    fake, real = probability**0.25, (1 - probability) ** 0.25
    return fake / (fake + real)


def test_a_calibrated_checkpoint_predicts_the_calibrated_probability_by_either_path(
    config: PredictConfig, checkpoint: Path, clip: Path, forged_clip: Path, faces_workspace: Path
) -> None:
    uncalibrated = predict([clip, forged_clip], PredictConfig(checkpoint=str(checkpoint))).rows
    direct, staged = predict([clip, forged_clip], config).rows, predict_faces(faces_workspace, config).rows
    for before, one, other in zip(uncalibrated, direct, staged, strict=True):
        assert _probability(one) == pytest.approx(_at_temperature_four(_probability(before)), abs=1e-9)
        assert _probability(other) == pytest.approx(_probability(one), abs=1e-4)
        assert abs(_probability(one) - _probability(before)) > 1e-3
        assert (one.threshold, other.threshold) == (0.8, 0.8)
        assert (one.status, one.frames, one.faces) == (before.status, before.frames, before.faces)


def test_knots_are_applied_too(checkpoint: Path, raw: float, picture: Path, tmp_path: Path) -> None:
    write_calibrated_copy(checkpoint, tmp_path / "c.safetensors", BY_KNOTS)
    (row,) = predict(picture, PredictConfig(checkpoint=str(tmp_path / "c.safetensors"))).rows
    assert row.fake_probability == pytest.approx(0.9 + 0.05 * raw, abs=1e-9)


@pytest.mark.parametrize(
    ("below", "above", "verdict"), [(-0.2, -0.1, "fake"), (-0.1, 0.1, "uncertain"), (0.1, 0.2, "real")]
)
def test_each_of_three_verdicts_is_reached(
    checkpoint: Path, raw: float, picture: Path, tmp_path: Path, below: float, above: float, verdict: str
) -> None:
    probability = _at_temperature_four(raw)
    calibration = replace(CALIBRATION, real_below=probability + below, fake_from=probability + above)
    write_calibrated_copy(checkpoint, tmp_path / "c.safetensors", calibration)
    (row,) = predict(picture, PredictConfig(checkpoint=str(tmp_path / "c.safetensors"))).rows
    assert (row.verdict, row.threshold) == (verdict, calibration.fake_from)


@pytest.mark.parametrize(("step", "verdict"), [(-1e-3, "fake"), (1e-3, "real")])
def test_a_threshold_of_the_users_own_inside_the_band_leaves_two_verdicts_and_the_calibrated_probability(
    checkpoint: Path, raw: float, picture: Path, tmp_path: Path, step: float, verdict: str
) -> None:
    probability = _at_temperature_four(raw)
    calibration = replace(CALIBRATION, real_below=probability / 2, fake_from=(probability + 1) / 2)
    assert calibration.verdict(probability) == "uncertain"
    write_calibrated_copy(checkpoint, tmp_path / "c.safetensors", calibration)
    config = PredictConfig(checkpoint=str(tmp_path / "c.safetensors"), threshold=probability + step)
    (row,) = predict(picture, config).rows
    assert (row.verdict, row.threshold) == (verdict, probability + step)
    assert row.fake_probability == pytest.approx(probability, abs=1e-9)


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_another_aggregation_than_the_calibrations_is_scored_without_it_and_with_a_warning(
    config: PredictConfig,
    checkpoint: Path,
    raw: float,
    picture: Path,
    threshold: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = replace(config, aggregate="mean", threshold=threshold)
    copies = [picture, Path(shutil.copy(picture, picture.with_name("copy.png")))]
    with caplog.at_level("WARNING", logger="pipelines"):
        rows = predict(copies, other).rows
    assert caplog.text.count("fitted for --aggregate max-track and is not applied to mean") == 1
    (expected,) = predict(picture, replace(other, checkpoint=str(checkpoint))).rows
    assert _probability(expected) < raw - 1e-3
    for row in rows:
        assert (row.fake_probability, row.verdict) == (expected.fake_probability, expected.verdict)
        assert row.threshold == (0.5 if threshold is None else threshold)


def test_the_calibrations_own_aggregation_may_be_named_and_is_the_copys_default(
    checkpoint: Path, config: PredictConfig, picture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="pipelines"):
        assert predict(picture, replace(config, aggregate="max-track")).rows == predict(picture, config).rows
        write_calibrated_copy(checkpoint, tmp_path / "c.safetensors", replace(CALIBRATION, aggregate="mean"))
        (row,) = predict(picture, PredictConfig(checkpoint=str(tmp_path / "c.safetensors"))).rows
    (mean,) = predict(picture, PredictConfig(checkpoint=str(checkpoint), aggregate="mean")).rows
    assert row.fake_probability == pytest.approx(_at_temperature_four(_probability(mean)), abs=1e-9)
    assert caplog.text == ""


def test_details_hold_the_networks_own_probabilities_and_the_way_to_the_videos(
    config: PredictConfig, picture: Path, tmp_path: Path
) -> None:
    (row,) = predict(picture, config, details=tmp_path).rows
    path = tmp_path / f"{row.sha256[:16]}.parquet"
    table = pq.read_table(path)
    probability = aggregate_video(table["fake_probability"].to_pylist(), table["track"].to_pylist(), "max-track")
    assert row.fake_probability == pytest.approx(_at_temperature_four(probability), abs=1e-9)
    assert read_note(path, "threshold") == "0.8"
    note = read_note(path, "calibration")
    assert note is not None and Calibration.from_json(json.loads(note)) == CALIBRATION
    assert read_provenance(path).settings["checkpoint"] == "calibrated.safetensors"
    predict(picture, replace(config, aggregate="mean"), details=tmp_path)
    assert read_note(path, "calibration") is None


def test_a_video_without_a_face_has_neither_probability_nor_verdict(config: PredictConfig, tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(make_noise(0))
    (row,) = predict(tmp_path / "noise.png", config).rows
    assert (row.status, row.fake_probability, row.verdict, row.threshold) == ("no_face", None, None, 0.8)


@pytest.mark.parametrize("change", [{"aggregate": "mean"}, {"threshold": 0.8}, {"threshold": 0.6}, {"checkpoint": ""}])
def test_scores_of_another_use_of_the_calibration_are_not_gone_on_with(
    config: PredictConfig, checkpoint: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "noise.png").write_bytes(make_noise(0))
    output = tmp_path / "scores.csv"
    earlier = replace(config, **(change if change != {"checkpoint": ""} else {"checkpoint": str(checkpoint)}))
    predict(tmp_path / "noise.png", earlier, output=output)
    before = output.read_bytes()
    with pytest.raises(ConfigError, match="made with another checkpoint or other settings; .*--overwrite"):
        predict(tmp_path / "noise.png", config, output=output)
    assert output.read_bytes() == before
    predict(tmp_path / "noise.png", config, RunOptions(overwrite=True), output=output)
    assert predict(tmp_path / "noise.png", config, output=output).reused == 1


def test_the_command_prints_and_writes_the_third_verdict(
    deepfake: Deepfake, picture: Path, calibrated: Path, tmp_path: Path
) -> None:
    result = deepfake("predict", picture, "--checkpoint", calibrated, "-o", tmp_path / "scores.parquet")
    assert result.exit_code == 0 and "  uncertain  1 frame, 2 people" in result.stdout
    assert [row.verdict for row in read_scores(tmp_path / "scores.parquet")] == ["uncertain"]


def test_a_damaged_calibration_ends_the_command_before_any_work(
    deepfake: Deepfake, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    header = replace(read_header(checkpoint), calibration={**CALIBRATION.to_json(), "temperature": "warm"})
    save_checkpoint(damaged, read_state(checkpoint), header)
    result = deepfake("predict", clip, "--checkpoint", damaged)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the checkpoint's calibration is damaged" in result.stderr and "Traceback" not in result.stderr


def test_a_calibrated_copy_is_the_checkpoint_with_another_header(calibrated: Path, checkpoint: Path) -> None:
    assert _tensor_bytes(calibrated) == _tensor_bytes(checkpoint)
    before, after = read_header(checkpoint), read_header(calibrated)
    assert Calibration.from_json(after.calibration or {}) == CALIBRATION
    assert replace(after.preprocessing, threshold=0.5) == before.preprocessing and after.preprocessing.threshold == 0.8
    assert replace(after, calibration=None, preprocessing=before.preprocessing) == before
    loaded = load_checkpoint(str(calibrated), build_model).network.state_dict()
    assert differences(loaded, load_checkpoint(str(checkpoint), build_model).network.state_dict()) == []


def test_half_precision_stays_half_precision(checkpoint: Path, tmp_path: Path) -> None:
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(checkpoint).items()
    }
    save_checkpoint(tmp_path / "half.safetensors", half, read_header(checkpoint))
    write_calibrated_copy(tmp_path / "half.safetensors", tmp_path / "new" / "copy.safetensors", CALIBRATION)
    copy = load_file(tmp_path / "new" / "copy.safetensors")
    assert differences(copy, half) == [] and {copy[name].dtype for name in half} >= {torch.float16}
    assert temporary_files(tmp_path) == []


def _tensor_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


@pytest.mark.parametrize(
    ("source", "output", "error", "message"),
    [
        (
            "raw.safetensors",
            "raw.safetensors",
            ConfigError,
            "is the checkpoint to calibrate; choose another",
        ),
        ("raw.safetensors", "./../{folder}/raw.safetensors", ConfigError, "is the checkpoint to calibrate"),
        ("raw.safetensors", "link.safetensors", ConfigError, "is the checkpoint to calibrate"),
        ("raw.safetensors", "copy.bin", ConfigError, "copy.bin must end in .safetensors"),
        ("text.safetensors", "copy.safetensors", CheckpointError, "is not a safetensors file"),
    ],
)
def test_a_copy_that_would_destroy_or_mislead_is_refused(
    checkpoint: Path,
    calibrated: Path,
    tmp_path: Path,
    source: str,
    output: str,
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / "raw.safetensors").write_bytes(checkpoint.read_bytes())
    (tmp_path / "calibrated.safetensors").write_bytes(calibrated.read_bytes())
    (tmp_path / "text.safetensors").write_text("no tensors")
    os.link(tmp_path / "raw.safetensors", tmp_path / "link.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(error, match=message):
        write_calibrated_copy(tmp_path / source, tmp_path / output.format(folder=tmp_path.name), CALIBRATION)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
