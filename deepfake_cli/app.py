"""Assembles the commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from deepfake_cli import __version__
from deepfake_cli.commands import (
    calibrate,
    detect_faces,
    doctor,
    evaluate,
    export,
    extract_frames,
    import_faces,
    index,
    inspect,
    merge,
    predict,
    train,
    weights,
)
from deepfake_cli.errors import ErrorBoundary

# OpenCV writes its own lines to stderr about damaged pictures; the program says what is wrong with them itself
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

app = typer.Typer(
    name="deepfake",
    cls=ErrorBoundary,
    help="Video forensics: from a video to a fake probability, and from labelled videos to your own detector.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deepfake {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Video forensics: from a video to a fake probability, and from labelled videos to your own detector."""


app.command("predict")(predict.predict)
app.command("index")(index.index)
app.command("extract-frames")(extract_frames.extract_frames)
app.command("detect-faces")(detect_faces.detect_faces)
app.command("import-faces")(import_faces.import_faces)
app.command("merge")(merge.merge)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.add_typer(weights.app, name="weights")
