"""CSV text: lines of bounded length, and cells that a spreadsheet would evaluate as formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import IO, TypeVar

T = TypeVar("T")
MAX_LINE_CHARACTERS = 1_000_000
"""Far longer than any row; without a limit, a file without line breaks would be read into memory whole."""
FORMULA_STARTS = "=+-@\t\r\n"
"""A spreadsheet evaluates a cell that starts so, or skips the character and evaluates the rest (OWASP: CSV injection)."""
_FORMULA = re.compile(rf"[{re.escape(FORMULA_STARTS)}]")
_QUOTED_FORMULA = re.compile(rf"'+[{re.escape(FORMULA_STARTS)}]")


def read_lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file, for `csv.reader`.

    Raises:
        csv.Error: a line is longer than any row can be.
    """
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {MAX_LINE_CHARACTERS} characters")
        yield line


def neutralise(cell: T, *, excel_safe: bool) -> T | str:
    """A cell as it is written; `restore` gives its value back, whether `excel_safe` or not.

    With `excel_safe`, text that a spreadsheet would evaluate is prefixed with an apostrophe. Text that already has such an
    apostrophe gets another one in any case, so that reading is unambiguous.
    """
    if not isinstance(cell, str):
        return cell
    is_changed = _QUOTED_FORMULA.match(cell) or (excel_safe and _FORMULA.match(cell))
    return f"'{cell}" if is_changed else cell


def restore(cell: T) -> T | str:
    """The value of a cell written by `neutralise`; anything but text is returned as is."""
    return cell[1:] if isinstance(cell, str) and _QUOTED_FORMULA.match(cell) else cell
