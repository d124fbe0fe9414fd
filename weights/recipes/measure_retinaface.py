"""Measures how well a trained RetinaFace MobileNet-0.25 finds what the official weights find.

The truth is the official detector's faces of score 0.8 and more, of 30 px and more at the network's input; a face is
found when a candidate's box overlaps it with an IoU of 0.5. Landmark errors are fractions of the inter-ocular distance.

    python weights/recipes/measure_retinaface.py --json detector.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scene_synthesis import compose_scene, cover, decode, distort, read_face_crops, read_photos, rotate
from torch import Tensor
from torchvision.ops import box_iou

from pipelines.faces.detector import FaceDetector, load_detector
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

THREADS = 2
MAX_SIDE_PX = 960
MIN_FACE_PX = 30.0
MIN_IOU = 0.5
TRUTH_SCORE = 0.8
HINT_SCORE = 0.3
CANDIDATE_SCORES = (0.5, 0.8)
MOSAIC_COUNT = 80
MOSAIC_SIZE_PX = 640
# The training takes every fourth crop from the first on; these lie between.
CROPS_EVERY, CROPS_OFFSET = 16, 2

RgbImage = NDArray[np.uint8]
"""(H, W, 3), RGB."""

Change = Callable[[RgbImage, np.random.Generator], RgbImage]
"""What is done to a scene."""


@dataclass(frozen=True)
class Faces:
    """The faces of one image, in pixels of the network's input."""

    boxes: Tensor
    """(F, 4), x0 y0 x1 y1."""
    scores: Tensor
    """(F,) in 0..1."""
    landmarks: Tensor
    """(F, 5, 2): eyes, nose, corners of the mouth."""

    def where(self, chosen: Tensor) -> Faces:
        """The faces that a (F,) bool mask chooses."""
        return Faces(self.boxes[chosen], self.scores[chosen], self.landmarks[chosen])

    @property
    def sides_px(self) -> Tensor:
        """(F,), the shorter side of each box."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).amin(dim=1)


@dataclass
class Tally:
    """Counts over the images of one set, at one minimal score of the candidate."""

    truths: int = 0
    found: int = 0
    candidates: int = 0
    confirmed: int = 0
    """Candidates that overlap an official face of score 0.8 or more."""
    hinted: int = 0
    """Candidates that overlap an official face of score 0.3 or more: no invention, though no truth either."""
    landmark_errors: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The measured figures by name."""
        errors = self.landmark_errors or [float("nan")]
        return {
            "truths": self.truths,
            "recall": self.found / max(1, self.truths),
            "candidates": self.candidates,
            "precision": self.confirmed / max(1, self.candidates),
            "precision_hinted": self.hinted / max(1, self.candidates),
            "landmark_error_mean": float(np.mean(errors)),
            "landmark_error_median": float(np.median(errors)),
        }


def detect(detector: FaceDetector, image_rgb: RgbImage) -> Faces:
    """Faces of the image in pixels of the network's input, best first."""
    found = detector.detect([image_rgb])[0]
    scale = min(1.0, detector.max_side / max(image_rgb.shape[:2]))
    return Faces(
        boxes=torch.from_numpy(found.boxes * scale),
        scores=torch.from_numpy(found.scores),
        landmarks=torch.from_numpy(found.landmarks * scale),
    )


def match(truths: Faces, candidates: Faces) -> list[tuple[int, int]]:
    """Pairs of indices, each used once, greedily by IoU."""
    overlaps = box_iou(truths.boxes, candidates.boxes)
    pairs: list[tuple[int, int]] = []
    while overlaps.numel() and overlaps.max() >= MIN_IOU:
        row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
        pairs.append((row, column))
        overlaps[row] = -1
        overlaps[:, column] = -1
    return pairs


def landmark_error(truth: Tensor, candidate: Tensor) -> float:
    """Mean distance of the five points, as a fraction of the truth's inter-ocular distance."""
    distance = (truth - candidate).norm(dim=-1).mean()
    return float(distance / (truth[0] - truth[1]).norm().clamp(min=1.0))


def count(tally: Tally, official: Faces, candidates: Faces) -> None:
    """Adds one image: `official` holds every official face with a hint of score, `candidates` those to be judged."""
    truths = official.where(official.scores >= TRUTH_SCORE)
    large = truths.sides_px >= MIN_FACE_PX
    pairs = match(truths, candidates)
    tally.truths += int(large.sum())
    tally.found += sum(bool(large[row]) for row, _ in pairs)
    tally.landmark_errors += [
        landmark_error(truths.landmarks[row], candidates.landmarks[column]) for row, column in pairs if large[row]
    ]
    judged = candidates.sides_px >= MIN_FACE_PX
    tally.candidates += int(judged.sum())
    tally.confirmed += sum(bool(judged[column]) for _, column in pairs)
    tally.hinted += sum(bool(judged[column]) for _, column in match(official, candidates))


def measure(official: FaceDetector, candidate: FaceDetector, images: Iterable[RgbImage]) -> dict[str, dict[str, float]]:
    """The figures of one set of images by the candidate's minimal score."""
    tallies = {score: Tally() for score in CANDIDATE_SCORES}
    for image in images:
        expected = detect(official, image)
        answers = detect(candidate, image)
        for score, tally in tallies.items():
            count(tally, expected, answers.where(answers.scores >= score))
    return {f"score>={score}": tally.summary() for score, tally in tallies.items()}


def read_frames(path: Path, frame_count: int) -> Iterator[RgbImage]:
    """`frame_count` frames spread evenly over the video."""
    with open_video(path) as video:
        for frame in ChosenFrames(video, path, count=frame_count):
            yield frame.image


def keep(scene: RgbImage, rng: np.random.Generator) -> RgbImage:
    """No change."""
    return scene


def turn(scene: RgbImage, rng: np.random.Generator) -> RgbImage:
    """By 30 to 60 degrees to either side."""
    return rotate(scene, float(rng.choice([-1, 1]) * rng.uniform(30, 60)), rng)


def darken(scene: RgbImage, rng: np.random.Generator) -> RgbImage:
    """To 10 to 30 % of the light, with the noise of a sensor."""
    dark = scene * rng.uniform(0.1, 0.3) + rng.normal(0, 3, scene.shape)
    return np.clip(dark, 0, 255).astype(np.uint8)


def make_mosaics(
    photos: list[bytes], crops: list[bytes], *, change: Change = keep, crowd_share: float = 0.0
) -> Iterator[RgbImage]:
    """Scenes of the training's kind, from photos and crops that it never saw."""
    rng = np.random.default_rng(20_000)
    for _ in range(MOSAIC_COUNT):
        scene = change(compose_scene(photos, crops, size_px=MOSAIC_SIZE_PX, rng=rng, crowd_share=crowd_share), rng)
        yield np.ascontiguousarray(scene[:, :, ::-1])


def gather_sets(options: argparse.Namespace) -> Iterator[tuple[str, Iterable[RgbImage]]]:
    """Every set of test images by name."""
    for path in sorted(options.videos.glob("*.mp4")):
        yield f"video {path.stem}", read_frames(path, options.frames_per_video)
    photos = read_photos(options.photos, held_out=True)
    crops = read_face_crops(options.faces, every=CROPS_EVERY, offset=CROPS_OFFSET)
    yield "held-out photos", (np.ascontiguousarray(decode(photo)[:, :, ::-1]) for photo in photos)
    for name, change in CHANGES.items():
        yield name, make_mosaics(photos, crops, change=change)
    yield "crowds", make_mosaics(photos, crops, crowd_share=1.0)


CHANGES: dict[str, Change] = {
    "mosaics": keep,
    "distorted mosaics": distort,
    "turned mosaics": turn,
    "dark mosaics": darken,
    "covered mosaics": cover,
}


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """One row per set: figures at 0.5, then at 0.8."""
    lowest, highest = (f"score>={score}" for score in CANDIDATE_SCORES)
    print(f"{'set':24} {'faces':>6} {'recall':>13} {'precision':>13} {'with hints':>13} {'landmarks':>13}")
    print(f"{'':24} {'':>6} {'@0.5    @0.8':>13} {'@0.5    @0.8':>13} {'@0.5    @0.8':>13} {'mean  median':>13}")
    for name, by_score in results.items():
        low, high = by_score[lowest], by_score[highest]
        pairs = [f"{low[key]:.3f}   {high[key]:.3f}" for key in ("recall", "precision", "precision_hinted")]
        pairs.append(f"{low['landmark_error_mean']:.3f}   {low['landmark_error_median']:.3f}")
        print(f"{name:24} {low['truths']:>6} " + " ".join(f"{pair:>13}" for pair in pairs))


def parse_options() -> argparse.Namespace:
    """The paths' defaults are local data, not distributed, but for the candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path("../shared")
    parser.add_argument("--candidate", type=Path, default=Path("weights/retinaface-mobilenet0.25.safetensors"))
    parser.add_argument("--official", type=Path, default=shared / "weights/retinaface_mobilenet0.25_Final.pth")
    parser.add_argument("--videos", type=Path, default=shared / "videos")
    parser.add_argument("--photos", type=Path, default=shared / "data/scenes/photos.parquet")
    parser.add_argument("--faces", type=Path, default=shared / "data/dfdc-faces/train.parquet")
    parser.add_argument("--frames-per-video", type=int, default=16)
    parser.add_argument("--json", type=Path, help="where the figures are written too")
    return parser.parse_args()


def main() -> None:
    """Measures every set and prints the table."""
    options = parse_options()
    torch.set_num_threads(THREADS)
    official, candidate = (
        load_detector(str(path), max_side=MAX_SIDE_PX, min_score=HINT_SCORE)
        for path in (options.official, options.candidate)
    )
    results = {name: measure(official, candidate, images) for name, images in gather_sets(options)}
    print_table(results)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
