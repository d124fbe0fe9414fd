"""Shows where, and how often, the default weights fail on public-domain faces: docs/images/failures.png.

    python benchmarks/failure_gallery.py

Two photographs in the public domain, both sample data of Python packages: the astronaut Eileen Collins (NASA; the genuine
example clip) and Rear Admiral Grace Hopper (US Navy; matplotlib). Each as it is and perturbed, and forged:
self-blends as in training, from other random numbers. Two people are no sample of people in general.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.checkpoints.checkpoint import load_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, to_network_input
from pipelines.data.self_blending import blend_with_itself
from pipelines.evaluation.perturbations import PERTURBATIONS, perturb_image
from pipelines.faces.align import AlignedFace, align_face
from pipelines.faces.detector import load_detector
from pipelines.models import build_model
from pipelines.scoring.calibration import Calibration
from pipelines.system.image_files import Image, read_image
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames

ROOT = Path(__file__).parents[1]
FORGERIES = 40
"""Self-blends per face."""
SHOWN = 6
SEED = 77_000
INCHES = 1.7


@dataclass(frozen=True)
class Shown:
    """A face, what was done to it, and its score."""

    what: str
    is_fake: bool
    image: Image
    """The network's input, (S, S, 3) uint8 RGB."""
    score: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="multi-attention-default")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/failures.png")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint, build_model)
    contract = checkpoint.header.preprocessing
    detector = load_detector(contract.detector, max_side=contract.max_side, min_score=contract.min_score)
    fit = checkpoint.header.calibration
    calibration = Calibration.from_json(dict(fit)) if fit else None
    cases: list[Shown] = []
    for name, picture in (("Collins", read_first_frame(ROOT / "examples/astronaut.mp4")), ("Hopper", read_hopper())):
        found = detector.detect([picture])[0]
        face = align_face(picture, found.landmarks[0], margin=contract.margin, border="replicate")
        assert face is not None
        for what, is_fake, crop in make_cases(face):
            image = cut_input(crop, contract)
            score = score_image(checkpoint.network, image, contract)
            cases.append(
                Shown(f"{name}: {what}", is_fake, image, float(calibration.apply(score)) if calibration else score)
            )
    report(cases)
    draw(cases, options.output)


def make_cases(face: AlignedFace) -> list[tuple[str, bool, Image]]:
    """(what was done, whether it is a forgery, aligned crop)."""
    rng = np.random.default_rng(SEED)
    cases = [("as it is", False, face.crop)]
    cases += [(each.name, False, perturb_image(face.crop, each, rng)) for each in PERTURBATIONS]
    for seed in range(SEED, SEED + FORGERIES):
        landmarks = face.landmarks
        cases.append(("self-blend", True, blend_with_itself(face.crop, landmarks, np.random.default_rng(seed)).image))
    return cases


@torch.inference_mode()
def score_image(network: torch.nn.Module, image: Image, contract: Preprocessing) -> float:
    logits = network.eval()(to_network_input([image], contract)).logits
    return float(logits.softmax(dim=1)[0, 1])


def report(cases: list[Shown]) -> None:
    """Numbers for the model card."""
    for is_fake in (False, True):
        chosen = [case for case in cases if case.is_fake == is_fake]
        wrong = sum((case.score >= 0.5) != is_fake for case in chosen)
        print(f"{'forged' if is_fake else 'genuine'}: {wrong} of {len(chosen)} on the wrong side of 0.5")
        for case in worst(chosen, is_fake):
            print(f"  {case.score:.3f} {case.what}")


def worst(cases: list[Shown], is_fake: bool) -> list[Shown]:
    return sorted(cases, key=lambda case: case.score, reverse=not is_fake)[:SHOWN]


def draw(cases: list[Shown], output: Path) -> None:
    """Genuine faces with the highest scores, forged ones with the lowest, and the untouched ones."""
    rows = [
        ("untouched", [case for case in cases if case.what.endswith("as it is")]),
        ("genuine, most suspicious", worst([case for case in cases if not case.is_fake], False)),
        ("forged, least suspicious", worst([case for case in cases if case.is_fake], True)),
    ]
    figure = Figure(figsize=(INCHES * SHOWN, (INCHES + 0.5) * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), SHOWN)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (title, shown) in zip(grid, rows, strict=True):
        for column, (axes, case) in enumerate(zip(line, shown, strict=False)):
            axes.imshow(case.image)
            name, _, what = case.what.partition(": ")
            heading = f"{title}\n" if column == 0 else "\n"
            axes.set_title(f"{heading}{name}, {what}\n{case.score:.2f}", fontsize=8, loc="left")
    figure.savefig(output, dpi=110)


def read_first_frame(path: Path) -> Image:
    with open_video(path) as video:
        return next(iter(ChosenFrames(video, path, count=1))).image


def read_hopper() -> Image:
    return read_image(Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))))


if __name__ == "__main__":
    main()
