"""How long work reports itself: events to a callback. Whoever runs the pipeline decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of a stage's work."""

    task: str
    done: int
    total: int
    unit: str
    note: str = ""


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_event: Progress) -> None:
    """The callback of those who do not want to know."""
