"""One trial: a command is interrupted by disasters at random moments, run again, and compared with an undisturbed run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fork_server import ForkServer
from tests.reliability.commands import Command
from tests.reliability.power_cut import cut_power
from tests.support import temporary_files

KILLED = -9
MOST_STRIKES = 4
"""In a row."""


@dataclass(frozen=True)
class Undisturbed:
    """The result of an undisturbed command, and the number of changes to its folder."""

    result: Any
    said_to_be_finished: Any
    changes: int


@dataclass
class Trial:
    """Outcome of a command that was interrupted and run again."""

    kills: int = 0
    power_cuts: int = 0
    """Among the kills."""
    is_equal: bool = False
    """To the undisturbed run, and without temporary files."""
    lost: int = 0
    """Finished items that were there before a disaster and not after it."""
    mistaken: int = 0
    """Number of times that something looked finished after a disaster and was not."""
    story: str = ""
    """The moments of the disasters, and what went wrong."""


def run_undisturbed(command: Command, processes: ForkServer, folder: Path) -> Undisturbed:
    """Run a command from its beginning to its end."""
    command.prepare(folder)
    ended = processes.run(*command.arguments(folder), watch=folder)
    assert ended.exit_code == 0, ended.stderr
    return Undisturbed(command.result(folder), command.said_to_be_finished(folder), ended.changes)


def run_trial(
    command: Command,
    expected: Undisturbed,
    processes: ForkServer,
    folder: Path,
    rng: Random,
    *,
    strikes: int | None = None,
) -> Trial:
    """Interrupt the command in several consecutive runs, then let it finish."""
    command.prepare(folder)
    allowed = (None, command.said_to_be_finished(folder), expected.said_to_be_finished)
    trial = Trial()
    arguments = command.arguments(folder)
    for number in range(strikes or rng.choice((1, 1, 2, MOST_STRIKES))):
        at = rng.randint(1, expected.changes if number == 0 else max(1, expected.changes // 2))
        if not _strike(trial, command, arguments, processes, folder, rng, at):
            break
        trial.mistaken += _read(command.said_to_be_finished, folder, trial) not in allowed
        arguments = command.again(folder)
    ended = processes.run(*arguments)
    result = _read(command.result, folder, trial)
    trial.is_equal = ended.exit_code == 0 and result == expected.result and temporary_files(folder) == []
    if not trial.is_equal:
        trial.story += f" exit code {ended.exit_code} {ended.stderr} left {temporary_files(folder)}"
    return trial


def _strike(
    trial: Trial,
    command: Command,
    arguments: tuple[object, ...],
    processes: ForkServer,
    folder: Path,
    rng: Random,
    at: int,
) -> bool:
    """End a run before its change `at`; False if it finished earlier."""
    is_power_cut = rng.random() < 0.6
    disaster: Any = "power cut" if is_power_cut else "kill"
    struck = processes.run(*arguments, watch=folder, at=at, disaster=disaster)
    if struck.exit_code != KILLED:
        assert struck.exit_code == 0, struck.stderr
        return False
    trial.kills += 1
    trial.power_cuts += is_power_cut
    trial.story += f" {disaster} before change {at};"
    finished = command.finished_items(folder)
    if is_power_cut:
        cut_power(folder, struck.record, rng)
    lost = finished - command.finished_items(folder)
    if lost:
        trial.story += f" lost {sorted(lost)};"
    trial.lost += len(lost)
    return True


def _read(look: Callable[[Path], Any], folder: Path, trial: Trial) -> Any:
    try:
        return look(folder)
    except Exception as error:  # an unreadable result is as wrong as a different one
        trial.story += f" {type(error).__name__}: {error};"
        return error
