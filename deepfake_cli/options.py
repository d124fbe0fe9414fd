"""Option types that several commands share. Defaults are those of `pipelines.config`."""

from __future__ import annotations

import enum
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines import config

RUNNING = "How to run"
LOGGING = "Messages"

INPUTS_HELP = "Videos, images, folders, .txt lists, a videos manifest of index, or - for a list."
Workspace = Annotated[Path, typer.Option("--workspace", "-w", help="Folder that holds every stage's folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUNNING)]
Workers = Annotated[
    int, typer.Option(min=0, help="Videos or loader threads at once; 0 chooses.", rich_help_panel=RUNNING)
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which a video is given up.", rich_help_panel=RUNNING)
]
MaxMemory = Annotated[
    int | None, typer.Option(help="MB that a process may take before its video is given up.", rich_help_panel=RUNNING)
]
Processes = Annotated[
    int, typer.Option(min=0, help="Videos at once, each in a process of its own; 0 chooses.", rich_help_panel=RUNNING)
]
ISOLATE = True
"""Videos are worked on in other processes: one that crashes a decoder costs that video only."""
BatchSize = Annotated[int, typer.Option(min=1, help="Frames or faces per network batch.", rich_help_panel=RUNNING)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Discard what was made before.", rich_help_panel=RUNNING)]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash inputs again instead of trusting size and time.", rich_help_panel=RUNNING)
]
Shard = Annotated[
    config.Shard | None,
    typer.Option(
        parser=config.Shard.parse,
        metavar="I/N",
        help="Only slice I of N of the videos, by their content; then: merge.",
        rich_help_panel=RUNNING,
    ),
]
ExcelSafe = Annotated[
    bool, typer.Option("--excel-safe", help="In a .csv, an apostrophe before text that spreadsheets would compute.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, warnings only.", rich_help_panel=LOGGING)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell every step.", rich_help_panel=LOGGING)]
LogFile = Annotated[Path | None, typer.Option(help="Also write messages to this file.", rich_help_panel=LOGGING)]


class Split(enum.StrEnum):
    train = "train"
    val = "val"
    test = "test"


class EvaluatedSplit(enum.StrEnum):
    all = "all"
    train = "train"
    val = "val"
    test = "test"


Splits = Annotated[list[Split] | None, typer.Option("--split", help="Of an indexed data set, only this; repeatable.")]


class Decoder(enum.StrEnum):
    auto = "auto"
    pyav = "pyav"
    decord = "decord"


class Engine(enum.StrEnum):
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class Precision(enum.StrEnum):
    float32 = "float32"
    bf16 = "bf16"


class ExportFormat(enum.StrEnum):
    onnx = "onnx"


class FrameFormat(enum.StrEnum):
    png = "png"
    jpg = "jpg"


class Aggregate(enum.StrEnum):
    max_track = "max-track"
    mean = "mean"
    confident = "confident"


def start_logging(*, quiet: bool, verbose: bool, log_file: Path | None) -> None:
    """Messages of the library to stderr, and to a file if one is named."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    root = logging.getLogger("pipelines")
    root.setLevel(logging.DEBUG)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(level)
    console.setFormatter(_LevelFormatter())
    root.addHandler(console)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(
                f"{log_file} can not be written: {error.strerror}", param_hint="--log-file"
            ) from error
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)


class _LevelFormatter(logging.Formatter):
    """`warning: text`; information stands alone, and tracebacks go to the log file only."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return prefix + record.getMessage()


def inputs_from(named: list[str]) -> list[str]:
    """The inputs, `-` replaced by the lines of standard input."""
    inputs: list[str] = []
    for name in named:
        if name == "-":
            inputs += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        else:
            inputs.append(name)
    return inputs


def parse_box(text: str) -> tuple[int, int, int, int]:
    """`x0,y0,x1,y1` as four integers."""
    parts: list[Any] = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"give four whole numbers x0,y0,x1,y1, got {text!r}")
    x0, y0, x1, y1 = (int(part) for part in parts)
    return x0, y0, x1, y1
