"""Makes `multi-attention-default.safetensors`: imports the local face crops, trains in four runs, calibrates.

    python weights/recipes/train_multi_attention_default.py

Every step is resumable: run it again after an interruption. `benchmarks/embedded_weights.py` measures the result. The data
are local, not distributed; by default they are in a folder next to the checkout.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
from pipelines.system.atomic_files import replace_atomically
from pipelines.system.progress import Progress

SHARED = Path("../shared")
NAME = "multi-attention-default"
OUTPUT = Path(__file__).parents[1] / f"{NAME}.safetensors"
TRAINED_ON = ("data/dfdc-faces/train.parquet", "data/portraits/real.parquet")
CALIBRATED_ON = "data/dfdc-faces/val_other_people.parquet"
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
"""Settings of all runs."""
LONG: Mapping[str, Any] = {
    "augment": "robust",
    "crop_jitter": 0.06,
    "pair_originals": True,
    "self_blend": 0.3,
    "ril.weight": 0.1,
    "agda.mode": "none",
    "samples_per_epoch": 24_576,
    "optimization.weight_decay": 0.02,
    "optimization.batch_size": 64,
    "optimization.ema_decay": 0.998,
}
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
    # self-blends, and each fake paired with its original
    "second": {**LONG, "epochs": 7, "optimization.learning_rate": 5e-4},
    # the same again: every epoch helps, and each run holds out other videos
    "third": {**LONG, "epochs": 7, "optimization.learning_rate": 5e-4, "seed": 1},
    "fourth": {**LONG, "epochs": 7, "optimization.learning_rate": 5e-4, "seed": 2},
}
"""Each run starts from the last weights of the one before, as the learning rate ends at 0. Their validation AUC cannot be
compared: with a different seed other videos are held out, which the run before was trained on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/ and weights/")
    parser.add_argument("--workspace", type=Path, default=Path("local") / NAME)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--devices", type=int, default=2, help="processes, which share the GPUs or the CPU's cores")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    faces = options.workspace / "faces.parquet"
    join_tables([options.shared / source for source in TRAINED_ON], faces)
    for source, name in ((faces, "train"), (options.shared / CALIBRATED_ON, "calibration")):
        import_faces(source, options.workspace / name, ImportConfig(), RunOptions(batch_size=32), on_progress=tell)
    start = str(options.shared / "weights/mobilenetv2_imagenet.pth")
    for name, settings in RUNS.items():
        summary = train(
            options.workspace / "train",
            make_train_config("paper", {**COMMON, **settings, "init": start}),
            TrainOptions(devices=options.devices, compile=True, workers=1),
            run=name,
            on_progress=tell,
        )
        start = str(summary.folder / "last.safetensors")
    calibrated = calibrate(
        options.workspace / "calibration",
        options.output,
        CalibrateConfig(checkpoint=start),
        RunOptions(overwrite=True),
    )
    logging.info("wrote %s: %s", options.output, calibrated)


def join_tables(sources: Sequence[Path], target: Path) -> None:
    """Write one Parquet file of all labelled faces, unless it exists."""
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        columns = ("video", "label", "original", "image_jpeg")
        tables = [pq.read_table(source) for source in sources]
        tables = [table.select([name for name in columns if name in table.column_names]) for table in tables]
        with replace_atomically(target) as temporary:
            pq.write_table(pa.concat_tables(tables, promote_options="default"), temporary)


def tell(event: Progress) -> None:
    if event.done % 25 == 0 or event.unit != "batch":
        print(f"{event.task} {event.done}/{event.total} {event.unit} {event.note}", flush=True)


if __name__ == "__main__":
    main()
