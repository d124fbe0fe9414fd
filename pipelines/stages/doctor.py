"""`doctor`: all checks in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipelines.diagnosis.child import StepResult, take_steps
from pipelines.diagnosis.disk import check_temporary, check_workspace
from pipelines.diagnosis.finding import Check, Finding, run_check
from pipelines.diagnosis.machine import check_python, report_codecs, report_devices
from pipelines.diagnosis.packages import ARRAYS, DECORD, OTHERS, TORCH, VIDEO, Package, check_engines, report_packages
from pipelines.diagnosis.self_test import NAME as SELF_TEST
from pipelines.diagnosis.self_test import check_self_test
from pipelines.diagnosis.weights import check_cache, check_weights

FindingCallback = Callable[[Finding], None]


def diagnose(
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    workspace: str | Path | None = None,
    on_finding: FindingCallback = lambda _finding: None,
) -> list[Finding]:
    """Check everything that deepfake needs; takes some seconds. Problems are returned, not raised.

    Packages are imported in separate processes. Checks that depend on them (the self-test, opening inputs) are left out
    if something is broken before.

    Args:
        inputs: files, folders, lists or videos manifests of a job, for an estimate of what it would write.
        workspace: where it would write; None: the current folder.
        on_finding: called with each finding as soon as it is known.
    """
    findings: list[Finding] = []
    broken: set[str] = set()

    def examine(name: str, check: Check) -> None:
        for finding in run_check(name, check):
            findings.append(finding)
            on_finding(finding)
            if finding.level == "broken":
                broken.add(name)

    for name, check in CHECKS.items():
        examine(name, check)
    examine(SELF_TEST, _skip_self_test if broken else check_self_test)
    can_open = not broken & OPENING
    examine("disk", partial(check_workspace, inputs if can_open else (), workspace))
    if inputs and not can_open:
        examine("job", _skip_estimate)
    return findings


def check_imports(packages: Sequence[Package]) -> list[Finding]:
    """Packages that only need to be imported."""
    return report_packages(packages, take_steps([package.step for package in packages]))


def check_torch() -> list[Finding]:
    """torch, what builds on it, and the devices that it sees."""
    torch, *others = (package.step for package in TORCH)
    results = take_steps([torch, "devices", *others])
    devices = _find(results, "devices")
    if devices is None:
        return report_packages(TORCH, results)
    if devices.error is not None:
        found = [Finding("gpu", "broken", f"looking for GPUs failed: {devices.error}", "install a matching GPU driver")]
    else:
        found = report_devices(devices.value)
    return [*report_packages(TORCH, results), *found]


def check_video() -> list[Finding]:
    """PyAV and its codecs."""
    results = take_steps([*(package.step for package in VIDEO), "codecs"])
    codecs = _find(results, "codecs")
    findings = report_packages(VIDEO, results)
    if codecs is not None and codecs.error is not None:
        remedy = "pip install --upgrade --force-reinstall av"
        findings.append(Finding("codecs", "broken", f"listing them failed: {codecs.error}", remedy))
    elif codecs is not None:
        findings += report_codecs(codecs.value)
    return findings


def _find(results: Sequence[StepResult], step: str) -> StepResult | None:
    return next((result for result in results if result.step == step), None)


def _skip_self_test() -> list[Finding]:
    return [Finding(SELF_TEST, "note", "not run: something that it needs is broken")]


def _skip_estimate() -> list[Finding]:
    return [Finding("job", "note", "not estimated: something that opens the inputs is broken")]


CHECKS: dict[str, Check] = {
    "python": check_python,
    "opencv": partial(check_imports, ARRAYS),
    "torch": check_torch,
    "av": check_video,
    "others": partial(check_imports, OTHERS),
    "decord": partial(check_imports, DECORD),
    "engines": check_engines,
    "weights": check_weights,
    "cache": check_cache,
    "temporary files": check_temporary,
}
"""Checks independent of each other; the self-test and the inputs of a job come after."""
OPENING = {"opencv", "av", "others"}
"""Checks of what opens the inputs of a job."""
