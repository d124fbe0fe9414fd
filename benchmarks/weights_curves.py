"""Draws how the default weights were trained: loss and validation AUC over the faces seen, run after run.

    python benchmarks/weights_curves.py RUN_FOLDER… --output docs/images/default-training.png

RUN_FOLDER is `train/<run>` of the recipe's workspace; its `log.csv` has a row for each epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
LOSS_COLOR, AUC_COLOR = "#0072B2", "#D55E00"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/default-training.png")
    options = parser.parse_args()
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.subplots()
    aucs = losses.twinx()
    seen = 0
    for folder in options.folders:
        log = pd.read_csv(folder / "log.csv")
        faces = (seen + np.cumsum(log["images"])) / 1000
        losses.plot(faces, log["train_ce"], "o-", color=LOSS_COLOR, markersize=3)
        aucs.plot(faces, log["val_auc"], "s-", color=AUC_COLOR, markersize=3)
        losses.axvline(seen / 1000, color="#D0D0D0", linewidth=1)
        losses.annotate(
            folder.name,
            (seen / 1000, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -12),
            textcoords="offset points",
        )
        seen += int(log["images"].sum())
    losses.set_xlabel("thousands of faces seen")
    losses.set_ylabel("training cross-entropy", color=LOSS_COLOR)
    aucs.set_ylabel("AUC on held-out videos", color=AUC_COLOR)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
