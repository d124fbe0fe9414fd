"""Run steps in a separate process: an import that crashes or hangs must not end `doctor`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STEPS_SECONDS = 180.0
"""For all steps of a process. A first import of torch from a slow disk takes a minute."""
MAX_LINE_CHARS = 300


@dataclass(frozen=True)
class StepResult:
    """The result of one step."""

    step: str
    value: Any = None
    """The return value, as JSON."""
    error: str | None = None


def take_steps(steps: Sequence[str], *, seconds: float = STEPS_SECONDS) -> list[StepResult]:
    """Take steps one after another in one new process, up to the first that fails.

    Args:
        steps: names of `probes.PROBES`, or modules to import. The process finds modules where this one does.
        seconds: for all of them.

    Returns:
        One result for each step that was begun; only the last may be an error.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pipelines.diagnosis.probes", *steps],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
        ending = _describe_ending(done.returncode, done.stderr)
        answers = done.stdout
    except subprocess.TimeoutExpired as error:
        ending = f"did not end within {seconds:g} s"
        answers = error.stdout or b""
    results = [StepResult(**json.loads(line)) for line in answers.decode("utf-8").splitlines()]
    if len(results) < len(steps) and not (results and results[-1].error):
        results.append(StepResult(steps[len(results)], error=ending))
    return results


def shorten(text: str) -> str:
    """Any message as one line, cut at `MAX_LINE_CHARS`."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}…"


def _describe_ending(code: int, stderr: bytes) -> str:
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return f"the process {how}: {lines[-1]}" if lines else f"the process {how}"
