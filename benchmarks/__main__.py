"""Times `predict` against a naive pipeline and against the machine, and writes docs/benchmarks.md.

    python -m benchmarks CLIP -o local/benchmarks [--rounds 3] [--only PART,…] [--page docs/benchmarks.md]

CLIP: ten seconds of 1080p of a talking head; the other clips of its folder are timed, too. Whole pipelines run in turn, each
in a separate process, `--rounds` times: ratios are of one round. Parts run once, each the best of some repeats. `--only`
measures some parts again and keeps the others. Both extras, onnx and openvino, are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.page import NAMES, write_page

PARTS = (
    "pipelines",
    "clips",
    "profile",
    "detectors",
    "classifiers",
    "decoders",
    "limits",
    "workers",
    "memory",
    "resume",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clip", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for JSON files, one for each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run_way(options.way, options.clip, options.output)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for part in options.only.split(","):
        print(f"{part} …", file=sys.stderr, flush=True)
        values = measure(part, options)
        (options.output / f"{part}.json").write_text(json.dumps(values, indent=1))
    if options.page:
        write_page(options.page, {file.stem: json.loads(file.read_text()) for file in options.output.glob("*.json")})


def measure(part: str, options: argparse.Namespace) -> Any:
    """The numbers of one part."""
    if part == "profile":
        from benchmarks.ours import profile

        return profile(options.clip)
    if part == "pipelines":
        from benchmarks.ours import locate_faces

        (options.output / "faces.txt").write_text(json.dumps(locate_faces(options.clip)))
        return [[time_way(way, options) for way in NAMES] for _ in range(options.rounds)]
    from benchmarks.parts import OF_A_CLIP

    with tempfile.TemporaryDirectory() as folder:
        place = options.clip.parent if part == "clips" else Path(folder)
        if part in OF_A_CLIP:
            place = place / "clip.mp4"
            place.write_bytes(options.clip.read_bytes())
        return run([sys.executable, "-m", "benchmarks.parts", part, str(place)])


def time_way(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each stage of one pipeline, in a new process, and of that process's start."""
    began = time.time()
    values = run([sys.executable, "-m", "benchmarks", str(options.clip), "-o", str(options.output), "--way", way])
    return {"way": way, "start": values.pop("ready") - began, **values}


def run_way(way: str, clip: Path, output: Path) -> dict[str, float]:
    """One pipeline on the clip, after its networks are loaded and have run once."""
    boxes, landmarks = json.loads((output / "faces.txt").read_text())
    pipeline: Any
    with tempfile.TemporaryDirectory() as folder:
        if way == "naive":
            from benchmarks.naive import NaivePipeline

            pipeline = NaivePipeline()
        elif way.startswith("large"):
            from benchmarks.ours import Large

            pipeline = Large(Path(folder), int(way.split()[1]), "bf16", "openvino", landmarks)
        else:
            from benchmarks.ours import Embedded

            pipeline = Embedded("bf16" if way.endswith("bf16") else "float32")
        ready = time.time()
        return {"ready": ready, **pipeline.run(clip, boxes)}


def run(command: list[str]) -> Any:
    """What a process prints as JSON in its last line."""
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
