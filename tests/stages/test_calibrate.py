"""A calibration is fitted to videos of its own checkpoint, and what it promises is what `evaluate` and `predict` find."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines import CalibrateConfig, ImportConfig, PredictConfig, RunOptions, calibrate, import_faces, predict_faces
from pipelines.checkpoints.checkpoint import read_header
from pipelines.errors import CheckpointError, ConfigError, DatasetError
from pipelines.scoring.calibration import Calibration, fit_temperature
from pipelines.scoring.metrics import expected_calibration_error
from pipelines.scoring.settings import resolve_settings
from pipelines.system.file_digest import file_digest
from tests.evaluation.tables import (
    Planted,
    face_row,
    figures,
    plant,
    score_row,
    write_details_folder,
    write_labels,
    write_planted,
    write_score_file,
)
from tests.support import encode_png, temporary_files, write_faces_parquet

Image = npt.NDArray[np.uint8]
SHARPNESS = 3.0
"""The planted probabilities are three times too sure."""


@pytest.fixture
def config(checkpoint: Path) -> CalibrateConfig:
    return CalibrateConfig(checkpoint=str(checkpoint), target_fpr=0.05, target_fnr=0.05, aggregate="max-track")


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(400, sharpness=SHARPNESS)


@pytest.fixture
def sources(tmp_path: Path, planted: Planted, checkpoint: Path) -> tuple[Path, Path]:
    """Scores that name the tiny checkpoint and its settings, and their labels."""
    settings = resolve_settings(PredictConfig(checkpoint=str(checkpoint))).sha256
    return write_planted(tmp_path, planted, model_sha256=file_digest(checkpoint), settings_sha256=settings)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_an_overconfident_checkpoint_is_made_to_mean_what_it_says(
    tmp_path: Path, sources: tuple[Path, Path], planted: Planted, config: CalibrateConfig, method: Any
) -> None:
    output = tmp_path / "new" / "calibrated.safetensors"
    summary = calibrate(sources[0], output, replace(config, method=method), labels=sources[1])
    fit, before = summary.calibration, figures(*sources)
    assert fit.ece_before == before["video.ece"] > 0.08
    assert fit.ece_after < fit.ece_before / 2 and summary.ece_held_out < fit.ece_before
    assert (fit.videos_real, fit.videos_fake) == (before["videos.real"], before["videos.fake"])
    if method == "temperature":
        assert fit.temperature == pytest.approx(SHARPNESS, rel=0.2)
    header = read_header(output)
    assert header.calibration is not None and Calibration.from_json(header.calibration) == fit
    assert header.preprocessing.threshold == fit.fake_from
    assert (fit.source, fit.aggregate) == ("scores.csv, all videos", "max-track")
    rescored = write_score_file(
        tmp_path / "after.csv", [score_row(video, float(fit.apply(p))) for video, _, p in planted]
    )
    assert figures(rescored, sources[1])["video.ece"] == pytest.approx(fit.ece_after)
    assert temporary_files(tmp_path) == []


def test_the_targets_are_kept_and_the_shares_of_the_verdicts_sum_to_one(
    tmp_path: Path, sources: tuple[Path, Path], config: CalibrateConfig
) -> None:
    summary = calibrate(sources[0], tmp_path / "c.safetensors", config, labels=sources[1])
    assert set(summary.shares) == {"real", "fake"}
    for shares in summary.shares.values():
        assert list(shares) == ["real", "uncertain", "fake"]
        assert sum(shares.values()) == pytest.approx(1)
    assert 0.03 < summary.shares["real"]["fake"] <= 0.05 and 0.03 < summary.shares["fake"]["real"] <= 0.05
    assert summary.shares["real"]["uncertain"] > 0.1


def test_the_summary_tells_what_was_fitted(tmp_path: Path, sources: tuple[Path, Path], config: CalibrateConfig) -> None:
    output = tmp_path / "c.safetensors"
    summary = calibrate(sources[0], output, config, labels=sources[1])
    fit, lines = summary.calibration, summary.lines()
    assert lines[0] == (
        f"{output}: temperature {fit.temperature:.3f}, fitted to {fit.videos_real} real and {fit.videos_fake} fake "
        "videos in 400 groups of scores.csv, all videos"
    )
    assert (
        f"{fit.ece_before:.3f} before, {fit.ece_after:.3f} after; {summary.ece_held_out:.3f} on held-out videos"
        in lines[1]
    )
    assert lines[2] == f"real below {fit.real_below:.4f}, fake from {fit.fake_from:.4f}"
    assert lines[3].startswith(f"real videos in the fit: {summary.shares['real']['real']:.1%} real, ")


def test_the_held_out_error_is_of_videos_whose_group_was_left_out(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig, planted: Planted
) -> None:
    scores, _ = write_planted(tmp_path, planted, model_sha256=file_digest(checkpoint))
    said = [{"video": video, "label": label, "group": str(int(video[:4]) // 4)} for video, label, _ in planted]
    labels = write_labels(tmp_path / "g.csv", said)
    output = tmp_path / "c.safetensors"
    options = RunOptions(overwrite=True)
    found = [calibrate(scores, output, replace(config, seed=seed), options, labels=labels) for seed in (0, 0, 1)]
    assert found[0].ece_held_out == found[1].ece_held_out != found[2].ece_held_out
    assert found[0].calibration == found[2].calibration
    y = np.array([label == "fake" for _, label, _ in planted])
    p = np.array([p for _, _, p in planted])
    names = np.unique([row["group"] for row in said], return_inverse=True)[1]
    folds = np.random.default_rng(0).integers(0, 5, names.max() + 1)[names]
    held_out = np.empty(len(p))
    for fold in range(5):
        fit = replace(found[0].calibration, temperature=fit_temperature(y[folds != fold], p[folds != fold]))
        held_out[folds == fold] = fit.apply(p[folds == fold])
    assert found[0].ece_held_out == pytest.approx(expected_calibration_error(y, held_out))


@pytest.mark.parametrize(("split", "used"), [(None, "val"), ("val", "val"), ("train", "train"), ("all", "all videos")])
def test_the_validation_split_is_fitted_unless_another_is_asked_for(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig, planted: Planted, split: Any, used: str
) -> None:
    scores, _ = write_planted(tmp_path, planted, model_sha256=file_digest(checkpoint))
    side = {video: ("train", "val", "test")[int(video[:4]) % 3] for video, _, _ in planted}
    said = [{"video": video, "label": label, "split": side[video]} for video, label, _ in planted]
    labels = write_labels(tmp_path / "s.csv", said)
    fit = calibrate(scores, tmp_path / "c.safetensors", replace(config, split=split), labels=labels).calibration
    assert fit.source == f"scores.csv, {used}"
    assert fit.videos_real + fit.videos_fake == (400 if split == "all" else list(side.values()).count(used))


@pytest.mark.parametrize("aggregate", [None, "mean"])
def test_details_are_aggregated_as_the_calibration_says_and_videos_without_faces_are_left_out(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig, planted: Planted, aggregate: Any
) -> None:
    config = replace(config, target_fnr=0.1)
    faces = [
        face_row(video, 0, (p if track == 0 else p / 2), face_index=track, track=track)
        for video, _, p in planted[:100]
        for track in (0, 1)
    ]
    details = write_details_folder(tmp_path / "details", faces, model_sha256=file_digest(checkpoint))
    labels = write_labels(tmp_path / "l.csv", [(video, label) for video, label, _ in planted])
    config = replace(config, aggregate=aggregate)
    fit = calibrate(details, tmp_path / "c.safetensors", config, labels=labels).calibration
    y, p = [label == "fake" for _, label, _ in planted[:100]], np.array([p for _, _, p in planted[:100]])
    assert (fit.aggregate, fit.videos_real + fit.videos_fake) == (aggregate or "max-track", 100)
    assert fit.temperature == pytest.approx(fit_temperature(y, p * (0.75 if aggregate else 1)))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, list[Image]]) -> Path:
    """A workspace of 40 pictures without labels: a face moved a few pixels, of which the network thinks this and that."""
    folder = tmp_path_factory.mktemp("crowd")
    moved = [np.roll(face_pictures["real"][0], (n % 8 - 4, n // 8 - 2), (0, 1)) for n in range(40)]
    records: list[dict[str, Any]] = [{"image": encode_png(face), "video": f"{n:02d}"} for n, face in enumerate(moved)]
    import_faces(write_faces_parquet(folder / "f.parquet", records), folder / "crowd", ImportConfig(as_is=True))
    return folder / "crowd"


def test_the_calibrated_copy_is_less_wrong_where_it_is_measured_and_uncertain_where_it_should_be(
    crowd: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rows = predict_faces(crowd, PredictConfig(checkpoint=str(checkpoint))).rows
    p = np.array([row.fake_probability for row in rows])
    assert p.min() < 0.3 and p.max() > 0.7
    logits, rng = np.log(p / (1 - p)), np.random.default_rng(3)
    is_fake = rng.random(len(p)) < 1 / (1 + np.exp(-logits / 4))
    labels = write_labels(
        tmp_path / "l.csv", [(row.video_key, "fake" if y else "real") for row, y in zip(rows, is_fake, strict=True)]
    )
    config = CalibrateConfig(checkpoint=str(checkpoint), target_fpr=0.1, target_fnr=0.1)
    copy = tmp_path / "copy.safetensors"
    summary = calibrate(crowd, copy, config, labels=labels)
    after_rows = predict_faces(crowd, PredictConfig(checkpoint=str(copy))).rows
    before, after = (figures(write_score_file(tmp_path / "s.csv", scores), labels) for scores in (rows, after_rows))
    assert before["video.ece"] == pytest.approx(summary.calibration.ece_before)
    assert after["video.ece"] == pytest.approx(summary.calibration.ece_after)
    assert after["video.ece"] < before["video.ece"]
    assert after["video.log_loss"] < before["video.log_loss"] and after["video.auc"] == before["video.auc"]
    assert after["threshold"] == summary.calibration.fake_from
    verdicts = [row.verdict for row in after_rows]
    is_right = [(verdict == "fake") == y for verdict, y in zip(verdicts, is_fake, strict=True)]
    assert after["video.accuracy_at_threshold"] == pytest.approx(np.mean(is_right))
    for number, label in enumerate(("real", "fake")):
        chosen = [verdict for verdict, y in zip(verdicts, is_fake, strict=True) if y == number]
        shares = {name: chosen.count(name) / len(chosen) for name in ("real", "uncertain", "fake")}
        assert shares == pytest.approx(summary.shares[label])
    assert verdicts.count("uncertain") > 3

    again = tmp_path / "again.safetensors"
    assert calibrate(crowd, again, replace(config, checkpoint=str(copy)), labels=labels).calibration == replace(
        summary.calibration, source="crowd, all videos"
    ), "a fit begins with the network's own probabilities, whatever calibration the checkpoint has"
    assert again.read_bytes() == copy.read_bytes()
    scores = write_score_file(tmp_path / "calibrated.csv", after_rows)
    with pytest.raises(CheckpointError, match="holds probabilities that copy.safetensors has already calibrated; pass"):
        calibrate(scores, tmp_path / "d.safetensors", replace(config, checkpoint=str(copy)), labels=labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_sha256": "c" * 64},
            "scores.csv was not made by tiny.safetensors: it names the weights cccccccccccc, not ",
        ),
        ({"model_sha256": ""}, "scores.csv was not made by tiny.safetensors: it names no weights"),
    ],
)
def test_scores_of_another_checkpoint_are_refused(
    tmp_path: Path, planted: Planted, config: CalibrateConfig, changes: dict[str, str], message: str
) -> None:
    scores, labels = write_planted(tmp_path, planted, **changes)
    with pytest.raises(CheckpointError, match=message):
        calibrate(scores, tmp_path / "c.safetensors", config, labels=labels)
    assert not (tmp_path / "c.safetensors").exists()


def test_the_way_from_faces_to_videos_is_that_of_the_scores_or_must_be_said(
    tmp_path: Path, sources: tuple[Path, Path], config: CalibrateConfig, checkpoint: Path
) -> None:
    scores, labels = sources
    output, config = tmp_path / "c.safetensors", replace(config, aggregate=None)
    assert calibrate(scores, output, config, labels=labels).calibration.aggregate == "max-track"
    with pytest.raises(
        ConfigError, match=r"scores.csv was made with --aggregate max-track, not mean; leave the option"
    ):
        calibrate(scores, tmp_path / "d.safetensors", replace(config, aggregate="mean"), labels=labels)
    rows = scores.read_text()
    digest = resolve_settings(PredictConfig(str(checkpoint), aggregate="mean")).sha256
    scores.write_text(rows.replace(resolve_settings(PredictConfig(str(checkpoint))).sha256, digest))
    assert calibrate(scores, output, config, RunOptions(overwrite=True), labels=labels).calibration.aggregate == "mean"
    scores.write_text(rows.replace(resolve_settings(PredictConfig(str(checkpoint))).sha256, "0" * 64))
    with pytest.raises(
        ConfigError, match="scores.csv does not say how face scores became video scores.*pass --aggregate"
    ):
        calibrate(scores, tmp_path / "d.safetensors", config, labels=labels)
    said = replace(config, aggregate="mean")
    assert calibrate(scores, tmp_path / "d.safetensors", said, labels=labels).calibration.aggregate == "mean"


@pytest.mark.parametrize(
    ("targets", "videos", "message"),
    [
        (
            {"target_fpr": 0.001},
            400,
            r"\d+ real videos are too few for a target_fpr of 0.001, which needs 999; add real",
        ),
        (
            {"target_fnr": 0.004},
            400,
            r"\d+ fake videos are too few for a target_fnr of 0.004, which needs 249; add fake",
        ),
        ({}, 12, r"a calibration needs at least 10 (real|fake) videos with a score, got \d; add some"),
    ],
)
def test_too_few_videos_are_refused_with_the_number_that_it_takes(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig, targets: dict[str, float], videos: int, message: str
) -> None:
    scores, labels = write_planted(tmp_path, plant(videos), model_sha256=file_digest(checkpoint))
    with pytest.raises(DatasetError, match=message):
        calibrate(scores, tmp_path / "c.safetensors", replace(config, **targets), labels=labels)
    assert not (tmp_path / "c.safetensors").exists()


def test_an_output_that_exists_is_kept_unless_it_may_be_replaced(
    tmp_path: Path, sources: tuple[Path, Path], config: CalibrateConfig
) -> None:
    output = tmp_path / "c.safetensors"
    output.write_text("mine")
    with pytest.raises(
        ConfigError, match="c.safetensors exists; pass --overwrite to replace it, or choose another name"
    ):
        calibrate(sources[0], output, config, labels=sources[1])
    assert output.read_text() == "mine"
    calibrate(sources[0], output, config, RunOptions(overwrite=True), labels=sources[1])
    assert read_header(output).calibration is not None


def test_an_output_that_can_not_be_is_refused_before_any_work(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig
) -> None:
    digest = file_digest(checkpoint)
    nothing = tmp_path / "nothing.csv"
    with pytest.raises(ConfigError, match="c.pt must end in .safetensors"):
        calibrate(nothing, tmp_path / "c.pt", config)
    with pytest.raises(ConfigError, match="is the checkpoint to calibrate; choose another name"):
        calibrate(nothing, checkpoint, config, RunOptions(overwrite=True))
    assert file_digest(checkpoint) == digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_fpr": 0.0}, "target_fpr must be between 0 and 1, got 0.0"),
        ({"target_fnr": 1.0}, "target_fnr must be between 0 and 1, got 1.0"),
        ({"method": "platt"}, "method must be one of temperature, isotonic, got platt"),
    ],
)
def test_settings_check_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrateConfig(**changes)


def test_one_group_leaves_nothing_out_and_the_error_is_undefined(
    tmp_path: Path, checkpoint: Path, config: CalibrateConfig, planted: Planted
) -> None:
    scores, _ = write_planted(tmp_path, planted, model_sha256=file_digest(checkpoint))
    labels = write_labels(tmp_path / "g.csv", [{"video": v, "label": y, "group": "g"} for v, y, _ in planted])
    summary = calibrate(scores, tmp_path / "c.safetensors", config, labels=labels)
    assert math.isnan(summary.ece_held_out)
    assert summary.lines()[1].endswith("after; too few groups for a held-out estimate")
