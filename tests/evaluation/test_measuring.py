"""The figures of a report are those of scikit-learn on the same videos, as a whole and part by part."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from pipelines import EvaluateConfig, evaluate
from pipelines.evaluation.bootstrap import WITH_INTERVAL
from pipelines.scoring.metrics import METRICS
from tests.evaluation.tables import (
    QUICK,
    Planted,
    face_row,
    figures,
    plant,
    score_row,
    write_labels,
    write_plain_details,
    write_planted,
    write_score_file,
)

THRESHOLD = 0.62


def _golden(y: npt.NDArray[Any], p: npt.NDArray[Any], threshold: float) -> dict[str, float]:
    false_alarms, hits, _ = metrics.roc_curve(y, p, drop_intermediate=False)
    grid = np.linspace(0, 1, 2_000_001)
    misses = 1 - np.interp(grid, false_alarms, hits)
    edges = np.clip(np.ceil(p * 15) - 1, 0, 14)
    gaps = [
        abs(p[edges == b].mean() - y[edges == b].mean()) * (edges == b).mean() for b in range(15) if (edges == b).any()
    ]
    return {
        "auc": metrics.roc_auc_score(y, p),
        "ap": metrics.average_precision_score(y, p),
        "eer": float(grid[np.argmin(np.abs(grid - misses))]),
        "accuracy": metrics.accuracy_score(y, p >= 0.5),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, p >= 0.5),
        "accuracy_at_threshold": metrics.accuracy_score(y, p >= threshold),
        "balanced_accuracy_at_threshold": metrics.balanced_accuracy_score(y, p >= threshold),
        "log_loss": metrics.log_loss(y, p),
        "brier": metrics.brier_score_loss(y, p),
        "ece": sum(gaps),
        "tpr_at_fpr_0.01": float(hits[false_alarms <= 0.01].max()),
        "tpr_at_fpr_0.001": float(hits[false_alarms <= 0.001].max()),
    }


def _arrays(planted: Planted) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return np.array([label == "fake" for _, label, _ in planted]), np.array([p for _, _, p in planted])


def _assert_golden(found: dict[str, Any], level: str, golden: dict[str, float]) -> None:
    assert set(golden) == set(METRICS)
    for name, value in golden.items():
        assert found[f"{level}.{name}"] == pytest.approx(value, abs=2e-6), f"{level}.{name}"


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_from_a_file_of_scores_are_those_of_scikit_learn(tmp_path: Path, seed: int) -> None:
    planted = plant(400, seed, sharpness=1.5)
    planted = [(video, label, float(np.clip(round(p, 2), 0.01, 0.99))) for video, label, p in planted]  # with ties
    scores, labels = write_planted(tmp_path, planted, threshold=THRESHOLD)
    evaluate(scores, QUICK, labels=labels, outputs=[tmp_path / "report.json"])
    found = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert found["threshold"] == THRESHOLD
    _assert_golden(found, "video", _golden(*_arrays(planted), THRESHOLD))
    assert [found[f"video_all.{name}"] for name in METRICS] == [found[f"video.{name}"] for name in METRICS]


def test_the_figures_from_details_are_those_of_scikit_learn_at_both_levels(tmp_path: Path) -> None:
    planted, rng = plant(120, 5), np.random.default_rng(5)
    frames = [
        (video, label, float(np.clip(p + rng.normal(0, 0.1), 0.001, 0.999)))
        for video, label, p in planted
        for _ in range(5)
    ]
    faces = [face_row(video, n % 5, p) for n, (video, _, p) in enumerate(frames)]
    labels = write_labels(tmp_path / "l.csv", [(video, label) for video, label, _ in planted])
    details = write_plain_details(tmp_path / "d.parquet", faces)
    found = figures(details, labels, replace(QUICK, threshold=THRESHOLD))
    _assert_golden(found, "frame", _golden(*_arrays(frames), THRESHOLD))
    means = [float(np.mean([p for _, _, p in frames[5 * n : 5 * n + 5]])) for n in range(len(planted))]
    of_videos = [(video, label, p) for (video, label, _), p in zip(planted, means, strict=True)]
    _assert_golden(found, "video", _golden(*_arrays(of_videos), THRESHOLD))


def test_videos_without_a_score_count_as_half_in_the_second_convention_alone(tmp_path: Path) -> None:
    planted = plant(200, 7)
    rows = [score_row(video, p if n % 4 else None) for n, (video, _, p) in enumerate(planted)]
    labels = write_labels(tmp_path / "l.csv", [(video, label) for video, label, _ in planted])
    found = figures(write_score_file(tmp_path / "s.csv", rows), labels)
    scored = [row for n, row in enumerate(planted) if n % 4]
    filled = [(video, label, p if n % 4 else 0.5) for n, (video, label, p) in enumerate(planted)]
    _assert_golden(found, "video", _golden(*_arrays(scored), 0.5))
    _assert_golden(found, "video_all", _golden(*_arrays(filled), 0.5))
    assert (found["coverage"], found["videos.scored"]) == (0.75, 150)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.5), (0.9, 0.9), (0.0, 0.0)])
def test_the_stored_threshold_counts_unless_another_is_given(
    tmp_path: Path, given: float | None, expected: float
) -> None:
    found = figures(*write_planted(tmp_path, plant(60)), replace(QUICK, threshold=given))
    y, p = _arrays(plant(60))
    assert found["threshold"] == expected
    assert found["video.accuracy_at_threshold"] == pytest.approx(metrics.accuracy_score(y, p >= expected))


def test_intervals_hold_the_figure_and_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    sources = write_planted(tmp_path, plant(100))
    one, same, other = (figures(*sources, EvaluateConfig(bootstrap=50, seed=seed)) for seed in (3, 3, 4))
    assert one == same and one["video.auc.low"] != other["video.auc.low"]
    for name in WITH_INTERVAL:
        assert one[f"video.{name}.low"] <= one[f"video.{name}"] <= one[f"video.{name}.high"], name
    wide = figures(*sources, EvaluateConfig(bootstrap=50, seed=3, confidence=0.99))
    assert wide["video.auc.low"] < one["video.auc.low"] and wide["video.auc"] == one["video.auc"]
    assert math.isnan(figures(*sources)["video.auc.low"])


@pytest.mark.parametrize("label", ["real", "fake"])
def test_one_class_alone_leaves_what_needs_both_undefined(tmp_path: Path, label: str) -> None:
    rows = [(f"{n}.mp4", label, p) for n, p in enumerate((0.2, 0.9, 0.8))]
    scores, labels = write_planted(tmp_path, rows)
    report = evaluate(scores, QUICK, labels=labels, outputs=[tmp_path / "r.json"])
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    undefined = {name for name in METRICS if found[f"video.{name}"] is None}
    assert undefined == {"auc", "ap", "eer", "balanced_accuracy", "balanced_accuracy_at_threshold",
                         "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}  # fmt: skip
    assert found["video.accuracy"] == pytest.approx(1 / 3 if label == "real" else 2 / 3)
    lines = [line.split() for line in report.to_text().splitlines()]
    assert ["AUC", "-"] in lines and ["accuracy", "at", "0.5", f"{found['video.accuracy']:.3f}"] in lines


def test_nothing_scored_at_all_is_reported_and_not_a_crash(tmp_path: Path) -> None:
    found = figures(*write_planted(tmp_path, [("a.mp4", "real", None), ("b.mp4", "fake", None)]))  # type: ignore[list-item]
    assert (found["coverage"], found["video_all.auc"], found["statuses"]) == (0, 0.5, {"no_face": 2})
    assert math.isnan(found["video.auc"]) and math.isnan(found["video.brier"])


PARTS = [
    ("celebdf", "", "", 3), ("celebdf", "", "swap", 4),
    ("ffpp", "c23", "", 5), ("ffpp", "c23", "DF", 6), ("ffpp", "c23", "NT", 7),
    ("ffpp", "c40", "", 8), ("ffpp", "c40", "DF", 9),
]  # fmt: skip


def _of_parts(folder: Path, parts: list[tuple[str, str, str, int]]) -> tuple[Path, Path, list[dict[str, Any]]]:
    rng, rows = np.random.default_rng(0), []
    for dataset, compression, method, number in parts:
        for n in range(number):
            name = f"{dataset}/{compression}/{method}/{n}.mp4"
            about = {"dataset": dataset, "compression": compression, "method": method}
            rows.append({"video": name, "label": "fake" if method else "real", "p": float(rng.random())} | about)
    scores = write_score_file(folder / "s.csv", [score_row(row["video"], row["p"]) for row in rows])
    labels = write_labels(folder / "l.csv", [{k: v for k, v in row.items() if k != "p"} for row in rows])
    return scores, labels, rows


def test_a_part_has_its_own_fakes_and_the_real_videos_of_its_data_set_and_compression(tmp_path: Path) -> None:
    scores, labels, rows = _of_parts(tmp_path, PARTS)
    parts = figures(scores, labels)["parts"]
    told = [
        (part["dataset"], part["compression"], part["method"], part["videos.real"], part["videos.fake"])
        for part in parts
    ]
    assert told == [
        ("celebdf", None, None, 3, 4),
        ("ffpp", None, None, 13, 22),
        ("ffpp", "c23", None, 5, 13),
        ("ffpp", "c23", "DF", 5, 6),
        ("ffpp", "c23", "NT", 5, 7),
        ("ffpp", "c40", None, 8, 9),
    ]
    for part in parts:
        chosen = [
            row
            for row in rows
            if all(part[name] in (None, row[name]) for name in ("dataset", "compression"))
            and (row["method"] == "" or part["method"] in (None, row["method"]))
        ]
        expected = metrics.roc_auc_score([row["label"] == "fake" for row in chosen], [row["p"] for row in chosen])
        assert part["video.auc"] == pytest.approx(expected), part


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("", "", "", 2), ("", "", "A", 2), ("", "", "B", 3)], [(None, None, "A", 2), (None, None, "B", 3)]),
        ([("", "", "", 2), ("", "", "A", 2)], []),
        ([("d", "", "", 2), ("d", "", "A", 2)], []),
        (
            [("d", "c23", "", 2), ("d", "c23", "A", 2), ("d", "c23", "B", 1)],
            [("d", "c23", "A", 2), ("d", "c23", "B", 1)],
        ),
        (
            [("", "c23", "", 2), ("", "c23", "A", 2), ("", "c40", "", 1), ("", "c40", "A", 1)],
            [(None, "c23", None, 2), (None, "c40", None, 1)],
        ),
    ],
    ids=["methods", "one method", "one data set", "one compression", "compressions without a data set"],
)
def test_what_is_known_of_the_videos_decides_the_parts_and_equal_ones_are_told_once(
    tmp_path: Path, parts: list[tuple[str, str, str, int]], expected: list[tuple[Any, ...]]
) -> None:
    scores, labels, _ = _of_parts(tmp_path, parts)
    found = figures(scores, labels)["parts"]
    assert [(part["dataset"], part["compression"], part["method"], part["videos.fake"]) for part in found] == expected
    assert {part["videos.real"] for part in found} <= {number for _, _, method, number in parts if not method}


def test_parts_have_their_own_frames_and_coverage(tmp_path: Path) -> None:
    said = [{"video": f"{s}{n}.mp4", "label": "fake" if n else "real", "dataset": s} for s in "xy" for n in range(3)]
    faces = [face_row(row["video"], n, 0.5) for row in said for n in range(2 if row["dataset"] == "x" else 3)]
    faces = [face for face in faces if face.video != "y2.mp4"]
    found = figures(write_plain_details(tmp_path / "d.parquet", faces), write_labels(tmp_path / "l.csv", said))
    parts = {part["dataset"]: (part["frames"], part["coverage"]) for part in found["parts"]}
    assert parts == {"x": (6, 1), "y": (6, 2 / 3)}
    assert (found["frames"], found["coverage"]) == (12, 5 / 6)
