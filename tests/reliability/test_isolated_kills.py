"""Runs with worker processes killed at any time: no worker survives, locks are free, and the next run does the rest."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fork_server import ForkServer
from tests.reliability.commands import Sources
from tests.reliability.isolated import ISOLATED, IsolatedRun


@pytest.mark.slow
@pytest.mark.parametrize("name", ISOLATED)
def test_a_run_that_is_killed_takes_its_workers_and_locks_along_and_can_go_on(
    sources: Sources, processes: ForkServer, tmp_path: Path, name: str
) -> None:
    trial = IsolatedRun(ISOLATED[name], sources, processes).run_trial(tmp_path, Random(name))
    assert (trial.kills, trial.is_equal, trial.mistaken) == (1, True, 0), trial.story
