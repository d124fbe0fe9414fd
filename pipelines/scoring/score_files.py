"""Score files: CSV, Parquet or JSON, and the journal that makes a batch resumable."""

from __future__ import annotations

import csv
import json
import os
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow.parquet as pq

from pipelines.errors import ConfigError, ManifestError
from pipelines.records import FINISHED, ScoreRow, Status, rows_to_table, table_to_rows
from pipelines.system.atomic_files import make_folder, remove_for_good, replace_atomically, storage_error, sync_folder
from pipelines.system.csv_text import neutralise, read_lines, restore
from pipelines.system.file_lock import try_lock
from pipelines.workspace.manifest import read_table

RECORD_KEY = "deepfake.run"
SCORE_SUFFIXES = (".csv", ".parquet", ".json")


def check_score_path(path: str | Path | None, *, excel_safe: bool = False) -> Path | None:
    """The output's path; an unknown format or a folder is refused before any work is done. None is no output.

    Raises:
        ConfigError: it cannot be written.
    """
    path = None if path is None else Path(path)
    if excel_safe and (path is None or path.suffix.lower() != ".csv"):
        raise ConfigError(
            "--excel-safe is for an output that ends in .csv; name one with -o, or leave --excel-safe out"
        )
    if path is None:
        return None
    if path.suffix.lower() not in SCORE_SUFFIXES:
        raise ConfigError(f"{path} must end in .csv, .parquet or .json")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file that ends in .csv, .parquet or .json")
    return path


def write_scores(path: Path, rows: Sequence[ScoreRow], *, excel_safe: bool = False, record: str | None = None) -> None:
    """Write the rows as the suffix says, whole or not at all.

    Args:
        excel_safe: keep spreadsheets from reading text cells of a CSV as formulas.
        record: JSON about the run, stored in the metadata of a Parquet file.
    """
    with replace_atomically(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table = rows_to_table(rows, ScoreRow)
            pq.write_table(table.replace_schema_metadata({RECORD_KEY: record} if record else None), temporary)
        elif path.suffix.lower() == ".json":
            temporary.write_text(
                json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n",
                "utf-8",
                "surrogateescape",
            )
        else:
            with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(ScoreRow)])
                writer.writeheader()
                writer.writerows(
                    {name: neutralise(value, excel_safe=excel_safe) for name, value in asdict(row).items()}
                    for row in rows
                )


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a score file.

    Raises:
        ConfigError: not a score file.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return [_checked(row) for row in table_to_rows(read_table(path, ScoreRow), ScoreRow)]
        if path.suffix.lower() == ".json":
            return [_row_from(record) for record in json.loads(path.read_text("utf-8", "surrogateescape"))]
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            records = csv.DictReader(read_lines(file))
            return [_row_from({name: restore(cell) for name, cell in record.items()}) for record in records]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, csv.Error, ManifestError) as error:
        raise ConfigError(
            f"{path} exists and is not a file of scores; choose another name or pass --overwrite"
        ) from error


@dataclass
class Journal:
    """A file next to the output: a line with the settings, then one per scored video, each on disk before the next."""

    path: Path
    settings_sha256: str

    @classmethod
    def for_output(cls, output: Path, settings_sha256: str) -> Journal:
        return cls(output.with_name(f"{output.name}.journal"), settings_sha256)

    def read(self) -> list[ScoreRow]:
        """The rows of an interrupted run with these settings; what is no row, such as a torn last line, is skipped.

        Raises:
            ConfigError: the journal belongs to other settings.
        """
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text("utf-8", errors="surrogateescape").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if not isinstance(record, dict):
                continue
            self._check_settings(record)
            if "video" in record:
                try:
                    rows.append(_row_from(record))
                except (ValueError, TypeError, KeyError, OverflowError):  # nothing that a run has written
                    continue
        return rows

    def __enter__(self) -> Self:
        try:
            make_folder(self.path.parent)
            self._file = self._open_alone()
            earlier = self.path.read_bytes()
            self._is_needed = bool(earlier)
            self._is_torn = self._is_needed and not earlier.endswith(b"\n")
            if not self._is_needed:
                self._write_line({"settings_sha256": self.settings_sha256})
            sync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(error, self.path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_removed_open = not self._is_needed and os.name != "nt"  # while it is still locked
        try:
            if is_removed_open:
                remove_for_good(self.path)
        finally:
            try:
                self._file.close()
            except OSError:  # a full disk, reported by the write that met it
                pass
        if not self._is_needed and not is_removed_open:
            remove_for_good(self.path)

    def append(self, row: ScoreRow) -> None:
        try:
            if self._is_torn:  # a line torn by a kill must not swallow the next one
                self._file.write("\n")
                self._is_torn = False
            self._write_line(asdict(row))
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._is_needed = True

    def finish(self) -> None:
        """Remove the journal on exit: its rows are in the output now."""
        self._is_needed = False

    def discard(self) -> None:
        """Drop the rows of an interrupted run."""
        try:
            self._file.truncate(0)
            self._write_line({"settings_sha256": self.settings_sha256})
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._is_needed = self._is_torn = False

    def _open_alone(self) -> IO[str]:
        """Open and lock the journal; another run may remove it between the two."""
        while True:
            file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
            if not try_lock(file.fileno()):
                file.close()
                raise ConfigError(
                    f"another run is writing next to {self.path}; wait until it has ended, or choose another output"
                )
            if self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(file.fileno())):
                return file
            file.close()

    def _write_line(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check_settings(self, record: Mapping[str, Any]) -> None:
        if record.get("settings_sha256") != self.settings_sha256:
            raise ConfigError(
                f"{self.path} is from an interrupted run with other settings; run with those again, "
                "pass --overwrite to drop it, or choose another output"
            )


def finished_scores(output: Path, journal: Journal, inputs: Collection[str]) -> dict[str, ScoreRow]:
    """Finished rows by content digest, of an earlier output or an interrupted run with the same settings.

    Args:
        inputs: paths and digests of the run's videos: an output with rows of others is not replaced silently.

    Raises:
        ConfigError: the output holds scores of other settings or of other videos, or something else.
    """
    earlier = read_scores(output) if output.is_file() else []
    if any(row.settings_sha256 != journal.settings_sha256 for row in earlier):
        raise ConfigError(
            f"{output} holds scores made with another checkpoint or other settings; "
            "choose another file, or pass --overwrite to replace it"
        )
    others = [row.video for row in earlier if row.video not in inputs and row.sha256 not in inputs]
    if others:
        videos = f"1 video that is not among the inputs ({others[0]})"
        if len(others) > 1:
            videos = f"{len(others)} videos that are not among the inputs ({others[0]}, …)"
        raise ConfigError(
            f"{output} holds scores of {videos}; name all of them, choose another file, or pass --overwrite to replace it"
        )
    return {row.sha256: row for row in [*earlier, *journal.read()] if row.status in FINISHED and row.sha256}


def _row_from(record: Mapping[str, Any]) -> ScoreRow:
    """The row of a record.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: a column is missing, or holds what `predict` does not write.
    """
    hints = typing.get_type_hints(ScoreRow)
    return _checked(
        ScoreRow(**{field.name: _parse(record[field.name], hints[field.name]) for field in fields(ScoreRow)})
    )


def _checked(row: ScoreRow) -> ScoreRow:
    if row.status not in typing.get_args(Status):
        raise ValueError(f"unknown status {row.status!r}")
    if not all(0 <= share <= 1 for share in (row.threshold, row.fake_probability) if share is not None):
        raise ValueError("a probability or threshold outside 0..1")
    return row


def _parse(value: Any, hint: Any) -> Any:
    """A cell as its column's type. CSV has text only; an empty cell in a nullable column is None."""
    types = typing.get_args(hint) or (hint,)
    if type(None) in types and (value is None or value == ""):
        return None
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"a cell holds {type(value).__name__}")
    return types[0](value)
