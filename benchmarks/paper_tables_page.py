"""The page docs/results.md, from the measured runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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

    def is_of(self, row: Row, seed: int | None = None) -> bool:
        same = (self.auxiliary, self.agda, self.num_attentions) == (row.auxiliary, row.agda, row.num_attentions)
        return same and seed in (None, self.seed)


Measure = Callable[[Result], float | None]
MEASURES: dict[str, Measure] = {
    "accuracy": lambda result: 100 * (result.val["accuracy"] or 0),
    "AUC": lambda result: 100 * (result.val["auc"] or 0),
    "other people, AUC": lambda result: 100 * (result.other["auc"] or 0),
    "maps' cosine": lambda result: result.val["cosine"],
}


def write_page(
    path: Path, table_6: Sequence[Row], table_5: Sequence[Row], results: Sequence[Result], facts: Mapping[str, Any]
) -> None:
    """Tables, differences and the picture."""
    text = PAGE.format(
        **facts,
        start_text=_start_text(facts["start"]),
        table_6=_table(table_6, results, lambda row: f"{LOSS_NAMES[row.auxiliary]} | {row.agda}", "loss | AGDA"),
        differences_6=_differences(table_6, results, table_6[0]),
        table_5=_table(table_5, results, lambda row: str(row.num_attentions), "M"),
        differences_5=_differences(table_5, results, table_5[0]),
        seconds=_seconds(table_6, results),
        figure_text=FIGURE_TEXT,
    )
    path.write_text(text, encoding="utf-8")


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
    digits = 2 if name == "maps' cosine" else 1
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def _differences(rows: Sequence[Row], results: Sequence[Result], base: Row) -> str:
    """One line for each measure: which rows differ from the first by more than chance over the seeds explains."""
    lines = []
    for name, measure in MEASURES.items():
        reference = _values(base, results, measure)
        told = [_difference(row, reference, _values(row, results, measure), name) for row in rows if row != base]
        clear = [text for text in told if text]
        if reference:
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
    digits = 2 if name == "maps' cosine" else 1
    label = f"{LOSS_NAMES[row.auxiliary]}/{row.agda}, M = {row.num_attentions}"
    return f"{label}: {paired.mean():+.{digits}f} (standard error {error:.{digits}f})"


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


FIGURE_TEXT = ""
PAGE = """# Results: the paper's ablations on two cores

Made by `benchmarks/paper_tables.py`; nothing on this page is typed in by hand but the paper's own numbers and this text.

The paper trains EfficientNet-B4 at 380 px on FaceForensics++ and tests on FaceForensics++ (accuracy) and Celeb-DF (AUC). Here
everything is smaller, and the data are others, so **only the order of the rows can be compared, not the values**:

* body MobileNetV2 at {input_size} px, preset `paper`, attention maps of 6 x 6;
* {faces:,} cropped faces of DFDC videos, half real, half fake, in batches of {batch}; tested on {val:,} faces of other videos
  of the same kind ("accuracy", "AUC") and on {other:,} faces of people and films that training never saw ("other people");
  local data, not distributed;
* all rows start from one backbone that was trained as a plain classifier for {start_steps} steps (its own AUC: {start_text}) and
  then train for {steps} steps, {seeds} seeds each. Two passes a step take longer: {seconds}.

± is the standard deviation over the seeds. "Maps' cosine" is the mean cosine between the attention maps of one face: 1 means
that all maps look at the same place (figure 4 of the paper), 0 that they do not overlap.

## Table 6: auxiliary loss and attention-guided augmentation

{table_6}

Differences from the first row, paired by seed; told where all seeds agree on the sign and the mean exceeds twice its standard
error. With {seeds} seeds that is a weak test, and among so many comparisons some will pass it by chance.

{differences_6}

## Table 5: number of attention maps

M = 1 trains without regional independence loss and augmentation, as in the paper.

{table_5}

Differences from M = 1:

{differences_5}

## Attention maps: figures 4 to 6

![Attention maps of three networks on two faces](images/attention-maps.jpg)

Rows: the project's two example clips, genuine and forged. Columns: the face, then the four maps of one network (the first
seed's). Colours run from blue (nothing) to red (the strongest response among the four maps of that face).

{figure_text}
"""
