"""Fixtures of the reliability tests: the commands, and what they leave when nothing disturbs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import ForkServer
from tests.reliability.commands import Command, Sources, make_commands, make_sources
from tests.reliability.trials import Undisturbed, run_undisturbed


@pytest.fixture(scope="session")
def sources(
    tmp_path_factory: pytest.TempPathFactory,
    clip: Path,
    forged_clip: Path,
    face_pictures: dict[str, Any],
    detector_file: Path,
    checkpoint: Path,
) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    return make_sources(folder, (clip, forged_clip), face_pictures, detector_file, checkpoint)


@pytest.fixture(scope="session")
def commands(sources: Sources) -> dict[str, Command]:
    return make_commands(sources)


@pytest.fixture(scope="session")
def undisturbed(
    commands: dict[str, Command], processes: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    """By name of the command; each runs once."""
    known: dict[str, Undisturbed] = {}

    def run(name: str) -> Undisturbed:
        if name not in known:
            known[name] = run_undisturbed(commands[name], processes, tmp_path_factory.mktemp("undisturbed"))
        return known[name]

    return run
