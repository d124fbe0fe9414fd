"""Progress: a bar on a terminal, a line every 30 seconds where stderr is redirected, and those lines in the log file."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import typer

from pipelines.system.progress import Progress

LINE_SECONDS = 30.0
"""Time between two lines."""
LIBRARY_LOGGER = "pipelines"
"""The logger whose handlers `--log-file` configures."""

log = logging.getLogger(f"{LIBRARY_LOGGER}.progress")


class ProgressBar:
    """Shows the events of the pipelines' progress callback.

    On a terminal each task gets a tqdm bar with rate and ETA. Elsewhere there is a message every `LINE_SECONDS`; with
    `quiet`, and where a bar is shown, it goes to the log file only.
    """

    def __init__(self, *, quiet: bool) -> None:
        is_terminal = sys.stderr.isatty()
        self.hidden = quiet or not is_terminal
        self._level = logging.DEBUG if quiet or is_terminal else logging.INFO
        self._lines = _Lines()
        self._bar: Any = None

    def __call__(self, event: Progress) -> None:
        line = self._lines.of(event, time.monotonic())
        if line is not None:
            log.log(self._level, line)
        if self.hidden:
            return
        bar = self._bar
        if bar is None or bar.desc != event.task or event.done < bar.n:
            bar = self._start_bar(event)
        bar.total = event.total or None
        bar.set_postfix_str(event.note, refresh=False)
        bar.update(event.done - bar.n)

    def _start_bar(self, event: Progress) -> Any:
        """Replace the bar of the task before, if there was one."""
        from tqdm import tqdm

        self._close_bar()
        self._bar = tqdm(
            desc=event.task,
            total=event.total or None,
            initial=event.done,
            unit=f" {event.unit}",
            unit_scale=event.unit == "B",  # bytes as kB, MB
            file=sys.stderr,
            leave=False,
        )
        return self._bar

    def print(self, line: str) -> None:
        """Print a line of results on stdout without breaking the bar."""
        if self._bar is not None:
            self._bar.clear()
        typer.echo(line)
        if self._bar is not None:
            self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass
class _Lines:
    """When to print a line, and its text; the rate is measured since the task began in this run."""

    task: str = ""
    began: float = 0.0
    already_done: int = 0
    last: float = 0.0

    def of(self, event: Progress, now: float) -> str | None:
        """The line for this event at `now` (seconds), or None if the next line is not due yet."""
        if event.task != self.task or event.done < self.already_done:
            self.task, self.began, self.already_done, self.last = event.task, now, event.done, now
            return None
        if now - self.last < LINE_SECONDS:
            return None
        self.last = now
        done = event.done - self.already_done
        text = f"{event.task}: {_show_amount(event)}"
        if done and event.total:
            left = (event.total - event.done) * (now - self.began) / done
            text += f", about {_show_seconds(left)} left"
        return text + (f" ({event.note})" if event.note else "")


def _show_amount(event: Progress) -> str:
    """`120 of 2,000 videos (6 %)` or `12 MB`."""
    is_bytes = event.unit == "B"
    scale, unit = (1_000_000, "MB") if is_bytes else (1, {"batch": "batches"}.get(event.unit, f"{event.unit}s"))
    if not event.total:
        return f"{event.done // scale:,} {unit}"
    share = 100 * event.done // event.total
    return f"{event.done // scale:,} of {event.total // scale:,} {unit} ({share} %)"


def _show_seconds(seconds: float) -> str:
    """`2 h 05 min`, `5 min` or `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
