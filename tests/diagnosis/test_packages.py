"""Packages are imported where a crash does no harm, their versions compared, and each known error has its remedy."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines import Finding
from pipelines.diagnosis import child, packages
from pipelines.diagnosis.finding import Check
from pipelines.stages import doctor
from tests.diagnosis.conftest import WriteModule
from tests.support import REPOSITORY

FAKE = "fake_package_of_the_tests"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process was killed by SIGSEGV"),
        ("import os, sys; print('no licence', file=sys.stderr); os._exit(7)", "ended with exit code 7: no licence"),
        ("import time; time.sleep(60)", "did not end within 3 s"),
        ("raise SystemExit('wrong processor')", "SystemExit: wrong processor"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_an_import_that_crashes_hangs_or_fails_is_the_last_outcome(
    write_module: WriteModule, code: str, message: str
) -> None:
    write_module(FAKE, f"print('a line on stdout')\n{code}")
    results = child.take_steps(["json", FAKE, "csv"], seconds=3 if "sleep" in code else 60)
    assert [result.step for result in results] == ["json", FAKE]
    assert results[0].error is None and message in str(results[1].error)


def test_the_current_folder_is_searched_no_more_than_by_the_program_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{FAKE}.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "No module named" in str(child.take_steps([FAKE])[0].error)
    monkeypatch.syspath_prepend("")
    assert child.take_steps([FAKE])[0].error is None


@pytest.mark.parametrize(
    ("check", "package", "step", "name"),
    [(doctor.check_torch, "torch", "devices", "gpu"), (doctor.check_video, "av", "codecs", "codecs")],
)
def test_a_package_that_imports_and_then_fails_is_told_from_one_that_does_not_import(
    monkeypatch: pytest.MonkeyPatch, check: Check, package: str, step: str, name: str
) -> None:
    for failing, expected in ((package, (package, "broken")), (step, (name, "broken"))):
        results = [child.StepResult(each, error="torn" if each == failing else None) for each in (package, step)]
        taken = results[: 1 + (failing == step)]
        monkeypatch.setattr(doctor, "take_steps", lambda _steps, taken=taken: taken)
        levels = [(finding.name, finding.level) for finding in check()]
        assert [entry for entry in levels if entry[1] == "broken"] == [expected]


def test_what_comes_after_a_broken_package_is_not_called_broken(write_module: WriteModule) -> None:
    write_module(FAKE, "raise ImportError('some reason')")
    needed = [packages.Package("typer", FAKE), packages.Package("tqdm", "tqdm")]
    typer, tqdm = doctor.check_imports(needed)
    assert (typer.level, tqdm.level) == ("broken", "note")
    assert f"not tried, because {FAKE} failed" in tqdm.message
    assert typer.remedy == "pip install --force-reinstall 'typer'" or "typer>=" in str(typer.remedy)


@pytest.mark.parametrize(
    ("step", "error", "remedy"),
    [
        ("cv2", "ImportError: libGL.so.1: cannot open shared object file: No such file", "apt install libgl1"),
        ("cv2", "ImportError: libgthread-2.0.so.0: cannot open shared object file", "opencv-python-headless"),
        (
            "torchvision",
            "RuntimeError: operator torchvision::nms does not exist",
            "install --upgrade --force-reinstall torch",
        ),
        (
            "timm",
            "AttributeError: partially initialized module 'torchvision' has no attribute 'extension'",
            "do not match",
        ),
        ("cv2", "ImportError: numpy.core.multiarray failed to import", "another NumPy: pip install --upgrade"),
        ("cv2", "ModuleNotFoundError: No module named 'cv2'", "pip install 'some-package>=2'"),
        ("cv2", "ModuleNotFoundError: No module named 'other'", "pip install --force-reinstall 'some-package>=2'"),
        (
            "torch",
            "ImportError: libcudart.so.12: cannot open shared object file",
            "--force-reinstall 'some-package>=2'",
        ),
    ],
)
def test_known_errors_have_their_remedy_and_others_a_general_one(step: str, error: str, remedy: str) -> None:
    package = packages.Package("some-package", step)
    assert remedy in packages.find_remedy(package, error, Requirement("some-package>=2; python_version > '3'"))


def test_versions_are_compared_with_what_deepfake_says_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["tqdm>=999", "typer>=0.1", "numpy>=999; sys_platform == 'nowhere'", "pandas>=999; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted if name == "deepfake" else None)
    names = ("tqdm", "typer", "numpy", "pandas")
    findings = packages.report_packages([packages.Package(n, n) for n in names], [child.StepResult(n) for n in names])
    assert [finding.level for finding in findings] == ["broken", "ok", "ok", "ok"]
    assert findings[0].message == f"{metadata.version('tqdm')}, but deepfake needs >=999"
    assert findings[0].remedy == "pip install --upgrade 'tqdm>=999'"


def test_another_distribution_of_opencv_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "opencv-python-headless":
            raise metadata.PackageNotFoundError(name)
        return "4.10.0"

    monkeypatch.setattr(metadata, "version", version)
    (finding,) = packages.report_packages([packages.Package("opencv-python", "cv2")], [child.StepResult("cv2")])
    assert finding == Finding("opencv-python-headless", "ok", "4.10.0")


def test_optional_packages_that_are_missing_or_broken_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [child.StepResult("decord", error="OSError: no such symbol")]
    assert packages.report_packages(packages.DECORD, broken)[0].level == "note"
    monkeypatch.setattr(packages, "find_version", lambda name: (name, None))
    decord, *engines = [*packages.report_packages(packages.DECORD, broken), *packages.check_engines()]
    assert {finding.level for finding in (decord, *engines)} == {"note"}
    assert (decord.message, decord.remedy) == ("not installed; only --decoder decord needs it", None)
    assert [finding.remedy for finding in engines] == [f"pip install 'deepfake[{x}]'" for x in ("onnx", "openvino")]


def test_every_package_that_the_project_asks_for_is_looked_at() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    groups = (packages.ARRAYS, packages.TORCH, packages.VIDEO, packages.OTHERS, packages.DECORD)
    assert {package.distribution for group in groups for package in group} == needed
    extras = {e: {Requirement(t).name for t in texts} for e, texts in project["optional-dependencies"].items()}
    assert all(engine in extras[extra] for engine, extra in packages.ENGINES.items())
