"""A pool of worker processes: if a job crashes its process, hangs or takes too much memory, only that job is lost.

Processes are spawned, so a script that calls this needs `if __name__ == "__main__":`. They end when this process ends,
however it ends.
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
"""A timeout that every operating system accepts."""
LAST_WORDS_SECONDS = 5.0
"""How long a process may take to end."""
WORKER_MEMORY_BYTES = 1.5 * 2**30
"""Upper bound for the memory of a worker with both embedded networks."""
MOST_WORKERS = 16
"""Most workers that are chosen by default."""
MOST_GPU_WORKERS = 2
STOPPING = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of one job; a job that exceeds one is lost."""

    seconds: float | None = None
    memory_mb: int | None = None
    """Total memory of the worker process, in MiB."""


@dataclass(frozen=True)
class Lost:
    """Takes the place of a job's result when its process was lost."""

    reason: str


@dataclass
class _Worker(Generic[Job]):
    """A worker process and its current job."""

    process: process.BaseProcess
    pipe: connection.Connection
    is_ready: bool = False
    job: tuple[int, Job] | None = None
    """Index of the job and the job."""
    since: float = 0.0


@dataclass
class WorkerPool(Generic[Job, Result]):
    """Processes that each call `make_work` once and apply the result to one job after another.

    `make_work`, jobs and results must be picklable. Records of the library's loggers are passed on to the loggers of this
    process.
    """

    make_work: Callable[[], Callable[[Job], Result]]
    count: int
    limits: Limits = field(default_factory=Limits)
    _workers: list[_Worker[Job]] = field(default_factory=list)
    _is_stopping: bool = False

    def run(self, jobs: Sequence[Job]) -> Generator[tuple[int, Result | Lost], None, None]:
        """Yield the index of each job with its result, in the order of completion.

        On Ctrl-C or SIGTERM the jobs in progress are finished first; a second signal stops at once.

        Raises:
            DeepfakeError: raised by `make_work` or a job, or a process could not start; the run ends.
            KeyboardInterrupt: the run was interrupted; on SIGTERM whatever the previous handler raises.
        """
        waiting = deque(enumerate(jobs))
        woken, wake = multiprocessing.Pipe(duplex=False)
        with StopSignals() as signals, woken, wake:
            signals.on_receive = lambda: wake.send(None)
            # if the generator is dropped at program exit, multiprocessing would wait for the workers, which ignore signals
            at_exit = Finalize(None, self._end, exitpriority=10)
            try:
                while waiting or self._is_busy:
                    while waiting and len(self._workers) < self.count:
                        self._workers.append(self._start())
                    self._hand_out(waiting)
                    yield from self._await(woken)
                    if signals.received is not None and not self._is_stopping:
                        self._is_stopping = True
                        waiting.clear()
                        log.warning("finishing the videos in progress; press Ctrl-C again to stop now")
            finally:
                self._end()
                at_exit.cancel()
                signals.on_receive = lambda: None
            signals.answer()

    @property
    def _is_busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def _hand_out(self, waiting: deque[tuple[int, Job]]) -> None:
        """Give each idle process a job while there are any."""
        for worker in self._workers:
            if waiting and worker.is_ready and worker.job is None:
                worker.job = waiting.popleft()
                worker.since = time.monotonic()
                try:
                    worker.pipe.send(worker.job[1])
                except OSError:  # it has just died, which `_await` will notice; the job has not started
                    waiting.appendleft(worker.job)
                    worker.job = None

    def _await(self, woken: connection.Connection) -> Iterator[tuple[int, Result | Lost]]:
        """Wait until something happens; yield the jobs that ended."""
        try:
            ready = connection.wait([woken, *(worker.pipe for worker in self._workers)], self._patience())
        except InterruptedError:  # Ctrl-C on Windows
            return
        if woken in ready:
            woken.recv()
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
        """Give up a process and its job; a new process is started if there are more jobs."""
        _kill(worker)
        worker.pipe.close()
        self._workers.remove(worker)
        if worker.job is not None:
            log.warning("a worker process %s", reason)
            yield worker.job[0], Lost(f"the worker process {reason}")
        elif not worker.is_ready and not self._is_stopping:
            if not any(other.is_ready for other in self._workers):
                raise DeepfakeError(
                    f"a worker process {reason} while starting; free some memory, or run deepfake doctor. A script must do its "
                    'work under if __name__ == "__main__":'
                )
            log.warning("a worker process %s while starting; continuing with the others", reason)
            self.count = len(self._workers)

    def _take(self, worker: _Worker[Job], kind: str, content: Any) -> Iterator[tuple[int, Result]]:
        """Handle a message from a process; yield the job that it completes."""
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
        """Seconds until a limit must be checked; None if there is no limit."""
        busy = [worker for worker in self._workers if worker.job is not None]
        if self.limits.memory_mb is not None and busy:
            return MEMORY_CHECK_SECONDS
        if self.limits.seconds is None or not busy:
            return None
        left = min(worker.since for worker in busy) + self.limits.seconds - time.monotonic()
        return min(max(0.0, left), LONGEST_WAIT_SECONDS)

    def _exceeded(self, worker: _Worker[Job]) -> str | None:
        """The limit that the worker's job has exceeded, as a message; None if none."""
        if worker.job is None:
            return None
        seconds, memory_mb = self.limits.seconds, self.limits.memory_mb
        if seconds is not None and time.monotonic() - worker.since >= seconds:
            return f"took longer than --timeout {seconds:g} seconds and was killed"
        if memory_mb is not None and _memory_mb(worker.process) > memory_mb:
            return f"took more memory than --max-memory {memory_mb} MiB and was killed"
        return None

    def _start(self) -> _Worker[Job]:
        here, there = multiprocessing.Pipe()
        variables = thread_variables(max(1, usable_cores() // self.count))
        context = multiprocessing.get_context("spawn")
        level = logging.getLogger("pipelines").getEffectiveLevel()
        new = context.Process(target=_serve, args=(there, self.make_work, level), daemon=True)
        with _environment(variables), _signals_held_back():
            new.start()
        there.close()  # otherwise the pipe would stay open when the process ends
        return _Worker(new, here)

    def _end(self) -> None:
        """End all processes: idle ones by closing their pipe, busy ones by killing them."""
        for worker in self._workers:
            if worker.job is not None or not worker.is_ready:
                _kill(worker)
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(LAST_WORDS_SECONDS)
            _kill(worker)
        self._workers = []


def choose_count(asked: int, num_jobs: int, device: str) -> int:
    """Number of workers: `asked`, or if 0, one per core as far as memory allows; never more than there are jobs.

    By default at most two on a GPU: one decodes while the other computes, and each has its own copy of the networks.
    """
    room = int(available_memory() // WORKER_MEMORY_BYTES)
    most = MOST_GPU_WORKERS if _is_gpu(device) else MOST_WORKERS
    return max(1, min(asked or min(usable_cores(), room, most), num_jobs))


def _is_gpu(device: str) -> bool:
    """Whether `--device` may mean a GPU, without importing torch, which takes seconds."""
    if device == "auto":
        return sys.platform == "darwin" or shutil.which("nvidia-smi") is not None
    return device != "cpu"


def _serve(pipe: connection.Connection, make_work: Callable[[], Callable[[Any], Any]], level: int) -> None:
    """The main loop of a worker process."""
    for number in STOPPING:  # a terminal signals all processes; only the parent reacts
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
    except BrokenPipeError:  # the parent has gone
        return
    except Exception:
        talk("bug", traceback.format_exc())


class _Voice:
    """Sends messages to the parent, one at a time, from any thread."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __call__(self, kind: str, content: Any) -> None:
        with self._lock:
            self._pipe.send((kind, content))


class _Forwarder(logging.handlers.QueueHandler):
    """Passes log records to the parent in picklable form; tracebacks are shown only in the log file."""

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
    if worker.process.is_alive():  # it is blocked by an unresponsive disk or network
        log.warning("process %s has not ended yet", worker.process.pid)


def _describe_death(dead: process.BaseProcess) -> str:
    """How a process ended, in words."""
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
    except psutil.Error:  # it has already ended
        return 0.0


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which must be unset, for processes started in this context."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block signals in a process that starts now until it has installed its handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
