"""Damaged files end in a named error, a warning or their own frames: no crash, no hang, no silent wrong frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.system.worker_pool import Lost
from pipelines.video import Frame
from tests.hostile import __main__ as command
from tests.hostile import outcomes as outcomes_module
from tests.hostile.corpus import find_entry, write_corpus
from tests.hostile.mutations import KINDS, make_mutation
from tests.hostile.outcomes import FORBIDDEN, Outcome, Verdict, judge_frames, name_loss, read_clip, try_mutations

NUM_FILES = 304
SEED = 20
MOST_MB = 200
MAX_DAMAGED_SHARE = 0.1
MAX_UNKNOWABLE_SHARE = 0.03


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def outcomes(corpus: dict[str, Path]) -> list[Outcome]:
    return list(try_mutations(corpus, SEED, range(NUM_FILES)))


def test_no_damaged_file_crashes_hangs_or_gives_a_wrong_frame(outcomes: list[Outcome]) -> None:
    assert sorted(outcome.number for outcome in outcomes) == list(range(NUM_FILES))
    assert [outcome for outcome in outcomes if outcome.verdict in FORBIDDEN] == []


def test_what_nothing_tells_of_is_rare(outcomes: list[Outcome]) -> None:
    # Bits changed inside a picture decode without an error where the codec has no checksum: a bound, not a promise.
    counts = Counter(outcome.verdict for outcome in outcomes)
    assert counts[Verdict.DAMAGED] <= MAX_DAMAGED_SHARE * NUM_FILES
    assert counts[Verdict.UNKNOWABLE] + counts[Verdict.MOVED] <= MAX_UNKNOWABLE_SHARE * NUM_FILES


def test_the_damage_is_of_every_degree(outcomes: list[Outcome]) -> None:
    counts = Counter(outcome.verdict for outcome in outcomes)
    assert min(counts[verdict] for verdict in (Verdict.RIGHT, Verdict.WARNED, Verdict.UNREADABLE)) > NUM_FILES / 20
    assert {outcome.kind for outcome in outcomes} == set(KINDS)


def test_damaged_files_take_little_memory(outcomes: list[Outcome]) -> None:
    assert max(outcome.peak_mb for outcome in outcomes) < MOST_MB


def test_a_mutation_can_be_made_again(corpus: dict[str, Path], tmp_path: Path) -> None:
    again = write_corpus(tmp_path)
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in corpus.items())
    numbers = range(0, 2000, 37)
    made = [make_mutation(corpus, SEED, number) for number in numbers]
    assert made == [make_mutation(again, SEED, number) for number in numbers]
    assert sum(one.data != corpus[one.origin].read_bytes() for one in made) >= len(made) - 2
    assert made != [make_mutation(corpus, SEED + 1, number) for number in numbers]


def _exchange(frames: list[Frame]) -> list[Frame]:
    first, second, *others = frames
    return [replace(first, image=second.image), replace(second, image=first.image), *others]


def _repeat(frames: list[Frame]) -> list[Frame]:
    return [*frames[:3], replace(frames[3], image=frames[2].image), *frames[4:]]


def _shift(frames: list[Frame]) -> list[Frame]:
    """Later pictures at earlier places and times."""
    return [replace(frame, image=later.image) for frame, later in zip(frames, frames[1:], strict=False)]


def _grey(frames: list[Frame]) -> list[Frame]:
    return [*frames[:-1], replace(frames[-1], image=np.full_like(frames[-1].image, 128))]


def _renumber(frames: list[Frame]) -> list[Frame]:
    """The first one is missing, and the others are where they belong in time."""
    return [replace(frame, index=frame.index - 1) for frame in frames[1:]]


def _slow_down(frames: list[Frame]) -> list[Frame]:
    """A header that claims another rate: each frame is at its place."""
    return [replace(frame, pts_seconds=3 * frame.pts_seconds) for frame in frames]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (list, Verdict.RIGHT),
        (_slow_down, Verdict.RIGHT),
        (_renumber, Verdict.FEWER),
        (_grey, Verdict.DAMAGED),
        (_exchange, Verdict.WRONG),
        (_repeat, Verdict.WRONG),
        (_shift, Verdict.WRONG),
    ],
)
def test_frames_are_judged_by_order_place_and_time(
    corpus: dict[str, Path], change: Callable[[list[Frame]], list[Frame]], verdict: Verdict
) -> None:
    own = read_clip(corpus["h264.mp4"])
    assert judge_frames(change(list(own)), own, find_entry("h264.mp4"))[0] is verdict


def test_only_a_container_without_times_excuses_frames_that_move_up(corpus: dict[str, Path]) -> None:
    for name, verdict in (("mpeg4.avi", Verdict.MOVED), ("mpeg4.mp4", Verdict.WRONG)):
        own = read_clip(corpus[name])
        assert judge_frames(_shift(list(own)), own, find_entry(name))[0] is verdict


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("took longer than --timeout 20 seconds and was killed", Verdict.HANG),
        ("took more memory than --max-memory 1024 MiB and was killed", Verdict.MEMORY),
        ("crashed (Segmentation fault)", Verdict.CRASH),
        ("ended with exit code 1", Verdict.CRASH),
    ],
)
def test_a_lost_process_is_named_by_its_cause(reason: str, verdict: Verdict) -> None:
    assert name_loss(f"the worker process {reason}") is verdict


class _FragilePool:
    """Stands in for `WorkerPool`: works in this process, and loses it whenever number 5 is among the files of a job."""

    def __class_getitem__(cls, _types: object) -> type[_FragilePool]:
        return cls

    def __init__(self, make_work: Callable[[], Callable[[list[int]], list[Outcome]]], *_settings: object) -> None:
        self.work = make_work()

    def run(self, jobs: list[list[int]]) -> Iterator[tuple[int, list[Outcome] | Lost]]:
        for place, job in enumerate(jobs):
            yield place, Lost("crashed (Segmentation fault)") if 5 in job else self.work(job)


def test_only_the_file_that_crashes_is_lost_from_its_batch(
    corpus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_module, "WorkerPool", _FragilePool)
    found = {outcome.number: outcome.verdict for outcome in try_mutations(corpus, SEED, range(50))}
    assert sorted(found) == list(range(50))
    assert [number for number, verdict in found.items() if verdict in FORBIDDEN] == [5]
    assert found[5] is Verdict.CRASH


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.RIGHT, 0), (Verdict.UNKNOWABLE, 0), *((one, 1) for one in FORBIDDEN)]
)
def test_the_command_prints_a_table_and_fails_on_what_must_not_be(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verdict: Verdict,
    code: int,
) -> None:
    found = [Outcome(0, "h264.mp4", "cut", Verdict.WARNED), Outcome(1, "h264.mp4", "zeroed", verdict)]
    monkeypatch.setattr(command, "write_corpus", lambda _folder: {})
    monkeypatch.setattr(command, "try_mutations", lambda *_arguments: iter(found))
    assert command.main(["--files", "2", "--json", str(tmp_path / "out.json")]) == code
    shown = capsys.readouterr().out
    assert "| cut |" in shown and "| h264.mp4 |" in shown and "2 files, seed 0" in shown
    assert (tmp_path / "out.json").read_text().count('"verdict"') == 2
