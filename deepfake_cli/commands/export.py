"""`deepfake export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.printing import count, printable
from pipelines.config import DEFAULT_CHECKPOINT, RunOptions


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .onnx.")],
    checkpoint: Annotated[str, typer.Option(help="Registry name or checkpoint file.")] = DEFAULT_CHECKPOINT,
    format: Annotated[opt.ExportFormat, typer.Option(help="Of the file.")] = opt.ExportFormat.onnx,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Write a checkpoint as ONNX, for predict --engine and other programs; refused if it does not agree with torch."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from pipelines import export as run

    done = run(output, checkpoint=checkpoint, format=format.value, overwrite=overwrite)
    if not quiet:
        typer.echo(
            f"{printable(str(done.path))}: {printable(done.checkpoint)} ({done.checkpoint_sha256[:12]}), "
            f"{done.num_bytes / 1e6:.1f} MB; differs from torch by at most {done.largest_difference:.1g} on "
            f"{count(done.num_images, 'image')} ({count(done.num_faces, 'real face')} among them)"
        )
