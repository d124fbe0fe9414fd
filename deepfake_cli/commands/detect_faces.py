"""`deepfake detect-faces`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import finish_stage
from deepfake_cli.progress import ProgressBar
from pipelines.config import DetectConfig, Precision, RunOptions


def detect_faces(
    workspace: opt.Workspace,
    detector: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Face detector: a file, or a name from weights list.")
    ] = DetectConfig.detector,
    max_side: Annotated[
        int, typer.Option(metavar="PX", help="Shrink frames to this size for the detector.")
    ] = DetectConfig.max_side,
    min_score: Annotated[
        float, typer.Option(metavar="X", help="Lowest detector score of a face.")
    ] = DetectConfig.min_score,
    margin: opt.Margin = DetectConfig.margin,
    min_face_px: opt.MinFacePx = DetectConfig.min_face_px,
    precision: Annotated[Precision, typer.Option(help="Numeric precision of the network.")] = DetectConfig.precision,
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
    """Find and track every face in the extracted frames, and write it aligned, at 380x380 pixels."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = DetectConfig(
        detector=detector,
        max_side=max_side,
        min_score=min_score,
        margin=margin,
        min_face_px=min_face_px,
        precision=precision,
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
