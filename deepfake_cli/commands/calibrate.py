"""`deepfake calibrate`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import printable
from deepfake_cli.progress import ProgressBar
from pipelines.config import CalibrateConfig, RunOptions


class Method(enum.StrEnum):
    temperature = "temperature"
    isotonic = "isotonic"


def calibrate(
    source: Annotated[
        Path, typer.Argument(help="Scores or --details of the checkpoint, a workspace, or a Parquet of crops.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The calibrated copy, .safetensors.")],
    checkpoint: Annotated[str, typer.Option(help="Registry name or file to calibrate.")] = CalibrateConfig.checkpoint,
    labels: Annotated[
        Path | None, typer.Option(help="CSV video,label[,split,...] or a videos.parquet. Default: the workspace's own.")
    ] = None,
    method: Annotated[Method, typer.Option(help="One number, or a curve in steps.")] = Method(CalibrateConfig.method),
    split: Annotated[
        opt.EvaluatedSplit | None, typer.Option(help="Default: val; all where the labels name no split.")
    ] = None,
    target_fpr: Annotated[
        float, typer.Option(help="Share of real videos that may be called fake.")
    ] = CalibrateConfig.target_fpr,
    target_fnr: Annotated[
        float, typer.Option(help="Share of fakes that may be called real; uncertain lies between.")
    ] = CalibrateConfig.target_fnr,
    aggregate: Annotated[
        opt.Aggregate | None, typer.Option(help="From faces to video. Default: the checkpoint's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the folds that the error is measured on.")] = CalibrateConfig.seed,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Fit probabilities and two thresholds on labelled videos; predict then says real, uncertain or fake."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = CalibrateConfig(
        checkpoint=checkpoint,
        method=method.value,
        split=split.value if split else None,
        target_fpr=target_fpr,
        target_fnr=target_fnr,
        aggregate=aggregate.value if aggregate else None,
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
