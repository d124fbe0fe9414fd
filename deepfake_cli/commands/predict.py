"""`deepfake predict`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.errors import EXIT_INCOMPLETE
from deepfake_cli.printing import count, format_score
from deepfake_cli.progress import ProgressBar
from pipelines.config import PredictConfig, RunOptions
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.records import ScoreRow
    from pipelines.stages.predict import PredictSummary


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT...]", help=opt.INPUTS_HELP),
    ] = None,
    split: opt.Splits = None,
    faces: Annotated[Path | None, typer.Option(help="Score a workspace's detect-faces stage instead.")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Registry name, checkpoint file, or file of export.")
    ] = PredictConfig.checkpoint,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Scores as .csv, .parquet or .json.")] = None,
    excel_safe: opt.ExcelSafe = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
    details: Annotated[Path | None, typer.Option(help="Folder for a Parquet per video: every frame and face.")] = None,
    aggregate: Annotated[
        opt.Aggregate | None, typer.Option(help="From faces to video. Default: the checkpoint's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Fake from here on, real below. Default: the checkpoint's.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames per video. Default: the checkpoint's.")] = None,
    min_frames: Annotated[int, typer.Option(help="Fewer decoded frames: too_few_frames.")] = PredictConfig.min_frames,
    detector: Annotated[str | None, typer.Option(help="Registry name or file. Default: the checkpoint's.")] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Frame side for the detector, px. Default: the checkpoint's.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Detector score. Default: the checkpoint's.")] = None,
    min_face_px: Annotated[
        int, typer.Option(help="Leave out smaller faces, frame px; the larger, the faster.")
    ] = PredictConfig.min_face_px,
    decoder: Annotated[opt.Decoder, typer.Option(help="Video reader.")] = opt.Decoder(PredictConfig.decoder),
    engine: Annotated[
        opt.Engine, typer.Option(help="What computes the classifier; all but torch are extras.")
    ] = opt.Engine(PredictConfig.engine),
    precision: Annotated[opt.Precision, typer.Option(help="Of the networks' arithmetic.")] = opt.Precision(
        PredictConfig.precision
    ),
    device: opt.Device = RunOptions.device,
    workers: opt.Processes = RunOptions.workers,
    timeout: opt.Timeout = RunOptions.timeout_seconds,
    max_memory: opt.MaxMemory = RunOptions.max_memory_mb,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    shard: opt.Shard = RunOptions.shard,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Score videos: a fake probability each, or a status that says why there is none."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    if bool(inputs) == (faces is not None):
        raise ConfigError("pass either videos (or folders, lists), or --faces with a workspace")
    config = PredictConfig(
        checkpoint=checkpoint,
        detector=detector,
        frames=frames,
        decoder=decoder.value,
        max_side=max_side,
        min_score=min_score,
        min_face_px=min_face_px,
        aggregate=aggregate.value if aggregate else None,
        threshold=threshold,
        min_frames=min_frames,
        engine=engine.value,
        precision=precision.value,
    )
    options = RunOptions(
        device=device,
        workers=workers,
        batch_size=batch_size,
        overwrite=overwrite,
        shard=shard,
        isolate=opt.ISOLATE,
        timeout_seconds=timeout,
        max_memory_mb=max_memory,
    )
    with ProgressBar(quiet=quiet) as bar:
        reader_is_gone = False

        def show(row: ScoreRow) -> None:
            nonlocal reader_is_gone
            try:
                if not reader_is_gone:
                    print_row(row)
            except BrokenPipeError:
                if output is None:
                    raise
                reader_is_gone = True  # `… -o scores.csv | head`: the file is still wanted
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115

        def print_row(row: ScoreRow) -> None:
            if json_lines:
                bar.print(json.dumps(asdict(row)))
            elif not quiet or output is None:
                bar.print(format_score(row))

        from pipelines import predict as score_inputs
        from pipelines import predict_faces

        splits = [side.value for side in split or []]
        if faces is not None:
            summary = predict_faces(
                faces,
                config,
                options,
                splits=splits,
                output=output,
                excel_safe=excel_safe,
                details=details,
                on_row=show,
                on_progress=bar,
            )
        else:
            summary = score_inputs(
                opt.inputs_from(inputs or []),
                config,
                options,
                splits=splits,
                output=output,
                excel_safe=excel_safe,
                details=details,
                on_row=show,
                on_progress=bar,
            )
    if not quiet:
        _report(summary, output)
    if summary.failures:
        raise typer.Exit(EXIT_INCOMPLETE)


def _report(summary: PredictSummary, output: Path | None) -> None:
    """What is not visible in the rows, on stderr."""
    typer.echo(f"weights: {summary.weights}", err=True)
    if summary.num_ignored:
        typer.echo(f"{count(summary.num_ignored, 'file')} in the folders ignored: neither video nor image", err=True)
    if summary.reused:
        typer.echo(f"{count(summary.reused, 'video')} scored before with the same settings", err=True)
    if output:
        typer.echo(f"{count(len(summary.rows), 'row')} in {output}", err=True)
