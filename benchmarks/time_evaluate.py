"""Times `deepfake evaluate` on 1,000,000 scored faces of 10,000 videos, start-up, reading and pictures included.

python benchmarks/time_evaluate.py [--faces N] [--videos N] [--rounds N]

Each case is a separate process: the faces in one Parquet file, in a folder with a file a video as `predict --details` writes
them, and the videos of four methods, which makes a table of parts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.records import FaceScoreRow, schema_of
from pipelines.workspace.manifest import Provenance, write_table

SHARE_OF_FAKES = 0.5
METHODS = 4
FRAMES_PER_TRACK = 1000
BOX = {"x0": 0.0, "y0": 0.0, "x1": 99.0, "y1": 99.0}
KIB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1
"""What `ru_maxrss` counts in."""
PROVENANCE = Provenance("predict", 2, {})
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """What one command took."""

    wall_seconds: float
    processor_seconds: float
    peak_mib: float
    auc: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faces", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    labels, videos, probabilities = make_faces(options.faces, options.videos, np.random.default_rng(0))
    with TemporaryDirectory() as name:
        folder = Path(name)
        table = make_details(videos, probabilities)
        write_table(table, folder / "details.parquet", PROVENANCE)
        write_folder(table, videos, folder / "details")
        write_labels(folder / "plain.csv", labels, with_methods=False)
        write_labels(folder / "methods.csv", labels, with_methods=True)
        cases = {
            "one file": ("details.parquet", "plain.csv"),
            f"a folder of {options.videos} files": ("details", "plain.csv"),
            f"one file, {METHODS} methods": ("details.parquet", "methods.csv"),
        }
        print("| details | wall | processor | peak memory | frame-level AUC |")
        print("|---|---|---|---|---|")
        for case, (details, csv_name) in cases.items():
            run = time_command(folder / details, folder / csv_name, options.rounds)
            print(
                f"| {case} | {run.wall_seconds:.1f} s | {run.processor_seconds:.1f} s | {run.peak_mib:.0f} MiB | {run.auc} |",
                flush=True,
            )


def make_faces(num_faces: int, num_videos: int, rng: np.random.Generator) -> tuple[Integers, Integers, Floats]:
    """Labels of the videos, each face's video, and its probability: normal in the logit, one part common to the video."""
    labels = (np.arange(num_videos) < SHARE_OF_FAKES * num_videos).astype(np.int64)
    videos = np.sort(np.append(np.arange(num_videos), rng.integers(num_videos, size=num_faces - num_videos)))
    logits = 2 * labels[videos] - 1 + rng.normal(size=num_videos)[videos] + rng.normal(size=num_faces)
    return labels, videos, 1 / (1 + np.exp(-logits))


def make_details(videos: Integers, probabilities: Floats) -> pa.Table:
    """Rows as `predict --details` writes them, sorted by video: one face in each frame."""
    starts = np.searchsorted(videos, videos)
    frames = np.arange(len(videos)) - starts
    names = pa.DictionaryArray.from_arrays(videos, [f"videos/{n:06d}.mp4" for n in range(videos.max() + 1)])
    keys = pa.DictionaryArray.from_arrays(videos, [f"{n:06d}" for n in range(videos.max() + 1)])
    columns = {
        "video": names.cast(pa.string()),
        "video_key": keys.cast(pa.string()),
        "sha256": keys.cast(pa.string()),
        "frame_index": frames,
        "pts_seconds": frames / 25,
        "face_index": np.zeros(len(videos), dtype=np.int64),
        "track": frames // FRAMES_PER_TRACK,
        **{f"{name}_px": np.full(len(videos), value) for name, value in BOX.items()},
        "fake_probability": probabilities,
    }
    schema = schema_of(FaceScoreRow)
    return pa.table(columns).cast(pa.schema([schema.field(name) for name in columns]))


def write_folder(table: pa.Table, videos: Integers, folder: Path) -> None:
    bounds = np.searchsorted(videos, np.arange(videos.max() + 2))
    for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        write_table(table.slice(start, end - start), folder / f"{number:016d}.parquet", PROVENANCE)


def write_labels(path: Path, labels: Sequence[int] | Integers, *, with_methods: bool) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", *(["dataset", "method"] if with_methods else [])])
        for number, label in enumerate(labels):
            method = f"method {number % METHODS}" if label else ""
            more = ["planted", method] if with_methods else []
            writer.writerow([f"videos/{number:06d}.mp4", "fake" if label else "real", *more])


def time_command(details: Path, labels: Path, rounds: int) -> Run:
    """The whole command in a separate process."""
    report = details.parent / "report.json"
    command = [sys.executable, "-m", "deepfake_cli", "evaluate", str(details), "--labels", str(labels), "-q"]
    command += ["--bootstrap", str(rounds), "-o", str(report), "--plots", str(details.parent / "plots")]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command ended with status {status}")
    figures = json.loads(report.read_text())
    auc = f"{figures['frame.auc']:.3f} ({figures['frame.auc.low']:.3f} to {figures['frame.auc.high']:.3f})"
    wall = time.perf_counter() - started
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB_PER_UNIT / 1024, auc)


if __name__ == "__main__":
    main()
