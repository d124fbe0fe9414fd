"""After kill -9 or a power cut in the middle of any command, running it again gives the result of an undisturbed run.

Processes end just before a random change to the folder they write to. Many more: python -m tests.reliability.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fork_server import ForkServer
from tests.reliability.commands import Command
from tests.reliability.trials import KILLED, Undisturbed, run_trial

pytestmark = pytest.mark.slow
TRIALS = {
    "index": 1,
    "extract-frames": 3,
    "extract-frames, once more with other videos": 2,
    "extract-frames --overwrite": 2,
    "extract-frames --shard": 1,
    "extract-frames after its shards": 1,
    "detect-faces": 1,
    "import-faces": 1,
    "train": 1,
    "predict": 2,
    "predict, once more with more videos": 1,
    "predict --shard": 1,
}
"""Number of trials per command."""


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, count in TRIALS.items() for seed in range(count)])
def test_a_command_that_was_ended_and_run_again_equals_an_undisturbed_one(
    commands: dict[str, Command],
    processes: ForkServer,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    name: str,
    seed: int,
) -> None:
    trial = run_trial(commands[name], undisturbed(name), processes, tmp_path, Random(f"{name} {seed}"))
    assert trial.kills
    assert (trial.is_equal, trial.lost, trial.mistaken) == (True, 0, 0), trial.story


def test_every_command_is_struck(commands: dict[str, Command]) -> None:
    assert TRIALS.keys() == commands.keys()


@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_training_that_is_discarded_loses_first_what_a_later_run_would_go_on_from(
    commands: dict[str, Command], processes: ForkServer, tmp_path: Path, at: int
) -> None:
    commands["train"].prepare(tmp_path)
    run = tmp_path / "work" / "train" / "default"
    run.mkdir(parents=True)
    names = ("best.safetensors", "videos.parquet", "log.csv", "manifest.parquet", "last.state.pt")
    for name in names:
        (run / name).write_bytes(b"of other settings")
    arguments = (*commands["train"].arguments(tmp_path), "--overwrite")
    assert processes.run(*arguments, watch=tmp_path, at=at).exit_code == KILLED
    gone = set(names) - {path.name for path in run.iterdir()}
    assert len(gone) == at - 2  # the lock is the first change
    assert gone >= set(("manifest.parquet", "last.state.pt")[: len(gone)])
