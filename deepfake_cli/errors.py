"""The one error boundary: user errors become a line and an exit code, bugs keep their traceback."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from deepfake_cli import EXIT_CHECK_FAILED, EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from deepfake_cli.printing import printable
from pipelines.errors import ConfigError, DeepfakeError, LeakError

NOT_RESUMABLE = ("evaluate", "calibrate", "export", "merge", "doctor")
"""Commands that start over after an interruption."""


class Terminated(BaseException):
    """SIGTERM as an exception, so that files are closed and temporary ones removed."""


class ErrorBoundary(TyperGroup):
    """A command group whose commands end in the documented exit codes."""

    def invoke(self, ctx: Any) -> Any:
        _raise_on_sigterm()
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _print_error(error)
            raise typer.Exit(EXIT_USAGE) from error
        except LeakError as error:
            _print_error(error)
            raise typer.Exit(EXIT_CHECK_FAILED) from error
        except DeepfakeError as error:
            _print_error(error)
            raise typer.Exit(EXIT_INCOMPLETE) from error
        except KeyboardInterrupt as error:
            typer.echo(f"interrupted{_what_is_kept(ctx)}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except Terminated as error:
            typer.echo(f"terminated{_what_is_kept(ctx)}", err=True)
            raise typer.Exit(EXIT_TERMINATED) from error
        except BrokenPipeError as error:  # `deepfake … | head`: the reader has gone
            sys.stdout = None
            raise typer.Exit(0) from error


def _what_is_kept(ctx: Any) -> str:
    if ctx.invoked_subcommand in NOT_RESUMABLE:
        return ""
    return "; finished work is kept: run the same command again to resume"


def _print_error(error: DeepfakeError) -> None:
    """Print the error as one line, whatever a file name or another library's message contains."""
    message = " ".join(line.strip() for line in str(error).splitlines())
    typer.echo(f"error: {printable(message)}", err=True)


def _raise_on_sigterm() -> None:
    def raise_terminated(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    try:
        signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # not in the main thread, as under some test runners
        pass
