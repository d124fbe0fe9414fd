"""A pool of worker processes: a job that crashes its process, hangs or eats memory is lost by itself, and no other.

Processes start anew (spawn): a script that calls this needs `if __name__ == "__main__":`. They end when this process
ends, however it ends.
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, process
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

from pipelines.errors import DeepfakeError
from pipelines.system.processes import StopSignals, end_with_parent
from pipelines.system.resources import available_memory, thread_variables, usable_cores

Job = TypeVar("Job")
Result = TypeVar("Result")
MEMORY_CHECK_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 3600.0
"""That every system takes."""
LAST_WORDS_SECONDS = 5.0
"""How long a process that was told to end may take."""
WORKER_MEMORY_BYTES = 1.5 * 2**30
"""What a worker with both embedded networks takes at most, rounded up."""
MOST_WORKERS = 16
"""That are chosen without being asked for."""
MOST_GPU_WORKERS = 2
STOPPING = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one job may take; a job that takes more is lost."""

    seconds: float | None = None
    memory_mb: int | None = None
    """Of the process that works on it, all included."""


@dataclass(frozen=True)
class Lost:
    """What stands in place of a job's result when its process was lost."""

    reason: str


@dataclass
class _Worker(Generic[Job]):
    """A process, and what it does."""

    process: process.BaseProcess
    pipe: connection.Connection
    is_ready: bool = False
    job: tuple[int, Job] | None = None
    """Place and job."""
    since: float = 0.0


@dataclass
class WorkerPool(Generic[Job, Result]):
    """Processes that each hold what `make_work` made there and apply it to one job after another.

    `make_work`, jobs and results travel between processes: they must be picklable. Messages of the library's loggers
    arrive at the loggers of this process.
    """

    make_work: Callable[[], Callable[[Job], Result]]
    count: int
    limits: Limits = field(default_factory=Limits)
    _workers: list[_Worker[Job]] = field(default_factory=list)
    _is_stopping: bool = False

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[int, Result | Lost], None, None]:
        """The place of each job with its result, as they are done; in any order.

        Ctrl-C and SIGTERM are answered when the jobs in work are done; a second one at once.

        Raises:
            DeepfakeError: of `make_work` or of a job, or a process could not start; the run ends with it.
            KeyboardInterrupt, or what the program does on SIGTERM: the run was told to stop.
        """
        waiting = deque(enumerate(jobs))
        told, tell = multiprocessing.Pipe(duplex=False)
        with StopSignals() as signals, told, tell:
            signals.on_receive = lambda: tell.send(None)
            # whoever lets go of this generator at the end of the program: processes that ignore signals would be waited for
            at_exit = Finalize(None, self._end, exitpriority=10)
            try:
                while waiting or self._is_busy:
                    while waiting and len(self._workers) < self.count:
                        self._workers.append(self._start())
                    self._hand_out(waiting)
                    yield from self._await(told)
                    if signals.received is not None and not self._is_stopping:
                        self._is_stopping = True
                        waiting.clear()
                        log.warning("stopping when what is in work is done; once more to stop at once")
            finally:
                self._end()
                at_exit.cancel()
                signals.on_receive = lambda: None
            signals.answer()

    @property
    def _is_busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def _hand_out(self, waiting: deque[tuple[int, Job]]) -> None:
        """Give the idle processes a job each, as far as there are any."""
        for worker in self._workers:
            if waiting and worker.is_ready and worker.job is None:
                worker.job = waiting.popleft()
                worker.since = time.monotonic()
                try:
                    worker.pipe.send(worker.job[1])
                except OSError:  # it has just died, which is noticed in its turn: the job was not begun
                    waiting.appendleft(worker.job)
                    worker.job = None

    def _await(self, told: connection.Connection) -> Iterator[tuple[int, Result | Lost]]:
        """Wait until something happens; the jobs that ended by it."""
        try:
            ready = connection.wait([told, *(worker.pipe for worker in self._workers)], self._patience())
        except InterruptedError:  # on Windows, by Ctrl-C
            return
        if told in ready:
            told.recv()
        for worker in list(self._workers):
            reason = None
            if worker.pipe in ready:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    reason = _describe_death(worker.process)
                else:
                    yield from self._take(worker, *message)
            reason = reason or self._exceeded(worker)
            if reason is not None:
                yield from self._lose(worker, reason)

    def _lose(self, worker: _Worker[Job], reason: str) -> Iterator[tuple[int, Lost]]:
        """Give a process up, and the job that it had; another is started where there are more jobs."""
        _kill(worker)
        worker.pipe.close()
        self._workers.remove(worker)
        if worker.job is not None:
            log.warning("a worker process %s", reason)
            yield worker.job[0], Lost(f"the process that worked on it {reason}")
        elif not worker.is_ready and not self._is_stopping:
            if not any(other.is_ready for other in self._workers):
                raise DeepfakeError(
                    f"a worker process {reason} while it started; free some memory, or look with: deepfake doctor. A script "
                    'needs if __name__ == "__main__": around what it does'
                )
            log.warning("a worker process %s while it started; the others go on", reason)
            self.count = len(self._workers)

    def _take(self, worker: _Worker[Job], kind: str, content: Any) -> Iterator[tuple[int, Result]]:
        """What a process says."""
        if kind == "log":
            logger = logging.getLogger(content.name)
            if logger.isEnabledFor(content.levelno):
                logger.handle(content)
        elif kind == "error":
            raise content
        elif kind == "bug":
            raise RuntimeError(f"in a worker process:\n{content}")
        elif kind == "ready":
            worker.is_ready = True
        elif worker.job is not None:
            (place, _), worker.job = worker.job, None
            yield place, content

    def _patience(self) -> float | None:
        """Seconds until a limit has to be looked at; None: no limit."""
        busy = [worker for worker in self._workers if worker.job is not None]
        if self.limits.memory_mb is not None and busy:
            return MEMORY_CHECK_SECONDS
        if self.limits.seconds is None or not busy:
            return None
        left = min(worker.since for worker in busy) + self.limits.seconds - time.monotonic()
        return min(max(0.0, left), LONGEST_WAIT_SECONDS)

    def _exceeded(self, worker: _Worker[Job]) -> str | None:
        """The limit that the worker's job has passed."""
        if worker.job is None:
            return None
        seconds, memory_mb = self.limits.seconds, self.limits.memory_mb
        if seconds is not None and time.monotonic() - worker.since >= seconds:
            return f"took longer than --timeout {seconds:g} seconds and was ended"
        if memory_mb is not None and _memory_mb(worker.process) > memory_mb:
            return f"took more memory than --max-memory {memory_mb} MiB and was ended"
        return None

    def _start(self) -> _Worker[Job]:
        here, there = multiprocessing.Pipe()
        variables = thread_variables(max(1, usable_cores() // self.count))
        context = multiprocessing.get_context("spawn")
        level = logging.getLogger("pipelines").getEffectiveLevel()
        new = context.Process(target=_serve, args=(there, self.make_work, level), daemon=True)
        with _environment(variables), _signals_held_back():
            new.start()
        there.close()  # else the end of the process would not close the pipe
        return _Worker(new, here)

    def _end(self) -> None:
        """Idle processes end as their pipe closes; one that still works is killed."""
        for worker in self._workers:
            if worker.job is not None or not worker.is_ready:
                _kill(worker)
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(LAST_WORDS_SECONDS)
            _kill(worker)
        self._workers = []


def choose_count(asked: int, num_jobs: int, device: str) -> int:
    """Worker processes for so many jobs: as many as asked for, else one a core as far as memory goes; never idle ones.

    Two on a GPU: one decodes while the other computes, and each holds the networks there.
    """
    room = int(available_memory() // WORKER_MEMORY_BYTES)
    most = MOST_GPU_WORKERS if _is_gpu(device) else MOST_WORKERS
    return max(1, min(asked or min(usable_cores(), room, most), num_jobs))


def _is_gpu(device: str) -> bool:
    """Whether `--device` may mean a GPU, found out without torch, which takes seconds to import."""
    if device == "auto":
        return sys.platform == "darwin" or shutil.which("nvidia-smi") is not None
    return device != "cpu"


def _serve(pipe: connection.Connection, make_work: Callable[[], Callable[[Any], Any]], level: int) -> None:
    """The life of a worker process."""
    for number in STOPPING:  # a terminal signals all processes; the first one decides
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    end_with_parent()
    talk = _Voice(pipe)
    _forward_messages(talk, level)
    try:
        work = make_work()
        talk("ready", None)
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            talk("result", work(job))
    except DeepfakeError as error:
        talk("error", error)
    except BrokenPipeError:  # the other end has gone
        return
    except Exception:
        talk("bug", traceback.format_exc())


class _Voice:
    """Sends one message at a time, from whichever thread."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __call__(self, kind: str, content: Any) -> None:
        with self._lock:
            self._pipe.send((kind, content))


class _Forwarder(logging.handlers.QueueHandler):
    """Hands log records, made picklable, to the parent: there, a traceback goes to the log file only."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        sent = copy.copy(record)
        sent.msg, sent.args = record.getMessage(), None
        if record.exc_info:
            sent.exc_text, sent.exc_info = logging.Formatter().formatException(record.exc_info), None
        return sent

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue("log", record)  # type: ignore[operator]


def _forward_messages(talk: _Voice, level: int) -> None:
    library = logging.getLogger("pipelines")
    library.setLevel(level)
    library.propagate = False
    library.addHandler(_Forwarder(talk))  # type: ignore[arg-type]


def _kill(worker: _Worker[Any]) -> None:
    worker.process.kill()
    worker.process.join(LAST_WORDS_SECONDS)
    if worker.process.is_alive():  # it waits for a disk or a network that does not answer
        log.warning("process %s does not end yet", worker.process.pid)


def _describe_death(dead: process.BaseProcess) -> str:
    """How a process ended, for people."""
    dead.join(LAST_WORDS_SECONDS)
    code = dead.exitcode
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.strsignal(-code) or f"signal {-code}"
    cause = ", as happens when memory runs out" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"crashed ({name}{cause})"


def _memory_mb(running: process.BaseProcess) -> float:
    import psutil

    try:
        return float(psutil.Process(running.pid).memory_info().rss) / 2**20
    except psutil.Error:  # it has ended
        return 0.0


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables, set by nobody else, that a process finds as it starts."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that starts now is not stopped by Ctrl-C before it knows how to answer it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
