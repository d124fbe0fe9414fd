"""`deepfake extract-frames`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import finish_stage
from deepfake_cli.progress import ProgressBar
from pipelines.config import ExtractConfig, FrameFormat, RunOptions


def extract_frames(
    workspace: opt.Workspace,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help=f"{opt.INPUTS_HELP} Default: the workspace's index."),
    ] = None,
    frames: Annotated[
        int, typer.Option(metavar="N", help="Frames per video, spread over its whole length.")
    ] = ExtractConfig.frames,
    fps: Annotated[
        float | None, typer.Option(metavar="X", help="Frames per second, instead of --frames.")
    ] = ExtractConfig.fps,
    start: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Begin this long after the first frame.")
    ] = ExtractConfig.start_seconds,
    end: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop this long after the first frame.")
    ] = ExtractConfig.end_seconds,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Labels: columns video and label, optionally split, original, identity and others."
        ),
    ] = None,
    split: opt.Splits = None,
    decoder: opt.DecoderChoice = ExtractConfig.decoder,
    format: Annotated[FrameFormat, typer.Option(help="Picture format; png is lossless.")] = ExtractConfig.format,
    workers: opt.Workers = RunOptions.workers,
    timeout: opt.Timeout = RunOptions.timeout_seconds,
    max_memory: opt.MaxMemory = RunOptions.max_memory_mb,
    shard: opt.Shard = RunOptions.shard,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    verify: opt.Verify = RunOptions.verify,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Write frames of each video with their timestamps. Folders named real and fake label the videos in them."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = ExtractConfig(frames=frames, fps=fps, start_seconds=start, end_seconds=end, decoder=decoder, format=format)
    from pipelines import extract_frames as run

    with ProgressBar(quiet=quiet) as bar:
        summary = run(
            opt.inputs_from(inputs) if inputs else None,
            workspace,
            config,
            RunOptions(
                workers=workers,
                overwrite=overwrite,
                verify=verify,
                shard=shard,
                isolate=opt.ISOLATE,
                timeout_seconds=timeout,
                max_memory_mb=max_memory,
                device="cpu",
            ),
            labels=labels,
            splits=[side.value for side in split or []],
            on_progress=bar,
        )
    finish_stage(summary, "frame", quiet=quiet)
