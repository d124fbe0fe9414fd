"""`deepfake weights list|verify|path`."""

from __future__ import annotations

from typing import Annotated

import typer

import weights as registry
from deepfake_cli.errors import EXIT_USAGE

app = typer.Typer(help="The weights that come with deepfake, and those that it knows of.", no_args_is_help=True)


@app.command("list")
def list_weights() -> None:
    """Every known name with its kind, licence and whether it is part of the package."""
    width = max(len(name) for name in registry.REGISTRY)
    for entry in registry.REGISTRY.values():
        state = "embedded" if entry.is_embedded else "not included"
        typer.echo(f"{entry.name:<{width}}  {entry.kind:<10}  {state:<12}  {entry.description}")
        typer.echo(f"{'':<{width}}  licence: {entry.licence}")


@app.command()
def verify() -> None:
    """Compare every embedded file with its digest."""
    from pipelines.errors import CheckpointError
    from pipelines.weights_files import resolve_weights

    damaged = False
    for entry in registry.REGISTRY.values():
        if not entry.is_embedded:
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
    """Print where an embedded file lies."""
    from pipelines.errors import CheckpointError
    from pipelines.weights_files import resolve_weights

    entry = registry.find_entry(name)
    if entry is None:
        raise CheckpointError(f"unknown weights {name!r}; known: {', '.join(registry.REGISTRY)}")
    typer.echo(str(resolve_weights(name, kind=entry.kind).path))
