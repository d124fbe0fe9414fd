"""`deepfake evaluate`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import printable
from deepfake_cli.progress import ProgressBar
from pipelines.config import EvaluateConfig, RunOptions


class Protocol(enum.StrEnum):
    paper = "paper"
    deepfakebench = "deepfakebench"
    sbi = "sbi"


class Perturbed(enum.StrEnum):
    faces = "faces"
    videos = "videos"


def evaluate(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="Scores, a --details folder, a workspace, or a Parquet of crops."),
    ],
    checkpoint: Annotated[
        str, typer.Option(help="Registry name or file, for what is not scored yet.")
    ] = EvaluateConfig.checkpoint,
    labels: Annotated[
        Path | None, typer.Option(help="CSV video,label[,split,...] or a videos.parquet. Default: the workspace's own.")
    ] = None,
    output: Annotated[
        list[Path] | None, typer.Option("--output", "-o", help="Report as .json or .md; repeatable.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for ROC, histograms and calibration curve.")] = None,
    split: Annotated[
        opt.EvaluatedSplit | None, typer.Option(help="Default: test; all where the labels name no split.")
    ] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="As a published evaluation does it.")] = None,
    aggregate: Annotated[
        opt.Aggregate | None, typer.Option(help="From faces to video. Default: as the scores were made.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Beside 0.5. Default: the one that the scores were made with.")
    ] = None,
    perturb: Annotated[
        Perturbed | None, typer.Option(help="Score the faces, or the whole videos, again under perturbations.")
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="Of perturbations: jpeg,h264,downscale,blur,noise,brightness. Default: all.")
    ] = ",".join(EvaluateConfig.kinds),
    rounds: Annotated[int, typer.Option(help="Of the bootstrap; 0: no intervals.")] = EvaluateConfig.rounds,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = EvaluateConfig.confidence,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of noise.")] = EvaluateConfig.seed,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Measure scores against labels: by video and by frame, with intervals, for each data set, method and compression."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = EvaluateConfig(
        checkpoint=checkpoint,
        split=split.value if split else None,
        protocol=protocol.value if protocol else None,
        aggregate=aggregate.value if aggregate else None,
        threshold=threshold,
        rounds=rounds,
        confidence=confidence,
        seed=seed,
        perturb=perturb.value if perturb else None,
        kinds=tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
    )
    from pipelines import evaluate as run

    with ProgressBar(quiet=quiet) as bar:
        report = run(
            sources,
            config,
            RunOptions(device=device, workers=workers, batch_size=batch_size),
            labels=labels,
            outputs=output or [],
            pictures=pictures,
            on_progress=bar,
        )
    if not quiet or not output:
        typer.echo("\n".join(printable(line) for line in report.to_text().splitlines()))
    for path in [*(output or []), *([pictures] if pictures else [])]:
        typer.echo(f"written: {printable(str(path))}", err=True)
