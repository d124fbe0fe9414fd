"""Sides are dealt in their shares, and whatever connects two videos never leads from one side to another."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipelines.data.leaks import find_leaks
from pipelines.data.split_assignment import assign_splits, drop_leaks
from pipelines.records import LABELS, SPLITS, VideoRow

FRACTIONS = (0.8, 0.1, 0.1)


def _video(key: str, label: str = "real", **fields: str | None) -> VideoRow:
    return VideoRow(video_id="", sha256=fields.pop("sha256", "") or "", video_key=key, path=f"{key}.mp4",
                    label=label, **fields)  # type: ignore[arg-type]  # fmt: skip


def _families(count: int, fakes: int = 3) -> list[VideoRow]:
    """Originals, each with the fakes made from it."""
    return [
        video
        for number in range(count)
        for video in (
            _video(f"r{number}"),
            *(_video(f"f{number}-{index}", "fake", original=f"r{number}") for index in range(fakes)),
        )
    ]


def _swaps(seed: int, people: int = 30, fakes: int = 600) -> list[VideoRow]:
    """Everybody is swapped with everybody, as in Celeb-DF and DFD."""
    draw = random.Random(seed)
    videos = [_video(f"p{person}_{n}", identity=f"p{person}") for person in range(people) for n in range(5)]
    for number in range(fakes):
        target, source = draw.sample(range(people), 2)
        original = f"p{target}_{draw.randrange(5)}"
        videos.append(_video(f"f{number}", "fake", original=original, identity=f"p{target};p{source}"))
    return videos


def _tangle(seed: int) -> list[VideoRow]:
    """Swaps of which some lack identities, with groups, copies, fakes of fakes and originals that are not there."""
    draw = random.Random(seed)
    videos = []
    for video in _swaps(seed, people=12, fakes=120):
        if draw.random() < 0.2:
            video = replace(video, identity=None)
        if draw.random() < 0.15:
            video = replace(video, group=f"g{draw.randrange(6)}")
        if video.label == "fake" and draw.random() < 0.15:
            video = replace(video, original=draw.choice(["gone", f"f{draw.randrange(60)}", "p3_0.mp4", None]))
        videos.append(replace(video, sha256=f"sha-{video.video_key}"))
    for video in draw.sample(videos, 12):
        copy = replace(video, video_key=f"copy/{video.video_key}", path=f"copy/{video.path}", original=None)
        videos.append(replace(copy, identity=draw.choice([video.identity, None, f"p{draw.randrange(12)}"])))
    return [*videos, *(_video(f"loose{n}", LABELS[n % 2]) for n in range(10))]


def _on(side: str | None, videos: Sequence[VideoRow], sides: Sequence[str | None]) -> list[VideoRow]:
    return [video for video, own in zip(videos, sides, strict=True) if own == side]


def _leaks(videos: Sequence[VideoRow], sides: Sequence[str | None]) -> list[str]:
    parts = {side: _on(side, videos, sides) for side in SPLITS}
    return [str(leak) for leak in find_leaks(parts, others=_on(None, videos, sides))]


def _labels(videos: Sequence[VideoRow], sides: Sequence[str | None]) -> Counter[tuple[str | None, str | None]]:
    return Counter((side, video.label) for side, video in zip(sides, videos, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        (FRACTIONS, (320, 40, 40)),
        ((0.5, 0.25, 0.25), (200, 100, 100)),
        ((0.7, 0, 0.3), (280, 0, 120)),
        ((0, 0.02, 0.98), (0, 8, 392)),
        ((1, 0, 0), (400, 0, 0)),
    ],
)
def test_whole_families_are_dealt_in_their_shares(
    fractions: tuple[float, float, float], sizes: tuple[int, int, int], seed: int
) -> None:
    videos = _families(100)
    sides = assign_splits(videos, fractions, seed)
    assert tuple(sides.count(side) for side in SPLITS) == sizes
    assert None not in sides and _leaks(videos, sides) == []


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_any_size_come_near_the_shares(seed: int) -> None:
    draw = random.Random(seed)
    videos = [
        _video(f"{part}/{n}", LABELS[n % 2], group=f"part {part}")
        for part in range(40)
        for n in range(draw.randint(2, 60))
    ]
    sides = assign_splits(videos, FRACTIONS, seed)
    for side, fraction in zip(SPLITS, FRACTIONS, strict=True):
        assert sides.count(side) / len(videos) == pytest.approx(fraction, abs=0.01)
    assert _leaks(videos, sides) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("reals", "fakes"), [(3, 3), (3, 100), (100, 3), (20, 20)], ids=["few", "few reals", "few fakes", "many"]
)
def test_every_side_has_both_classes_where_that_is_possible(reals: int, fakes: int, seed: int) -> None:
    videos = [*(_video(f"r{n}") for n in range(reals)), *(_video(f"f{n}", "fake") for n in range(fakes))]
    for fractions in (FRACTIONS, (0.4, 0.3, 0.3)):
        labels = _labels(videos, assign_splits(videos, fractions, seed))
        assert {(side, label) for side in SPLITS for label in LABELS} == set(labels)


@pytest.mark.parametrize("seed", range(3))
def test_people_are_dealt_where_everybody_was_swapped_with_everybody(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipelines")
    videos = [*_swaps(seed), *(_video(f"stranger{n}") for n in range(100))]
    sides = assign_splits(videos, FRACTIONS, seed)
    assert _leaks(videos, sides) == []
    labels = _labels(videos, sides)
    kept_fakes = sum(labels[side, "fake"] for side in SPLITS)
    for side, fraction in zip(SPLITS, FRACTIONS, strict=True):
        assert labels[side, "fake"] / kept_fakes == pytest.approx(fraction, abs=0.08)
    strangers = Counter(side for side, video in zip(sides, videos, strict=True) if video.identity is None)
    assert strangers == {"train": 80, "val": 10, "test": 10}
    assert labels[None, "real"] == 0 and kept_fakes > 0.3 * 600
    assert "most videos are connected, so identities and groups were assigned one by one: " in caplog.text
    assert f"{labels[None, 'fake']} of {len(videos)} videos are left out" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_people_are_dealt_where_the_other_groups_are_too_small_for_a_side(seed: int) -> None:
    """Both classes on each side are not enough, if two sides are a handful."""
    videos = [*_swaps(seed), *_families(4)]
    sides = assign_splits(videos, FRACTIONS, seed)
    kept = len(videos) - sides.count(None)
    assert all(sides.count(side) > fraction / 2 * kept for side, fraction in zip(SPLITS, FRACTIONS, strict=True))
    assert _leaks(videos, sides) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_swap_is_kept_exactly_if_both_people_are_on_one_side(seed: int) -> None:
    videos = _swaps(seed)
    sides = assign_splits(videos, FRACTIONS, seed)
    side_of = {video.identity: side for video, side in zip(videos, sides, strict=True) if video.label == "real"}
    for video, side in zip(videos, sides, strict=True):
        people = {side_of[person] for person in video.identities}
        assert side == (people.pop() if len(people) == 1 else None)


def test_a_fake_whose_original_is_on_another_side_is_left_out() -> None:
    """A list may name the wrong original: the fake then belongs to both sides."""
    videos = _swaps(0)
    sides = assign_splits(videos, FRACTIONS, 0)
    far = next(video for video, side in zip(videos, sides, strict=True) if side == "test" and video.label == "real")
    near = next(n for n, side in enumerate(sides) if side == "train" and videos[n].label == "fake")
    videos[near] = replace(videos[near], original=far.video_key)
    sides = assign_splits(videos, FRACTIONS, 0)
    assert sides[near] is None and _leaks(videos, sides) == []


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("fractions", [FRACTIONS, (0.4, 0.3, 0.3)])
def test_no_tangle_of_ties_ever_leaks(fractions: tuple[float, float, float], seed: int) -> None:
    videos = _tangle(seed)
    sides = assign_splits(videos, fractions, seed)
    assert _leaks(videos, sides) == []
    kept = [replace(video, split=side) for video, side in zip(videos, sides, strict=True)]
    assert drop_leaks(kept) == sides  # nothing is left that would have to go
    if fractions != FRACTIONS:
        labels = _labels(videos, sides)
        assert all(labels[side, label] for side in SPLITS for label in LABELS)


@pytest.mark.parametrize("make", [lambda: _families(100), lambda: _swaps(1)], ids=["families", "swaps"])
def test_the_seed_alone_decides_and_not_the_order(make: object) -> None:
    videos = make()  # type: ignore[operator]
    dealt = [assign_splits(videos, FRACTIONS, seed) for seed in range(5)]
    assert len({tuple(sides) for sides in dealt}) == 5
    assert assign_splits(videos[::-1], FRACTIONS, 3)[::-1] == dealt[3]


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        (_families(100), [*_families(101)], 12),
        (_families(100), [*_families(100), _video("late", "fake", original="r7")], 12),
        (_swaps(2), [*_swaps(2), _video("late", identity="p7")], 60),
        (_swaps(2), [*_swaps(2), _video("late", "fake", identity="p7;p8", original="p7_0")], 60),
    ],
    ids=["a family", "a fake", "a video of a person", "a swap"],
)
def test_a_video_added_later_moves_few_others(before: list[VideoRow], after: list[VideoRow], most: int) -> None:
    moved = []
    for seed in range(5):
        old = dict(zip([video.video_key for video in before], assign_splits(before, FRACTIONS, seed), strict=True))
        new = dict(zip([video.video_key for video in after], assign_splits(after, FRACTIONS, seed), strict=True))
        moved.append(sum(new[key] != side for key, side in old.items()))
    assert max(moved) <= most


def test_one_video_or_none_is_no_error() -> None:
    assert assign_splits([], FRACTIONS, 0) == []
    assert assign_splits([_video("only")], FRACTIONS, 0) == ["train"]


BESIDE_TEST = _video("t", split="test", identity="Anna", group="g", sha256="s")


@pytest.mark.parametrize(
    ("video", "is_dropped"),
    [
        (_video("v", sha256="s"), True),
        (_video("v", "fake", original="t"), True),
        (_video("v", identity="Ben;Anna"), True),
        (_video("v", group="g"), True),
        (_video("v", sha256="other", identity="Ben", group="h", original="u"), False),
    ],
    ids=["content", "original", "identity", "group", "nothing"],
)
@pytest.mark.parametrize("side", ["train", "val"])
def test_what_shares_something_with_the_test_side_loses_its_split(side: str, video: VideoRow, is_dropped: bool) -> None:
    videos = [BESIDE_TEST, replace(video, split=side), _video("far", split=side), _video("none")]
    sides = drop_leaks(videos)
    assert sides == ["test", None if is_dropped else side, side, None]
    assert _leaks(videos, sides) == []


def test_a_video_of_val_that_leaks_into_test_takes_no_training_video_along() -> None:
    videos = [
        BESIDE_TEST,
        _video("v", split="val", identity="Anna;Ben"),
        _video("near", split="train", identity="Ben"),
        _video("w", split="val", identity="Cleo"),
        _video("x", split="train", identity="Cleo"),
    ]
    assert drop_leaks(videos) == ["test", None, "train", "val", None]


@pytest.mark.parametrize("seed", range(20))
def test_dropping_cures_every_leak_of_any_split_and_keeps_the_test_side(seed: int) -> None:
    draw = random.Random(seed)
    videos = [replace(video, split=draw.choice(["train"] * 8 + ["val", "test", None])) for video in _tangle(seed)]
    assert _leaks(videos, [video.split for video in videos])
    sides = drop_leaks(videos)
    assert _leaks(videos, sides) == []
    assert _on("test", videos, sides) == [video for video in videos if video.split == "test"]
