"""Lets `predict` score thousands of short videos, some of them damaged, and looks at its memory, handles and rate.

    python -m benchmarks.soak -o local/soak [--videos 2000] [--workers 2]

The videos are made in the output folder: the example clip, shifted and cut short, each with different bytes. One in twenty
is damaged. What it prints is for docs/reliability.md; it ends with 1 where a row is missing or has another status than
it should.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import psutil

from pipelines.scoring.score_files import read_scores
from pipelines.video import open_video

REPOSITORY = Path(__file__).parents[1]
CLIP = REPOSITORY / "examples" / "astronaut.mp4"
NUM_BASES = 25
NUM_FRAMES = 6
SIDE_PX = 320
DAMAGED_EVERY = 20
WARM_UP_SHARE = 0.2
"""Of the videos: memory grows until every kind of file was met."""
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """The program and its workers at one moment."""

    seconds: float
    videos: int
    """Scored so far."""
    memory_mb: float
    """Private memory of all processes."""
    handles: int
    """Open files and pipes of all processes."""
    threads: int
    processes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for videos, scores and result.json")
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    folder = options.output / "videos"
    expected = make_videos(folder, options.videos)
    samples, exit_code = watch(folder, options.output, options.workers)
    result = summarise(samples, exit_code, expected, options.output / "scores.csv")
    (options.output / "result.json").write_text(
        json.dumps(result | {"samples": [asdict(s) for s in samples]}, indent=1)
    )
    print(json.dumps(result, indent=1))
    sys.exit(result["wrong_rows"] != 0)


def make_videos(folder: Path, count: int) -> dict[str, str]:
    """Write `count` videos; the status that each should get, by name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bases = [encode(number) for number in range(min(NUM_BASES, count))]
    expected = {}
    for number in range(count):
        name = f"{number:05}.mp4"
        is_damaged = number % DAMAGED_EVERY == DAMAGED_EVERY - 1
        damage, status = DAMAGES[number // DAMAGED_EVERY % len(DAMAGES)] if is_damaged else (append_number, "ok")
        (folder / name).write_bytes(damage(bases[number % len(bases)], number))
        expected[name] = status
    return expected


def encode(shift_px: int) -> bytes:
    """An MP4 of the example's face, some pixels aside."""
    import io

    target = io.BytesIO()
    with open_video(CLIP) as video, av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20"})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for frame in video.frames(range(NUM_FRAMES)):
            top, left = shift_px % 40, 40 + shift_px
            image = np.ascontiguousarray(frame.image[top : top + SIDE_PX, left : left + SIDE_PX])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()


def append_number(data: bytes, number: int) -> bytes:
    """The same video with other bytes: a box at the end, which readers skip."""
    return data + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def cut(data: bytes, number: int) -> bytes:
    """Ends before its index."""
    return append_number(data, number)[: len(data) // 2 + number % 97]


def fill_with_noise(data: bytes, number: int) -> bytes:
    """The head of a video, then noise."""
    return data[:40] + np.random.default_rng(number).bytes(len(data))


def hurt(data: bytes, number: int) -> bytes:
    """All pictures overwritten, the index whole: opens as a video, and no frame decodes."""
    start = data.index(b"mdat") + 4
    end = data.index(b"moov", start) - 4
    noise = np.random.default_rng(number).bytes(end - start)
    return append_number(data[:start] + noise + data[end:], number)


def write_text(_data: bytes, number: int) -> bytes:
    return f"notes {number}\n".encode() * 100


Damage = Callable[[bytes, int], bytes]
DAMAGES: tuple[tuple[Damage, str], ...] = (
    (cut, "unreadable"),
    (fill_with_noise, "unreadable"),
    (hurt, "unreadable"),
    (write_text, "unreadable"),
)


def watch(folder: Path, output: Path, workers: int) -> tuple[list[Sample], int]:
    """Run `predict` on the folder and look at it every second."""
    scores = output / "scores.csv"
    command = [
        sys.executable, "-m", "deepfake_cli", "predict", str(folder), "-o", str(scores), "--frames", "4",
        "--workers", str(workers), "--log-file", str(output / "log"), "--overwrite", "--quiet",
    ]  # fmt: skip
    began = time.monotonic()
    samples = []
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}) as running:
        program = psutil.Process(running.pid)
        journal = scores.with_name(f"{scores.name}.journal")
        while running.poll() is None:
            sample = look(program, journal, time.monotonic() - began)
            if sample is not None:
                samples.append(sample)
            time.sleep(SAMPLE_SECONDS)
    return samples, running.returncode


def look(program: psutil.Process, journal: Path, seconds: float) -> Sample | None:
    """The sum over the processes; None where one of them is just ending."""
    try:
        processes = [program, *program.children(recursive=True)]
        videos = max(0, journal.read_bytes().count(b"\n") - 1)
        return Sample(
            seconds,
            videos,
            sum(process.memory_full_info().uss for process in processes) / 2**20,
            sum(process.num_fds() for process in processes),
            sum(process.num_threads() for process in processes),
            len(processes),
        )
    except (psutil.Error, OSError):
        return None


def summarise(samples: Sequence[Sample], exit_code: int, expected: dict[str, str], scores: Path) -> dict[str, object]:
    """Slopes and rates between the warm-up and the last video, and whether the rows are as they should be."""
    rows = read_scores(scores) if scores.is_file() else []
    found = {Path(row.video).name: row.status for row in rows}
    steady = [sample for sample in samples if WARM_UP_SHARE * len(expected) <= sample.videos < len(expected)]
    third = max(2, len(steady) // 3)
    return {
        "videos": len(expected),
        "damaged": sum(status != "ok" for status in expected.values()),
        "rows": len(rows),
        "wrong_rows": sum(found.get(name) != status for name, status in expected.items()) + len(rows) - len(found),
        "statuses": dict(Counter(found.values())),
        "exit_code": exit_code,
        "seconds": samples[-1].seconds,
        "processes": sorted({sample.processes for sample in steady}),
        "memory_mb": [steady[0].memory_mb, max(sample.memory_mb for sample in samples), steady[-1].memory_mb],
        "memory_mb_per_1000_videos": slope(steady, lambda sample: sample.memory_mb),
        "handles": [steady[0].handles, max(sample.handles for sample in samples), steady[-1].handles],
        "handles_per_1000_videos": slope(steady, lambda sample: float(sample.handles)),
        "threads_per_1000_videos": slope(steady, lambda sample: float(sample.threads)),
        "videos_per_second": [rate(steady[:third]), rate(steady[-third:])],
    }


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Least squares, per 1,000 videos."""
    return float(np.polyfit([s.videos / 1000 for s in samples], [value(s) for s in samples], 1)[0])


def rate(samples: Sequence[Sample]) -> float:
    return (samples[-1].videos - samples[0].videos) / (samples[-1].seconds - samples[0].seconds)


if __name__ == "__main__":
    main()
