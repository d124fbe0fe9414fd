"""Labels and splits of videos: from a CSV, or from folders named real, fake, train, val and test."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from pipelines.errors import DatasetError
from pipelines.records import LABELS, SPLITS, VideoRow
from pipelines.system.csv_text import read_lines

log = logging.getLogger(__name__)
EXAMPLES = 3
DELIMITERS = ",;\t"
"""Spreadsheets write semicolons if their decimal separator is a comma, and tabs when saving as text."""


@dataclass(frozen=True)
class VideoLabel:
    """One video's label and optional details."""

    label: str | None
    split: str | None = None
    original: str | None = None
    identity: str | None = None
    group: str | None = None
    dataset: str | None = None
    method: str | None = None
    compression: str | None = None
    mask: str | None = None

    @classmethod
    def of(cls, row: VideoRow) -> VideoLabel:
        """The video's label and details from a manifest."""
        return cls(**{name: getattr(row, name) for name in LABEL_FIELDS})


LABEL_FIELDS = tuple(field.name for field in fields(VideoLabel))
CSV_COLUMNS = f"video,label[,{','.join(LABEL_FIELDS[1:])}]"


def read_labels(path: Path, names: Mapping[Path, str]) -> dict[Path, VideoLabel]:
    """The labels of a CSV (`video,label`, and any other field of `VideoLabel`) for the inputs, given as path and name.

    A name is the path relative to the input folder; `video` is such a name, or a file name if only one input has it. Rows
    that match no input are counted in a warning: the file may describe other videos too, or misspell a name.

    Raises:
        DatasetError: missing columns, an unknown label, an ambiguous name, a video labelled twice, or no row that matches.
    """
    by_name: dict[str, list[Path]] = {}
    by_file_name: dict[str, list[Path]] = {}
    for input_path, name in names.items():
        by_name.setdefault(slashed(name), []).append(input_path)
        by_file_name.setdefault(PurePath(slashed(name)).name, []).append(input_path)
    labels: dict[Path, VideoLabel] = {}
    unmatched: list[str] = []
    for video, label in read_label_rows(path):
        matches = by_name.get(video) or by_file_name.get(video, [])
        if len(matches) > 1:
            raise DatasetError(
                f"{path}: {video!r} could be {matches[0]} or {matches[1]}; give the path relative to the folder"
            )
        if not matches:
            unmatched.append(video)
        for match in matches:
            if labels.setdefault(match, label) != label:
                raise DatasetError(f"{path}: {video!r} is labelled twice, differently; keep one row")
    if not labels:
        raise DatasetError(
            f"{path} names none of the {len(names)} inputs; `video` must be their path relative to the folder"
        )
    if unmatched:
        named = ", ".join(repr(name) for name in unmatched[:EXAMPLES]) + (", …" if len(unmatched) > EXAMPLES else "")
        log.warning("%s: %d of its rows match no input: %s", path, len(unmatched), named)
    return labels


def label_and_split_in(folder: PurePath) -> tuple[str | None, str | None]:
    """The innermost folder named `real` or `fake`, and the innermost named `train`, `val` or `test`."""
    parts = [part.lower() for part in folder.parts]
    label = next((part for part in reversed(parts) if part in LABELS), None)
    split = next((part for part in reversed(parts) if part in SPLITS), None)
    return label, split


def read_label_rows(path: Path) -> list[tuple[str, VideoLabel]]:
    """The rows of a labels CSV: `video`, with slashes, and its label and details; a `mask` is relative to the CSV.

    Columns may be separated by commas, semicolons or tabs. Spaces around column names, labels and splits are ignored,
    and so is their case.

    Raises:
        DatasetError: not readable, missing columns, or an unknown label.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = read_lines(file)
            header = next(lines, "")
            # strict: an unclosed quote would otherwise silently swallow the rest of the file
            reader = csv.DictReader(chain([header], lines), delimiter=max(DELIMITERS, key=header.count), strict=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            missing = {"video", "label"} - set(reader.fieldnames)
            if missing:
                raise DatasetError(f"{path} lacks the column {sorted(missing)[0]!r}; it needs {CSV_COLUMNS}")
            return [_make_row(record, f"{path} line {reader.line_num}", path.parent) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a readable CSV file: {error}; save it as CSV in UTF-8") from error


def slashed(name: str) -> str:
    """A name with slashes instead of the backslashes of Windows, for matching."""
    return name.replace("\\", "/")


def to_label(record: Mapping[str, Any], where: str) -> VideoLabel:
    """From a row of a CSV or a Parquet file; an empty cell counts as missing.

    Raises:
        DatasetError: an unknown label or split.
    """
    given = {name: None if record.get(name) in (None, "") else str(record[name]) for name in LABEL_FIELDS}
    if given["label"] is not None and given["label"] not in LABELS:
        raise DatasetError(f"{where}: unknown label {given['label']!r}; use real or fake")
    if given["split"] is not None and given["split"] not in SPLITS:
        raise DatasetError(f"{where}: unknown split {given['split']!r}; use train, val or test")
    return VideoLabel(**given)


def _make_row(record: Mapping[str, Any], where: str, folder: Path) -> tuple[str, VideoLabel]:
    """Cells missing from a short row are None."""
    loose = {name: (record.get(name) or "").strip().lower() for name in ("label", "split")}
    about = to_label({**record, **loose}, where)
    about = replace(about, original=about.original and slashed(about.original))
    if about.mask:
        about = replace(about, mask=Path(os.path.abspath(folder / about.mask)).as_posix())
    return slashed(record["video"] or ""), about
