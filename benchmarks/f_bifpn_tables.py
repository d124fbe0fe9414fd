"""Table 3 of F-BiFPN-MTLNet's paper scaled to two cores: writes docs/research/f-bifpn-mtlnet.md and its picture.

    python benchmarks/f_bifpn_tables.py --train WORKSPACE --val WORKSPACE --other WORKSPACE --pairs WORKSPACE \
        --unseen WORKSPACE --init BACKBONE_WEIGHTS

Every row trains by `pipelines.train` and is measured by `pipelines.evaluate`. A finished run is a line of `runs.jsonl` in
the working folder; run again to go on, or to write the page anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from f_bifpn_tables_page import Result, Row, write_page

from pipelines import EvaluateConfig, RunOptions, TrainOptions, evaluate, make_train_config, train
from pipelines.system.atomic_files import replace_atomically

log = logging.getLogger("f_bifpn_tables")
ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
BODY_FACES, FACES = 12_800, 6_400
PRESET = "f-bifpn-mtlnet-small"
COMMON: dict[str, Any] = {
    "network.backbone": "tf_efficientnet_lite0",
    "network.drop_path_rate": 0.0,
    "normalization": "half",
    "input_size": 160,
    "crop_box": (70, 86, 310, 326),
    "epochs": 1,
    "augment": "robust",
    "self_blend": 0.5,
    "pair_originals": True,
    "val_fraction": 0.004,
    "optimization.optimizer": "adamw",
    "optimization.learning_rate": 4e-4,
    "optimization.weight_decay": 0.01,
    "optimization.schedule": "cosine",
    "optimization.warmup_steps": 20,
    "optimization.batch_size": 32,
    "optimization.label_smoothing": 0.1,
}
SHORT: dict[str, Any] = {
    "dense.ramp_epochs": 0.1,
    "optimization.warmup_share": 0.0,
    "optimization.warmup_start": 0.0,
    "optimization.freeze_backbone_epochs": 0,
    "optimization.sam": 0.0,
}
ROWS = [
    Row("full", "F-BiFPN-MTLNet", PRESET, {}),
    Row("plain", "plain BiFPN instead of F-BiFPN", PRESET, {"network.fusion": "plain"}),
    Row("fpn", "FPN instead of F-BiFPN", PRESET, {"network.fusion": "top-down"}),
    Row("no-mask", "without mask branch", PRESET, {"network.mask_branch": False}),
    Row("no-consistency", "without consistency branch", PRESET, {"network.consistency": "none"}),
    Row("no-attention-loss", "without attention supervision", PRESET, {"dense.attention_weight": 0.0}),
    Row("sam", "with sharpness-aware minimisation", PRESET, {"optimization.sam": 0.05}),
    Row("multi-attention", "multi-attention network", "paper", {"ril.weight": 0.1, "agda.mode": "none"}),
    Row("backbone", "plain classifier", "backbone", {}),
]


@dataclass(frozen=True)
class Sets:
    """Workspaces that every row is measured on."""

    val: Path
    other: Path
    pairs: Path
    unseen: Path
    names: Sequence[str] = field(default=("val", "other", "pairs", "unseen"), repr=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("train", "val", "other", "pairs", "unseen"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="workspace with a finished detect-faces stage")
    parser.add_argument("--init", required=True, help="ImageNet weights of tf_efficientnet_lite0")
    parser.add_argument("--work", type=Path, default=ROOT / "local/f-bifpn-tables")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    options.work.mkdir(parents=True, exist_ok=True)
    sets = Sets(options.val, options.other, options.pairs, options.unseen)
    body = train_body(options.train, options.init, options.work)
    results = run_all(options.train, sets, body, options.work)
    write_page(options.docs / "research" / "f-bifpn-mtlnet.md", ROWS, results, {"faces": FACES, "body": BODY_FACES})


def train_body(workspace: Path, init: str, work: Path) -> Path:
    """The shared start of all rows: the body as a plain classifier."""
    body = work / "body.safetensors"
    if not body.is_file():
        config = make_train_config("backbone", {**COMMON, "init": init, "samples_per_epoch": BODY_FACES})
        summary = train(workspace, config, TrainOptions(cache_gb=2), run="f-bifpn-body", on_progress=tell)
        shutil.copy(summary.checkpoint, body)
    return body


def run_all(workspace: Path, sets: Sets, body: Path, work: Path) -> list[Result]:
    """Every row with every seed; what `runs.jsonl` has already is not run again."""
    journal = work / "runs.jsonl"
    done = [Result(**json.loads(line)) for line in journal.read_text().splitlines()] if journal.is_file() else []
    for seed in SEEDS:
        for row in ROWS:
            if any((result.row, result.seed) == (row.name, seed) for result in done):
                continue
            done.append(run_row(workspace, sets, body, work, row, seed))
            with journal.open("a") as file:
                file.write(json.dumps(asdict(done[-1])) + "\n")
    return done


def run_row(workspace: Path, sets: Sets, body: Path, work: Path, row: Row, seed: int) -> Result:
    """Train and measure one row with one seed."""
    settings = {**COMMON, **(SHORT if row.preset == PRESET else {}), "init": str(body), "samples_per_epoch": FACES}
    config = make_train_config(row.preset, {**settings, "seed": seed, **row.settings})
    started = time.perf_counter()
    name = f"f-bifpn-{row.name}-{seed}"
    summary = train(workspace, config, TrainOptions(cache_gb=2), run=name, on_progress=tell)
    seconds = time.perf_counter() - started
    checkpoint = work / f"{row.name}-{seed}.safetensors"
    with replace_atomically(checkpoint) as temporary:
        shutil.copy(summary.checkpoint, temporary)
    measured = {}
    for each in sets.names:
        has_masks = each in ("val", "pairs") and row.preset != "backbone"
        measure_config = EvaluateConfig(
            checkpoint=str(checkpoint), split="all", bootstrap=0, localisation=has_masks, aggregate="mean"
        )
        report = evaluate(
            getattr(sets, each),
            measure_config,
            RunOptions(),
            outputs=work / f"{row.name}-{seed}-{each}.json",
            plots=work / f"plots-{row.name}-{each}" if has_masks and seed == 0 else None,
        )
        found = report.to_json()
        measured[each] = {key: found[key] for key in ("video.auc", "video.ap")} | {
            f"localisation.{key}": value
            for key, value in (found.get("localisation") or {}).items()
            if isinstance(value, float)
        }
    log.info(
        "%s seed %d: %.0f s, %s", row.name, seed, seconds, {k: round(v["video.auc"], 3) for k, v in measured.items()}
    )
    return Result(row.name, seed, seconds, measured)


def tell(event: Any) -> None:
    if event.done % 50 == 0:
        log.info("%s %d/%d %s", event.task, event.done, event.total, event.note)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
