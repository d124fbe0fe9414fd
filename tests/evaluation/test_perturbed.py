"""What is perturbed is the same faces or videos: the row without a change holds the plain figures."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import (
    DetectConfig,
    EvaluateConfig,
    ExtractConfig,
    PredictConfig,
    RunOptions,
    detect_faces,
    evaluate,
    extract_frames,
)
from pipelines.errors import ConfigError
from pipelines.evaluation.perturbations import Perturbation
from pipelines.evaluation.report import Report
from pipelines.records import FaceRow, VideoRow, rows_to_table
from pipelines.scoring.calibration import write_calibrated_copy
from pipelines.stages.evaluate import Loader, perturbed_scores
from pipelines.system.progress import ignore_progress
from pipelines.video import open_video
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from tests.evaluation.tables import write_labels
from tests.stages.test_evaluate import CALIBRATION
from tests.support import encode_png
from tests.synthetic import write_video

H264 = ["clean", "h264 23", "h264 30", "h264 40"]
SAME = 1e-4
"""Networks round differently in batches of other sizes."""


@pytest.fixture
def config(checkpoint: Path) -> EvaluateConfig:
    return EvaluateConfig(checkpoint=str(checkpoint), bootstrap=10)


@pytest.fixture(scope="module")
def videos_workspace(tmp_path_factory: pytest.TempPathFactory, clip: Path, detector_file: Path) -> Path:
    """A face, a picture without one, and a file that is no video; frames as the tiny checkpoint wants them."""
    folder = tmp_path_factory.mktemp("videos")
    face = Path(shutil.copy(clip, folder / "face.mp4"))
    still = write_video(folder / "still.mp4", num_frames=3, size=(64, 48))
    (folder / "broken.mp4").write_bytes(b"no video")
    said = [("face.mp4", "fake"), ("still.mp4", "real"), ("broken.mp4", "fake")]
    labels = write_labels(folder / "labels.csv", said)
    extract_frames([face, still, folder / "broken.mp4"], folder / "work", ExtractConfig(frames=4), labels=labels)
    detect_faces(folder / "work", DetectConfig(detector=str(detector_file)))
    return folder / "work"


def _rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["perturbation"]: row for row in report.to_json()["robustness"]}


def test_perturbed_faces_get_a_row_for_each_strength_and_the_clean_one_is_the_plain_figure(
    imported_faces: Path, config: EvaluateConfig
) -> None:
    config = replace(config, split="all", perturb="faces", perturbations=("h264", "brightness"))
    report = evaluate(imported_faces, config)
    found, rows = report.to_json(), _rows(report)
    assert list(rows) == [*H264, "brightness 0.5", "brightness 0.75", "brightness 1.25", "brightness 1.5"]
    for name in ("video.auc", "video.auc.low", "video.auc.high", "frame.auc", "frame.auc.low", "frame.auc.high"):
        assert rows["clean"][name] == found[name]
    assert {row["videos.unscored"] for row in rows.values()} == {1}
    assert len({row["video.auc"] for row in rows.values()}) > 2
    assert [table.title for table in report.tables()][-1] == "Robustness"


def test_only_the_faces_of_the_measured_split_are_scored_again(imported_faces: Path, config: EvaluateConfig) -> None:
    events: list[tuple[str, int]] = []
    config = replace(config, perturb="faces", perturbations=("blur",))
    evaluate(imported_faces, config, on_progress=lambda event: events.append((event.task, event.total)))
    assert set(events) == {("predict", 2), ("robustness", 2)}


def test_perturbed_faces_of_a_calibrated_checkpoint_and_of_a_protocol_are_scored_as_the_clean_ones(
    faces_workspace: Path, checkpoint: Path, config: EvaluateConfig, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "l.csv", [("astronaut.mp4", "real"), ("astronaut-forged.mp4", "fake")])
    steps = replace(CALIBRATION, method="isotonic", temperature=None, knots_x=(0.0, 1.0), knots_y=(0.4, 0.4))
    write_calibrated_copy(checkpoint, tmp_path / "c.safetensors", steps)
    config = replace(config, checkpoint=str(tmp_path / "c.safetensors"), perturb="faces", perturbations=("blur",))
    report = evaluate(faces_workspace, config, labels=labels)
    assert report.to_json()["video.auc"] == 0.5
    assert {row["video.auc"] for row in _rows(report).values()} == {0.5}
    report = evaluate(faces_workspace, replace(config, protocol="sbi"), labels=labels)
    assert _rows(report)["clean"]["video.auc"] == report.to_json()["video.auc"] != 0.5


def test_copies_of_a_video_keep_their_scores_when_faces_are_scored_again(
    config: EvaluateConfig, detector_file: Path, tmp_path: Path, face_pictures: dict[str, list[Any]]
) -> None:
    names = ["fake/a.png", "fake/b.png", "real/c.png"]
    for name, number in zip(names, (0, 0, 1), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_png(face_pictures["real"][number]))
    extract_frames([tmp_path], tmp_path / "work", ExtractConfig(frames=1))
    detect_faces(tmp_path / "work", DetectConfig(detector=str(detector_file)))
    report = evaluate(tmp_path / "work", replace(config, perturb="faces", perturbations=("blur",), protocol="sbi"))
    found, rows = report.to_json(), _rows(report)
    assert (found["videos.scored"], found["frames"], found["groups"]) == (3, 3, 2)
    assert {row["videos.unscored"] for row in rows.values()} == {0}
    assert rows["clean"]["video.auc"] == found["video.auc"]


@pytest.mark.slow
def test_whole_videos_are_perturbed_and_scored_as_predict_does(
    videos_workspace: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Perturbation("h264", 40), Perturbation("jpeg", 50), Perturbation("brightness", 0)
    monkeypatch.setattr("pipelines.evaluation.perturbations.PERTURBATIONS", few)
    tasks = []
    report = evaluate(
        videos_workspace,
        replace(config, perturb="videos", perturbations=("h264", "brightness")),
        on_progress=lambda event: tasks.append(event.task),
    )
    rows = _rows(report)
    assert report.to_json()["statuses"] == {"ok": 1, "no_face": 1, "unreadable": 1}
    assert list(rows) == ["clean", "h264 40", "brightness 0"] and {*rows, "predict"} <= set(tasks)
    unscored = [2, 2, 3]  # what leaves no face leaves no score
    assert [row["videos.unscored"] for row in rows.values()] == unscored
    shown = [[name, "-", "-", "-", str(number)] for name, number in zip(rows, unscored, strict=True)]
    assert [list(row) for row in report.tables()[-1].rows] == shown


def test_unchanged_videos_get_the_plain_scores_and_changed_ones_others(
    videos_workspace: Path, config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.evaluation.perturbations.PERTURBATIONS", (Perturbation("h264", 45),))
    options = RunOptions()
    loader = Loader(PredictConfig(checkpoint=config.checkpoint), options, None, None, "test", ignore_progress)
    with ExitStack() as stack:
        source = loader.open(videos_workspace, stack)
    scores = perturbed_scores([source], replace(config, perturb="videos"), options, on_progress=ignore_progress)
    clean, changed = (dict(zip(raw.keys, raw.probabilities, strict=True)) for _, (raw,) in scores)
    plain = dict(zip(source.raw.keys, source.raw.probabilities, strict=True))
    assert clean.keys() == changed.keys() == plain.keys()
    assert clean["face"] == pytest.approx(plain["face"], abs=SAME)
    assert abs(changed["face"] - plain["face"]) > 100 * SAME


def test_whole_videos_are_scored_with_the_workspace_s_number_of_frames(
    clip: Path, forged_clip: Path, detector_file: Path, config: EvaluateConfig, tmp_path: Path
) -> None:
    for label, path in (("real", clip), ("fake", forged_clip)):
        (tmp_path / label).mkdir()
        (tmp_path / label / path.name).write_bytes(path.read_bytes())
    extract_frames([tmp_path], tmp_path / "work", ExtractConfig(frames=2))
    detect_faces(tmp_path / "work", DetectConfig(detector=str(detector_file)))
    loader = Loader(PredictConfig(checkpoint=config.checkpoint), RunOptions(), None, None, "test", ignore_progress)
    with ExitStack() as stack:
        source = loader.open(tmp_path / "work", stack)
    scores = perturbed_scores([source], replace(config, perturb="videos"), RunOptions(), on_progress=ignore_progress)
    _, (clean,) = next(iter(scores))
    assert clean.faces is not None and source.raw.faces is not None
    assert len(clean.faces.probabilities) == len(source.raw.faces.probabilities) == 4
    assert clean.probabilities == pytest.approx(source.raw.probabilities, abs=SAME)


def test_videos_that_have_moved_are_told_before_any_work(
    videos_workspace: Path, config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(shutil.copytree(videos_workspace, tmp_path / "work"))
    path = work / "extract-frames" / "videos.parquet"
    rows = [replace(row, path=f"gone/{row.path}") for row in StageFolder(path.parent).read_videos()]
    write_table(rows_to_table(rows, VideoRow), path, read_provenance(path))
    monkeypatch.setattr("pipelines.stages.evaluate.Loader", None)  # nothing is loaded
    with pytest.raises(ConfigError, match=r"2 of the 2 videos of .*work are not where they were.*or --perturb faces"):
        evaluate(work, replace(config, perturb="videos"))


@pytest.mark.parametrize("settings", [{"min_face_px": 90}, {"precision": "bf16"}, {"max_side": 160}])
def test_unperturbed_videos_are_scored_with_every_setting_that_the_workspace_was_made_with(
    clip: Path, forged_clip: Path, detector_file: Path, config: EvaluateConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    for label, path, step in (("real", clip, 1), ("fake", forged_clip, 2)):
        with open_video(path) as video:
            image = next(iter(video.frames([0]))).image[::step, ::step]
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.png").write_bytes(encode_png(np.ascontiguousarray(image)))
    extract_frames([tmp_path], tmp_path / "work", ExtractConfig(decoder="pyav"))
    detect_faces(tmp_path / "work", DetectConfig(detector=str(detector_file), **settings))
    loader = Loader(PredictConfig(checkpoint=config.checkpoint), RunOptions(), None, None, "test", ignore_progress)
    with ExitStack() as stack:
        source = loader.open(tmp_path / "work", stack)
    assert np.isnan(source.raw.probabilities).tolist() == [settings == {"min_face_px": 90}, False]
    scores = perturbed_scores([source], replace(config, perturb="videos"), RunOptions(), on_progress=ignore_progress)
    _, (clean,) = next(iter(scores))
    assert clean.keys == source.raw.keys
    assert clean.probabilities == pytest.approx(source.raw.probabilities, abs=1e-6, nan_ok=True)


def test_a_workspace_whose_detector_is_gone_is_refused_before_any_work(
    videos_workspace: Path, config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(shutil.copytree(videos_workspace, tmp_path / "work"))
    path = work / "detect-faces" / "manifest.parquet"
    provenance = read_provenance(path)
    other = replace(provenance, settings={**provenance.settings, "detector": "d.pt", "detector_sha256": "c" * 64})
    write_table(read_table(path, FaceRow), path, other)
    monkeypatch.setattr("pipelines.stages.evaluate.Loader", None)  # nothing is loaded
    with pytest.raises(
        ConfigError, match=r"the face detector of .*work, d.pt \(cccccccccccc\), is not here; run this in"
    ):
        evaluate(work, replace(config, perturb="videos"))
