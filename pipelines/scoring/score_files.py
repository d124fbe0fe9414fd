"""Score files: CSV, Parquet or JSON, and the journal that makes a batch resumable."""

from __future__ import annotations

import csv
import json
import os
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ConfigError
from pipelines.file_lock import try_lock
from pipelines.manifest import replace_atomically, storage_error
from pipelines.records import FINISHED, ScoreRow, rows_to_table, table_to_rows

SCORE_SUFFIXES = (".csv", ".parquet", ".json")


def check_score_path(path: Path) -> None:
    """Refuse an output of unknown format before any work is done."""
    if path.suffix.lower() not in SCORE_SUFFIXES:
        raise ConfigError(f"{path} must end in .csv, .parquet or .json")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file that ends in .csv, .parquet or .json")


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Write the rows as the suffix says, whole or not at all."""
    with replace_atomically(path) as beside:
        if path.suffix.lower() == ".parquet":
            pq.write_table(rows_to_table(rows, ScoreRow), beside)
        elif path.suffix.lower() == ".json":
            beside.write_text(
                json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n",
                "utf-8",
                "surrogateescape",
            )
        else:
            with beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(ScoreRow)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in rows)


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a score file.

    Raises:
        ConfigError: not a score file.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return table_to_rows(pq.read_table(path), ScoreRow)
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            records: Iterable[Mapping[str, Any]] = (
                json.load(file) if path.suffix.lower() == ".json" else csv.DictReader(file)
            )
            return [_row_from(record) for record in records]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ConfigError(
            f"{path} exists and is not a file of scores; choose another name or pass --overwrite"
        ) from error


@dataclass
class Journal:
    """One flushed line per scored video beside the output, after a line with the settings."""

    path: Path
    settings_sha256: str

    @classmethod
    def beside(cls, output: Path, settings_sha256: str) -> Journal:
        return cls(output.with_name(f"{output.name}.journal"), settings_sha256)

    def read(self) -> list[ScoreRow]:
        """The rows of an interrupted run with these settings; a torn last line is ignored.

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
            self._check_settings(record)
            if "video" in record:
                rows.append(_row_from(record))
        return rows

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open_alone()
            earlier = self.path.read_bytes()
            self._is_needed = bool(earlier)
            self._is_torn = self._is_needed and not earlier.endswith(b"\n")
            if not self._is_needed:
                self._write_line({"settings_sha256": self.settings_sha256})
        except OSError as error:
            raise storage_error(error, self.path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_removed_open = not self._is_needed and os.name != "nt"  # while nobody else can have it
        if is_removed_open:
            self.path.unlink(missing_ok=True)
        try:
            self._file.close()
        except OSError:  # a full disk, reported by the write that met it
            pass
        if not self._is_needed and not is_removed_open:
            self.path.unlink(missing_ok=True)

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
        """The rows are in the output: at the end the journal goes. So does one without rows, with which another run would
        have to agree."""
        self._is_needed = False

    def discard(self) -> None:
        """Forget the rows of an interrupted run."""
        self._file.truncate(0)
        self._write_line({"settings_sha256": self.settings_sha256})
        self._is_needed = self._is_torn = False

    def _open_alone(self) -> IO[str]:
        """Open and locked; a run that ends removes its journal, which another may have opened before."""
        while True:
            file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
            if not try_lock(file.fileno()):
                file.close()
                raise ConfigError(
                    f"another run is writing beside {self.path}; wait until it has ended, or choose another output"
                )
            if self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(file.fileno())):
                return file
            file.close()

    def _write_line(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

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
        raise ConfigError(
            f"{output} holds scores of {len(others)} videos that are not among the inputs ({others[0]}, …); "
            "name them too, choose another file, or pass --overwrite to replace it"
        )
    return {row.sha256: row for row in [*earlier, *journal.read()] if row.status in FINISHED and row.sha256}


def _row_from(record: Mapping[str, Any]) -> ScoreRow:
    hints = typing.get_type_hints(ScoreRow)
    return ScoreRow(**{field.name: _parse(record[field.name], hints[field.name]) for field in fields(ScoreRow)})


def _parse(value: Any, hint: Any) -> Any:
    """A cell as its column's type; CSV has only text, and an empty cell where the column may be empty is None."""
    types = typing.get_args(hint) or (hint,)
    if value is None or (value == "" and type(None) in types):
        return None
    return types[0](value)
