"""Python, the operating system, CPUs, GPUs and codecs."""

from __future__ import annotations

import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.diagnosis.child import shorten
from pipelines.diagnosis.finding import Finding
from pipelines.diagnosis.packages import DEEPFAKE
from pipelines.diagnosis.probes import DECODERS
from pipelines.system.resources import CGROUP, bound_cores, read_cpu_limit


def check_python() -> list[Finding]:
    """Python, the system, and deepfake itself."""
    python = f"{platform.python_version()} on {platform.platform()}"
    try:
        own, wanted = metadata.version(DEEPFAKE), metadata.metadata(DEEPFAKE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        message = "runs from a folder, not installed: versions are not compared with what it needs"
        return [Finding(DEEPFAKE, "note", message, "pip install ."), Finding("python", "ok", python)]
    return [Finding(DEEPFAKE, "ok", own), _compare_python(python, wanted)]


def _compare_python(shown: str, wanted: str | None) -> Finding:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return Finding("python", "ok", shown)
    if SpecifierSet(wanted or "").contains(platform.python_version(), prereleases=True):
        return Finding("python", "ok", shown)
    return Finding("python", "broken", f"{shown}, but deepfake needs {wanted}", "install it with another Python")


def report_devices(facts: dict[str, Any], *, cgroup: Path = CGROUP) -> list[Finding]:
    """Findings from `probes.list_devices`."""
    return [_report_cpu(facts["threads"], cgroup), *_report_gpus(facts)]


def _report_cpu(threads: int, cgroup: Path) -> Finding:
    usable = bound_cores()
    limit = read_cpu_limit(cgroup)
    message = f"torch uses {threads} threads on {usable} CPUs"
    may_use = min(usable, math.ceil(limit)) if limit else usable
    if threads > may_use:
        message += f", of which this container may use {limit:g}" if limit else ""
        return Finding("cpu", "note", f"{message}: more threads are slower", f"export OMP_NUM_THREADS={may_use}")
    return Finding("cpu", "ok", message)


def _report_gpus(facts: dict[str, Any]) -> list[Finding]:
    found = [_report_gpu(**gpu) for gpu in facts["gpus"]]
    if found:
        return found
    build = f"this torch is built for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "this torch has no CUDA"
    reason = "; ".join([build, *map(shorten, facts["warnings"])])
    return [Finding("gpu", "note", f"none that torch can use ({reason}); everything runs on the CPU")]


def _report_gpu(device: str, name: str, error: str | None) -> Finding:
    if error is None:
        return Finding("gpu", "ok", f"{device}: {name}")
    remedy = "give --device cpu, or install a torch that is built for this GPU and driver (pytorch.org/get-started)"
    return Finding("gpu", "broken", f"{device}: {name}: does not compute: {shorten(error)}", remedy)


def report_codecs(facts: dict[str, Any]) -> list[Finding]:
    """Findings from `probes.list_codecs`."""
    there = [codec for codec in DECODERS if codec in facts["there"]]
    missing = [codec for codec in DECODERS if codec not in there]
    message = f"FFmpeg {facts['ffmpeg']} decodes {', '.join(there) or 'none of the usual codecs'}"
    if not missing:
        return [Finding("codecs", "ok", message)]
    remedy = "pip install --force-reinstall --only-binary av av, or convert such videos to H.264"
    return [Finding("codecs", "note", f"{message}; not {', '.join(missing)}", remedy)]
