"""Images per second of a training step, against the same step written naively, and by memory format and precision.

    python benchmarks/time_training.py WORKSPACE [--compile]

The step is that of the preset `paper` on the MobileNetV2 body at 160 px: both passes, regional independence loss, AdamW.
The naive step decodes and cuts its images itself, keeps them in the default memory layout, and takes the clean and then the
degraded images through forward, loss and backward. All are timed in turn, each in a separate process, several times; the
ratio is what counts.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from paper_tables import CROP_BOX, read_faces

from pipelines import TrainConfig, make_train_config
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, to_network_input
from pipelines.data.faces import Face, FaceImages
from pipelines.system.image_files import read_image
from pipelines.training.attention_augmentation import AttentionAugmentation
from pipelines.training.loop import Trainer
from pipelines.training.losses import RegionalIndependenceLoss
from pipelines.training.run import keep_freed_memory, make_network

SIZE = 160
BATCH = 32
STEPS = 8
PRECISIONS = ("float32", "bf16")
LAYOUTS = ("channels-last", "contiguous")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workspace", type=Path, help="with a finished detect-faces stage")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="time a compiled network, too")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(measure(options.way, options.workspace))
        return
    steps = ["naive", "ours, first epoch", "ours"] + ["ours, compiled"] * options.compile
    print_table(time_in_turn(steps, options), steps[0])
    formats = [f"{precision}, {layout}" for precision in PRECISIONS for layout in LAYOUTS]
    print_table(time_in_turn(formats, options), formats[0])


def time_in_turn(ways: Sequence[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of each, one after the other in every round, each in a separate process."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            command = [sys.executable, __file__, str(options.workspace), "--way", way]
            rates[way].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return rates


def print_table(rates: dict[str, list[float]], base: str) -> None:
    print(f"| way | images/s | ratio to {base} (least to greatest) |\n|---|---|---|")
    for way, values in rates.items():
        ratios = np.array(values) / np.array(rates[base])
        print(
            f"| {way} | {np.median(values):.1f} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |"
        )
    print(flush=True)


def measure(way: str, workspace: Path) -> float:
    """Images per second after a warm-up."""
    config = make_train_config(
        "paper",
        backbone="mobilenetv2_imagenet",
        drop_path_rate=0.0,
        input_size=SIZE,
        crop_box=CROP_BOX,
        samples_per_epoch=BATCH * STEPS,
        batch_size=BATCH,
        optimizer="adamw",
        epochs=10_000,
    )
    contract = Preprocessing(crop_box=CROP_BOX, input_size=SIZE)
    faces = read_faces(workspace)
    chosen = [face for label in (0, 1) for face in [each for each in faces if each.label == label][: BATCH * STEPS]]
    if way == "naive":
        run = Naive(config, chosen, contract).run
    elif way.startswith("ours"):
        run = Ours(config, chosen, contract, cached="first" not in way, compiled="compiled" in way).run
    else:
        precision, layout = way.split(", ")
        run = FormatStep(config, precision == "bf16", layout == "channels-last").run
    run()
    started = time.perf_counter()
    images = run()
    return images / (time.perf_counter() - started)


class Ours:
    """The project's own loop."""

    def __init__(
        self,
        config: TrainConfig,
        faces: Sequence[Face],
        contract: Preprocessing,
        *,
        cached: bool,
        compiled: bool = False,
    ) -> None:
        keep_freed_memory()
        self.trainer = Trainer(make_network(config), config)
        if compiled:
            self.trainer.network.compile()
        self.images = FaceImages(faces, contract, cache_bytes=10**10 if cached else 0)
        self.check = FaceImages([faces[0], faces[-1]], contract)
        if cached:
            for index in range(len(faces)):
                self.images.training_image(index, np.random.default_rng(0))

    def run(self) -> int:
        report = self.trainer.run_epoch(self.images, self.check, workers=2)
        assert report is not None
        return report.row.images


class Naive:
    """The same losses and updates, in the straightforward way."""

    def __init__(self, config: TrainConfig, faces: Sequence[Face], contract: Preprocessing) -> None:
        self.faces, self.contract = faces, contract
        self.network = make_network(config).train()
        self.ril = RegionalIndependenceLoss(4, self.network.backbone.texture_channels, config.ril)
        self.agda = AttentionAugmentation(config.agda)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.optimization.learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.rng = np.random.default_rng(0)

    def run(self) -> int:
        for _ in range(STEPS):
            chosen = [self.faces[i] for i in self.rng.integers(len(self.faces), size=BATCH)]
            crops = [cut_input(read_image(face.path), self.contract) for face in chosen]
            images = to_network_input(crops, self.contract).contiguous()
            labels = torch.tensor([face.label for face in chosen])
            self.optimizer.zero_grad()
            clean = self.network(images)
            (F.cross_entropy(clean.logits, labels) + self.ril(clean.region_vectors, labels)).backward()
            degraded, _ = self.agda(images, clean.attention_maps.detach(), self.generator)
            F.cross_entropy(self.network(degraded.contiguous()).logits, labels).backward()
            self.optimizer.step()
        return BATCH * STEPS


class FormatStep:
    """The network's share of a step in one memory format and precision."""

    def __init__(self, config: TrainConfig, bf16: bool, channels_last: bool) -> None:
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.bf16 = bf16
        self.network = copy.deepcopy(make_network(config)).to(memory_format=self.format).train()
        self.images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=self.format)
        self.labels = torch.arange(BATCH) % 2

    def run(self) -> int:
        for _ in range(4):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                loss = F.cross_entropy(self.network(self.images).logits.float(), self.labels)
            loss.backward()
        return 4 * BATCH


if __name__ == "__main__":
    main()
