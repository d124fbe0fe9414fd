"""Progress reports: events passed to a callback, which decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a task at one moment."""

    task: str
    done: int
    total: int
    unit: str
    note: str = ""


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_event: Progress) -> None:
    """A callback that does nothing."""
