"""The packages that deepfake needs: whether they import, and in which version; and how to fix those that do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from pipelines.diagnosis.child import StepResult, shorten
from pipelines.diagnosis.finding import Finding, FindingLevel

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DEEPFAKE = "deepfake"
OPENCV = "opencv-python"
ALTERNATIVES = {OPENCV: ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
"""Other distributions of the same module."""


@dataclass(frozen=True)
class Package:
    """A distribution and the step that shows that it works."""

    distribution: str
    step: str
    """A module, or one of `probes.PROBES`."""
    is_optional: bool = False
    """A missing or broken one is only a note."""


ARRAYS = (Package("numpy", "numpy"), Package(OPENCV, "cv2"))
TORCH = (
    Package("torch", "torch"),
    Package("torchvision", "torchvision"),
    Package("timm", "timm"),
    Package("lightning-fabric", "lightning_fabric"),
    Package("retinaface-pytorch", "retinaface.network"),
    Package("safetensors", "safetensors.torch"),
)
VIDEO = (Package("av", "av"),)
OTHERS = (
    Package("pyarrow", "pyarrow.parquet"),
    Package("pandas", "pandas"),
    Package("matplotlib", "matplotlib"),
    Package("tensorboard", "tensorboard"),
    Package("psutil", "psutil"),
    Package("tqdm", "tqdm"),
    Package("typer", "typer"),
)
DECORD = (Package("decord2", "decord", is_optional=True),)
ENGINES = {"onnxruntime": "onnx", "openvino": "openvino"}
"""Engines of `predict --engine` other than torch, and the extra that installs each."""

_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"lib(GL|EGL|gthread|glib|SM|Xext|Xrender|xcb)\b[-\w.]*: cannot open shared object",
        "pip uninstall opencv-python, then pip install --force-reinstall opencv-python-headless, which needs no screen; "
        "or install the system's library (Debian, Ubuntu: apt install libgl1 libglib2.0-0)",
    ),
    (
        r"torchvision::nms|partially initialized module 'torchvision'|torchvision\S*: undefined symbol",
        "torch and torchvision do not match: pip install --upgrade --force-reinstall torch torchvision "
        "(one command, with the --index-url that torch came from, if there was one)",
    ),
    (
        r"compiled using NumPy 1|numpy\.core\.multiarray failed|numpy\.dtype size changed",
        "it was built for another NumPy: pip install --upgrade --force-reinstall {distribution}",
    ),
    (r"No module named '{top}'", "pip install '{requirement}'"),
)
"""Pattern in an import's error to what helps; the first that fits."""
_ANY_REMEDY = "pip install --force-reinstall '{requirement}'"


def report_packages(packages: Sequence[Package], results: Sequence[StepResult]) -> list[Finding]:
    """One finding for each package, from the steps that were taken; steps of no package are left out."""
    by_step = {result.step: result for result in results}
    failed = next((result.step for result in results if result.error), "")
    requirements = read_requirements()
    return [
        _report(package, by_step.get(package.step), requirements.get(package.distribution), failed)
        for package in packages
    ]


def check_engines() -> list[Finding]:
    """The optional runtimes, by their version only: predict imports them when they are asked for."""
    return [_report_engine(package, extra) for package, extra in ENGINES.items()]


def read_requirements() -> dict[str, Requirement]:
    """What deepfake's own metadata asks for here, by distribution.

    Empty if deepfake is not installed but runs from a folder, or if packaging is missing.
    """
    try:
        from packaging.requirements import Requirement

        texts = metadata.requires(DEEPFAKE) or []
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    wanted = [Requirement(text) for text in texts]
    return {each.name: each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})}


def find_version(distribution: str) -> tuple[str, str | None]:
    """Name and version of the distribution, or of an alternative, that is installed; None if none is."""
    for name in (distribution, *ALTERNATIVES.get(distribution, ())):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return distribution, None


def _report(package: Package, result: StepResult | None, wanted: Requirement | None, failed: str) -> Finding:
    name, version = find_version(package.distribution)
    shown = version or "version unknown"
    if result is None:
        return Finding(name, "note", f"{shown}; not tried, because {failed} failed")
    if result.error is not None:
        if package.is_optional and version is None:
            return Finding(name, "note", "not installed; only --decoder decord needs it")
        remedy = find_remedy(package, result.error, wanted)
        state = f"{shown} does not work" if version else "not installed"
        return Finding(name, _bad(package), f"{state}: {shorten(result.error)}", remedy)
    if wanted and version and not wanted.specifier.contains(version, prereleases=True):
        message = f"{version}, but deepfake needs {wanted.specifier}"
        return Finding(name, _bad(package), message, f"pip install --upgrade '{_specify(wanted)}'")
    return Finding(name, "ok", shown)


def find_remedy(package: Package, error: str, wanted: Requirement | None) -> str:
    """The remedy for an import error."""
    values = {
        "distribution": package.distribution,
        "requirement": _specify(wanted) if wanted else package.distribution,
    }
    top = re.escape(package.step.partition(".")[0])
    for pattern, remedy in _REMEDIES:
        if re.search(pattern.replace("{top}", top), error):
            return remedy.format(**values)
    return _ANY_REMEDY.format(**values)


def _specify(wanted: Requirement) -> str:
    """Without the marker, as pip takes it: `torch>=2.5`."""
    return f"{wanted.name}{wanted.specifier}"


def _bad(package: Package) -> FindingLevel:
    return "note" if package.is_optional else "broken"


def _report_engine(package: str, extra: str) -> Finding:
    name, version = find_version(package)
    if version is None:
        message = f"not installed; only predict --engine {package} needs it"
        return Finding(name, "note", message, f"pip install 'deepfake[{extra}]'")
    return Finding(name, "ok", version)
