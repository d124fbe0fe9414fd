"""`deepfake predict`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from deepfake_cli import EXIT_INCOMPLETE
from deepfake_cli import options as opt
from deepfake_cli.printing import count, format_score, has_colours
from deepfake_cli.progress import ProgressBar
from pipelines.config import Aggregate, EngineName, Precision, PredictConfig, RunOptions
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.records import ScoreRow
    from pipelines.stages.predict import PredictSummary

AGGREGATES = ", ".join(get_args(Aggregate))


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help=opt.INPUTS_HELP),
    ] = None,
    split: opt.Splits = None,
    faces: Annotated[
        Path | None,
        typer.Option(metavar="WORKSPACE", help="Score the faces that detect-faces found in this workspace instead."),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", help="A checkpoint file, a name from weights list, or an ONNX file made by export."
        ),
    ] = PredictConfig.checkpoint,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write scores as .csv, .parquet or .json.")
    ] = None,
    excel_safe: opt.ExcelSafe = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    details: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the score of every frame and face here, one Parquet file per video."
        ),
    ] = None,
    aggregate: Annotated[
        Aggregate | None,
        typer.Option(
            metavar="HOW", help=f"How face scores become a video score: {AGGREGATES}. Default: the checkpoint's."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Label as fake at or above this probability, else as real. Default: the checkpoint's."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(metavar="N", help="Frames per video. Default: the checkpoint's.")
    ] = None,
    min_frames: Annotated[
        int, typer.Option(metavar="N", help="Give no score (too_few_frames) if fewer frames decode.")
    ] = PredictConfig.min_frames,
    detector: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Face detector: a name or a file. Default: the checkpoint's."),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Shrink frames to this size for face detection. Default: the checkpoint's."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(metavar="X", help="Lowest detector score of a face. Default: the checkpoint's.")
    ] = None,
    min_face_px: opt.MinFacePx = PredictConfig.min_face_px,
    decoder: opt.DecoderChoice = PredictConfig.decoder,
    engine: Annotated[
        EngineName,
        typer.Option(
            metavar="NAME", help="Runtime of the classifier: torch, onnxruntime or openvino (the last two are extras)."
        ),
    ] = PredictConfig.engine,
    precision: Annotated[Precision, typer.Option(help="Numeric precision of the networks.")] = PredictConfig.precision,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    timeout: opt.Timeout = RunOptions.timeout_seconds,
    max_memory: opt.MaxMemory = RunOptions.max_memory_mb,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    shard: opt.Shard = RunOptions.shard,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Score videos: print the probability that each is fake, or the reason why it has no score."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    if bool(inputs) == (faces is not None):
        raise ConfigError("pass either videos (or folders, lists), or --faces with a workspace")
    config = PredictConfig(
        checkpoint=checkpoint,
        detector=detector,
        frames=frames,
        decoder=decoder,
        max_side=max_side,
        min_score=min_score,
        min_face_px=min_face_px,
        aggregate=aggregate,
        threshold=threshold,
        min_frames=min_frames,
        engine=engine,
        precision=precision,
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
        colours = has_colours()
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
                bar.print(format_score(row, colours=colours))

        from pipelines import predict as score_inputs
        from pipelines import predict_faces

        score = partial(predict_faces, faces) if faces else partial(score_inputs, opt.inputs_from(inputs or []))
        summary = score(
            config,
            options,
            splits=[side.value for side in split or []],
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
    """On stderr, what the rows do not show."""
    typer.echo(f"weights: {summary.weights}", err=True)
    if summary.num_ignored:
        typer.echo(f"{count(summary.num_ignored, 'file')} in the folders ignored: neither video nor image", err=True)
    if summary.reused:
        typer.echo(f"{count(summary.reused, 'video')} scored before with the same settings", err=True)
    if output:
        typer.echo(f"{count(len(summary.rows), 'row')} in {output}", err=True)
