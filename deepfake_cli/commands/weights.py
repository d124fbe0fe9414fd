"""`deepfake weights list|pull|verify|path|import`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

import weights as registry
from deepfake_cli import options as opt
from deepfake_cli.errors import EXIT_USAGE
from deepfake_cli.printing import count, printable
from pipelines.config import DetectConfig, RunOptions
from weights import WeightsEntry

app = typer.Typer(help="The weights that come with deepfake, and those that it knows of.", no_args_is_help=True)


class Layout(enum.StrEnum):
    multi_attention_official = "multi-attention-official"


@app.command("list")
def list_weights() -> None:
    """Every known name with its kind, licence and whether it is part of the package or was pulled."""
    from pipelines.checkpoints.cache import is_pulled

    width = max(len(name) for name in registry.REGISTRY)
    for entry in registry.REGISTRY.values():
        state = "embedded" if entry.is_embedded else "pulled" if is_pulled(entry) else "not included"
        typer.echo(f"{entry.name:<{width}}  {entry.kind:<10}  {state:<12}  {entry.description}")
        typer.echo(f"{'':<{width}}  licence: {entry.licence}")


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Registry names.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Fetch again what is there.")] = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Fetch weights that are not part of the package into the cache (DEEPFAKE_CACHE); an interrupted pull goes on."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from deepfake_cli.progress import ProgressBar
    from pipelines import pull_weights as run

    for entry in [_find(name) for name in names]:
        with ProgressBar(quiet=quiet) as bar:
            done = run(entry.name, overwrite=overwrite, on_progress=bar)
        if not quiet:
            outcome = "was there" if done.was_there else "pulled"
            typer.echo(
                f"{entry.name}: {outcome}, {printable(str(done.path))} ({done.bytes / 1e6:.1f} MB, SHA-256 {done.sha256})"
            )


@app.command()
def verify() -> None:
    """Compare every embedded and every pulled file with its digest."""
    from pipelines.checkpoints.cache import is_pulled
    from pipelines.checkpoints.weights_files import resolve_weights
    from pipelines.errors import CheckpointError

    damaged = False
    for entry in registry.REGISTRY.values():
        if not entry.is_embedded and not is_pulled(entry):
            continue
        try:
            file = resolve_weights(entry.name, kind=entry.kind)
            typer.echo(f"{entry.name}  ok  {file.sha256}")
        except CheckpointError as error:
            damaged = True
            typer.echo(f"{entry.name}  damaged  {error}")
    if damaged:
        raise typer.Exit(EXIT_USAGE)


@app.command()
def path(name: Annotated[str, typer.Argument(help="A registry name.")]) -> None:
    """Print where an embedded or pulled file lies."""
    from pipelines.checkpoints.weights_files import resolve_weights

    typer.echo(str(resolve_weights(name, kind=_find(name).kind).path))


@app.command("import")
def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch file as its authors released it.")],
    layout: Annotated[Layout, typer.Option("--from", help="Whose file it is.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write, .safetensors.")],
    margin: Annotated[
        float, typer.Option(help="Of the faces it shall see; 1.0 is the template, larger shows more.")
    ] = DetectConfig.margin,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Make other people's trained detector a checkpoint for predict; code in the file is never run."""
    from pipelines import import_weights as run

    done = run(checkpoint, output, layout=layout.value, margin=margin, overwrite=overwrite)
    left_out = f"; left out: {printable(', '.join(done.left_out))}" if done.left_out else ""
    typer.echo(
        f"{printable(str(done.path))}: {count(done.tensors, 'tensor')}, {count(done.num_attentions, 'attention map')}"
        f" (source SHA-256 {done.source_sha256[:12]}…){left_out}"
    )
    typer.echo(
        f"predict aligns faces in its own way, with margin {margin:g} (--margin); the authors' crops are not public, "
        "so scores can differ from theirs"
    )


def _find(name: str) -> WeightsEntry:
    from pipelines.errors import CheckpointError

    entry = registry.find_entry(name)
    if entry is None:
        raise CheckpointError(f"unknown weights {name!r}; known: {', '.join(registry.REGISTRY)}")
    return entry
