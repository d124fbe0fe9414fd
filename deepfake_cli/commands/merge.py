"""`deepfake merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import EXIT_INCOMPLETE
from deepfake_cli import options as opt
from deepfake_cli.printing import count, format_score
from pipelines.config import RunOptions


def merge(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES", help="The outputs of predict for all shards.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Write scores as .csv, .parquet or .json.")
    ],
    excel_safe: opt.ExcelSafe = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output of other settings or videos.")
    ] = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Join the scores of several GPUs or servers that each ran predict with one --shard. All shards must be there."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from pipelines import merge_scores

    merged = merge_scores(scores, output, overwrite=overwrite, excel_safe=excel_safe)
    for row in merged.failures:
        typer.echo(format_score(row), err=True)
    if not quiet:
        typer.echo(f"{count(len(merged.rows), 'row')} in {output}", err=True)
    if merged.failures:
        raise typer.Exit(EXIT_INCOMPLETE)
