"""Measures the embedded weights on cropped faces with labels and writes docs/results.md with its pictures.

python benchmarks/embedded_weights.py DATA WORK [--docs docs]

DATA holds `dfdc-faces/val.parquet`, `dfdc-faces/val_other_people.parquet` and `swap-pairs/faces.parquet` (local data, not
distributed). Each is one `deepfake evaluate` command; what WORK holds already from an earlier run is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.plots import Series, draw_calibration
from pipelines.evaluation.report import metric_titles
from pipelines.stages.inspect import inspect, read_manifest

TEMPLATE = Path(__file__).with_name("results_template.md")
CHECKPOINT = "multi-attention-default"
METHODS = ("temperature", "isotonic")
SHIPPED = "as shipped"
"""Calibrated by a temperature on other people."""
PICTURED = "other people"
PICTURES = ("roc", "scores", "robustness")
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """A file of faces and where its results go."""

    title: str
    source: str
    """Relative to the data folder."""

    @property
    def name(self) -> str:
        return self.title.replace(" ", "-")


FILES = (
    Measured("same campaigns", "dfdc-faces/val.parquet"),
    Measured("other people", "dfdc-faces/val_other_people.parquet"),
    Measured("swap pairs", "swap-pairs/faces.parquet"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    reports = {file.title: measure(file, options.data, options.work) for file in FILES}
    calibrated = {method: calibrate(method, options.data, options.work) for method in METHODS}
    pictured = next(file for file in FILES if file.title == PICTURED)
    images = options.docs / "images"
    for name in PICTURES:
        shutil.copy(options.work / pictured.name / f"{name}.png", images / f"embedded-{name}.png")
    draw_calibration(images / "embedded-calibration.png", read_series(options.work))
    page = TEMPLATE.read_text("utf-8").format(
        digest=inspect(CHECKPOINT).facts["sha256"][:12],
        metrics=metrics_table(reports),
        robustness=robustness_table(reports),
        calibration=calibration_table(reports[PICTURED], calibrated),
        verdicts=verdict_table(options.work),
        **{f"{name.replace('-', '_')}_commands": text for name, text in describe_commands().items()},
    )
    (options.docs / "results.md").write_text(page, "utf-8")


def measure(file: Measured, data: Path, work: Path) -> Report:
    """One command: figures, intervals, perturbations, pictures."""
    report = work / f"{file.name}.json"
    if not report.is_file():
        _run("evaluate", data / file.source, "--perturb", "faces", "-o", report, "--plots", work / file.name, "-q")
    return _read(report)


def calibrate(method: str, data: Path, work: Path) -> Report:
    """Fitted to the first file, measured on the second; no person is in both."""
    for file in FILES[:2]:
        if not (work / "faces" / file.name / "detect-faces" / "manifest.parquet").is_file():
            _run("import-faces", data / file.source, "-w", work / "faces" / file.name, "-q")
    fitted, tested = (work / "faces" / file.name for file in FILES[:2])
    checkpoint, report = work / f"{method}.safetensors", work / f"{method}.json"
    if not report.is_file():
        _run("calibrate", fitted, "-o", checkpoint, "--method", method, "--overwrite", "-q")
        _run("evaluate", tested, "--checkpoint", checkpoint, "-o", report, "-q")
    for name, used in ((CHECKPOINT, CHECKPOINT), (method, checkpoint)):
        if not (work / f"scores-{name}.csv").is_file():
            _run("predict", "--faces", tested, "--checkpoint", used, "-o", work / f"scores-{name}.csv", "-q")
    return _read(report)


def metrics_table(reports: Mapping[str, Report]) -> str:
    """Metrics by video; of the pairs also by frame, as they have several."""
    columns = [(title, report, "video") for title, report in reports.items()]
    columns += [(f"{title}, by frame", report, "frame") for title, report in reports.items() if _has_frames(report)]
    rows = [["videos: real, fake", *(f"{r['videos.real']}, {r['videos.fake']}" for _, r, _ in columns)]]
    rows += [["groups", *(str(report["groups"]) for _, report, _ in columns)]]
    for name, title in metric_titles(None).items():
        if not name.endswith("_at_threshold"):
            rows.append([title, *(_show(report, f"{level}.{name}") for _, report, level in columns)])
    return markdown_table(["", *(title for title, _, _ in columns)], rows)


def robustness_table(reports: Mapping[str, Report]) -> str:
    """AUC by video under every perturbation."""
    names = [row["perturbation"] for row in next(iter(reports.values()))["robustness"]]
    rows = []
    for index, name in enumerate(names):
        cells = []
        for report in reports.values():
            row, clean = report["robustness"][index], report["robustness"][0]
            change = "" if index == 0 else f", {row['video.auc'] - clean['video.auc']:+.3f}"
            cells.append(_show(row, "video.auc") + change)
        rows.append([name, *cells])
    return markdown_table(["", *reports], rows)


def calibration_table(before: Report, after: Mapping[str, Report]) -> str:
    rows = [
        [name, *(_show(report, f"video.{metric}") for metric in ("ece", "log_loss", "brier", "auc"))]
        for name, report in {
            SHIPPED: before,
            **{f"{method}, same campaigns": one for method, one in after.items()},
        }.items()
    ]
    return markdown_table(["", "expected calibration error", "log loss", "Brier score", "AUC"], rows)


def verdict_table(work: Path) -> str:
    """What `predict` says of other people; only the shipped calibration was fitted to them."""
    rows = []
    for title, name, source in (
        (SHIPPED, CHECKPOINT, CHECKPOINT),
        *((f"{method}, same campaigns", method, work / f"{method}.safetensors") for method in METHODS),
    ):
        fit = inspect(source).facts["calibration"]
        labels, scores = _labels(work), _scores(work / f"scores-{name}.csv")
        for label in ("real", "fake"):
            verdicts = [row["verdict"] for row in scores if labels[row["video_key"]] == label]
            shares = [f"{verdicts.count(name) / len(verdicts):.1%}" for name in ("real", "uncertain", "fake")]
            rows.append([title, f"{fit['real_below']:.3f}", f"{fit['fake_from']:.3f}", label, *shares])
    return markdown_table(["", "real below", "fake from", "videos", "called real", "uncertain", "called fake"], rows)


def read_series(work: Path) -> list[Series]:
    """Of other people: the shipped calibration was fitted to them, the others were not."""
    labels = _labels(work)
    found = []
    for title, name in ((SHIPPED, CHECKPOINT), *((f"{method}, same campaigns", method) for method in METHODS)):
        rows = _scores(work / f"scores-{name}.csv")
        is_fake = np.array([labels[row["video_key"]] == "fake" for row in rows], dtype=np.int64)
        found.append(Series(title, is_fake, np.array([float(row["fake_probability"]) for row in rows])))
    return found


def describe_commands() -> dict[str, str]:
    """What a reader would type."""
    evaluate = [
        f"deepfake evaluate {file.source} --perturb faces -o {file.name}.json --plots {file.name}" for file in FILES
    ]
    calibrate = [
        f"deepfake import-faces {FILES[0].source} -w {FILES[0].name}",
        f"deepfake calibrate {FILES[0].name} -o temperature.safetensors",
        f"deepfake evaluate {FILES[1].source} --checkpoint temperature.safetensors",
    ]
    return {"evaluate": "\n".join(evaluate), "calibrate": "\n".join(calibrate)}


def _labels(work: Path) -> dict[str, str]:
    videos = read_manifest(work / "faces" / FILES[1].name / "detect-faces" / "videos.parquet")
    return dict(zip(videos.video_key, videos.label, strict=True))


def _scores(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["fake_probability"]]


def _run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "deepfake_cli", *map(str, words)], check=True)


def _read(path: Path) -> Report:
    report: Report = json.loads(path.read_text("utf-8"))
    return report


def _has_frames(report: Report) -> bool:
    return bool(report["frames"] > report["videos.scored"])


def _show(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}.low"], row[f"{name}.high"]
    return f"{row[name]:.3f}" if low is None else f"{row[name]:.3f} ({low:.3f} to {high:.3f})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


if __name__ == "__main__":
    main()
