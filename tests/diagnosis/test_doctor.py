"""`doctor` finds what is broken in packages, weights and machine, names the remedy, and outlives what it looks at."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipelines import Finding, diagnose
from pipelines.config import DEFAULT_CHECKPOINT
from pipelines.diagnosis import self_test
from pipelines.diagnosis.child import StepResult
from pipelines.diagnosis.finding import Check
from pipelines.errors import StorageError
from pipelines.stages import doctor
from tests.conftest import Deepfake
from tests.diagnosis.conftest import WriteModule
from tests.support import EXAMPLES, REPOSITORY

NO_LIBGL = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
NO_NMS = "raise RuntimeError('operator torchvision::nms does not exist')"
NO_TORCH = "raise OSError('libtorch_cpu.so: cannot open shared object file')"
FACTS: dict[str, Any] = {
    "device": "cpu",
    "clip": "astronaut.mp4",
    "status": "ok",
    "error": None,
    "frames": 32,
    "faces": 32,
    "difference": 1e-6,
}
"""Of a self-test that went well."""


def _set_checks(monkeypatch: pytest.MonkeyPatch, **checks: Check) -> None:
    """Only these, and a self-test that is well."""
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "check_self_test", lambda: [Finding("self-test", "ok", "done")])


def test_nothing_is_broken_here_and_everything_has_a_line(deepfake: Deepfake, tmp_path: Path) -> None:
    result = deepfake("doctor", "--json", "-w", tmp_path / "work")
    findings = {each["name"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 0, result.stdout
    assert {"python", "numpy", "torch", "torchvision", "cpu", "gpu", "codecs", "weights", "cache", "disk"} <= set(
        findings
    )
    assert findings["torch"]["message"] == metadata.version("torch")
    assert "h264" in findings["codecs"]["message"]
    said = re.fullmatch(
        r"astronaut\.mp4: ok, 8 frames, 8 faces; .* differ by (\S+) from .*", findings["self-test"]["message"]
    )
    assert said and float(said[1]) < self_test.GPU_TOLERANCE
    assert not (tmp_path / "work").exists()


def test_the_command_starts_and_helps_where_neither_opencv_nor_torchvision_does(write_module: WriteModule) -> None:
    write_module("cv2", NO_LIBGL)
    folder = write_module("torchvision", NO_NMS)
    done = subprocess.run(
        [sys.executable, "-m", "deepfake_cli", "doctor", str(EXAMPLES)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (4, "")
    lines = done.stdout.splitlines()
    for name, cause, remedy in (
        ("opencv-python", "libGL.so.1: cannot open", "opencv-python-headless"),
        ("torchvision", "operator torchvision::nms", "--force-reinstall torch torchvision"),
    ):
        number = next(i for i, line in enumerate(lines) if line.startswith(f"broken  {name}"))
        assert cause in lines[number] and remedy in lines[number + 1] and lines[number + 1].startswith(" " * 8)
    assert "note    self-test not run: something that it needs is broken" in lines
    assert "note    job not estimated: something that opens the inputs is broken" in lines
    assert any(line.startswith("ok      codecs") for line in lines)
    assert any(line.startswith(f"ok      weights {DEFAULT_CHECKPOINT}") for line in lines)


def test_findings_come_one_by_one_and_make_the_exit_code(
    deepfake: Deepfake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good, note = Finding("a", "ok", "1.0"), Finding("b", "note", "absent\nhere", "install it")
    _set_checks(monkeypatch, first=lambda: [good, note])
    told: list[Finding] = []
    findings = diagnose(workspace=tmp_path, on_finding=told.append)
    assert findings == told and findings[:2] == [good, note]
    assert [finding.name for finding in findings[2:]] == ["self-test", "disk"]
    result = deepfake("doctor", "-w", tmp_path)
    assert result.exit_code == 0
    expected = ["ok      a 1.0", "note    b absent\\nhere", "          install it", "ok      self-test done"]
    assert result.stdout.splitlines()[:4] == expected
    _set_checks(monkeypatch, first=lambda: [good, Finding("c", "broken", "torn")])
    result = deepfake("doctor", "--json", "-w", tmp_path)
    assert result.exit_code == 4
    shown = {each.pop("name"): each for each in map(json.loads, result.stdout.splitlines())}
    assert shown["c"] == {"level": "broken", "message": "torn", "remedy": None}
    assert shown["self-test"]["level"] == "note"


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails() -> list[Finding]:
        raise KeyError("unforeseen")

    def says() -> list[Finding]:
        raise StorageError("the cause; the remedy")

    _set_checks(monkeypatch, first=fails, second=says, third=lambda: [Finding("d", "ok", "fine")])
    first, second, third, *_ = diagnose(workspace=tmp_path)
    assert (first.name, first.level) == ("first", "broken") and "KeyError: 'unforeseen'" in first.message
    assert second == Finding("second", "broken", "the cause; the remedy")
    assert third.level == "ok"


@pytest.mark.parametrize(
    ("broken", "names"), [("torch", {"disk"}), ("opencv", {"disk", "job"}), ("av", {"disk", "job"})]
)
def test_inputs_are_opened_only_where_what_opens_them_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip: Path, broken: str, names: set[str]
) -> None:
    _set_checks(monkeypatch, **{broken: lambda: [Finding("x", "broken", "torn")]})
    found = {finding.name: finding for finding in diagnose([clip], workspace=tmp_path)}
    assert set(found) == {"x", "self-test", *names}
    assert ("32 frames of 1 video " in found["disk"].message) == ("job" not in names)


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({}, "ok", "astronaut.mp4: ok, 32 frames, 32 faces; "),
        ({"clip": None, "status": "no_face", "frames": 8, "faces": 0}, "ok", "a drawn clip without a face"),
        ({"status": "no_face"}, "broken", "astronaut.mp4 gave no_face, not ok"),
        ({"clip": None}, "broken", "gave ok, not no_face"),
        ({"status": "failed", "error": "out of memory"}, "broken", "out of memory"),
        ({"clip": None, "status": "no_face", "frames": 0}, "broken", "with 0 frames"),
        ({"difference": 2e-4}, "broken", "at most 0.0001 is right"),
        ({"difference": 2e-4, "device": "cuda"}, "ok", "on cuda differ by 0.0002"),
        ({"difference": 0.03, "device": "cuda"}, "broken", "at most 0.02 is right"),
        ({"difference": math.nan}, "broken", "differ by nan"),
    ],
)
def test_the_self_test_is_judged_by_its_facts(changes: dict[str, Any], level: str, message: str) -> None:
    finding = self_test.judge(**{**FACTS, **changes})
    assert finding.level == level and message in finding.message
    assert (finding.remedy is None) == (level == "ok")


def test_without_an_example_clip_a_drawn_one_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engines.comparison.EXAMPLE_CLIP", tmp_path / "absent.mp4")
    facts = self_test.run_self_test()
    assert (facts["clip"], facts["status"], facts["frames"]) == (None, "no_face", self_test.NUM_FRAMES)
    assert 0 < facts["difference"] < self_test.GPU_TOLERANCE


def test_a_self_test_that_crashes_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        self_test, "take_steps", lambda steps, **_: [StepResult(steps[0], error="ended with exit code 3")]
    )
    (finding,) = self_test.check_self_test()
    assert (finding.level, finding.message) == ("broken", "ended with exit code 3")
