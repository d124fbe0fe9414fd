"""Runs with worker processes, as users start them, ended by SIGKILL at any time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from pipelines.scoring.score_files import read_scores
from tests.fork_server import ForkServer
from tests.reliability.commands import Sources
from tests.reliability.trials import Trial
from tests.support import REPOSITORY, file_contents, stage_content, temporary_files

LONGEST_SURVIVAL_SECONDS = 5.0
"""Time for worker processes to end after their parent was killed; on an idle machine they end at once."""
TIMEOUT_SECONDS = 300
TOLERANCE = 1e-5
"""Tolerance of scores between numbers of processes."""
LONGEST_START_SECONDS = 3.0
"""Time after which a run that is to be killed before its first result is killed."""
LONGEST_PAUSE_SECONDS = 0.3
"""Time between a result and the kill: at least that of one item."""


@dataclass(frozen=True)
class Isolated:
    """A command with two workers."""

    arguments: Callable[[Sources, Path], tuple[object, ...]]
    result: Callable[[Path], Any]
    num_finished: Callable[[Path], int]
    lock: str
    """The file that is locked while a run is in progress."""


def _scores(folder: Path) -> Any:
    rows = read_scores(folder / "out" / "scores.csv")
    probabilities = [-1 if row.fake_probability is None else row.fake_probability for row in rows]
    return [replace(row, fake_probability=None) for row in rows], probabilities


def _num_scores(folder: Path) -> int:
    scores, journal = folder / "out" / "scores.csv", folder / "out" / "scores.csv.journal"
    if scores.exists():
        return len(read_scores(scores))
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def _stage(folder: Path) -> Any:
    stage = folder / "work" / "extract-frames"
    return stage_content(stage), file_contents(stage, ".png")


ISOLATED = {
    "extract-frames --workers 2": Isolated(
        lambda sources, folder: ("extract-frames", sources.videos, "-w", folder / "work", "--frames", 2),
        _stage,
        lambda folder: len(list(folder.glob("work/extract-frames/parts/*.parquet"))),
        "work/.extract-frames.lock",
    ),
    "predict --workers 2": Isolated(
        lambda sources, folder: (
            "predict", sources.pictures, "--checkpoint", sources.checkpoint, "-o", folder / "out" / "scores.csv",
        ),
        _scores,
        _num_scores,
        "out/scores.csv.journal",
    ),
}  # fmt: skip


@dataclass
class IsolatedRun:
    """One of them in a folder."""

    command: Isolated
    sources: Sources
    processes: ForkServer

    def run_trial(self, folder: Path, rng: Random) -> Trial:
        """Kill the command's first process at a random time, then run it again."""
        trial, here, unharmed = Trial(), folder / "struck", folder / "undisturbed"
        running = self._start(here)
        num_finished = self._wait(running, here, rng.choice((0, 1, 1, 2)), rng)
        running.kill()
        running.wait()
        trial.kills = int(running.returncode == -signal.SIGKILL)
        trial.story = f" killed when {num_finished} were finished;"
        trial.lost += max(0, num_finished - self.command.num_finished(here)) * trial.kills
        if not _is_free(here / self.command.lock):
            trial.mistaken += 1
            trial.story += " its lock is still held;"
        survivors = _wait_for_end(running.pid)
        if survivors:
            trial.mistaken += len(survivors)
            trial.story += f" {survivors} outlived it;"
        ends = [self.processes.run(*self.command.arguments(self.sources, path)) for path in (here, unharmed)]
        trial.is_equal = {ended.exit_code for ended in ends} == {0} and temporary_files(here) == []
        trial.is_equal = trial.is_equal and _agree(self.command.result(here), self.command.result(unharmed))
        trial.story += "" if trial.is_equal else f" {ends}"
        return trial

    def _wait(self, running: subprocess.Popen[bytes], folder: Path, wanted: int, rng: Random) -> int:
        """Until so many items are finished, and then for a moment; how many are finished then."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self.command.num_finished(folder) < wanted and running.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the run finished nothing")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, LONGEST_PAUSE_SECONDS if wanted else LONGEST_START_SECONDS))
        return self.command.num_finished(folder)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        """In a separate session, by which its processes are found."""
        arguments = [*map(str, self.command.arguments(self.sources, folder)), "--workers", "2"]
        return subprocess.Popen(
            [sys.executable, "-m", "deepfake_cli", *arguments],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _agree(result: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Equal, numbers within the tolerance."""
    is_close = isinstance(other[1], list)
    return bool(
        result[0] == other[0] and result[1] == (pytest.approx(other[1], abs=TOLERANCE) if is_close else other[1])
    )


def _is_free(lock: Path) -> bool:
    if not lock.is_file():
        return True
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _wait_for_end(session: int) -> list[str]:
    """The processes of a session that do not end."""
    deadline = time.monotonic() + LONGEST_SURVIVAL_SECONDS
    while (alive := _processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def _processes_of(session: int) -> list[str]:
    alive = []
    for process in psutil.process_iter(["status", "cmdline"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                alive.append(" ".join(process.info["cmdline"] or ())[-80:])
        except ProcessLookupError:
            continue
    return alive
