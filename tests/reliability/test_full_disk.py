"""A disk that is full or read-only, or a folder that vanishes, in the middle of any command: a line says so, nothing is lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fork_server import Ended, ForkServer
from tests.reliability.commands import Command
from tests.reliability.trials import Undisturbed
from tests.reliability.watch import AWAY, Disaster
from tests.support import temporary_files

pytestmark = pytest.mark.slow
CAUSE_AND_REMEDY: dict[Disaster, str] = {
    "full disk": r"no space left to write .*; free some space or choose another folder, then run again",
    "read-only": r"no permission to write .*; make the folder writable or choose another",
    "vanished": r"(could not write .*; check the disk|was there and has gone; bring the folder or its disk back), then run again"
    r"|is missing or damaged; make the stage again",
}
NAMES = (
    "extract-frames",
    "extract-frames --shard",
    "extract-frames after its shards",
    "detect-faces",
    "import-faces",
    "predict",
)
MOMENTS = 1
"""Of each command and disaster."""


def _put_back(folder: Path) -> None:
    """What had vanished comes back, in place of what was made there since."""
    for away in folder.glob(f"*{AWAY}"):
        here = away.with_name(away.name.removesuffix(AWAY))
        shutil.rmtree(here, ignore_errors=True)
        away.rename(here)


def _is_explained(ended: Ended, disaster: Disaster) -> bool:
    """Whether there is no traceback, and a line says what happened and what to do."""
    return "Traceback" not in ended.stderr and re.search(CAUSE_AND_REMEDY[disaster], ended.stderr) is not None


@pytest.mark.parametrize("seed", range(MOMENTS))
@pytest.mark.parametrize("disaster", CAUSE_AND_REMEDY)
@pytest.mark.parametrize("name", NAMES)
def test_a_disaster_ends_with_3_and_a_line_and_is_overcome_by_running_again(
    commands: dict[str, Command],
    processes: ForkServer,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    name: str,
    disaster: Disaster,
    seed: int,
) -> None:
    command, expected = commands[name], undisturbed(name)
    command.prepare(tmp_path)
    at = Random(f"{name} {disaster} {seed}").randint(1, expected.changes)
    ended = processes.run(*command.arguments(tmp_path), watch=tmp_path, at=at, disaster=disaster)
    if ended.exit_code != 0:
        assert ended.exit_code == 3, f"before change {at}: {ended.stderr}"
        assert _is_explained(ended, disaster), f"before change {at}: {ended.stderr}"
    elif not list(tmp_path.glob(f"*{AWAY}")):  # what the change was for could be done without it
        assert command.said_to_be_finished(tmp_path) == expected.said_to_be_finished, f"before change {at}"
    _put_back(tmp_path)
    finished = command.finished_items(tmp_path)
    again = processes.run(*command.again(tmp_path))
    assert again.exit_code == 0, again.stderr
    assert finished <= command.finished_items(tmp_path)
    assert command.result(tmp_path) == expected.result
    assert temporary_files(tmp_path) == []
