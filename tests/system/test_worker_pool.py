"""A pool of processes: jobs that crash, hang or eat memory are lost by themselves, and everybody else's are done."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipelines.errors import ConfigError
from pipelines.system.resources import num_threads, usable_cores
from pipelines.system.worker_pool import Limits, Lost, WorkerPool, choose_count
from tests.support import REPOSITORY, wait_until

SECONDS = 0.3
NAP_SECONDS = 1.0


@dataclass(frozen=True)
class Double:
    """Makes the work: doubles numbers, does strange things on words."""

    log_file: Path | None = None

    def __call__(self) -> Callable[[int | str], int | str]:
        return self.work

    def work(self, job: int | str) -> int | str:
        if isinstance(job, int):
            return 2 * job
        if self.log_file:
            with self.log_file.open("a") as file:
                file.write(f"{job}\n")
        return str(getattr(self, job)())

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self) -> None:
        os._exit(7)

    def hang(self) -> None:
        time.sleep(600)

    def hold(self) -> None:
        """Never returns, and lets no other thread of Python run."""
        ctypes.PyDLL(None).sleep(600)

    def nap(self) -> str:
        time.sleep(NAP_SECONDS)
        return "rested"

    def eat(self) -> None:
        eaten = []
        while True:
            eaten.append(bytearray(20_000_000))
            time.sleep(0.01)

    def threads(self) -> int:
        return num_threads()

    def warn(self) -> None:
        logging.getLogger("pipelines.video").warning("a message from %s", "within")

    def refuse(self) -> None:
        raise ConfigError("wrong for all jobs")


@dataclass(frozen=True)
class CanNotStart:
    """Fails, or dies, before the first job."""

    dies: bool

    def __call__(self) -> Callable[[int], int]:
        if self.dies:
            os._exit(9)
        raise ConfigError("no such weights")


def _run(jobs: list[int | str], count: int = 2, **limits: float) -> list[int | str | Lost]:
    pool = WorkerPool[int | str, int | str](Double(), count, Limits(**limits))  # type: ignore[arg-type]
    results = dict(pool.run(jobs))
    assert sorted(results) == list(range(len(jobs)))
    return [results[place] for place in range(len(jobs))]


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def test_every_job_has_one_result_in_whatever_order_they_are_done() -> None:
    assert _run(["nap", *range(20)]) == ["rested", *range(0, 40, 2)]


@pytest.mark.parametrize(
    ("job", "limits", "reason"),
    [
        ("crash", {}, "crashed (Segmentation fault)"),
        ("leave", {}, "ended with exit code 7"),
        ("hang", {"seconds": SECONDS}, "took longer than --timeout 0.3 seconds"),
        ("eat", {"memory_mb": 400}, "took more memory than --max-memory 400 MiB"),
    ],
)
def test_a_job_that_ends_its_process_is_lost_and_no_other(job: str, limits: dict[str, float], reason: str) -> None:
    results = _run([1, job, 2], count=1, **limits)
    assert (results[0], results[2]) == (2, 4)
    assert isinstance(results[1], Lost) and reason in results[1].reason
    assert not _children()


def test_an_error_that_every_job_would_meet_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="wrong for all jobs"):
        _run(["refuse", 1])
    with pytest.raises(ConfigError, match="no such weights"):
        list(WorkerPool[int, int](CanNotStart(dies=False), 1).run([1]))
    with pytest.raises(Exception, match="exit code 9 while starting"):
        list(WorkerPool[int, int](CanNotStart(dies=True), 1).run([1]))
    assert not _children()


def test_processes_share_the_cores_and_speak_through_this_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    monkeypatch.setattr(logging.getLogger("pipelines"), "propagate", True)
    with caplog.at_level(logging.WARNING, "pipelines"):
        assert _run(["threads", "warn"], count=2)[0] == str(max(1, usable_cores() // 2))
    assert [record.getMessage() for record in caplog.records] == ["a message from within"]
    assert os.environ == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_jobs_in_work_end_and_no_other_begin(number: signal.Signals, tmp_path: Path) -> None:
    received_signals = []

    def answer(received: int, _frame: object) -> None:
        received_signals.append(received)
        raise KeyboardInterrupt

    before = signal.signal(number, answer)
    log_file = tmp_path / "begun"
    results = []

    def kill_when_begun() -> None:
        while not log_file.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=kill_when_begun, daemon=True).start()
    try:
        for pair in WorkerPool[int | str, int | str](Double(log_file), 1).run([1, "nap", "nap", 2]):
            results.append(pair)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(number, before)
    assert received_signals == [number]
    assert results == [(0, 2), (1, "rested")]
    assert log_file.read_text().splitlines() == ["nap"]
    assert not _children()


def test_a_second_signal_stops_at_once() -> None:
    def kill_twice() -> None:
        for _ in range(2):
            time.sleep(SECONDS)
            os.kill(os.getpid(), signal.SIGINT)

    started = 0.0
    with pytest.raises(KeyboardInterrupt):
        for _ in WorkerPool[int | str, int | str](Double(), 1).run([1, "hang"]):
            started = time.monotonic()
            threading.Thread(target=kill_twice).start()
    assert started and time.monotonic() - started < 30
    assert not _children()


@pytest.mark.parametrize(
    "job",
    [
        "hang",
        pytest.param("hold", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux sees to that")),
    ],
)
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path, job: str) -> None:
    script, log_file = tmp_path / "parent.py", tmp_path / "log"
    script.write_text(
        "from pathlib import Path\n"
        "from tests.system.test_worker_pool import WorkerPool, Double\n"
        "if __name__ == '__main__':\n"
        f"    for _ in WorkerPool(Double(Path({str(log_file)!r})), 2).run(['{job}', '{job}']):\n"
        "        pass\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, script], env=environment) as parent:
        wait_until(lambda: log_file.is_file() and log_file.read_text() == f"{job}\n" * 2)
        workers = [child for child in psutil.Process(parent.pid).children() if "spawn_main" in str(child.cmdline())]
        parent.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert not alive


@pytest.mark.parametrize(
    ("asked", "num_jobs", "device", "cores", "memory_gb", "expected"),
    [
        (0, 100, "cpu", 4, 64, 4),
        (0, 100, "cpu", 64, 64, 16),
        (0, 100, "cpu", 4, 3.5, 2),
        (0, 100, "cpu", 4, 0.5, 1),
        (0, 1, "cpu", 4, 64, 1),
        (0, 0, "cpu", 4, 64, 1),
        (0, 100, "cuda:1", 8, 64, 2),
        (6, 100, "cuda:1", 8, 64, 6),
        (9, 100, "cpu", 4, 0.5, 9),
        (9, 5, "cpu", 4, 64, 5),
    ],
)
def test_there_are_as_many_processes_as_pay(
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
    num_jobs: int,
    device: str,
    cores: int,
    memory_gb: float,
    expected: int,
) -> None:
    monkeypatch.setattr("pipelines.system.worker_pool.usable_cores", lambda: cores)
    monkeypatch.setattr("pipelines.system.worker_pool.available_memory", lambda: int(memory_gb * 2**30))
    assert choose_count(asked, num_jobs, device) == expected
