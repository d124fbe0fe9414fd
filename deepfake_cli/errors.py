"""The one error boundary: user errors become a line and an exit code, bugs keep their traceback."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from pipelines.errors import ConfigError, DeepfakeError, LeakError

EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_CHECK_FAILED = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
STARTS_ANEW = ("evaluate", "calibrate", "export", "merge", "doctor")
"""Commands that keep nothing of a run that was stopped."""


class Terminated(BaseException):
    """SIGTERM, raised where the program is so that files are closed and nothing half-written stays."""


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
    if ctx.invoked_subcommand in STARTS_ANEW:
        return ""
    return "; what was finished is kept: run the same command again to go on"


def _print_error(error: DeepfakeError) -> None:
    """As one line, whatever a file's name or another library's message brings along."""
    from deepfake_cli.printing import printable

    message = " ".join(line.strip() for line in str(error).splitlines())
    typer.echo(f"error: {printable(message)}", err=True)


def _raise_on_sigterm() -> None:
    def raise_terminated(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    try:
        signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # not in the main thread, as under some test runners
        pass
