"""`deepfake import-faces`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import finish_stage
from deepfake_cli.progress import ProgressBar
from pipelines.config import ImportConfig, RunOptions


def import_faces(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A Parquet or CSV file of face pictures, or a folder with real/ and fake/."
        ),
    ],
    workspace: opt.Workspace,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Only resize: the faces are already aligned.")
    ] = ImportConfig.as_is,
    detector: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Face detector: a file, or a name from weights list.")
    ] = ImportConfig.detector,
    min_score: Annotated[
        float, typer.Option(metavar="X", help="Lowest detector score at which a face counts as found.")
    ] = ImportConfig.min_score,
    margin: opt.Margin = ImportConfig.margin,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    timeout: opt.Timeout = RunOptions.timeout_seconds,
    max_memory: opt.MaxMemory = RunOptions.max_memory_mb,
    batch_size: opt.BatchSize = RunOptions.batch_size,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Turn pictures of cropped faces into aligned faces, as detect-faces writes them, ready for train."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = ImportConfig(detector=detector, min_score=min_score, margin=margin, as_is=as_is)
    from pipelines import import_faces as run

    run_options = RunOptions(
        device=device,
        workers=workers,
        batch_size=batch_size,
        overwrite=overwrite,
        isolate=opt.ISOLATE,
        timeout_seconds=timeout,
        max_memory_mb=max_memory,
    )
    with ProgressBar(quiet=quiet) as bar:
        summary = run(source, workspace, config, run_options, on_progress=bar)
    finish_stage(summary, "face", quiet=quiet)
