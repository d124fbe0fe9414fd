"""Makes `multi-attention-default.safetensors`: imports the local face crops, trains, measures once, writes the file.

    python weights/recipes/train_multi_attention_default.py

Every step is resumable: run it again after an interruption. Two cores need about three quarters of an hour.
The data are local, not distributed; the defaults name a folder beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path

import numpy as np

from pipelines import (
    ImportConfig,
    PredictConfig,
    RunOptions,
    TrainConfig,
    TrainOptions,
    import_faces,
    make_train_config,
    predict_faces,
    train,
)
from pipelines.progress import Progress
from pipelines.scoring.metrics import log_loss, roc_auc

SHARED = Path("../shared")
NAME = "multi-attention-default"
OUTPUT = Path(__file__).parents[1] / f"{NAME}.safetensors"
MEASURED = {
    "val": "data/dfdc-faces/val.parquet",
    "val_other_people": "data/dfdc-faces/val_other_people.parquet",
    "swap_pairs": "data/swap-pairs/faces.parquet",
}
BOOTSTRAP_ROUNDS = 1000


def make_config(shared: Path) -> TrainConfig:
    """The recipe: cross-entropy on the backbone, then the whole network, the augmentation pass in the last epoch."""
    return make_train_config(
        "paper",
        {"agda.last_epochs": 1},
        backbone="mobilenetv2_imagenet",
        init=str(shared / "weights/mobilenetv2_imagenet.pth"),
        drop_path_rate=0.0,
        input_size=160,
        crop_box=(94, 118, 286, 310),
        augment="flip",
        crop_jitter=0.04,
        epochs=9,
        backbone_epochs=3,
        samples_per_epoch=9600,
        optimizer="adamw",
        learning_rate=4e-4,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=100,
        batch_size=48,
        ema_decay=0.995,
        val_fraction=0.06,
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/ and weights/")
    parser.add_argument("--workspace", type=Path, default=Path("local") / NAME)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_options = RunOptions(batch_size=32)
    import_faces(
        options.shared / "data/dfdc-faces/train.parquet",
        options.workspace / "train",
        ImportConfig(),
        run_options,
        on_progress=print_progress,
    )
    summary = train(
        options.workspace / "train", make_config(options.shared), TrainOptions(), on_progress=print_progress
    )
    shutil.copyfile(summary.checkpoint, options.output)
    figures = {name: measure(options, name, options.shared / file) for name, file in MEASURED.items()}
    print(json.dumps({"best": vars(summary.best), "figures": figures}, indent=1))


def measure(options: argparse.Namespace, name: str, source: Path) -> dict[str, float]:
    """AUC, its 95 % bootstrap interval and log loss over the videos of one validation file."""
    workspace = options.workspace / name
    imported = import_faces(source, workspace, ImportConfig(), RunOptions(batch_size=32))
    config = PredictConfig(checkpoint=str(options.output), aggregate="mean")
    summary = predict_faces(workspace, config, RunOptions(batch_size=32), output=workspace / "scores.csv")
    label_of = {video.path: int(video.label == "fake") for video in imported.videos}
    rows = [row for row in summary.rows if row.fake_probability is not None]
    labels = np.array([label_of[row.video] for row in rows])
    scores = np.array([row.fake_probability for row in rows], dtype=np.float64)
    low, high = bootstrap_auc(labels, scores)
    return {
        "videos": len(rows),
        "auc": roc_auc(labels, scores),
        "auc_low": low,
        "auc_high": high,
        "log_loss": log_loss(labels, scores),
        "accuracy": float(((scores >= 0.5) == labels).mean()),
    }


def bootstrap_auc(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the AUC over resampled videos."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(labels), size=len(labels)) for _ in range(BOOTSTRAP_ROUNDS))
    low, high = np.nanpercentile([roc_auc(labels[draw], scores[draw]) for draw in draws], [2.5, 97.5])
    return float(low), float(high)


def print_progress(event: Progress) -> None:
    if event.done % 25 == 0 or event.unit != "batch":
        print(f"{event.task} {event.done}/{event.total} {event.unit} {event.note}", flush=True)


if __name__ == "__main__":
    main()
