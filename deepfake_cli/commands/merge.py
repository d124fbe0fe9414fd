"""`deepfake merge`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.errors import EXIT_INCOMPLETE
from deepfake_cli.printing import count, finish_stage, format_score
from pipelines.config import RunOptions
from pipelines.errors import ConfigError


class ShardedStage(enum.StrEnum):
    extract_frames = "extract-frames"
    detect_faces = "detect-faces"


def merge(
    scores: Annotated[
        list[Path] | None, typer.Argument(metavar="[SCORES...]", help="What predict has written, of every shard.")
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Merge the shards of one of its stages instead.")
    ] = None,
    stage: Annotated[ShardedStage | None, typer.Option(help="Which one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Scores as .csv, .parquet or .json.")] = None,
    excel_safe: opt.ExcelSafe = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output of other settings or videos.")
    ] = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Join what several GPUs or servers have made with --shard; refuses if a shard is missing."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from pipelines import merge_scores, merge_stage

    if workspace and stage and not (scores or output or overwrite or excel_safe):
        finish_stage(merge_stage(workspace, stage.value), _ROW_NOUNS[stage], quiet=quiet)
    elif scores and output and not (workspace or stage):
        merged = merge_scores(scores, output, overwrite=overwrite, excel_safe=excel_safe)
        for row in merged.failures:
            typer.echo(format_score(row), err=True)
        if not quiet:
            typer.echo(f"{count(len(merged.rows), 'row')} in {output}", err=True)
        if merged.failures:
            raise typer.Exit(EXIT_INCOMPLETE)
    else:
        raise ConfigError("pass either --workspace with --stage, or the score files of all shards with --output")


_ROW_NOUNS = {ShardedStage.extract_frames: "frame", ShardedStage.detect_faces: "face"}
