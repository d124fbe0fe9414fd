"""Bars on stderr, fed by the pipelines' progress callback."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from pipelines.progress import Progress


class ProgressBar:
    """A tqdm bar with rate and ETA that appears with the first event; nothing when quiet or not on a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self.hidden = quiet or not sys.stderr.isatty()
        self._bar: Any = None

    def __call__(self, event: Progress) -> None:
        if self.hidden:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=event.total,
                initial=event.done,
                desc=event.task,
                unit=f" {event.unit}",
                unit_scale=event.unit == "B",  # bytes as kB, MB
                file=sys.stderr,
                leave=False,
            )
        self._bar.set_postfix_str(event.note, refresh=False)
        self._bar.update(event.done - self._bar.n)

    def print(self, line: str) -> None:
        """A line of results on stdout, the bar kept whole."""
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
