"""However scores come about, on the spot, by `predict` or from its details, they are measured to the same figures."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines import EvaluateConfig, ImportConfig, PredictConfig, RunOptions, evaluate, import_faces, predict_faces
from pipelines.errors import ConfigError, DatasetError
from pipelines.scoring.calibration import Calibration, write_calibrated_copy
from pipelines.scoring.score_files import read_scores
from pipelines.system.file_digest import file_digest
from pipelines.system.progress import Progress
from tests.evaluation.tables import (
    QUICK,
    face_row,
    figures,
    plant,
    score_row,
    write_labels,
    write_plain_details,
    write_planted,
    write_score_file,
)
from tests.support import encode_png, make_noise, write_faces_parquet

Image = npt.NDArray[np.uint8]
CALIBRATION = Calibration(
    method="temperature",
    aggregate="mean",
    real_below=0.3,
    fake_from=0.7,
    target_fpr=0.05,
    target_fnr=0.1,
    videos_real=30,
    videos_fake=20,
    ece_before=0.2,
    ece_after=0.1,
    source="val",
    temperature=4.0,
)


@pytest.fixture
def config(checkpoint: Path) -> EvaluateConfig:
    return EvaluateConfig(checkpoint=str(checkpoint), bootstrap=10)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Of the two clips of `faces_workspace`, which has none."""
    return write_labels(tmp_path / "labels.csv", [("astronaut.mp4", "real"), ("astronaut-forged.mp4", "fake")])


@pytest.fixture(scope="module")
def calibrated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.safetensors"
    write_calibrated_copy(checkpoint, path, CALIBRATION)
    return path


def _figures_alone(found: dict[str, Any], *levels: str) -> str:
    return json.dumps({name: value for name, value in found.items() if name.split(".")[0] in levels})


@pytest.mark.parametrize(
    ("which", "aggregate"),
    [("checkpoint", None), ("checkpoint", "mean"), ("calibrated", None), ("calibrated", "max-track")],
)
def test_a_workspace_its_scores_and_its_details_give_the_same_figures(
    request: pytest.FixtureRequest, faces_workspace: Path, labels: Path, tmp_path: Path, which: str, aggregate: Any
) -> None:
    checkpoint = request.getfixturevalue(which)
    predict = PredictConfig(checkpoint=str(checkpoint), aggregate=aggregate)
    predict_faces(faces_workspace, predict, output=tmp_path / "s.csv", details=tmp_path / "details")
    config = EvaluateConfig(checkpoint=str(checkpoint), aggregate=aggregate, bootstrap=10)
    direct = figures(faces_workspace, labels, config)
    scores = figures(tmp_path / "s.csv", labels, EvaluateConfig(bootstrap=10))
    details = figures(tmp_path / "details", labels, EvaluateConfig(aggregate=aggregate, bootstrap=10))
    assert _figures_alone(direct, "video", "video_all") == _figures_alone(scores, "video", "video_all")
    assert _figures_alone(direct, "video", "frame") == _figures_alone(details, "video", "frame")
    rows = read_scores(tmp_path / "s.csv")
    assert direct["video.brier"] == pytest.approx(
        np.mean([((row.fake_probability or 0) - ("forged" in row.video)) ** 2 for row in rows])
    )
    assert direct["threshold"] == scores["threshold"] == details["threshold"] == rows[0].threshold
    assert (
        direct["checkpoint_sha256"]
        == scores["checkpoint_sha256"]
        == details["checkpoint_sha256"]
        == file_digest(checkpoint)
    )
    assert (direct["frames"], direct["aggregate"]) == (8, details["aggregate"])
    assert direct["aggregate"] == aggregate or (aggregate is None and direct["aggregate"] in ("mean", "max-track"))


def test_a_calibrated_threshold_is_not_applied_to_what_is_not_calibrated(
    calibrated: Path, faces_workspace: Path, labels: Path, tmp_path: Path
) -> None:
    predict_faces(faces_workspace, PredictConfig(checkpoint=str(calibrated)), details=tmp_path / "details")
    found = figures(tmp_path / "details", labels)
    assert found["threshold"] == 0.7 and found["video.accuracy_at_threshold"] in (0, 0.5, 1)
    assert np.isnan(found["frame.accuracy_at_threshold"])
    assert "the checkpoint's calibration applies to videos only: frames are measured without it" in found["notes"]
    other = figures(tmp_path / "details", labels, replace(QUICK, aggregate="max-track"))
    protocol = figures(tmp_path / "details", labels, replace(QUICK, protocol="paper"))
    assert (other["threshold"], protocol["threshold"]) == (None, None)
    own = figures(tmp_path / "details", labels, replace(QUICK, threshold=0.4))
    assert own["threshold"] == 0.4 and own["frame.accuracy_at_threshold"] >= 0


def test_a_workspace_with_labels_of_its_own_is_measured_on_its_test_split_alone(
    imported_faces: Path, config: EvaluateConfig, tmp_path: Path
) -> None:
    events: list[Progress] = []
    report = evaluate(imported_faces, config, on_progress=events.append)
    found = report.to_json()
    assert (found["split"], found["videos.real"], found["videos.fake"], found["coverage"]) == ("test", 1, 1, 1)
    assert (events[-1].done, events[-1].total) == (2, 2)
    predict_faces(imported_faces, PredictConfig(checkpoint=config.checkpoint), output=tmp_path / "s.json")
    manifest = imported_faces / "detect-faces" / "videos.parquet"
    scores = figures(tmp_path / "s.json", manifest, EvaluateConfig(bootstrap=10))
    assert _figures_alone(found, "video") == _figures_alone(scores, "video")
    everything = figures(imported_faces, config=replace(config, split="all"))
    assert everything["statuses"] == {"ok": 8, "unreadable": 1}
    assert (everything["videos.real"], everything["videos.fake"], everything["coverage"]) == (5, 4, 8 / 9)


def test_crops_in_a_parquet_file_are_imported_for_the_while(
    config: EvaluateConfig, tmp_path: Path, face_pictures: dict[str, list[Image]]
) -> None:
    records: list[dict[str, Any]] = [
        {
            "image": encode_png(pictures[n]),
            "video": f"{label}{n}",
            "label": label,
            "method": "swap" if label == "fake" else None,
        }
        for label, pictures in face_pictures.items()
        for n in range(2)
    ]
    crops = write_faces_parquet(tmp_path / "crops.parquet", records)
    found = figures(crops, config=config)
    import_faces(crops, tmp_path / "work", ImportConfig())
    staged = figures(tmp_path / "work", config=config)
    assert _figures_alone(found, "video", "frame") == _figures_alone(staged, "video", "frame")
    assert (found["sources"], found["videos.scored"], found["frames"]) == (["crops"], 4, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops.parquet", "work"]


def test_several_workspaces_and_scores_make_one_table(
    imported_faces: Path, faces_workspace: Path, config: EvaluateConfig, tmp_path: Path
) -> None:
    said = [("astronaut.mp4", "real"), ("astronaut-forged.mp4", "fake")]
    names = [(f"{label}/{n}", label) for label in ("real", "fake") for n in range(4)]
    labels = write_labels(tmp_path / "l.csv", [*said, *names])
    scores = tmp_path / "clips.csv"
    predict_faces(faces_workspace, PredictConfig(checkpoint=config.checkpoint), output=scores)
    found = figures([imported_faces, scores], labels, config)
    parts = {part["dataset"]: part["videos.scored"] for part in found["parts"]}
    assert parts == {"work": 8, "clips": 2}
    assert found["checkpoint_sha256"] == file_digest(Path(config.checkpoint))


def test_a_workspace_without_labels_or_without_any_face_is_refused(
    faces_workspace: Path, config: EvaluateConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="have no labels; pass --labels with a CSV"):
        evaluate(faces_workspace, config)
    records = [{"image": f"broken {label}".encode(), "video": label, "label": label} for label in ("real", "fake")]
    import_faces(write_faces_parquet(tmp_path / "f.parquet", records), tmp_path / "work", ImportConfig(as_is=True))
    with pytest.raises(DatasetError, match="has no face that could be scored; look at: deepfake inspect"):
        evaluate(tmp_path / "work", config)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "scores",
            {"protocol": "paper"},
            "--protocol needs the faces of every frame, and .* holds scores of videos only",
        ),
        ("scores", {"aggregate": "mean"}, "--aggregate needs the faces of every frame"),
        ("scores", {"perturb": "faces"}, "--perturb scores again, which .* does not allow; pass a workspace"),
        ("details", {"perturb": "videos"}, "--perturb scores again, which .* does not allow; pass a workspace"),
        ("scores", {"checkpoint": "other"}, "--checkpoint has no effect on .*: it is scored already"),
        ("details", {"checkpoint": "other"}, "--checkpoint has no effect on .*: it is scored already"),
        (
            "workspace",
            {"perturb": "faces", "perturbations": ("rain",)},
            "unknown perturbation 'rain'; known: jpeg, h264, ",
        ),
        ("workspace", {"perturb": "videos"}, "holds faces without their videos; pass --perturb faces"),
        ("crops", {"perturb": "videos"}, "holds faces without their videos; pass --perturb faces"),
        ("nothing", {}, "nothing to measure: pass scores, details, a workspace or a Parquet of crops"),
    ],
)
def test_what_the_source_can_not_obey_is_refused_before_any_work(
    tmp_path: Path, imported_faces: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    source = {
        "scores": lambda: write_score_file(tmp_path / "s.csv", [score_row("a.mp4", 0.5)]),
        "details": lambda: write_plain_details(tmp_path / "d.parquet", [face_row("a.mp4", 0, 0.5)]),
        "workspace": lambda: imported_faces,
        "crops": lambda: write_faces_parquet(tmp_path / "c.parquet", [{"image": make_noise(0), "label": "real"}]),
        "nothing": list,
    }[kind]()
    events: list[Progress] = []
    with pytest.raises(ConfigError, match=message):
        evaluate(source, replace(QUICK, **changes), on_progress=events.append)  # type: ignore[arg-type]
    assert not events


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"bootstrap": -1}, "bootstrap must be >= 0, got -1"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"protocol": "paper", "aggregate": "mean"}, "aggregate cannot be combined with a protocol, got mean"),
        ({"protocol": "mine"}, "protocol must be one of paper, deepfakebench, sbi, got mine"),
        ({"perturb": "sound"}, "perturb must be one of faces, videos, got sound"),
    ],
)
def test_settings_check_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**changes)


def test_the_library_takes_one_source_or_several_as_text_or_path(tmp_path: Path) -> None:
    scores, labels = write_planted(tmp_path, plant(30))
    expected = json.dumps(figures(scores, labels))
    for source in (str(scores), [scores], [str(scores)]):
        assert json.dumps(evaluate(source, QUICK, RunOptions(), labels=labels).to_json()) == expected


def test_nothing_is_warned_of_where_everything_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pipelines"):
        figures(*write_planted(tmp_path, plant(30)))
    assert caplog.records == []


@pytest.mark.parametrize(("groups", "is_noted"), [(19, True), (20, False)])
def test_intervals_from_few_groups_are_noted(tmp_path: Path, groups: int, is_noted: bool) -> None:
    names = [(f"{number}.mp4", "fake" if number % 2 else "real") for number in range(groups)]
    scores = write_score_file(tmp_path / "s.csv", [score_row(name, 0.5) for name, _ in names])
    labels = write_labels(tmp_path / "l.csv", names)
    notes = evaluate(scores, EvaluateConfig(bootstrap=5), labels=labels).notes
    assert any(note.startswith(f"intervals from {groups} groups are too narrow") for note in notes) == is_noted
    notes = evaluate(scores, EvaluateConfig(bootstrap=0), labels=labels).notes
    assert not any("groups" in note for note in notes)


def test_what_was_measured_is_written_before_the_perturbations_begin(
    imported_faces: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.evaluation.robustness.score_perturbed", fail)
    config = EvaluateConfig(checkpoint=str(checkpoint), bootstrap=0, perturb="faces", perturbations=("blur",))
    with pytest.raises(KeyboardInterrupt):
        evaluate(imported_faces, config, outputs=[tmp_path / "new" / "r.json"])
    found = json.loads((tmp_path / "new" / "r.json").read_text("utf-8"))
    assert found["videos.scored"] == 2 and found["robustness"] == []


def test_details_say_what_they_do_not_know_unless_labels_do(tmp_path: Path) -> None:
    faces = [face_row("real/a.mp4", 0, 0.1), face_row("fake/b.mp4", 0, 0.9)]
    details = write_plain_details(tmp_path / "d.parquet", faces)
    labels = write_labels(tmp_path / "l.csv", [("real/a.mp4", "real"), ("fake/b.mp4", "fake")])
    without, with_labels = (
        evaluate(details, EvaluateConfig(bootstrap=0), labels=path).notes for path in (None, labels)
    )
    assert any("pass --labels to count them" in note for note in without)
    assert not any("--labels" in note for note in with_labels)


def test_sources_of_one_name_are_told_apart_in_the_report(tmp_path: Path) -> None:
    sources = []
    for name in ("celebdf", "dfdc"):
        (tmp_path / name).mkdir()
        rows = [score_row(f"{name}{n}.mp4", n) for n in (0, 1)]
        sources.append(write_score_file(tmp_path / name / "scores.csv", rows))
    said = [(f"{name}{n}.mp4", ("real", "fake")[n]) for name in ("celebdf", "dfdc") for n in (0, 1)]
    report = evaluate(sources, EvaluateConfig(bootstrap=0), labels=write_labels(tmp_path / "l.csv", said))
    assert report.sources == ["celebdf/scores", "dfdc/scores"]
    assert [section.dataset for section in report.sections] == [None, "celebdf/scores", "dfdc/scores"]
    alone = evaluate(sources[0], EvaluateConfig(bootstrap=0), labels=tmp_path / "l.csv")
    assert alone.sources == ["scores.csv"]


def test_every_path_may_be_text(tmp_path: Path) -> None:
    scores, labels = write_planted(tmp_path, plant(30))
    report = str(tmp_path / "r.json")
    evaluate(str(scores), QUICK, labels=str(labels), outputs=report, plots=str(tmp_path / "plots"))
    assert json.loads(Path(report).read_text("utf-8"))["videos.scored"] == 30
    assert (tmp_path / "plots" / "roc.png").is_file()
