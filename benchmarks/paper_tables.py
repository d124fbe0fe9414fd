"""Tables 5 and 6 of the paper scaled to two cores, and its figures 4 to 6: writes docs/research/ablations.md and its picture.

    python benchmarks/paper_tables.py --train WORKSPACE --val WORKSPACE --other WORKSPACE --init BACKBONE_WEIGHTS

Every finished run is a line of `runs.jsonl` in the working folder; run again to go on, or to write the page anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paper_tables_page import Result, Row, write_page

from pipelines import RunOptions, TrainConfig, detect_faces, extract_frames, make_train_config
from pipelines.checkpoints.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, to_network_input
from pipelines.data.faces import Face, FaceImages
from pipelines.models import build_model, model_config
from pipelines.records import LABELS, FaceRow, VideoRow
from pipelines.scoring.metrics import roc_auc
from pipelines.system.image_files import read_image, write_image
from pipelines.training.loop import Trainer
from pipelines.training.overlays import draw_attention_maps, stack_panels
from pipelines.training.run import make_network
from pipelines.training.validation import score_faces
from pipelines.workspace.manifest import read_table

log = logging.getLogger("paper_tables")
ROOT = Path(__file__).parents[1]
INPUT_SIZE = 96
CROP_BOX = (94, 118, 286, 310)
TRAIN_FACES = 6000
BATCH_SIZE = 32
START_STEPS = 600
STEPS = 200
SEEDS = (0, 1, 2)
LIVE_MAP_FACES = 200
LIVE_SHARE = 0.05
"""Of the strongest map's peak: a map that stays below it counts for nothing in that face."""
COMMON: dict[str, Any] = {
    "backbone": "mobilenetv2_imagenet",
    "drop_path_rate": 0.0,
    "input_size": INPUT_SIZE,
    "crop_box": CROP_BOX,
    "epochs": 1,
    "optimizer": "adamw",
    "learning_rate": 4e-4,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_steps": 20,
    "batch_size": BATCH_SIZE,
}
TABLE_6 = [
    Row("none", "none", 4, 96.74, 64.86),
    Row("ams", "none", 4, 96.49, 64.23),
    Row("ril", "none", 4, 97.38, 65.85),
    Row("ams", "hard", 4, 96.53, 63.73),
    Row("ril", "hard", 4, 97.24, 64.40),
    Row("ams", "soft", 4, 96.78, 66.42),
    Row("ril", "soft", 4, 97.60, 67.44),
]
TABLE_5 = [
    Row("ril", "soft", 1, 97.26, 67.30),
    Row("ril", "soft", 2, 97.51, 65.74),
    Row("ril", "soft", 3, 97.35, 66.86),
    Row("ril", "soft", 4, 97.60, 67.44),
]
FIGURE = {
    "Figure 4: without regional independence loss and AGDA": TABLE_6[0],
    "Figure 5: with regional independence loss, without AGDA": TABLE_6[2],
    "Figure 6: with both": TABLE_6[6],
}


@dataclass
class Data:
    """The faces of the experiment; decoded once for all runs."""

    train: FaceImages
    val: FaceImages
    other: FaceImages
    seconds: dict[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("train", "val", "other"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="workspace with a finished detect-faces stage")
    parser.add_argument("--init", required=True, help="ImageNet weights of the backbone")
    parser.add_argument("--work", type=Path, default=ROOT / "local/paper-tables")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.work.mkdir(parents=True, exist_ok=True)
    contract = Preprocessing(
        crop_box=CROP_BOX, input_size=INPUT_SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    data = Data(
        FaceImages(choose_faces(read_faces(options.train), TRAIN_FACES), contract),
        FaceImages(read_faces(options.val), contract),
        FaceImages(read_faces(options.other), contract),
    )
    start = options.work / "start.safetensors"
    if not start.is_file():
        train_start(options.init, data, start)
    results = count_live_maps(run_all(data, start, options.work), data, options.work)
    picture = draw_figure(options.work, contract)
    (options.docs / "images").mkdir(exist_ok=True)
    write_image(options.docs / "images/attention-maps.jpg", picture)
    facts = {
        "faces": len(data.train),
        "val": len(data.val),
        "other": len(data.other),
        "input_size": INPUT_SIZE,
        "batch": BATCH_SIZE,
        "start_steps": START_STEPS,
        "steps": STEPS,
        "seeds": len(SEEDS),
        "start": json.loads((options.work / "start.json").read_text()),
    }
    write_page(options.docs / "research" / "ablations.md", TABLE_6, TABLE_5, results, facts)


def read_faces(workspace: Path) -> list[Face]:
    """The labelled faces of a workspace."""
    stage = workspace / "detect-faces"
    videos = read_table(stage / "videos.parquet", VideoRow).select(["video_id", "label"]).to_pylist()
    label_of = {video["video_id"]: video["label"] for video in videos if video["label"]}
    rows = read_table(stage / "manifest.parquet", FaceRow).select(["video_id", "crop_path"]).to_pylist()
    return [
        Face(stage / row["crop_path"], LABELS.index(label_of[row["video_id"]]), row["video_id"])
        for row in rows
        if row["video_id"] in label_of
    ]


def choose_faces(faces: Sequence[Face], count: int) -> list[Face]:
    """Half real, half fake, by the hash of their path: the same on every machine."""
    ranked = sorted(faces, key=lambda face: hashlib.sha256(face.path.name.encode()).digest())
    return [face for label in (0, 1) for face in [each for each in ranked if each.label == label][: count // 2]]


def train_start(init: str, data: Data, output: Path) -> None:
    """The shared start of all rows: the body as a plain classifier, on cross-entropy."""
    config = make_train_config("backbone", {**COMMON, "init": init, "samples_per_epoch": START_STEPS * BATCH_SIZE})
    trainer, seconds = run_training(config, data)
    save_checkpoint(output, trainer.network.state_dict(), make_header(config, trainer, data))
    measured = {name: measure(trainer, images) for name, images in (("val", data.val), ("other", data.other))}
    output.with_suffix(".json").write_text(json.dumps({"seconds": seconds, **measured}))


def run_all(data: Data, start: Path, work: Path) -> list[Result]:
    """Every row with every seed; what `runs.jsonl` has already is not run again."""
    journal = work / "runs.jsonl"
    done = [Result(**json.loads(line)) for line in journal.read_text().splitlines()] if journal.is_file() else []
    for seed in SEEDS:
        for row in unique([*TABLE_6, *TABLE_5]):
            if any(result.is_of(row, seed) for result in done):
                continue
            config = make_train_config(
                "paper",
                {
                    **COMMON,
                    "init": str(start),
                    "samples_per_epoch": STEPS * BATCH_SIZE,
                    "num_attentions": row.num_attentions,
                    "auxiliary": row.auxiliary,
                    "agda.mode": row.agda,
                    "seed": seed,
                },
            )
            trainer, seconds = run_training(config, data)
            result = Result(
                row.auxiliary,
                row.agda,
                row.num_attentions,
                seed,
                seconds,
                val=measure(trainer, data.val),
                other=measure(trainer, data.other),
            )
            save_checkpoint(
                work / f"{row.name}-{seed}.safetensors",
                trainer.network.state_dict(),
                make_header(config, trainer, data),
            )
            with journal.open("a") as file:
                file.write(json.dumps(vars(result)) + "\n")
            done.append(result)
            log.info("%s seed %d: %.0f s, val %s, other %s", row.name, seed, seconds, result.val, result.other)
    return done


def count_live_maps(results: Sequence[Result], data: Data, work: Path) -> list[Result]:
    """How many of its maps a network uses on a face: those whose peak is not negligible, from the saved networks."""
    journal = work / "live-maps.json"
    known = json.loads(journal.read_text()) if journal.is_file() else {}
    faces = [data.val.evaluation_image(i) for i in range(0, len(data.val), len(data.val) // LIVE_MAP_FACES)]
    inputs = to_network_input(faces, data.val.contract)
    for result in results:
        name = f"{result.name}-{result.seed}"
        if name not in known:
            network = load_checkpoint(str(work / f"{name}.safetensors"), build_model).network
            with torch.inference_mode():
                maps = torch.cat([network(part).attention_maps for part in inputs.split(BATCH_SIZE)])
            peaks = maps.amax(dim=(2, 3))
            known[name] = float((peaks > LIVE_SHARE * peaks.amax(dim=1, keepdim=True)).sum(dim=1).float().mean())
    journal.write_text(json.dumps(known))
    return [replace(result, live_maps=known[f"{result.name}-{result.seed}"]) for result in results]


def unique(rows: Iterable[Row]) -> list[Row]:
    return list({row.name: row for row in rows}.values())


def run_training(config: TrainConfig, data: Data) -> tuple[Trainer, float]:
    """One epoch of so many steps; its seconds without validation."""
    trainer = Trainer(make_network(config), config)
    quick_check = FaceImages(data.val.faces[:64], data.val.contract)
    started = time.perf_counter()
    trainer.run_epoch(data.train, quick_check, workers=2)
    return trainer, time.perf_counter() - started


def make_header(config: TrainConfig, trainer: Trainer, data: Data) -> CheckpointHeader:
    return CheckpointHeader(
        model=config.model, model_config=model_config(trainer.network), preprocessing=data.train.contract, provenance={}
    )


def measure(trainer: Trainer, images: FaceImages) -> dict[str, float | None]:
    """Accuracy at 0.5 and AUC over the faces, and how alike the attention maps are."""
    probabilities, cosine = score_faces(trainer.network, images, "network", trainer.fabric.device)
    labels = np.array([face.label for face in images.faces])
    return {
        "accuracy": float(((probabilities >= 0.5) == labels).mean()),
        "auc": roc_auc(labels, probabilities),
        "cosine": cosine,
    }


def draw_figure(work: Path, contract: Preprocessing) -> Any:
    """Maps of the first seed's networks on the faces of the two example clips."""
    crops = example_faces()
    faces = [cut_input(crop, contract) for crop in crops]
    shown = [cut_input(crop, Preprocessing(crop_box=CROP_BOX, input_size=256)) for crop in crops]
    panels = []
    for row in FIGURE.values():
        network = load_checkpoint(str(work / f"{row.name}-{SEEDS[0]}.safetensors"), build_model).network
        with torch.inference_mode():
            maps = network(to_network_input(faces, contract)).attention_maps
        panels.append(draw_attention_maps(np.stack(shown), maps.numpy(), size_px=160))
    return stack_panels(panels, list(FIGURE), direction="below")


def example_faces() -> list[Any]:
    """One aligned face of each example clip."""
    clips = [str(ROOT / "examples" / name) for name in ("astronaut.mp4", "astronaut-forged.mp4")]
    crops = []
    with tempfile.TemporaryDirectory() as folder:
        for number, clip in enumerate(clips):
            workspace = Path(folder) / str(number)
            extract_frames([clip], workspace)
            detect_faces(workspace, options=RunOptions())
            rows = read_table(workspace / "detect-faces/manifest.parquet", FaceRow).to_pylist()
            crops.append(read_image(workspace / "detect-faces" / rows[len(rows) // 2]["crop_path"]))
    return crops


if __name__ == "__main__":
    main()
