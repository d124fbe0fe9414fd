"""`deepfake inspect`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from deepfake_cli.printing import printable


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A manifest, the folder of a stage, a checkpoint file, or a name from weights list."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a manifest or checkpoint contains: columns, counts and provenance."""
    from pipelines import inspect as run

    inspection = run(path)
    if as_json:
        typer.echo(json.dumps({"path": str(inspection.path), "kind": inspection.kind, **inspection.facts}))
        return
    typer.echo(f"{inspection.kind} {printable(str(inspection.path))}")
    _print_facts(inspection.facts, indent=1)


def _print_facts(facts: dict[str, Any], indent: int) -> None:
    for name, value in facts.items():
        space = "  " * indent
        if isinstance(value, dict) and value:
            typer.echo(f"{space}{printable(str(name))}:")
            _print_facts(value, indent + 1)
        else:
            typer.echo(f"{space}{printable(str(name))}: {printable(str(value))}")
