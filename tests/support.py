"""Shared helpers: paths, small files, and the content of a stage's folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.workspace.manifest import read_provenance, read_table

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
Image = npt.NDArray[np.uint8]


def encode_png(image: Image) -> bytes:
    """The PNG bytes of an RGB picture."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def make_noise(seed: int, size_px: int = 48) -> bytes:
    """The PNG bytes of a unique picture without a face."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def write_faces_parquet(path: Path, faces: Iterable[dict[str, Any]]) -> Path:
    """A source for `import-faces`, from dictionaries with `image` and other columns."""
    pq.write_table(pa.Table.from_pylist(list(faces)), path)
    return path


def temporary_files(folder: Path) -> list[str]:
    """Files that a run should not leave behind: hidden ones except locks, and those ending in .tmp."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.name.startswith(".") and path.suffix != ".lock") or path.suffix == ".tmp"
    )


def modification_times(paths: Iterable[Path]) -> dict[str, int]:
    """When each file was last written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in paths}


def stage_content(folder: Path) -> dict[str, Any]:
    """Rows and provenance of a stage's two manifests."""
    content: dict[str, Any] = {}
    for name in ("videos.parquet", "manifest.parquet"):
        path = folder / name
        content[name] = read_table(path).to_pylist(), read_provenance(path).to_json()
    return content


def file_contents(folder: Path, *suffixes: str) -> dict[str, bytes]:
    """The bytes of every file with one of the suffixes, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes
    }


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"condition still false after {seconds} s")
        time.sleep(0.002)


def statuses(rows: Sequence[Any]) -> dict[str, str]:
    """Status by file name, of VideoRows or ScoreRows."""
    return {os.path.basename(getattr(row, "path", None) or row.video): row.status for row in rows}


def differences(state: Any, other: Any) -> list[str]:
    """Paths at which two nested states (mappings, sequences, tensors, values) differ in any bit."""
    left, right = _leaves(state), _leaves(other)
    missing = sorted(left.keys() ^ right.keys())
    return missing + [name for name in left.keys() & right.keys() if not _is_equal(left[name], right[name])]


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = dict(enumerate(value)).items()
    else:
        return {name: value}
    return {key: leaf for part, inner in items for key, leaf in _leaves(inner, f"{name}/{part}").items()}


def _is_equal(value: Any, other: Any) -> bool:
    if hasattr(value, "numpy") and hasattr(other, "numpy"):
        return bool(value.dtype == other.dtype and np.array_equal(value.numpy(), other.numpy()))
    return bool(value == other)


def make_pool_here(counts: list[int]) -> type:
    """A stand-in for `WorkerPool` that works in this process and notes how many processes it was asked for."""

    class Pool:
        def __init__(self, make_work: Any, count: int, _limits: Any) -> None:
            self.make_work = make_work
            counts.append(count)

        def run(self, jobs: Any) -> Any:
            work = self.make_work()
            yield from ((place, work(job)) for place, job in enumerate(jobs))

        def __class_getitem__(cls, _item: Any) -> type:
            return cls

    return Pool
