"""The page docs/research/ablations.md, from the measured runs and the words of `ablations_template.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = Path(__file__).with_name("ablations_template.md")
LOSS_NAMES = {"none": "none", "ams": "AMS", "ril": "RIL"}


@dataclass(frozen=True)
class Row:
    """A row of a published table."""

    auxiliary: str
    agda: str
    num_attentions: int
    paper_accuracy: float
    """FF++ (HQ), %."""
    paper_auc: float
    """Celeb-DF, %."""

    @property
    def name(self) -> str:
        return f"{self.auxiliary}-{self.agda}-m{self.num_attentions}"


@dataclass(frozen=True)
class Result:
    """One run: a row with one seed."""

    auxiliary: str
    agda: str
    num_attentions: int
    seed: int
    seconds: float
    val: dict[str, float | None]
    other: dict[str, float | None]
    live_maps: float | None = None

    @property
    def name(self) -> str:
        return f"{self.auxiliary}-{self.agda}-m{self.num_attentions}"

    def is_of(self, row: Row, seed: int | None = None) -> bool:
        return self.name == row.name and seed in (None, self.seed)


Measure = Callable[[Result], float | None]
MEASURES: dict[str, Measure] = {
    "accuracy": lambda result: 100 * (result.val["accuracy"] or 0),
    "AUC": lambda result: 100 * (result.val["auc"] or 0),
    "other people, AUC": lambda result: 100 * (result.other["auc"] or 0),
    "maps' cosine": lambda result: result.val["cosine"],
    "live maps": lambda result: result.live_maps,
}


def write_page(
    path: Path, table_6: Sequence[Row], table_5: Sequence[Row], results: Sequence[Result], facts: Mapping[str, Any]
) -> None:
    """Tables, differences and the picture."""
    text = TEMPLATE.read_text("utf-8").format(
        **facts,
        start_text=_start_text(facts["start"]),
        table_6=_table(table_6, results, lambda row: f"{LOSS_NAMES[row.auxiliary]} | {row.agda}", "loss | AGDA"),
        differences_6=_differences(table_6[1:], results, table_6[0]),
        differences_agda=_differences(table_6[4::2], results, table_6[2]),
        table_5=_table(table_5, results, lambda row: str(row.num_attentions), "M"),
        differences_5=_differences(table_5[1:], results, table_5[0]),
        seconds=_seconds(table_6, results),
    )
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _values(row: Row, results: Sequence[Result], measure: Measure) -> list[float]:
    """By seed."""
    chosen = sorted((result for result in results if result.is_of(row)), key=lambda result: result.seed)
    return [value for result in chosen if (value := measure(result)) is not None]


def _table(rows: Sequence[Row], results: Sequence[Result], label: Callable[[Row], str], head: str) -> str:
    titles = [*head.split(" | "), *MEASURES, "paper: FF++ accuracy", "paper: Celeb-DF AUC"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [_cell(_values(row, results, measure), name) for name, measure in MEASURES.items()]
        lines.append(
            "| " + " | ".join([label(row), *cells, f"{row.paper_accuracy:.2f}", f"{row.paper_auc:.2f}"]) + " |"
        )
    return "\n".join(lines)


def _cell(values: Sequence[float], name: str) -> str:
    if not values:
        return "–"
    digits = _digits(name)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def _differences(rows: Sequence[Row], results: Sequence[Result], base: Row) -> str:
    """One line for each measure: which rows differ from the first by more than chance over the seeds explains."""
    lines = []
    for name, measure in MEASURES.items():
        reference = _values(base, results, measure)
        told = [_difference(row, reference, _values(row, results, measure), name) for row in rows if row != base]
        clear = [text for text in told if text]
        if reference and name != "live maps":  # a count that differs with M
            lines.append(f"* {name}: {'; '.join(clear) if clear else 'no row differs by more than the spread'}.")
    return "\n".join(lines)


def _difference(row: Row, reference: Sequence[float], values: Sequence[float], name: str) -> str | None:
    """Told if every seed agrees on the sign and the mean of the paired differences exceeds twice their standard error."""
    if len(values) != len(reference):
        return None
    paired = np.subtract(values, reference)
    error = float(np.std(paired, ddof=1) / np.sqrt(len(paired)))
    if not (np.all(paired > 0) or np.all(paired < 0)) or abs(paired.mean()) <= 2 * error:
        return None
    digits = _digits(name)
    label = f"{LOSS_NAMES[row.auxiliary]}/{row.agda}, M = {row.num_attentions}"
    return f"{label}: {paired.mean():+.{digits}f} (standard error {error:.{digits}f})"


def _digits(name: str) -> int:
    return 2 if name == "maps' cosine" else 1


def _seconds(rows: Sequence[Row], results: Sequence[Result]) -> str:
    one, two = (
        [r.seconds for r in results for row in rows if r.is_of(row) and (row.agda == "none") == single]
        for single in (True, False)
    )
    return f"{np.median(one):.0f} s without AGDA, {np.median(two):.0f} s with it"


def _start_text(start: Mapping[str, Any]) -> str:
    return (
        f"{100 * start['val']['auc']:.1f} on the validation faces and {100 * start['other']['auc']:.1f} on other people"
    )
