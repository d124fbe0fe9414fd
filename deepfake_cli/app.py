"""Assembles the commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

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

SCORE = "Score"
BUILD = "Build a dataset"
TRAIN = "Train and measure"
HOUSEKEEPING = "Housekeeping"

Command = tuple[str, str, Callable[..., None], str]
COMMANDS: tuple[Command, ...] = (
    (SCORE, "predict", predict.predict, "deepfake predict videos/ -o scores.csv"),
    (SCORE, "merge", merge.merge, "deepfake merge scores-1.csv scores-2.csv -o scores.csv"),
    (BUILD, "index", index.index, "deepfake index ffpp /data/FaceForensics++ -w work --check"),
    (BUILD, "extract-frames", extract_frames.extract_frames, "deepfake extract-frames videos/ -w work"),
    (BUILD, "detect-faces", detect_faces.detect_faces, "deepfake detect-faces -w work"),
    (BUILD, "import-faces", import_faces.import_faces, "deepfake import-faces crops/ -w work"),
    (TRAIN, "train", train.train, "deepfake train -w work --run first --epochs 10"),
    (TRAIN, "evaluate", evaluate.evaluate, "deepfake evaluate scores.csv --labels labels.csv -o report.md"),
    (
        TRAIN,
        "calibrate",
        calibrate.calibrate,
        "deepfake calibrate work -o calibrated.safetensors",
    ),
    (TRAIN, "export", export.export, "deepfake export -o model.onnx"),
    (HOUSEKEEPING, "inspect", inspect.inspect, "deepfake inspect work/detect-faces"),
    (HOUSEKEEPING, "doctor", doctor.doctor, "deepfake doctor"),
)
"""Panel of the help, name, function and example of each command, in the order of the help."""

app = typer.Typer(
    name="deepfake",
    cls=ErrorBoundary,
    help="Detect deepfakes in videos, and train, measure and calibrate your own detector.",
    epilog="Example: deepfake predict clip.mp4",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, name, function, example in COMMANDS:
    app.command(name, rich_help_panel=panel, epilog=f"Example: {example}")(function)
app.add_typer(weights.app, name="weights", rich_help_panel=HOUSEKEEPING)


def _print_version(wanted: bool) -> None:
    if wanted:
        import pipelines

        typer.echo(f"deepfake {pipelines.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
