"""Trains the embedded face detector, RetinaFace MobileNet-0.25, to imitate the official weights on invented scenes.

    python weights/recipes/train_retinaface_mobilenet.py

The student's body starts from ImageNet weights and the rest from random ones; it sees the teacher's answers and feature
maps, never its weights. The phases follow each other, each from the averaged weights of the one before. Run it again after
an interruption: it goes on from its last checkpoint, with the same images.

With glibc, set MALLOC_MMAP_THRESHOLD_=4000000000 and MALLOC_TRIM_THRESHOLD_=8000000000: scenes of changing sizes
otherwise return their memory to the system at every step, which can cost more than the arithmetic.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from safetensors.torch import save_file
from scene_synthesis import Image, compose_scene, distort, read_face_crops, read_photos
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipelines.faces.anchors import STRIDES_PX
from pipelines.faces.retinaface import ANCHORS_PER_CELL, INPUT_NORMS, build_retinaface

CROPS_EVERY = 4
# Equal pixels per batch, so equal time per step; the large scenes teach faces of 300 px and more.
BATCH_PLANS = ((8, 320),) * 7 + ((4, 448),) * 2 + ((2, 640),)
SMALL_BATCH_PLANS = ((2, 320),) * 7 + ((1, 448),) * 2 + ((1, 640),)
WARM_UP_STEPS = 150
WEIGHT_DECAY = 1e-4
MAX_GRADIENT_NORM = 5.0
EMA_DECAY = 0.998
CHECKPOINT_SECONDS = 180.0
LOG_EVERY_STEPS = 200
CONFIDENT = 0.3
SCORE_OF_SCALE = 0.8
SCALE_BATCHES = 200


@dataclass(frozen=True)
class Phase:
    """A part of the training with a separate learning-rate schedule."""

    name: str
    """Of its folder; the seed of its images is its place in the order."""
    steps: int
    crowd_share: float
    """Share of scenes with many small faces, 0..1."""
    loss_weights: dict[str, float]
    peak_learning_rate: float = 2e-3
    hints: Literal["stages", "blocks"] = "stages"
    """Which maps are imitated: those of the three stages and all that follows them, or also those of every block of the body."""
    norm_frozen_share: float = 0.35
    """Last share of the steps in which batch norm keeps its averaged statistics, as it will when it is used. A batch has so few
    scenes that their own statistics hide what is left to learn: all losses fall by a third when they are left out."""
    batch_plans: tuple[tuple[int, int], ...] = BATCH_PLANS
    """(scenes, side in px) of the batches, in turn. Small ones give more steps in the same time; they need frozen batch norm."""


FIRST_WEIGHTS = {"class": 1.0, "logit": 0.25, "box": 1.0, "landmarks": 1.5, "features": 1.0}
REFINING_WEIGHTS = {"class": 1.0, "logit": 0.25, "box": 2.0, "landmarks": 4.0, "features": 8.0}
PHASES = (
    Phase("first", 5000, 0.0, FIRST_WEIGHTS),
    Phase("refined", 3200, 0.35, REFINING_WEIGHTS),
    Phase("refined-again", 3000, 0.35, REFINING_WEIGHTS),
    Phase("every-block", 5000, 0.35, REFINING_WEIGHTS | {"landmarks": 6.0}, 1.5e-3, "blocks"),
    Phase(
        "norm-frozen",
        12_000,
        0.35,
        REFINING_WEIGHTS | {"landmarks": 8.0},
        7e-4,
        "blocks",
        norm_frozen_share=1.0,
        batch_plans=SMALL_BATCH_PLANS,
    ),
)


@dataclass(frozen=True)
class Answers:
    """What a network says of a batch."""

    boxes: Tensor
    """(N, A, 4) regressions."""
    logits: Tensor
    """(N, A), face minus background: all that the softmax over the two classes depends on."""
    landmarks: Tensor
    """(N, A, 10) regressions."""
    maps: dict[str, Tensor]
    """Feature maps (N, C, H, W) by module name."""


class SceneBatches(Dataset[Tensor]):
    """Batch k is a function of (seed, k) alone, so a resumed run sees what the interrupted one would have seen."""

    def __init__(self, photos: list[bytes], crops: list[bytes], phase: Phase) -> None:
        self.photos, self.crops, self.phase = photos, crops, phase

    def _make_scene(self, size_px: int, rng: Generator) -> Image:
        scene = compose_scene(self.photos, self.crops, size_px=size_px, rng=rng, crowd_share=self.phase.crowd_share)
        return distort(scene, rng)

    def __getitem__(self, step: int) -> Tensor:
        """(N, 3, H, W) uint8, BGR."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((PHASES.index(self.phase), step))
        count, size_px = self.phase.batch_plans[step % len(self.phase.batch_plans)]
        scenes = [self._make_scene(size_px, rng) for _ in range(count)]
        return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).contiguous()


class Watched:
    """A network whose intermediate maps are kept during a forward pass."""

    STAGES = ("body.stage1", "body.stage2", "body.stage3", "fpn", "ssh1", "ssh2", "ssh3")
    BLOCKS = tuple(f"body.stage{stage}.{block}" for stage, count in ((1, 6), (2, 6), (3, 2)) for block in range(count))

    def __init__(self, network: nn.Module, hints: str) -> None:
        self.network = network
        self.maps: dict[str, Tensor] = {}
        for name in self.STAGES + (self.BLOCKS if hints == "blocks" else ()):
            network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: self._keep(name, output)
            )

    def _keep(self, name: str, output: Tensor | list[Tensor]) -> None:
        if isinstance(output, Tensor):
            self.maps[name] = output
        else:
            self.maps.update({f"{name}{level}": value for level, value in enumerate(output, start=1)})

    def answer(self, images: Tensor) -> Answers:
        """Answers to (N, 3, H, W) float32 images, normalised."""
        boxes, logits, landmarks = self.network(images)
        maps, self.maps = self.maps, {}
        return Answers(boxes, logits[..., 1] - logits[..., 0], landmarks, maps)


def build_student(body_path: Path) -> nn.Module:
    """The detector with an ImageNet body and the rest random."""
    student = build_retinaface("mobilenet0.25")
    imagenet = torch.load(body_path, map_location="cpu", weights_only=True)["state_dict"]
    body = {name.removeprefix("module."): value for name, value in imagenet.items()}
    student.get_submodule("body").load_state_dict(
        {name: value for name, value in body.items() if not name.startswith("fc.")}, strict=True
    )
    return student


def build_teacher(path: Path) -> nn.Module:
    """The detector with the official weights, frozen; channels last, in which it is fastest."""
    teacher = build_retinaface("mobilenet0.25")
    teacher.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def normalize(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 BGR to the network's float32 input."""
    norm = INPUT_NORMS["mobilenet0.25"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (norm.mean, norm.std))
    return (images.float() - mean) / std


def imitation_losses(student: Answers, teacher: Answers) -> dict[str, Tensor]:
    """Scalars by name: how far the student is from the teacher in scores, geometry and features."""
    p_teacher = teacher.logits.sigmoid()
    trust = torch.where(p_teacher > CONFIDENT, p_teacher**2, 0.0)
    total_trust = trust.sum() + 1.0
    return {
        "class": _class_loss(student.logits, teacher.logits, total_trust),
        "logit": _logit_loss(student.logits, teacher.logits),
        "box": (_huber(student.boxes, teacher.boxes).mean(-1) * trust).sum() / total_trust,
        "landmarks": (_huber(student.landmarks, teacher.landmarks).mean(-1) * trust).sum() / total_trust,
        "features": _feature_loss(student.maps, teacher.maps, p_teacher),
    }


def _class_loss(student: Tensor, teacher: Tensor, total_trust: Tensor) -> Tensor:
    """KL divergence per anchor: faces and background normalised apart, so that the many easy anchors do not dominate."""
    p_student, p_teacher = student.sigmoid(), teacher.sigmoid()
    divergence = F.binary_cross_entropy_with_logits(student, p_teacher, reduction="none")
    divergence = divergence - F.binary_cross_entropy_with_logits(teacher, p_teacher, reduction="none")
    disagreement = (p_student - p_teacher).detach().abs()
    weight = p_teacher + 3 * disagreement
    return (weight * divergence).sum() / total_trust + divergence.mean()


def _logit_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 on logits where the teacher sees at least a hint of a face; keeps scores on the teacher's scale."""
    hinted = (teacher > -4.0).float()
    return (F.smooth_l1_loss(student, teacher, reduction="none") * hinted).sum() / (hinted.sum() + 1.0)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(student, teacher, reduction="none", beta=0.05)


def _feature_loss(student: dict[str, Tensor], teacher: dict[str, Tensor], p_teacher: Tensor) -> Tensor:
    """Mean over maps of the share of the teacher map's variance left unexplained; cells near faces count more."""
    nearness = _face_nearness(p_teacher, [teacher[f"ssh{level}"] for level in (1, 2, 3)])
    shares = []
    for name, target in teacher.items():
        weight = 0.3 + _nearness_at(nearness, target)
        spread = (target - target.mean(dim=(0, 2, 3), keepdim=True)).square()
        shares.append(((student[name] - target).square() * weight).sum() / (spread * weight).sum())
    return torch.stack(shares).mean()


def _face_nearness(p_teacher: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Per level (N, 1, H, W) in 0..1: the highest face probability in the 3x3 cells around."""
    sizes = [feature.shape[-2:] for feature in maps]
    parts = p_teacher.split([height * width * ANCHORS_PER_CELL for height, width in sizes], dim=1)
    return [
        F.max_pool2d(part.unflatten(1, (height, width, ANCHORS_PER_CELL)).amax(-1)[:, None], 3, stride=1, padding=1)
        for part, (height, width) in zip(parts, sizes, strict=True)
    ]


def _nearness_at(nearness: list[Tensor], features: Tensor) -> Tensor:
    """(N, 1, H, W): of the level that has the map's size, or of the finest one for the larger maps before it."""
    fitting = [level for level in nearness if level.shape[-2:] == features.shape[-2:]]
    return fitting[0] if fitting else F.interpolate(nearness[0], features.shape[-2:], mode="nearest")


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm_up = min(WARM_UP_STEPS, steps // 10)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def freeze_batch_norm(network: nn.Module) -> None:
    """Statistics stay as they are: the last steps then train exactly the function that is shipped."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Moves the averaged weights and statistics a little towards the network's."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def iterate_batches(options: argparse.Namespace, phase: Phase, first_step: int, end_step: int) -> Iterator[Tensor]:
    """Batches first_step..end_step, made by a process that runs in parallel with the training."""
    photos = read_photos(options.photos, held_out=False)
    crops = read_face_crops(options.faces, every=CROPS_EVERY)
    print(f"{len(photos)} photos, {len(crops)} face crops", flush=True)
    loader = DataLoader(
        SceneBatches(photos, crops, phase),
        batch_size=None,
        sampler=range(first_step, end_step),
        num_workers=1,
        prefetch_factor=12,
        multiprocessing_context="spawn",
    )
    return iter(loader)


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Written to a temporary name and renamed, so an interruption leaves the previous file intact."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(options: argparse.Namespace, phase: Phase, start: dict[str, Tensor] | None) -> nn.Module:
    """Runs the steps of a phase that are left and returns the averaged student; None starts from ImageNet's body."""
    torch.manual_seed(PHASES.index(phase))
    student = build_student(options.body)
    if start is not None:
        student.load_state_dict(start)
    average = copy.deepcopy(student).eval().requires_grad_(False)
    student = student.to(memory_format=torch.channels_last)
    teacher, watched = Watched(build_teacher(options.teacher), phase.hints), Watched(student, phase.hints)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=phase.peak_learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    parts = {"student": student, "average": average, "optimizer": optimizer}
    checkpoint_path = options.run_folder / phase.name / "checkpoint.pt"
    checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
    first_step = 0
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        first_step = checkpoint["step"]
        print(f"{phase.name}: going on from step {first_step}", flush=True)
    if first_step >= phase.steps:
        return average

    student.train()
    frozen_from = round(phase.steps * (1 - phase.norm_frozen_share))
    sums: dict[str, float] = {}
    started = saved = time.monotonic()
    for step, images in enumerate(iterate_batches(options, phase, first_step, phase.steps), start=first_step):
        if step >= frozen_from:
            if step == frozen_from:
                # The averaged statistics are smoother than the latest ones, and the shipped weights use them.
                student.load_state_dict(average.state_dict())
            freeze_batch_norm(student)
        inputs = normalize(images).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = teacher.answer(inputs)
        losses = imitation_losses(watched.answer(inputs), target)
        loss = sum((phase.loss_weights[name] * value for name, value in losses.items()), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), MAX_GRADIENT_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=phase.steps, peak=phase.peak_learning_rate)
        optimizer.step()
        update_average(average, student, min(EMA_DECAY, (step + 1) / (step + 10)))

        for name, value in (losses | {"total": loss}).items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % LOG_EVERY_STEPS == 0:
            means = " ".join(f"{name} {value / LOG_EVERY_STEPS:.4f}" for name, value in sums.items())
            seconds_per_step = (time.monotonic() - started) / (step + 1 - first_step)
            print(f"{phase.name} {step + 1}/{phase.steps} {means} ({seconds_per_step:.3f} s/step)", flush=True)
            sums = {}
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == phase.steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(checkpoint_path, state | {"step": step + 1})
            saved = time.monotonic()
    return average


@torch.no_grad()
def match_score_scale(student: nn.Module, teacher: nn.Module, batches: Iterable[Tensor]) -> list[float]:
    """Shifts the student's face logits, level by level, until as many anchors pass 0.8 as with the teacher.

    A distilled network is less sure than its teacher, so a threshold would mean something else. Changes the biases of the
    classification heads in place and returns the shifts.
    """
    student_logits: list[list[Tensor]] = [[], [], []]
    teacher_passed = [0, 0, 0]
    threshold = math.log(SCORE_OF_SCALE / (1 - SCORE_OF_SCALE))
    for images in batches:
        inputs = normalize(images).to(memory_format=torch.channels_last)
        sizes = [
            ANCHORS_PER_CELL * (-(-images.shape[2] // stride)) * (-(-images.shape[3] // stride))
            for stride in STRIDES_PX
        ]
        for network, is_teacher in ((student, False), (teacher, True)):
            logits = network(inputs)[1]
            parts = (logits[..., 1] - logits[..., 0]).split(sizes, dim=1)
            for level, part in enumerate(parts):
                if is_teacher:
                    teacher_passed[level] += int((part > threshold).sum())
                else:
                    student_logits[level].append(part.flatten().topk(min(part.numel(), 4000)).values)
    shifts = []
    for level, (logits, passed) in enumerate(zip(student_logits, teacher_passed, strict=True)):
        ranked = torch.cat(logits).sort(descending=True).values
        shift = threshold - float(ranked[min(max(passed, 1), len(ranked)) - 1])
        student.get_submodule(f"ClassHead.{level}.conv1x1").bias[1::2] += shift
        shifts.append(shift)
    return shifts


def write_weights(network: nn.Module, path: Path) -> None:
    """One safetensors file, float32, under the names of `build_retinaface`'s parameters."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
    partial.chmod(0o644)
    os.replace(partial, path)


def parse_options() -> argparse.Namespace:
    """The paths' defaults are local data, not distributed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path("../shared")
    parser.add_argument("--photos", type=Path, default=shared / "data/scenes/photos.parquet")
    parser.add_argument("--faces", type=Path, default=shared / "data/dfdc-faces/train.parquet")
    parser.add_argument("--body", type=Path, default=shared / "weights/mobilenetV1X0.25_pretrain.tar")
    parser.add_argument("--teacher", type=Path, default=shared / "weights/retinaface_mobilenet0.25_Final.pth")
    parser.add_argument("--output", type=Path, default=Path("weights/retinaface-mobilenet0.25.safetensors"))
    parser.add_argument(
        "--run-folder", type=Path, default=Path("local/retinaface-mobilenet0.25"), help="for the checkpoints"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the training; one more process makes the scenes")
    return parser.parse_args()


def main() -> None:
    """Trains and writes the weights."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    weights: dict[str, Tensor] | None = None
    for phase in PHASES:
        student = train(options, phase, weights)
        weights = student.state_dict()
    scenes = iterate_batches(options, phase, phase.steps, phase.steps + SCALE_BATCHES)
    shifts = match_score_scale(student, build_teacher(options.teacher), scenes)
    print("shifts of the face logits by level:", " ".join(f"{shift:.3f}" for shift in shifts), flush=True)
    write_weights(student, options.output)
    print(f"wrote {options.output} ({options.output.stat().st_size} bytes)", flush=True)


if __name__ == "__main__":
    main()
