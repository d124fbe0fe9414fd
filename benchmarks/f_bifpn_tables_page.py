"""The page docs/research/f-bifpn-mtlnet.md, from the measured runs and the words of `f_bifpn_tables_template.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = Path(__file__).with_name("f_bifpn_tables_template.md")
SETS = {"val": "same recordings", "other": "other people", "pairs": "swap pairs", "unseen": "other methods' clips"}
FIGURES = {"pixel_auc": "pixel AUC", "iou": "IoU at 0.5", "best_iou": "best IoU", "pointing": "pointing"}
MARKED = "marked_real"


@dataclass(frozen=True)
class Row:
    """One variant."""

    name: str
    title: str
    preset: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """One variant with one seed."""

    row: str
    seed: int
    seconds: float
    measured: Mapping[str, Mapping[str, float]]
    """By set of test faces."""


def write_page(path: Path, rows: Sequence[Row], results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Detection and localisation, mean and standard deviation over the seeds."""
    detection = {
        f"{title}, {metric}": (name, f"video.{key}")
        for name, title in SETS.items()
        for key, metric in (("auc", "AUC"), ("ap", "AP"))
    }
    text = TEMPLATE.read_text("utf-8").format(
        **facts,
        seeds=len({result.seed for result in results}),
        detection=_table(rows, results, detection),
        localisation_val=_table(rows, results, _localisation("val")),
        localisation_pairs=_table(rows, results, _localisation("pairs")),
        seconds=_seconds(rows, results),
    )
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _localisation(name: str) -> dict[str, tuple[str, str]]:
    titles = {**FIGURES, MARKED: "real faces marked"}
    return {title: (name, f"localisation.{key}") for key, title in titles.items()}


def _table(rows: Sequence[Row], results: Sequence[Result], columns: Mapping[str, tuple[str, str]]) -> str:
    lines = ["| network | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [
            _cell([each.measured[name].get(key) for each in results if each.row == row.name])
            for name, key in columns.values()
        ]
        if any(cell != "–" for cell in cells):
            lines.append("| " + " | ".join([row.title, *cells]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{np.mean(known):.1f} ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else f"{known[0]:.1f}"


def _seconds(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Seconds of a run relative to the first row's."""
    of = {row.name: [each.seconds for each in results if each.row == row.name] for row in rows}
    base = np.median(of[rows[0].name])
    return ", ".join(f"{row.title} {np.median(of[row.name]) / base:.2f}" for row in rows[1:] if of[row.name])
