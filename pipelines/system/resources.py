"""Cores, threads and memory that this process may use: in a container, less than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

OMP, OPENCV = "OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"
"""Read by torch and by OpenCV when they are imported."""
CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process can keep busy, 1 or more."""
    limit = read_cpu_limit()
    return max(1, min(bound_cores(), math.ceil(limit) if limit else bound_cores()))


def bound_cores() -> int:
    """Cores that this process may run on, by its CPU affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def num_threads() -> int:
    """Threads for one task of this process: as many as torch uses."""
    limit = os.environ.get(OMP, "").partition(",")[0]
    return int(limit) if limit.isdigit() and int(limit) else usable_cores()


def thread_variables(count: int) -> dict[str, str]:
    """Environment variables that limit a process's libraries to `count` threads; those set by the user are kept.

    Waiting threads sleep, so that they do not occupy cores that another process needs.
    """
    values = {OMP: str(count), OPENCV: str(count), "OMP_WAIT_POLICY": "PASSIVE"}
    return {name: value for name, value in values.items() if name not in os.environ}


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that can be allocated without swapping, within the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = ((cgroup / name).read_text().strip() for name in (limit_name, used_name))
        except OSError:
            continue
        if limit.isdigit() and used.isdigit():  # not "max"
            free = min(free, max(0, int(limit) - int(used)))
    return free


def read_cpu_limit(cgroup: Path = CGROUP) -> float | None:
    """How many CPUs a container may use at once, from its control group (version 2 or 1); None if unlimited."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except ValueError:  # "max"
        return None
