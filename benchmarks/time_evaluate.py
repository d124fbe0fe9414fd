"""Times metrics with intervals for 1,000,000 scored faces of 10,000 videos: frame by frame, and video by video.

python benchmarks/time_evaluate.py [--faces N] [--videos N] [--rounds N] [--workers N]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.bootstrap import measure_with_intervals

SHARE_OF_FAKES = 0.5
BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""What `ru_maxrss` counts in."""
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faces", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    labels, videos, probabilities = make_faces(options.faces, options.videos, np.random.default_rng(0))
    levels = {
        "video": (labels, average_by_video(videos, probabilities, options.videos), np.arange(options.videos)),
        "frame": (labels[videos], probabilities, videos),
    }
    print(f"before: {peak_mib():.0f} MiB")
    print("| level | rows | AUC | wall | processor | peak memory |")
    print("|---|---|---|---|---|---|")
    for level, rows in levels.items():
        wall_started, processor_started = time.perf_counter(), time.process_time()
        auc = measure_with_intervals(*rows, threshold=0.5, rounds=options.rounds, workers=options.workers)["auc"]
        wall, processor = time.perf_counter() - wall_started, time.process_time() - processor_started
        print(
            f"| {level} | {len(rows[0])} | {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}) "
            f"| {wall:.1f} s | {processor:.1f} s | {peak_mib():.0f} MiB |"
        )


def make_faces(num_faces: int, num_videos: int, rng: np.random.Generator) -> tuple[Integers, Integers, Floats]:
    """Labels of the videos, each face's video, and its probability: normal in the logit, one part common to the video."""
    labels = (np.arange(num_videos) < SHARE_OF_FAKES * num_videos).astype(np.int64)
    videos = np.append(np.arange(num_videos), rng.integers(num_videos, size=num_faces - num_videos))
    logits = 2 * labels[videos] - 1 + rng.normal(size=num_videos)[videos] + rng.normal(size=num_faces)
    return labels, videos, 1 / (1 + np.exp(-logits))


def average_by_video(videos: Integers, probabilities: Floats, num_videos: int) -> Floats:
    """(V,) the mean over the faces of each video."""
    return np.bincount(videos, probabilities, num_videos) / np.bincount(videos, minlength=num_videos)


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / 2**20


if __name__ == "__main__":
    main()
