"""Checks before a table's rows are used: columns and types of its row class, and paths inside the stage's folder.

Manifests travel, and a stranger's may name any file of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ManifestError
from pipelines.records import FaceRow, FrameRow, schema_of

MAX_ROWS = 100_000_000
"""More than any workspace has; a file of a few bytes can claim any number of equal rows."""
NAME_COLUMNS = ("video_id", "sha256")
"""What files are named after."""
PATH_COLUMNS = {FrameRow: ("path",), FaceRow: ("crop_path", "mask_path")}
"""Relative to the stage's folder."""
INNER_FOLDERS = ("parts", "shards")
"""Of a stage: tables in these lie one level deeper than its manifest."""
_WORD = r"[^/\\:\x00-\x1f\x7f]"
"""No separators, no drive letters or streams of Windows, no control characters."""
_NAME = rf"^{_WORD}*$"
_PATH = rf"^{_WORD}+(/{_WORD}+)*$"
_STEP = r"(^|/)\.\.?(/|$)"
"""To the same folder or out of it."""
_LAST_PART = r"/?[^/]*$"
_AGAIN = "do not use this file; get it again from whoever made it, or make the stage again with --overwrite"


def check_schema(schema: pa.Schema, num_rows: int, row_type: type, path: Path) -> list[str]:
    """The columns to read, decided from the file's footer alone.

    Raises:
        ManifestError: a column is missing or of another type, or there are more rows than can be right.
    """
    if num_rows > MAX_ROWS:
        raise ManifestError(f"{path} claims {num_rows} rows, and more than {MAX_ROWS} are not read; {_AGAIN}")
    for field in schema_of(row_type):
        count = schema.names.count(field.name)
        if count > 1:
            raise ManifestError(f"{path} has the column {field.name!r} {count} times; {_AGAIN}")
        if not count and not field.nullable:
            raise ManifestError(f"{path} lacks the column {field.name!r}; it is not a manifest of this stage")
        if count and not _is_readable_as(schema.field(field.name).type, field.type):
            found = schema.field(field.name).type
            raise ManifestError(f"{path} holds {found} in the column {field.name!r}, not {field.type}; {_AGAIN}")
    return [name for name in schema_of(row_type).names if name in schema.names]


def conform(table: pa.Table, row_type: type, path: Path) -> pa.Table:
    """The table with exactly the types of its row class; missing nullable columns are null, extra columns follow.

    Raises:
        ManifestError: a value is missing, or a name leads out of its folder.
        pa.ArrowException: a value that the type cannot hold, or text that is not UTF-8.
    """
    table.validate(full=True)
    schema = schema_of(row_type)
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if column.null_count and not field.nullable:
            row = pc.index(column.is_null(), True).as_py() + 1
            raise ManifestError(f"{path} lacks the {field.name} of row {row}; {_AGAIN}")
        columns.append(column if column.type == field.type else column.cast(field.type))
    others = [field for field in table.schema if field.name not in schema.names]
    columns += [table.column(field.name) for field in others]
    conformed = pa.table(columns, pa.schema([*schema, *others], table.schema.metadata))
    _check_names(conformed, row_type, path)
    return conformed


def _is_readable_as(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether other programs store the same values so: pandas and Polars have types of their own."""
    if found == wanted or pa.types.is_null(found):
        return True
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_floating(wanted) and (pa.types.is_floating(found) or pa.types.is_integer(found)))


def _check_names(table: pa.Table, row_type: type, path: Path) -> None:
    """Refuse names and paths that lead out of the stage's folder, also through a link."""
    for name in NAME_COLUMNS:
        if name in table.column_names:
            _refuse_strays(table.column(name), _NAME, path)
    for name in PATH_COLUMNS.get(row_type, ()):
        column = table.column(name)
        _refuse_strays(column, _PATH, path)
        _refuse_links(pc.replace_substring_regex(column, _LAST_PART, ""), path)


def _refuse_strays(column: pa.ChunkedArray, pattern: str, path: Path) -> None:
    is_inside = pc.and_not(pc.match_substring_regex(column, pattern), pc.match_substring_regex(column, _STEP))
    row = pc.index(is_inside, False).as_py()
    if row >= 0:
        raise ManifestError(
            f"{path} names {column[row].as_py()!r} in row {row + 1}, which is not inside its folder; {_AGAIN}"
        )


def _refuse_links(folders: pa.ChunkedArray, path: Path) -> None:
    """Each folder is checked once, however many files it has."""
    root = path.parent.parent if path.parent.name in INNER_FOLDERS else path.parent
    inside = Path(os.path.realpath(root))
    seen: set[str] = set()
    for folder in folders.unique().to_pylist():
        for step in _steps_to(folder or ""):
            if step in seen:
                continue
            seen.add(step)
            place = root / step
            if place.is_symlink() and not Path(os.path.realpath(place)).is_relative_to(inside):
                row = pc.index(folders, folder).as_py() + 1
                raise ManifestError(
                    f"{path} names files in {step} in row {row}, and {place} is a link that leads out of {root}; put the "
                    "folder itself there, or make the whole stage's folder the link"
                )


def _steps_to(folder: str) -> Iterator[str]:
    """`a/b` as `a`, `a/b`."""
    return accumulate(folder.split("/"), lambda parent, name: f"{parent}/{name}") if folder else iter(())
