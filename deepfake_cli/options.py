"""Options that several commands share. Defaults come from `pipelines.config`."""

from __future__ import annotations

import enum
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines import config

RUNNING = "How to run"
LOGGING = "Messages"

INPUTS_HELP = (
    "Videos, images, folders, .txt lists, a videos.parquet made by index, or - to read a list from standard input."
)
Workspace = Annotated[
    Path,
    typer.Option("--workspace", "-w", metavar="FOLDER", help="Workspace: the folder with the results of all stages."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUNNING)]
Workers = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Number of parallel workers; 0 chooses one automatically.", rich_help_panel=RUNNING
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Mark a video as failed after this many seconds.", rich_help_panel=RUNNING),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        help="Mark a video as failed if its worker process needs more memory than this, in MiB.",
        rich_help_panel=RUNNING,
    ),
]
ISOLATE = True
"""Videos are processed in worker processes: if one crashes a decoder, only that video is marked failed."""
BatchSize = Annotated[
    int, typer.Option(min=1, metavar="N", help="Frames or faces per network batch.", rich_help_panel=RUNNING)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Discard earlier results.", rich_help_panel=RUNNING)]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Hash inputs again instead of trusting their size and modification time.",
        rich_help_panel=RUNNING,
    ),
]
Shard = Annotated[
    config.Shard | None,
    typer.Option(
        parser=config.Shard.parse,
        metavar="I/N",
        help="Process only slice I of N of the videos, for example 2/3.",
        rich_help_panel=RUNNING,
    ),
]
ExcelSafe = Annotated[
    bool,
    typer.Option(
        "--excel-safe", help="In CSV, put an apostrophe before text that a spreadsheet would run as a formula."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.", rich_help_panel=LOGGING)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show debug messages.", rich_help_panel=LOGGING)]
LogFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write all messages to this file.", rich_help_panel=LOGGING)
]


class Split(enum.StrEnum):
    """An enum, as Typer takes no list of a `Literal`."""

    train = "train"
    val = "val"
    test = "test"


Splits = Annotated[
    list[Split] | None,
    typer.Option("--split", metavar="SPLIT", help="Use only the videos of this split: train, val or test; repeatable."),
]
MinFacePx = Annotated[
    int,
    typer.Option(metavar="PX", help="Ignore faces smaller than this in the frame; larger values are faster."),
]
DecoderChoice = Annotated[config.Decoder, typer.Option(metavar="NAME", help="Video decoder: auto, pyav or decord.")]
Margin = Annotated[
    float,
    typer.Option(
        metavar="FACTOR", help="Scale of the area around the face; 1.0 is the standard crop, larger shows more."
    ),
]


def start_logging(*, quiet: bool, verbose: bool, log_file: Path | None) -> None:
    """Send the library's messages to stderr, and to a file if one is given."""
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
                f"{log_file} cannot be written: {error.strerror}", param_hint="--log-file"
            ) from error
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)


class _LevelFormatter(logging.Formatter):
    """`warning: text`; information has no prefix, and tracebacks go to the log file only."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return prefix + record.getMessage()


def inputs_from(named: list[str]) -> list[str]:
    """The inputs, with `-` replaced by the lines of standard input."""
    inputs: list[str] = []
    for name in named:
        if name == "-":
            inputs += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        else:
            inputs.append(name)
    return inputs
