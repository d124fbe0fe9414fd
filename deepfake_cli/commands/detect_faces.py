"""`deepfake detect-faces`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import finish_stage
from deepfake_cli.progress import ProgressBar
from pipelines.config import DetectConfig, RunOptions


def detect_faces(
    workspace: opt.Workspace,
    detector: Annotated[str, typer.Option(help="Registry name or weights file.")] = DetectConfig.detector,
    max_side: Annotated[
        int, typer.Option(help="Longer frames are reduced to this for the network, px.")
    ] = DetectConfig.max_side,
    min_score: Annotated[float, typer.Option(help="Detector score that a face must reach.")] = DetectConfig.min_score,
    margin: Annotated[float, typer.Option(help="1.0 is the template; larger shows more.")] = DetectConfig.margin,
    min_face_px: Annotated[
        int, typer.Option(help="Leave out smaller faces, frame px; the larger, the faster.")
    ] = DetectConfig.min_face_px,
    precision: Annotated[opt.Precision, typer.Option(help="Of the network's arithmetic.")] = opt.Precision(
        DetectConfig.precision
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
    """Find, track and align every face of the extracted frames (380x380)."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = DetectConfig(
        detector=detector,
        max_side=max_side,
        min_score=min_score,
        margin=margin,
        min_face_px=min_face_px,
        precision=precision.value,
    )
    from pipelines import detect_faces as run

    with ProgressBar(quiet=quiet) as bar:
        run_options = RunOptions(
            device=device,
            workers=workers,
            batch_size=batch_size,
            overwrite=overwrite,
            shard=shard,
            isolate=opt.ISOLATE,
            timeout_seconds=timeout,
            max_memory_mb=max_memory,
        )
        summary = run(workspace, config, run_options, on_progress=bar)
    finish_stage(summary, "face", quiet=quiet)
