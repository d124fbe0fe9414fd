"""The long form of the reliability tests; `python -m tests.reliability` runs it, pytest by itself does not."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from random import Random

import pytest

from tests.fork_server import ForkServer
from tests.reliability.commands import Command, Sources
from tests.reliability.isolated import ISOLATED, IsolatedRun
from tests.reliability.trials import Trial, Undisturbed, run_trial

COSTLY = {"train": 4, **dict.fromkeys(ISOLATED, 4)}
"""Commands that take long are struck in every n-th round only."""


@dataclass
class Tally:
    """The trials of one command, added up."""

    trials: int = 0
    kills: int = 0
    power_cuts: int = 0
    resumed_equal: int = 0
    items_lost: int = 0
    mistaken: int = 0
    stories: list[str] = field(default_factory=list)
    """Of what went wrong."""

    def add(self, trial: Trial) -> None:
        self.trials += 1
        self.kills += trial.kills
        self.power_cuts += trial.power_cuts
        self.resumed_equal += trial.is_equal
        self.items_lost += trial.lost
        self.mistaken += trial.mistaken
        if not trial.is_equal or trial.lost or trial.mistaken:
            self.stories.append(trial.story)


@dataclass
class Soak:
    """What is asked for, and what came of it; as a plugin of pytest, the fixture `soak`."""

    num_kills: int
    seed: int
    only: str | None
    tallies: dict[str, Tally] = field(default_factory=dict)

    @pytest.fixture(scope="session")
    def soak(self) -> Soak:
        return self

    def add(self, name: str, trial: Trial) -> None:
        self.tallies.setdefault(name, Tally()).add(trial)

    @property
    def total(self) -> Tally:
        total = Tally()
        for tally in self.tallies.values():
            for one in fields(Tally):
                setattr(total, one.name, getattr(total, one.name) + getattr(tally, one.name))
        return total

    def to_markdown(self) -> str:
        lines = [
            "| command | runs | kills | of them power cuts | resumed equal | items lost | files mistaken |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, tally in [*self.tallies.items(), ("all", self.total)]:
            cells = [value for value in vars(tally).values() if isinstance(value, int)]
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        return {"seed": self.seed, "commands": {name: asdict(tally) for name, tally in self.tallies.items()}}


def test_every_run_that_was_ended_comes_to_the_same_end(
    soak: Soak,
    commands: dict[str, Command],
    sources: Sources,
    processes: ForkServer,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
) -> None:
    names = [name for name in (*commands, *ISOLATED) if soak.only in (None, name)]
    for number in itertools.count():
        for name in names:
            if number % COSTLY.get(name, 1) and not soak.only:
                continue
            if soak.total.kills >= soak.num_kills:
                assert not soak.total.stories, "\n".join(soak.total.stories)
                return
            folder = tmp_path / "trial"
            folder.mkdir()
            rng = Random(f"{soak.seed} {name} {number}")
            if name in ISOLATED:
                trial = IsolatedRun(ISOLATED[name], sources, processes).run_trial(folder, rng)
            else:
                trial = run_trial(commands[name], undisturbed(name), processes, folder, rng)
            soak.add(name, trial)
            shutil.rmtree(folder)
            print(f"\r{soak.total.kills} kills", end="", file=sys.__stderr__, flush=True)
