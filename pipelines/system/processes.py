"""Processes and the signals that end them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
"""Option of prctl(2): the signal that Linux sends to a process when its parent ends."""


def end_with_parent() -> None:
    """Make this process end as soon as its parent ends, since no one is left to receive its results.

    On Linux the kernel does this at any time. Elsewhere a thread waits for the parent; native code that holds the GIL can
    delay it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


class StopSignals:
    """Records the first SIGINT or SIGTERM instead of acting on it; a second one goes to the previous handler."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.on_receive: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # SIG_IGN and SIG_DFL stay in force
                    self._before[number] = handler
                    signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def answer(self) -> None:
        """Pass the recorded signal, if any, to the previous handler."""
        if self.received is not None:
            self._before[self.received](self.received, None)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._before[number](number, frame)
        self.received = number
        self.on_receive()
