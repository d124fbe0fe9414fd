"""Changes files as a stranger could have made them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import Result


def change_cell(path: Path, column: str, value: Any, *, row: int = 0) -> None:
    """One cell of a Parquet file, whose schema and metadata stay."""
    table = pq.read_table(path)
    cells = table.column(column).to_pylist()
    cells[row] = value
    index = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(index, field, pa.array(cells, field.type)), path)


def change_column(path: Path, column: str, cells: pa.Array) -> None:
    """One column of a Parquet file, of another type; the metadata stay."""
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, cells), path)


def change_header(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint with another header around the same weights."""
    content = source.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    outer = json.loads(content[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["deepfake"])
    change(inner)
    outer["__metadata__"]["deepfake"] = json.dumps(inner)
    target.write_bytes(pack(json.dumps(outer).encode(), content[8 + length :]))
    return target


def pack(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file; its length may be given wrong."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def error_line(result: Result) -> str:
    """The one line of a refusal; warnings may stand before it. A traceback would be another exit code."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]
