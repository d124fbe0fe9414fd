"""`deepfake doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deepfake_cli import EXIT_CHECK_FAILED
from deepfake_cli import options as opt
from deepfake_cli.printing import printable

LEVEL_WIDTH = len("broken")


def doctor(
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT", help=f"Estimate the disk space for these. {opt.INPUTS_HELP}")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace", "-w", metavar="FOLDER", help="Workspace whose disk to check. Default: the current folder."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Check the installation: packages, devices, codecs, weights and disk space, and score a test clip."""
    from pipelines import diagnose

    findings = diagnose(
        opt.inputs_from(inputs or []),
        workspace=workspace,
        on_finding=_print_json if as_json else _print_line,
    )
    if any(finding.level == "broken" for finding in findings):
        raise typer.Exit(EXIT_CHECK_FAILED)


def _print_json(finding: Any) -> None:
    typer.echo(json.dumps(asdict(finding)))


def _print_line(finding: Any) -> None:
    typer.echo(f"{finding.level:<{LEVEL_WIDTH}}  {finding.name} {printable(finding.message)}")
    if finding.remedy:
        typer.echo(f"{'':<{LEVEL_WIDTH}}    {printable(finding.remedy)}")
