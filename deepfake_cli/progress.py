"""How far the work is: a bar on a terminal, a line now and then where stderr goes to a file; always lines in the log file."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pipelines.system.progress import Progress

LINE_SECONDS = 30.0
"""Between two lines."""
LIBRARY_LOGGER = "pipelines"
"""Whose handlers `--log-file` sets."""

log = logging.getLogger(f"{LIBRARY_LOGGER}.progress")


class ProgressBar:
    """Fed by the pipelines' progress callback.

    On a terminal a tqdm bar with rate and ETA, which appears with the first event. Elsewhere a message every
    `LINE_SECONDS`, which redirected output and the log file keep; with `quiet` and beside a bar in the log file only.
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


@dataclass
class _Lines:
    """When to tell, and what: the rate is that since the task began in this run."""

    task: str = ""
    began: float = 0.0
    already_done: int = 0
    last: float = 0.0

    def of(self, event: Progress, now: float) -> str | None:
        """The line for this event at `now` (seconds), or None if it is not yet time for one."""
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
    """As `120 of 2,000 videos (6 %)` or `12 MB`."""
    is_bytes = event.unit == "B"
    scale, unit = (1_000_000, "MB") if is_bytes else (1, {"batch": "batches"}.get(event.unit, f"{event.unit}s"))
    if not event.total:
        return f"{event.done // scale:,} {unit}"
    share = 100 * event.done // event.total
    return f"{event.done // scale:,} of {event.total // scale:,} {unit} ({share} %)"


def _show_seconds(seconds: float) -> str:
    """As `2 h 05 min`, `5 min` or `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
