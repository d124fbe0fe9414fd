"""Trains short candidates for the embedded weights on equal terms and measures each on three files of labelled faces.

    python benchmarks/weights_candidates.py FOLDER NAME[:SEED] …
    python benchmarks/weights_candidates.py FOLDER --page docs/research/candidates.md

FOLDER holds the workspaces train, val, val_other_people and swap_pairs, made by `deepfake import-faces`. All begin with the
same weights and see as many faces; two can run in parallel, each on one core. A finished candidate is one
JSON file in FOLDER/candidates; run again to go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_weights import markdown_table

from pipelines import PredictConfig, RunOptions, TrainOptions, make_train_config, predict_faces, train
from pipelines.records import VideoRow
from pipelines.scoring.metrics import log_loss, roc_auc
from pipelines.system.progress import Progress
from pipelines.workspace.manifest import read_table

TEMPLATE = Path(__file__).with_name("candidates_template.md")
FILES = ("val", "val_other_people", "swap_pairs")
CROP_BOX = (94, 118, 286, 310)
BASE: Mapping[str, Any] = {
    "network.backbone": "mobilenetv2_imagenet",
    "network.drop_path_rate": 0.0,
    "init": "multi-attention-default",
    "input_size": 160,
    "crop_box": CROP_BOX,
    "augment": "robust",
    "crop_jitter": 0.06,
    "epochs": 4,
    "samples_per_epoch": 3200,
    "optimization.optimizer": "adamw",
    "optimization.learning_rate": 4e-4,
    "optimization.weight_decay": 0.02,
    "optimization.schedule": "cosine",
    "optimization.warmup_steps": 40,
    "optimization.batch_size": 32,
    "optimization.ema_decay": 0.99,
    "val_fraction": 0.06,
}
PLAIN: Mapping[str, Any] = {"preset": "backbone"}
MULTI: Mapping[str, Any] = {"preset": "paper", "self_blend": 0.3}
CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "plain-flip": {**PLAIN, "augment": "flip"},
    "plain-robust": PLAIN,
    "plain-blend-0.3": {**PLAIN, "self_blend": 0.3},
    "plain-blend-0.6": {**PLAIN, "self_blend": 0.6},
    "plain-blend-1": {**PLAIN, "self_blend": 1.0},
    "plain-pairs": {**PLAIN, "self_blend": 0.3, "pair_originals": True},
    "plain-blend-0.3-224": {**PLAIN, "self_blend": 0.3, "input_size": 224},
    "multi-none": {**MULTI, "auxiliary": "none", "agda.mode": "none"},
    "multi-ril-weak": {**MULTI, "agda.mode": "none", "ril.weight": 0.1},
    "multi-ril": {**MULTI, "agda.mode": "none"},
    "multi-ril-agda": MULTI,
}

# rows whose candidate is gone are shown where a folder still has their figures: what they used was removed after measuring
TABLES: Mapping[str, Mapping[str, str]] = {
    "learned": {
        "plain-flip": "real fakes only, mirrored",
        "plain-robust": "real fakes only, `robust`",
        "plain-blend-0.3": "30 % self-blends",
        "plain-blend-0.6": "60 % self-blends",
        "plain-blend-1": "self-blends only",
        "plain-swaps-0.3": "30 % imitated swaps",
        "plain-both-0.6": "30 % self-blends, 30 % imitated swaps",
        "plain-pairs": "30 % self-blends, fakes paired with their originals",
        "plain-cameras": "30 % self-blends, `cameras`",
    },
    "network": {
        "plain-blend-0.3": "MobileNetV2, 160 px",
        "plain-blend-0.3-224": "MobileNetV2, 224 px",
        "multi-none": "multi-attention, M = 4",
        "multi-ril-weak": "with regional independence loss, weight 0.1",
        "multi-ril": "with regional independence loss, weight 1",
        "multi-ril-agda": "with this loss, weight 1, and AGDA (second pass)",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=f"each NAME or NAME:SEED; names: {', '.join(CANDIDATES)}")
    parser.add_argument("--init", default=BASE["init"], help="the weights that all begin with")
    parser.add_argument(
        "--page", type=Path, help="write the tables of all finished candidates, such as docs/research/candidates.md"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    for text in options.names:
        name, _, seed = text.partition(":")
        run_candidate(options.folder, name, int(seed or 0), options.init)
    if options.page:
        write_page(options.folder, options.page)


def run_candidate(folder: Path, name: str, seed: int, init: str) -> None:
    """Trains one and writes its figures, unless they are there."""
    result = folder / "candidates" / f"{name}-{seed}.json"
    if result.is_file():
        return
    settings = {**BASE, **CANDIDATES[name], "init": init, "seed": seed}
    preset = settings.pop("preset")
    started = time.monotonic()
    summary = train(
        folder / "train",
        make_train_config(preset, settings),
        TrainOptions(workers=1, compile=True, cache_gb=5),
        run=f"candidate-{name}-{seed}",
        on_progress=tell,
    )
    seconds = time.monotonic() - started
    figures = {file: measure(folder / file, summary.folder / "last.safetensors", result) for file in FILES}
    facts = {"name": name, "seed": seed, "settings": settings, "seconds": seconds, "figures": figures}
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(facts, indent=1) + "\n")
    logging.info("%s: %s", result.stem, json.dumps(figures))


def measure(workspace: Path, checkpoint: Path, result: Path) -> dict[str, float]:
    """AUC and log loss over the videos of one file; where they come in pairs, the share of pairs in the right order."""
    videos = read_table(workspace / "detect-faces/videos.parquet", VideoRow).to_pylist()
    config = PredictConfig(checkpoint=str(checkpoint), aggregate="mean")
    summary = predict_faces(
        workspace,
        config,
        RunOptions(batch_size=32, overwrite=True),
        output=result.with_suffix(f".{workspace.name}.csv"),
    )
    score_of = {row.video: row.fake_probability for row in summary.rows if row.fake_probability is not None}
    known = [video for video in videos if video["path"] in score_of]
    labels = np.array([int(video["label"] == "fake") for video in known])
    scores = np.array([score_of[video["path"]] for video in known], dtype=np.float64)
    figures = {"videos": len(known), "auc": roc_auc(labels, scores), "log_loss": log_loss(labels, scores)}
    if workspace.name == "swap_pairs":
        real_of = {video["path"]: score_of[video["path"]] for video in known if video["label"] == "real"}
        pairs = [(score_of[v["path"]], real_of.get(v["original"])) for v in known if v["label"] == "fake"]
        figures["pairs_in_order"] = float(np.mean([fake > real for fake, real in pairs if real is not None]))
    return figures


def write_page(folder: Path, page: Path) -> None:
    """The template with one table for each group of candidates; those that were not run are left out."""
    found = [json.loads(path.read_text()) for path in sorted((folder / "candidates").glob("*.json"))]
    tables = {group: make_table(titles, found) for group, titles in TABLES.items()}
    page.write_text(TEMPLATE.read_text("utf-8").format(**tables), "utf-8")


def make_table(titles: Mapping[str, str], found: list[Any]) -> str:
    """A row for each candidate: means over its seeds, and their spread where there are several."""
    header = [
        "",
        "seeds",
        "minutes",
        "`val` AUC",
        "other people AUC",
        "other people log loss",
        "swap pairs AUC",
        "pairs in order",
    ]
    rows = []
    for name, title in titles.items():
        runs = [run for run in found if run["name"] == name]
        if not runs:
            continue
        columns = [
            spread([run["figures"][file][figure] for run in runs])
            for file, figure in (
                ("val", "auc"),
                ("val_other_people", "auc"),
                ("val_other_people", "log_loss"),
                ("swap_pairs", "auc"),
                ("swap_pairs", "pairs_in_order"),
            )
        ]
        minutes = f"{np.mean([run['seconds'] for run in runs]) / 60:.0f}"
        rows.append([title, str(len(runs)), minutes, *columns])
    return markdown_table(header, rows)


def spread(values: list[float]) -> str:
    """Mean, and half the range where there is one."""
    half = (max(values) - min(values)) / 2
    return f"{np.mean(values):.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def tell(event: Progress) -> None:
    if event.done % 25 == 0:
        print(f"{event.task} {event.done}/{event.total} {event.note}", flush=True)


if __name__ == "__main__":
    main()
