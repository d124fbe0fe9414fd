"""The pictures of a report are those that it has figures for; what they show is tested with `pictures`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import EvaluateConfig, evaluate
from pipelines.evaluation import plots
from pipelines.evaluation.plots import RobustnessCurve, Series
from pipelines.scoring.metrics import roc_auc
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
from tests.support import temporary_files

PICTURES = ["calibration.png", "roc.png", "scores.png"]


def _drawn(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> list[Series]:
    """The series that the ROC of an evaluation shows."""
    drawn: list[Series] = []
    for name in ("draw_roc", "draw_histograms", "draw_calibration", "draw_robustness"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    monkeypatch.setattr(plots, "draw_roc", lambda _path, series: drawn.extend(series))
    evaluate(*args, **options)
    return drawn


def test_three_pictures_are_drawn(tmp_path: Path) -> None:
    scores, labels = write_planted(tmp_path, plant(60))
    folder = tmp_path / "new" / "pictures"
    evaluate(scores, QUICK, labels=labels, plots=folder)
    assert sorted(path.name for path in folder.iterdir()) == PICTURES
    for path in folder.iterdir():
        image = cv2.imread(str(path))
        assert image is not None and min(image.shape[:2]) > 200
    assert temporary_files(tmp_path) == []


def test_pictures_are_drawn_of_one_class_and_of_next_to_nothing(tmp_path: Path) -> None:
    planted: Any = [("a.mp4", "real", 0.2), ("b.mp4", "real", None)]
    scores, labels = write_planted(tmp_path, planted)
    evaluate(scores, QUICK, labels=labels, plots=tmp_path / "p")
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == PICTURES


def test_perturbations_add_a_picture_with_a_curve_of_each_kind(
    imported_faces: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves: list[RobustnessCurve] = []
    draw = plots.draw_robustness
    monkeypatch.setattr(plots, "draw_robustness", lambda path, drawn: (curves.extend(drawn), draw(path, drawn)))
    config = EvaluateConfig(
        checkpoint=str(checkpoint), bootstrap=10, split="all", perturb="faces", perturbations=("blur", "brightness")
    )
    report = evaluate(imported_faces, config, plots=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PICTURES, "robustness.png"])
    assert [curve.kind for curve in curves] == ["blur", "brightness"]
    aucs = [row.levels["video"].value for row in report.robustness]
    assert {curve.clean for curve in curves} == {aucs[0]}
    assert [value for curve in curves for value in curve.aucs] == aucs[1:]
    assert list(curves[0].strengths) == [0.5, 1, 2, 3]
    assert all((curve.lows <= curve.aucs).all() and (curve.aucs <= curve.highs).all() for curve in curves)


@pytest.mark.parametrize(
    ("datasets", "methods", "expected"),
    [
        (["", ""], ["", ""], ["all videos"]),
        (["a", "a"], ["", ""], ["all videos"]),
        (["a", "b"], ["x", "y"], ["all videos", "a", "b"]),
        (["a", "a"], ["x", "y"], ["all videos", "x", "y"]),
        (list("abcdef"), [""] * 6, ["all videos"]),
        (list("abcde"), [""] * 5, ["all videos", *"abcde"]),
    ],
    ids=["nothing known", "one data set", "data sets", "methods", "too many to be told apart", "as many as can be"],
)
def test_data_sets_or_methods_get_their_curves_beside_that_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: list[str], methods: list[str], expected: list[str]
) -> None:
    said = [
        {"video": f"{name}{n}.mp4", "label": label, "dataset": dataset, "method": method if label == "fake" else ""}
        for n, (dataset, method) in enumerate(zip(datasets, methods, strict=True))
        for name, label in (("r1", "real"), ("r2", "real"), ("f1", "fake"), ("f2", "fake"))
    ]
    rng = np.random.default_rng(0)
    scores = write_score_file(tmp_path / "s.csv", [score_row(row["video"], float(rng.random())) for row in said])
    labels = write_labels(tmp_path / "l.csv", said)
    drawn = _drawn(monkeypatch, scores, QUICK, labels=labels, plots=tmp_path)
    assert [series.name for series in drawn] == expected
    found = figures(scores, labels)
    parts = {part["method"] or part["dataset"]: part["video.auc"] for part in found["parts"]}
    for series in drawn:
        expected_auc = parts[series.name] if series.name in parts else found["video.auc"]
        assert roc_auc(series.labels, series.probabilities) == expected_auc


@pytest.mark.parametrize(("protocol", "name"), [("paper", "all frames"), ("sbi", "all videos"), (None, "all videos")])
def test_the_pictures_show_the_level_that_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Any, name: str
) -> None:
    faces = [face_row(video, k, abs(p - k / 20)) for video, _, p in plant(30) for k in range(1 + int(video[:4]) % 3)]
    labels = write_labels(tmp_path / "l.csv", [(video, label) for video, label, _ in plant(30)])
    details = write_plain_details(tmp_path / "d.parquet", faces)
    config = replace(QUICK, protocol=protocol)
    (series,) = _drawn(monkeypatch, details, config, labels=labels, plots=tmp_path)
    assert (series.name, len(series.labels)) == (name, len(faces) if protocol == "paper" else 30)
    level = "frame" if protocol == "paper" else "video"
    assert roc_auc(series.labels, series.probabilities) == figures(details, labels, config)[f"{level}.auc"]
