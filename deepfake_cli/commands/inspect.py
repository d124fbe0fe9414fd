"""`deepfake inspect`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from deepfake_cli.printing import printable


def inspect(
    path: Annotated[str, typer.Argument(help="A manifest, a stage's folder, a checkpoint or its registry name.")],
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Tell what a manifest or checkpoint holds: columns, counts, provenance."""
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
