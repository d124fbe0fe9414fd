"""For any mix of inputs, each one gets exactly one row, and the printed totals are those of the rows."""

from __future__ import annotations

import re
import shutil
import typing
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipelines.records import FINISHED, Status, VideoRow
from pipelines.scoring.score_files import read_scores
from pipelines.workspace.manifest import read_table
from tests.conftest import Deepfake
from tests.support import make_noise
from tests.synthetic import write_video

FINISHED_EXIT, INCOMPLETE_EXIT = 0, 3
STATUSES = {"ok", "no_face", "too_few_frames", "unreadable", "failed"}
CONTENTS = 3
"""Different videos, of which copies are made."""


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("contents")
    return [write_video(folder / f"{n}.mp4", num_frames=3 + n, size=(64, 48)) for n in range(CONTENTS)]


def _make_good(path: Path, contents: Sequence[Path], rng: Random) -> None:
    shutil.copy(rng.choice(contents), path)


def _make_link(path: Path, contents: Sequence[Path], rng: Random) -> None:
    path.symlink_to(rng.choice(contents))


def _make_picture(path: Path, _contents: Sequence[Path], rng: Random) -> None:
    path.write_bytes(make_noise(rng.randrange(100)))


def _make_torn(path: Path, contents: Sequence[Path], rng: Random) -> None:
    content = rng.choice(contents).read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


KINDS: dict[str, Callable[[Path, Sequence[Path], Random], None]] = {
    "good": _make_good,
    "link": _make_link,
    "picture": _make_picture,
    "torn": _make_torn,
    "text": lambda path, contents, rng: _write(path, b"no video\n"),
    "empty": lambda path, contents, rng: _write(path, b""),
    "missing": lambda path, contents, rng: None,
    "dangling": lambda path, contents, rng: path.symlink_to("nowhere"),
}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _make_inputs(folder: Path, contents: Sequence[Path], rng: Random) -> tuple[list[str], set[str]]:
    """What is named on the command line, some of it twice, and the paths that must have a row."""
    inner = folder / "inner"
    inner.mkdir(parents=True)
    for number, kind in enumerate(rng.choices(["good", "text", "empty", "torn", "link"], k=3)):
        KINDS[kind](inner / f"{number}.mp4", contents, rng)
    (inner / "notes.md").write_text("ignored")
    named, expected = [str(inner)], {str(path) for path in inner.glob("*.mp4")}
    for number, kind in enumerate(rng.choices(list(KINDS), k=5)):
        path = folder / f"{number}-{kind}.mp4"
        KINDS[kind](path, contents, rng)
        named += [str(path)] * rng.choice((1, 1, 2))
        expected.add(str(path))
    named.append(rng.choice(sorted(expected)))
    rng.shuffle(named)
    return named, expected


def _check(rows: Sequence[Any], paths: Sequence[str], expected: set[str], exit_code: int) -> Counter[str]:
    assert len(paths) == len(rows) and Counter(paths) == Counter(expected)
    statuses = Counter(row.status for row in rows)
    assert statuses.keys() <= STATUSES
    assert all(row.error for row in rows if row.status not in FINISHED)
    assert exit_code == (FINISHED_EXIT if statuses.keys() <= set(FINISHED) else INCOMPLETE_EXIT)
    return statuses


def _check_stage(stage: Path, stdout: str, expected: set[str], exit_code: int) -> None:
    rows: list[VideoRow] = [VideoRow(**row) for row in read_table(stage / "videos.parquet", VideoRow).to_pylist()]
    statuses = _check(rows, [row.path for row in rows], expected, exit_code)
    said = re.search(r": (\d+) videos? \(([^)]*)\), (\d+) \w+ in ", stdout)
    assert said is not None, stdout
    counts = {status: int(number) for number, status in re.findall(r"(\d+) (\w+)(?=,|$)", said[2])}
    assert (int(said[1]), counts) == (len(expected), statuses)
    assert int(said[3]) == sum(row.rows for row in rows)
    contents = {row.video_id: row.rows for row in rows if row.status in FINISHED}
    assert read_table(stage / "manifest.parquet").num_rows == sum(contents.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_input_ends_in_exactly_one_row_and_totals_add_up(
    deepfake: Deepfake, contents: list[Path], checkpoint: Path, detector_file: Path, tmp_path: Path, seed: int
) -> None:
    named, expected = _make_inputs(tmp_path / "inputs", contents, Random(seed))
    work, output = tmp_path / "work", tmp_path / "scores.csv"

    extracted = deepfake("extract-frames", *named, "-w", work, "--frames", 2)
    _check_stage(work / "extract-frames", extracted.stdout, expected, extracted.exit_code)

    detected = deepfake("detect-faces", "-w", work, "--detector", detector_file)
    _check_stage(work / "detect-faces", detected.stdout, expected, detected.exit_code)

    scored = deepfake("predict", *named, "--checkpoint", checkpoint, "-o", output)
    rows = read_scores(output)
    _check(rows, [row.video for row in rows], expected, scored.exit_code)
    assert f"{len(expected)} rows in {output}" in scored.stderr
    assert len(scored.stdout.splitlines()) == len(expected)


def test_the_statuses_are_all_that_there_are() -> None:
    assert set(typing.get_args(Status)) == STATUSES
