"""Times `predict` on a folder of clips, stage by stage and clip by clip, in one process after a warm-up.

python benchmarks/time_predict.py ../shared/videos
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from pipelines import PredictConfig, RunOptions
from pipelines.faces.find import find_faces
from pipelines.inputs import find_inputs
from pipelines.preprocessing import cut_input
from pipelines.scoring.video_scorer import VideoScorer, in_batches
from pipelines.stages.predict import resolve_settings
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = resolve_settings(PredictConfig())
    started = time.perf_counter()
    scorer = VideoScorer(
        checkpoint=settings.config.checkpoint,
        detector=settings.detector,
        contract=settings.contract,
        options=RunOptions(),
    )
    print(f"loading the networks: {time.perf_counter() - started:.1f} s")
    files = find_inputs(options.clips).files
    scorer.score_video(files[0].path)
    print("| clip | size | decode | detect and align | classify | predict | real time |")
    print("|---|---|---|---|---|---|---|")
    for file in files:
        rounds = [time_clip(scorer, file.path) for _ in range(options.rounds)]
        decode, detect, classify, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
        with open_video(file.path) as reader:
            info = reader.info
        print(
            f"| {file.path.name} | {info.width_px}x{info.height_px}, {info.duration_seconds:.0f} s "
            f"| {decode:.2f} s | {detect:.2f} s | {classify:.2f} s | {whole:.2f} s | {info.duration_seconds / whole:.1f}x |"
        )


def time_clip(scorer: VideoScorer, path: Path) -> tuple[float, float, float, float]:
    """Seconds for decoding alone, detection and alignment alone, classification alone, and `predict` as a whole."""
    if not scorer.detector:
        raise ValueError("the scorer has no detector")
    decode_started = time.perf_counter()
    with open_video(path) as reader:
        frames = list(ChosenFrames(reader, path, count=scorer.contract.frames))
    detect_started = time.perf_counter()
    faces = list(find_faces(frames, scorer.detector, margin=scorer.contract.margin))
    classify_started = time.perf_counter()
    for batch in in_batches(faces, scorer.batch_size):
        scorer.classify([cut_input(face.aligned.crop, scorer.contract) for face in batch])
    whole_started = time.perf_counter()
    scorer.score_video(path)
    ended = time.perf_counter()
    return (
        detect_started - decode_started,
        classify_started - detect_started,
        whole_started - classify_started,
        ended - whole_started,
    )


if __name__ == "__main__":
    main()
