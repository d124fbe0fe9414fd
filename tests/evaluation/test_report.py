"""JSON, Markdown and the terminal say the same, whatever names the videos and data sets have."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import EvaluateConfig, evaluate
from pipelines.errors import ConfigError, StorageError
from pipelines.evaluation.bootstrap import Estimate
from pipelines.evaluation.perturbations import Perturbation
from pipelines.evaluation.report import Report, RobustnessRow, write_report
from tests.evaluation.tables import (
    face_row,
    plant,
    report_of,
    score_row,
    write_labels,
    write_plain_details,
    write_planted,
    write_score_file,
)
from tests.support import temporary_files

NAMES = {
    "AUC": "auc",
    "average precision": "ap",
    "equal error rate": "eer",
    "accuracy at 0.5": "accuracy",
    "balanced accuracy at 0.5": "balanced_accuracy",
    "accuracy at the threshold 0.7": "accuracy_at_threshold",
    "balanced accuracy at the threshold 0.7": "balanced_accuracy_at_threshold",
    "log loss": "log_loss",
    "Brier score": "brier",
    "expected calibration error": "ece",
    "true positive rate at 1 % false positives": "tpr_at_fpr_0.01",
    "true positive rate at 0.1 % false positives": "tpr_at_fpr_0.001",
}
LEVELS = {"video": "video", "video, 0.5 for those without a score": "video_all", "frame": "frame"}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Two data sets with frames; five videos have no score."""
    planted = plant(60)
    faces = [face_row(v, k, abs(p - k / 100)) for v, _, p in planted[5:] for k in range(3)]
    said = [{"video": v, "label": y, "dataset": f"set{int(v[:4]) % 2}"} for v, y, _ in planted]
    labels = write_labels(tmp_path / "l.csv", said)
    config = EvaluateConfig(bootstrap=20, threshold=0.7, protocol="paper")
    return report_of(write_plain_details(tmp_path / "d.parquet", faces), labels, config)


def _cells(line: str) -> list[str]:
    """As a reader of Markdown splits a row: a backslash keeps what follows."""
    assert line.startswith("| ") and line.endswith(" |")
    found = re.findall(r"\|((?:\\.|[^|\\])*)(?=\|)", line)
    return [re.sub(r"\\(.)", r"\1", cell).strip() for cell in found]


def _parse(markdown: str) -> dict[str, list[list[str]]]:
    """Rows of each table, by heading; the header first."""
    tables: dict[str, list[list[str]]] = {}
    for line in markdown.splitlines():
        if line.startswith("## "):
            rows = tables.setdefault(line[3:], [])
        elif line.startswith("|"):
            rows.append(_cells(line))
    for name, (header, rule, *others) in tables.items():
        assert rule == ["---"] * len(header)
        tables[name] = [header, *others]
    return tables


def _shown(found: dict[str, Any], name: str) -> str:
    value, low, high = (found[key] for key in (name, f"{name}.low", f"{name}.high"))
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def test_markdown_holds_the_figures_of_json(report: Report) -> None:
    found, tables = report.to_json(), _parse(report.to_markdown())
    header, *rows = tables["All videos"]
    assert [LEVELS[title] for title in header[1:]] == ["video", "video_all", "frame"]
    assert [NAMES[row[0]] for row in rows] == list(NAMES.values())
    for title, *cells in rows:
        for level, cell in zip(header[1:], cells, strict=True):
            assert cell == _shown(found, f"{LEVELS[level]}.{NAMES[title]}")


def test_markdown_holds_the_parts_of_json(report: Report) -> None:
    found, tables = report.to_json(), _parse(report.to_markdown())
    _, *rows = tables["By dataset, compression and method"]
    expected = [found, *found["parts"]]
    assert [row[0] for row in rows] == ["all", "set0", "set1"]
    for row, part in zip(rows, expected, strict=True):
        assert row[1:4] == [str(part["videos.real"]), str(part["videos.fake"]), f"{part['coverage']:.1%}"]
        names = ("video.auc", "frame.auc", "video.eer", "video.balanced_accuracy")
        assert row[4:] == [_shown(part, name) for name in names]


def test_the_facts_are_told_in_words(report: Report) -> None:
    facts = dict(_parse(report.to_markdown())["What was measured"][1:])
    found = report.to_json()
    assert facts["sources"] == "d.parquet" and facts["split"] == "all videos"
    assert facts["videos"] == f"60 ({found['videos.real']} real, {found['videos.fake']} fake) in 60 groups"
    assert facts["with a score"] == "55 (91.7%); 5 not_scored" and facts["frames"] == "165"
    assert facts["quoted figure"] == f"frame-level AUC {_shown(found, 'frame.auc')}"
    assert facts["intervals"] == "95 %, cluster bootstrap, 20 rounds over the groups, seed 0"
    assert facts["video score"] == "mean of the frames"


def test_the_terminal_shows_the_tables_of_markdown(report: Report) -> None:
    text, tables = report.to_text(), _parse(report.to_markdown())
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith("  ")]
    rows = [row for rows in tables.values() for row in rows if any(row)]
    assert lines == rows
    assert all(title in text.splitlines() for title in tables)
    assert [line[2:] for line in report.to_markdown().splitlines() if line.startswith("* ")] == list(report.notes)
    assert [line[6:] for line in text.splitlines() if line.startswith("note: ")] == list(report.notes)


def test_full_coverage_needs_no_second_convention_and_half_no_second_threshold(tmp_path: Path) -> None:
    tables = _parse(report_of(*write_planted(tmp_path, plant(40))).to_markdown())
    assert tables["All videos"][0] == ["metric", "video"]
    assert not any("stored" in row[0] for row in tables["All videos"])
    assert set(tables) == {"What was measured", "All videos"}


NASTY = ["a|b", "new\nline", "back\\|slash", "end\\", "tab\tand\nmore", "| --- |"]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_breaks_a_table(tmp_path: Path, name: str) -> None:
    said = [
        {"video": f"{n}.mp4", "label": "fake" if n else "real", "dataset": name if n < 3 else "other"} for n in range(6)
    ]
    said[3]["label"] = "real"
    scores = write_score_file(tmp_path / "s.csv", [score_row(row["video"], n / 6) for n, row in enumerate(said)])
    report = report_of(scores, write_labels(tmp_path / "l.csv", said))
    assert report.to_json()["parts"][0]["dataset"] in (name, "other")
    shown = {" ".join(name.split()), "other", "all"}
    assert {row[0] for row in _parse(report.to_markdown())["By dataset, compression and method"][1:]} == shown
    for table in report.tables():
        lines = table.to_markdown().splitlines()[2:]
        assert len(lines) == len(table.rows) + 2
        assert {len(_cells(line)) for line in lines} == {len(table.header)}
        assert len(table.to_text().splitlines()) == 1 + len(table.rows) + any(table.header)


def test_json_is_valid_and_has_null_for_what_is_not_defined(tmp_path: Path) -> None:
    scores, labels = write_planted(tmp_path, [("a.mp4", "real", 0.2), ("b.mp4", "real", 0.4)])
    evaluate(scores, EvaluateConfig(bootstrap=0), labels=labels, outputs=[tmp_path / "r.json"])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads((tmp_path / "r.json").read_text("utf-8"), parse_constant=refuse)
    assert found["video.auc"] is None and found["video.brier.low"] is None and found["protocol"] is None
    assert found["video.brier"] == pytest.approx(0.1)


def test_both_formats_are_written_at_once_and_say_the_same(tmp_path: Path) -> None:
    scores, labels = write_planted(tmp_path, plant(40))
    outputs = [tmp_path / "new" / "r.json", tmp_path / "new" / "r.md"]
    report = evaluate(scores, EvaluateConfig(bootstrap=10), labels=labels, outputs=outputs)
    written = json.loads(outputs[0].read_text("utf-8"))
    undefined = {name for name, value in written.items() if value is None}
    assert {name: value for name, value in report.to_json().items() if name not in undefined} == {
        name: value for name, value in written.items() if name not in undefined
    }
    assert {"video.ece.low", "video.ece.high"} < undefined  # a calibration error has no interval
    assert outputs[1].read_text("utf-8") == report.to_markdown()
    assert outputs[1].read_text("utf-8").startswith("# Evaluation\n\n## What was measured\n\n|  |  |\n| --- | --- |\n")
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("name", ["report.txt", "report", "report.csv", "folder.json"])
def test_an_output_of_another_kind_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=f"{name} must be a file that ends in .json or .md"):
        evaluate(tmp_path / "not there.csv", outputs=[tmp_path / name])


def test_a_report_that_can_not_be_written_is_an_error_of_storage(tmp_path: Path, report: Report) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        write_report(report, tmp_path / "file" / "r.json")


def test_robustness_is_told_by_perturbation_with_the_change(report: Report) -> None:
    nan = float("nan")

    def row(perturbation: Perturbation | None, video: float, frame: float, unscored: int) -> RobustnessRow:
        levels = {"video": Estimate(video, nan, nan), "frame": Estimate(frame, nan, nan)}
        return RobustnessRow(perturbation, levels, unscored)

    rows = [
        row(None, 0.9, 0.8, 0),
        row(Perturbation("jpeg", 50), 0.85, 0.7, 1),
        row(Perturbation("blur", 3), nan, 0.5, 9),
    ]
    report = replace(report, robustness=rows)
    found = report.to_json()["robustness"]
    assert [(each["perturbation"], each["videos.unscored"]) for each in found] == [
        ("clean", 0),
        ("jpeg 50", 1),
        ("blur 3", 9),
    ]
    assert (found[1]["video.auc"], found[1]["frame.auc"]) == (0.85, 0.7) and math.isnan(found[2]["video.auc"])
    assert _parse(report.to_markdown())["Robustness"] == [
        ["perturbation", "AUC video", "AUC frame", "change video", "without score"],
        ["clean", "0.900", "0.800", "+0.000", "0"],
        ["jpeg 50", "0.850", "0.700", "-0.050", "1"],
        ["blur 3", "-", "0.500", "-", "9"],
    ]


def test_few_real_videos_are_noted_where_the_rate_of_one_in_a_thousand_means_little(tmp_path: Path) -> None:
    few = report_of(*write_planted(tmp_path, plant(40))).notes
    assert any("real videos, 0.1 % false positives means none at all" in note for note in few)
    many = [(f"{n}.mp4", "real" if n else "fake", 0.5) for n in range(1001)]
    assert report_of(*write_planted(tmp_path, many)).notes == []
