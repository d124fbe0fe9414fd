"""`deepfake evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import printable
from deepfake_cli.progress import ProgressBar
from pipelines.config import Aggregate, EvaluateConfig, EvaluatedSplit, Perturbed, ProtocolName, RunOptions

AGGREGATES = ", ".join(get_args(Aggregate))


def evaluate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE", help="Score files, --details folders, workspaces or Parquet files of face crops."
        ),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="Checkpoint that scores workspaces and face crops."),
    ] = EvaluateConfig.checkpoint,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CSV video,label[,split,...] or a videos.parquet. Default: the workspace's own labels."
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the report as .json or .md; repeatable."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write plots here: ROC, score histograms, calibration, robustness, localisation."
        ),
    ] = None,
    split: Annotated[
        EvaluatedSplit | None,
        typer.Option(
            metavar="SPLIT", help="train, val, test or all. Default: test, or all if the labels have no splits."
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(metavar="NAME", help="Follow a published protocol: paper, deepfakebench or sbi."),
    ] = None,
    aggregate: Annotated[
        Aggregate | None,
        typer.Option(
            metavar="HOW",
            help=f"How face scores become a video score: {AGGREGATES}. Default: as the scores were made.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Label as fake at or above this probability, in addition to 0.5. Default: the scores' own threshold.",
        ),
    ] = None,
    perturb: Annotated[
        Perturbed | None, typer.Option(help="Measure robustness: perturb the stored faces or the whole videos.")
    ] = None,
    perturbations: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Only these, separated by commas: jpeg, h264, downscale, blur, noise, brightness. Default: all.",
        ),
    ] = ",".join(EvaluateConfig.perturbations),
    localisation: Annotated[
        bool,
        typer.Option(
            "--localisation", help="Also measure where faces are marked as forged, by their masks; needs a workspace."
        ),
    ] = EvaluateConfig.localisation,
    bootstrap: Annotated[
        int, typer.Option(metavar="N", help="Bootstrap rounds of the intervals; 0: no intervals.")
    ] = EvaluateConfig.bootstrap,
    confidence: Annotated[
        float, typer.Option(metavar="X", help="Confidence level of the intervals.")
    ] = EvaluateConfig.confidence,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed.")] = EvaluateConfig.seed,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
    pictures: Annotated[Path | None, typer.Option(hidden=True)] = None,
    kinds: Annotated[str | None, typer.Option(hidden=True)] = None,
    rounds: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure scores against labels, per video and per frame, with cluster-bootstrap intervals."""
    # --pictures, --kinds and --rounds are the names that --plots, --perturbations and --bootstrap had
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    plots = plots or pictures
    chosen = perturbations or kinds or ""
    config = EvaluateConfig(
        checkpoint=checkpoint,
        split=split,
        protocol=protocol,
        aggregate=aggregate,
        threshold=threshold,
        bootstrap=bootstrap if rounds is None else rounds,
        confidence=confidence,
        seed=seed,
        perturb=perturb,
        perturbations=tuple(name.strip() for name in chosen.split(",") if name.strip()),
        localisation=localisation,
    )
    from pipelines import evaluate as run

    with ProgressBar(quiet=quiet) as bar:
        report = run(
            sources,
            config,
            RunOptions(device=device, workers=workers, batch_size=batch_size),
            labels=labels,
            outputs=output or [],
            plots=plots,
            on_progress=bar,
        )
    if not quiet or not output:
        typer.echo("\n".join(printable(line) for line in report.to_text().splitlines()))
    for path in [*(output or []), *([plots] if plots else [])]:
        typer.echo(f"written: {printable(str(path))}", err=True)
