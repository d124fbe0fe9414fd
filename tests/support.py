"""What several tests share: paths, small files, and looking at what a stage has left on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest import read_provenance, read_table

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
Image = npt.NDArray[np.uint8]


def encode_png(image: Image) -> bytes:
    """The PNG bytes of an RGB picture."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def make_noise(seed: int, size_px: int = 48) -> bytes:
    """The PNG bytes of a picture that holds no face and is like no other."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def write_faces_parquet(path: Path, faces: Iterable[dict[str, Any]]) -> Path:
    """A source for `import-faces`: dictionaries with `image` and what else is known."""
    pq.write_table(pa.Table.from_pylist(list(faces)), path)
    return path


def temporary_files(folder: Path) -> list[str]:
    """What should not be there after a run: hidden names and names that end in .tmp."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix == ".tmp"
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


def statuses(rows: Sequence[Any]) -> dict[str, str]:
    """Status by file name, of VideoRows or ScoreRows."""
    return {os.path.basename(getattr(row, "path", None) or row.video): row.status for row in rows}
