"""CSV as text: lines of bounded length, and cells that a spreadsheet would take for formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import IO, TypeVar

T = TypeVar("T")
MAX_LINE_CHARACTERS = 1_000_000
"""Far more than a row of names takes; a file without line breaks would be read into memory whole."""
FORMULA_STARTS = "=+-@\t\r\n"
"""Spreadsheets compute a cell that begins so (OWASP: CSV injection), or look for such a character behind it."""
_FORMULA = re.compile(rf"[{re.escape(FORMULA_STARTS)}]")
_QUOTED_FORMULA = re.compile(rf"'+[{re.escape(FORMULA_STARTS)}]")


def read_lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file, for `csv.reader`.

    Raises:
        csv.Error: one is longer than any row can be.
    """
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {MAX_LINE_CHARACTERS} characters")
        yield line


def neutralise(cell: T, *, excel_safe: bool) -> T | str:
    """A cell as it is written; `restore` gives its value back, whether `excel_safe` or not.

    An apostrophe is put before text that a spreadsheet would compute, where that is asked for, and in any case before text
    that has such an apostrophe of its own.
    """
    if not isinstance(cell, str):
        return cell
    is_changed = _QUOTED_FORMULA.match(cell) or (excel_safe and _FORMULA.match(cell))
    return f"'{cell}" if is_changed else cell


def restore(cell: T) -> T | str:
    """The value of a cell that `neutralise` has written; what is no text is left as it is."""
    return cell[1:] if isinstance(cell, str) and _QUOTED_FORMULA.match(cell) else cell
