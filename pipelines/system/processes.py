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
"""Of prctl(2): the signal that Linux sends to a process when the one that started it ends."""


def end_with_parent() -> None:
    """From now on, end this process at once when the one that started it has ended: nobody would take its results.

    On Linux the system sees to it, whatever this process is doing. Elsewhere a thread waits, which native code that holds
    Python's lock keeps from acting.
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
    """Notes the first SIGINT or SIGTERM instead of acting on it; leaves the second to whoever had it before."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.on_receive: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # otherwise the program does not wish to be asked
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def answer(self) -> None:
        """Act on the signal that was noted."""
        if self.received is not None:
            self._before[self.received](self.received, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._before[number](number, frame)
        self.received = number
        self.on_receive()
