"""`deepfake calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import printable
from deepfake_cli.progress import ProgressBar
from pipelines.config import Aggregate, CalibrateConfig, CalibrationMethod, EvaluatedSplit, RunOptions

AGGREGATES = ", ".join(get_args(Aggregate))


def calibrate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Scores or a --details folder made by the checkpoint, a workspace, or a Parquet of face crops.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Write the calibrated copy here, .safetensors.")
    ],
    checkpoint: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Checkpoint to calibrate.")
    ] = CalibrateConfig.checkpoint,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CSV video,label[,split,...] or a videos.parquet. Default: the workspace's own labels."
        ),
    ] = None,
    method: Annotated[
        CalibrationMethod, typer.Option(help="Temperature scaling (one number) or isotonic regression (a curve).")
    ] = CalibrateConfig.method,
    split: Annotated[
        EvaluatedSplit | None,
        typer.Option(
            metavar="SPLIT", help="train, val, test or all. Default: val, or all if the labels have no splits."
        ),
    ] = None,
    target_fpr: Annotated[
        float, typer.Option(metavar="X", help="Share of real videos that may be called fake.")
    ] = CalibrateConfig.target_fpr,
    target_fnr: Annotated[
        float, typer.Option(metavar="X", help="Share of fakes that may be called real; uncertain lies in between.")
    ] = CalibrateConfig.target_fnr,
    aggregate: Annotated[
        Aggregate | None,
        typer.Option(
            metavar="HOW", help=f"How face scores become a video score: {AGGREGATES}. Default: the checkpoint's."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the folds for the held-out error.")
    ] = CalibrateConfig.seed,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Calibrate a checkpoint on labelled videos; predict then says real, uncertain or fake."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = CalibrateConfig(
        checkpoint=checkpoint,
        method=method,
        split=split,
        target_fpr=target_fpr,
        target_fnr=target_fnr,
        aggregate=aggregate,
        seed=seed,
    )
    from pipelines import calibrate as run

    with ProgressBar(quiet=quiet) as bar:
        summary = run(
            source,
            output,
            config,
            RunOptions(device=device, workers=workers, batch_size=batch_size, overwrite=overwrite),
            labels=labels,
            on_progress=bar,
        )
    if not quiet:
        typer.echo("\n".join(printable(line) for line in summary.lines()))
