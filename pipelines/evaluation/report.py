"""The result of an evaluation: one set of figures as JSON, as Markdown and as text."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.evaluation.bootstrap import Estimate
from pipelines.evaluation.localisation import MARKED_REAL, STATES, Localisation
from pipelines.evaluation.measuring import LEVELS, Section
from pipelines.evaluation.perturbations import Perturbation
from pipelines.evaluation.protocols import Protocol
from pipelines.system.atomic_files import replace_atomically, storage_error

REPORT_SUFFIXES = (".json", ".md")
COLUMN_TITLES = {"video": "video", "video_all": "video, 0.5 for those without a score", "frame": "frame"}
_MARKED = re.compile(r"[\\|]")
"""Characters that must be escaped in a cell of a Markdown table."""


@dataclass(frozen=True)
class Table:
    """A heading, column titles and rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        rows = [[_MARKED.sub(r"\\\g<0>", _one_line(cell)) for cell in cells] for cells in (self.header, *self.rows)]
        lines = [rows[0], ["---"] * len(self.header), *rows[1:]]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(cells)} |" for cells in lines)])

    def to_text(self) -> str:
        """Columns aligned, for a terminal."""
        rows = [self.header] if any(self.header) else []
        lines = [[_one_line(cell) for cell in cells] for cells in (*rows, *self.rows)]
        widths = [max(len(cells[column]) for cells in lines) for column in range(len(self.header))]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in lines)
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in padded)])


@dataclass(frozen=True)
class RobustnessRow:
    """One perturbation at one strength."""

    perturbation: Perturbation | None
    """None: unperturbed."""
    levels: Mapping[str, Estimate]
    """AUC by level: `video`, `frame`."""
    unscored: int
    """Videos without a score under this perturbation."""

    @property
    def name(self) -> str:
        """Such as `jpeg 50`."""
        return self.perturbation.name if self.perturbation else "clean"


@dataclass(frozen=True)
class Report:
    """The figures of an evaluation, and how they were measured."""

    sources: Sequence[str]
    sections: Sequence[Section]
    """All videos first."""
    statuses: Mapping[str, int]
    """Videos by status."""
    split: str
    """`all`, or the split."""
    threshold: float | None
    """The scores' own, or the one given."""
    aggregate: str
    """How face scores became video scores."""
    rounds: int
    confidence: float
    seed: int
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    protocol: Protocol | None = None
    notes: Sequence[str] = ()
    robustness: Sequence[RobustnessRow] = field(default_factory=list)
    localisation: Localisation | None = None

    @property
    def whole(self) -> Section:
        """All videos."""
        return self.sections[0]

    def to_json(self) -> dict[str, Any]:
        """One flat object: `video.auc`, `video.auc.low`, `video.auc.high`, …; parts are objects of the same form."""
        facts: dict[str, Any] = {
            "sources": list(self.sources),
            "split": self.split,
            "checkpoint": self.checkpoint,
            "checkpoint_sha256": self.checkpoint_sha256,
            "aggregate": self.aggregate,
            "threshold": self.threshold,
            "protocol": vars(self.protocol) if self.protocol else None,
            "bootstrap": {"rounds": self.rounds, "confidence": self.confidence, "seed": self.seed},
            "notes": list(self.notes),
            "statuses": dict(self.statuses),
        }
        robustness = [
            {"perturbation": row.name, "videos.unscored": row.unscored}
            | _flatten({level: {"auc": estimate} for level, estimate in row.levels.items()})
            for row in self.robustness
        ]
        parts = [_section_json(section) for section in self.sections[1:]]
        located = self.localisation.to_json() if self.localisation else None
        return facts | _section_json(self.whole) | {"parts": parts, "robustness": robustness, "localisation": located}

    def tables(self) -> list[Table]:
        """The same figures as tables of text."""
        found = [self._facts_table(), self._whole_table()]
        if len(self.sections) > 1:
            found.append(self._parts_table())
        if self.robustness:
            found.append(self._robustness_table())
        if self.localisation:
            found.append(_localisation_table(self.localisation))
        return found

    def to_markdown(self) -> str:
        notes = [f"* {note}" for note in self.notes]
        tables = [table.to_markdown() for table in self.tables()]
        return "\n\n".join(["# Evaluation", *tables, *(["\n".join(notes)] if notes else [])]) + "\n"

    def to_text(self) -> str:
        return "\n\n".join([table.to_text() for table in self.tables()] + [f"note: {note}" for note in self.notes])

    def _facts_table(self) -> Table:
        whole = self.whole
        videos = whole.videos_real + whole.videos_fake
        others = ", ".join(f"{number} {status}" for status, number in sorted(self.statuses.items()) if status != "ok")
        rows = [
            ["sources", ", ".join(self.sources)],
            ["split", "all videos" if self.split == "all" else self.split],
            ["videos", f"{videos} ({whole.videos_real} real, {whole.videos_fake} fake) in {whole.clusters} groups"],
            ["with a score", f"{whole.videos_scored} ({whole.coverage:.1%}){'; ' + others if others else ''}"],
        ]
        if whole.frames is not None:
            rows.append(["frames", str(whole.frames)])
        if self.checkpoint:
            rows.append(["checkpoint", f"{self.checkpoint} ({(self.checkpoint_sha256 or '')[:12]})"])
        rows.append(["video score", self.aggregate])
        if self.localisation:
            size_px, masks = self.localisation.size_px, self.localisation.masks
            rows.append(["maps", f"{self.localisation.kind}, compared with masks at {size_px}x{size_px} pixels"])
            counts = [f"{masks[state]} {what}" for state, what in STATES.items() if masks[state]]
            rows.append(["fake faces", ", ".join(counts)])
        if self.protocol:
            rows.append(["protocol", str(self.protocol)])
            headline = whole.levels[self.protocol.quoted]["auc"]
            rows.append(["quoted figure", f"{self.protocol.level}-level AUC {show(headline)}"])
        if self.rounds:
            rows.append(
                [
                    "intervals",
                    f"{100 * self.confidence:g} %, cluster bootstrap, {self.rounds} rounds over the groups, seed {self.seed}",
                ]
            )
        return Table("What was measured", ["", ""], rows)

    def _whole_table(self) -> Table:
        whole = self.whole
        levels = [level for level in LEVELS if level in whole.levels]
        if whole.coverage == 1:
            levels.remove("video_all")
        rows = [
            [title, *(show(whole.levels[level][name]) for level in levels)]
            for name, title in metric_titles(self.threshold).items()
            if not (name.endswith("_at_threshold") and self.threshold in (None, 0.5))
        ]
        return Table("All videos", ["metric", *(COLUMN_TITLES[level] for level in levels)], rows)

    def _parts_table(self) -> Table:
        has_frames = self.whole.frames is not None
        header = ["part", "real", "fake", "scored", "AUC video", *(["AUC frame"] if has_frames else []), "EER video",
                  "balanced accuracy video"]  # fmt: skip
        rows = []
        for section in self.sections:
            video = section.levels["video"]
            frame = [show(section.levels["frame"]["auc"])] if has_frames else []
            rows.append(
                [section.title, str(section.videos_real), str(section.videos_fake), f"{section.coverage:.1%}",
                 show(video["auc"]), *frame, show(video["eer"]), show(video["balanced_accuracy"])]
            )  # fmt: skip
        return Table("By dataset, compression and method", header, rows)

    def _robustness_table(self) -> Table:
        levels = list(self.robustness[0].levels)
        clean = self.robustness[0].levels
        rows = []
        for row in self.robustness:
            change = row.levels["video"].value - clean["video"].value
            shown = "-" if math.isnan(change) else f"{change:+.3f}"
            rows.append([row.name, *(show(row.levels[level]) for level in levels), shown, str(row.unscored)])
        header = ["perturbation", *(f"AUC {level}" for level in levels), "change video", "without score"]
        return Table("Robustness", header, rows)


def _localisation_table(found: Localisation) -> Table:
    titles = {
        "pixel_auc": "pixel AUC",
        "iou": "IoU at 0.5",
        "best_iou": f"IoU at {found.best_threshold:.2f}",
        "pointing": "pointing accuracy",
        MARKED_REAL: "marked of real faces at 0.5",
    }
    rows = [
        [row.title, str(row.faces_fake), str(row.faces_real), *(show(row.figures[name]) for name in titles)]
        for row in found.rows
    ]
    return Table("Localisation", ["part", "fake faces", "real faces", *titles.values()], rows)


def write_report(report: Report, path: Path) -> None:
    """Write a report as .json or .md, by the suffix.

    Raises:
        StorageError: it cannot be written.
    """
    content = report.to_markdown() if path.suffix == ".md" else json.dumps(_plain(report.to_json()), indent=1) + "\n"
    with replace_atomically(path) as temporary:
        temporary.write_text(content, "utf-8", "surrogateescape")


def check_report_path(path: Path) -> None:
    """Refuse, before any work is done, an output that cannot be written.

    Raises:
        ConfigError: an unknown format, or a folder.
        StorageError: its folder cannot be created or written to.
    """
    if path.suffix not in REPORT_SUFFIXES or path.is_dir():
        raise ConfigError(f"{path} must be a file that ends in .json or .md")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Create the folder of an output.

    Raises:
        ConfigError: it is a file.
        StorageError: it cannot be created or written to.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    if not os.access(folder, os.W_OK):
        raise storage_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), folder)


def show(estimate: Estimate) -> str:
    """`0.929 (0.917 to 0.940)`; a dash if undefined."""
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _one_line(text: str) -> str:
    """A name with line breaks on one line."""
    return " ".join(text.split())


def metric_titles(threshold: float | None) -> dict[str, str]:
    other = "the threshold" if threshold is None else f"the threshold {threshold:.3g}"
    return {
        "auc": "AUC",
        "ap": "average precision",
        "eer": "equal error rate",
        "accuracy": "accuracy at 0.5",
        "balanced_accuracy": "balanced accuracy at 0.5",
        "accuracy_at_threshold": f"accuracy at {other}",
        "balanced_accuracy_at_threshold": f"balanced accuracy at {other}",
        "log_loss": "log loss",
        "brier": "Brier score",
        "ece": "expected calibration error",
        "tpr_at_fpr_0.01": "true positive rate at 1 % false positives",
        "tpr_at_fpr_0.001": "true positive rate at 0.1 % false positives",
    }


def _section_json(section: Section) -> dict[str, Any]:
    facts = {
        "dataset": section.dataset,
        "compression": section.compression,
        "method": section.method,
        "videos.real": section.videos_real,
        "videos.fake": section.videos_fake,
        "videos.scored": section.videos_scored,
        "coverage": section.coverage,
        "groups": section.clusters,
        "frames": section.frames,
    }
    return facts | _flatten(section.levels)


def _flatten(levels: Mapping[str, Mapping[str, Estimate]]) -> dict[str, float]:
    flat = {}
    for level, metrics in levels.items():
        for name, estimate in metrics.items():
            flat[f"{level}.{name}"] = estimate.value
            flat[f"{level}.{name}.low"] = estimate.low
            flat[f"{level}.{name}.high"] = estimate.high
    return flat


def _plain(value: Any) -> Any:
    """NaN as None: JSON has only null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
