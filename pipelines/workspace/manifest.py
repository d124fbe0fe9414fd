"""Parquet files with their provenance in the metadata, written to a temporary file and renamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ManifestError
from pipelines.system.atomic_files import replace_atomically
from pipelines.workspace.table_checks import check_schema, conform

_PROVENANCE_KEY = b"deepfake.provenance"
_NOTE_PREFIX = "deepfake."
_Kinds = Mapping[str, type | tuple[type, ...]]
_GEOMETRY: _Kinds = {"margin": (int, float), "detector": str, "detector_sha256": str}
"""What every stage that makes faces records."""
_DETECTION: _Kinds = {"max_side": int, "min_score": (int, float)}
"""Other settings that `detect-faces` records."""


@dataclass(frozen=True)
class Provenance:
    """Everything that rows depend on except their inputs: equal provenance and equal input give equal rows."""

    stage: str
    version: int
    """The stage's row format; not the package's version."""
    settings: Mapping[str, Any]
    upstream: Provenance | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": dict(self.settings),
            "upstream": self.upstream.to_json() if self.upstream else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Provenance:
        """From a file's metadata.

        Raises:
            KeyError, TypeError, RecursionError: it is none.
        """
        stage, version, settings, upstream = value["stage"], value["version"], value["settings"], value.get("upstream")
        if not (isinstance(stage, str) and isinstance(version, int) and isinstance(settings, dict)):
            raise TypeError("a stage, version or settings of another type")
        return cls(stage, version, settings, cls.from_json(upstream) if upstream else None)

    def changes_from(self, older: Provenance) -> list[str]:
        """What differs, each as `frames was 32 and is now 64`; empty when equal."""
        changes = []
        if older.stage != self.stage:
            return [f"stage was {older.stage} and is now {self.stage}"]
        if older.version != self.version:
            changes.append(f"row format of {self.stage} was {older.version} and is now {self.version}")
        for name in sorted({*older.settings, *self.settings}):
            was, now = older.settings.get(name), self.settings.get(name)
            if was != now:
                changes.append(f"{name} was {_show(was)} and is now {_show(now)}")
        if self.upstream and older.upstream:
            changes += [f"{self.upstream.stage}: {change}" for change in self.upstream.changes_from(older.upstream)]
        elif self.upstream != older.upstream:
            was_name = older.upstream.stage if older.upstream else "nothing"
            now_name = self.upstream.stage if self.upstream else "nothing"
            changes.append(f"upstream was {was_name} and is now {now_name}")
        return changes


def write_table(table: pa.Table, path: Path, provenance: Provenance, *, notes: Mapping[str, str] | None = None) -> None:
    """Write atomically, with the provenance (and short notes, such as a part's status) in the file's metadata."""
    metadata = {_PROVENANCE_KEY: json.dumps(provenance.to_json(), sort_keys=True).encode()}
    for name, note in (notes or {}).items():
        metadata[f"{_NOTE_PREFIX}{name}".encode()] = note.encode("utf-8", "backslashreplace")
    with replace_atomically(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_table(path: Path, row_type: type | None = None, *, also: Sequence[str] = ()) -> pa.Table:
    """The table of one file; with `row_type`, its columns and those named in `also`, and what is in them is checked.

    A nullable column that is not there is read as null: the file is of a version that did not know it yet.

    Raises:
        ManifestError: missing, damaged or without the expected columns, or with names that lead out of the stage's folder.
    """
    with _explained(path), pq.ParquetFile(path) as file:
        if row_type is None:
            table = file.read()
            table.validate(full=True)
            return table
        columns = check_schema(file.schema_arrow, file.metadata.num_rows, row_type, path)
        return conform(file.read(columns=[*columns, *also]), row_type, path)


def read_provenance(path: Path) -> Provenance:
    """The provenance in a file's metadata.

    Raises:
        ManifestError: missing, damaged or not written by this project.
    """
    return provenance_in(read_metadata(path), path)


def read_note(path: Path, name: str) -> str | None:
    """One of the notes given to `write_table`."""
    return note_in(read_metadata(path), name)


def note_in(metadata: Mapping[bytes, bytes], name: str) -> str | None:
    """The same, of metadata that were read before."""
    note = metadata.get(f"{_NOTE_PREFIX}{name}".encode())
    return note.decode() if note is not None else None


def read_metadata(path: Path) -> Mapping[bytes, bytes]:
    """The key-value metadata of a Parquet file."""
    with _explained(path):
        return pq.read_schema(path).metadata or {}


def read_num_rows(path: Path) -> tuple[int, Mapping[bytes, bytes]]:
    """How many rows a Parquet file has, and its key-value metadata, without reading the rows."""
    with _explained(path):
        footer = pq.read_metadata(path)
        return footer.num_rows, footer.metadata or {}


def provenance_in(metadata: Mapping[bytes, bytes], path: Path) -> Provenance:
    """As `read_provenance`, of the metadata of `path` that were read before."""
    if _PROVENANCE_KEY not in metadata:
        raise ManifestError(f"{path} holds no provenance; it was not written by deepfake")
    try:
        return Provenance.from_json(json.loads(metadata[_PROVENANCE_KEY]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path} holds an unreadable provenance; make it again with --overwrite") from error


def check_face_settings(provenance: Provenance, path: Path) -> None:
    """Refuse faces without recorded settings: using them requires the geometry and the detector.

    Raises:
        ManifestError: a setting is missing or of another type.
    """
    needed = {**_GEOMETRY, **(_DETECTION if provenance.stage == "detect-faces" else {})}
    for name, kind in needed.items():
        if not isinstance(provenance.settings.get(name), kind):
            raise ManifestError(
                f"{path} does not say with which {name} its faces were made; make it again with --overwrite"
            )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ManifestError(f"{path} does not exist") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ManifestError(
            f"{path} is not a readable Parquet file ({error}); make it again with --overwrite"
        ) from error


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _show(value: Any) -> str:
    text = "not set" if value is None else str(value)
    is_digest = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] + "…" if is_digest else text
