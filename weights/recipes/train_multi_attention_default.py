"""Makes `multi-attention-default.safetensors`: imports the local face crops, trains in three runs, calibrates.

    python weights/recipes/train_multi_attention_default.py

Every step is resumable: run it again after an interruption. What it makes is measured by `benchmarks/embedded_weights.py`.
The data are local, not distributed; the defaults name a folder beside the checkout.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import (
    CalibrateConfig,
    ImportConfig,
    RunOptions,
    TrainOptions,
    calibrate,
    import_faces,
    make_train_config,
    train,
)
from pipelines.progress import Progress

SHARED = Path("../shared")
NAME = "multi-attention-default"
OUTPUT = Path(__file__).parents[1] / f"{NAME}.safetensors"
FACES = {"train": "data/dfdc-faces/train.parquet", "val_other_people": "data/dfdc-faces/val_other_people.parquet"}
CALIBRATED_ON = "val_other_people"
COMMON: Mapping[str, Any] = {
    "network.backbone": "mobilenetv2_imagenet",
    "network.drop_path_rate": 0.0,
    "input_size": 160,
    "crop_box": (94, 118, 286, 310),
    "optimization.optimizer": "adamw",
    "optimization.schedule": "cosine",
    "optimization.warmup_steps": 100,
    "val_fraction": 0.06,
    "seed": 0,
}
"""Of all runs."""
RUNS: Mapping[str, Mapping[str, Any]] = {
    # cross-entropy on the backbone, then the whole network
    "first": {
        "augment": "flip",
        "epochs": 9,
        "backbone_epochs": 3,
        "samples_per_epoch": 9600,
        "agda.last_epochs": 1,
        "optimization.learning_rate": 4e-4,
        "optimization.weight_decay": 0.01,
        "optimization.batch_size": 48,
        "optimization.ema_decay": 0.995,
    },
}
"""Each starts from the best weights of the one before."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/ and weights/")
    parser.add_argument("--workspace", type=Path, default=Path("local") / NAME)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--devices", type=int, default=2, help="processes; on a CPU each takes --threads cores")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes that training starts
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name, source in FACES.items():
        import_faces(
            options.shared / source,
            options.workspace / name,
            ImportConfig(),
            RunOptions(batch_size=32),
            on_progress=tell,
        )
    start = str(options.shared / "weights/mobilenetv2_imagenet.pth")
    for name, settings in RUNS.items():
        summary = train(
            options.workspace / "train",
            make_train_config("paper", {**COMMON, **settings, "init": start}),
            TrainOptions(devices=options.devices, compile=True, workers=1),
            run=name,
            on_progress=tell,
        )
        start = str(summary.checkpoint)
    calibrated = calibrate(
        options.workspace / CALIBRATED_ON, options.output, CalibrateConfig(checkpoint=start), RunOptions(overwrite=True)
    )
    logging.info("wrote %s: %s", options.output, calibrated)


def tell(event: Progress) -> None:
    if event.done % 25 == 0 or event.unit != "batch":
        print(f"{event.task} {event.done}/{event.total} {event.unit} {event.note}", flush=True)


if __name__ == "__main__":
    main()
