"""`deepfake export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import count, printable
from pipelines.config import DEFAULT_CHECKPOINT, RunOptions


def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .onnx file to write.")],
    checkpoint: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A checkpoint file, or a name from weights list.")
    ] = DEFAULT_CHECKPOINT,
    format: Annotated[Literal["onnx"], typer.Option(help="File format.")] = "onnx",
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Convert a checkpoint to ONNX, for predict --engine and other programs, and verify that it agrees with torch."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from pipelines import export as run

    done = run(output, checkpoint=checkpoint, format=format, overwrite=overwrite)
    if not quiet:
        maps = "" if done.largest_map_difference is None else f" (forgery maps {done.largest_map_difference:.1g})"
        typer.echo(
            f"{printable(str(done.path))}: {printable(done.checkpoint)} ({done.checkpoint_sha256[:12]}), "
            f"{done.num_bytes / 1e6:.1f} MB; differs from torch by at most {done.largest_difference:.1g}{maps} on "
            f"{count(done.num_images, 'image')} (including {count(done.num_faces, 'real face')})"
        )
