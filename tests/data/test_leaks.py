"""What stands on two sides of a split is found, told once with its cause, and refused."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from pipelines.data.leaks import Leak, find_leaks, refuse_leaks
from pipelines.data.split_assignment import split_videos
from pipelines.errors import ConfigError, LeakError
from pipelines.records import VideoRow

Sides = Mapping[str, Sequence[VideoRow]]


def _video(key: str, *, content: str | None = None, **fields: str | None) -> VideoRow:
    sha256 = f"sha-{content or key}"
    settings = {"label": "fake" if fields.get("original") else "real"} | fields
    return VideoRow(video_id=sha256[:16], sha256=sha256, video_key=key, path=f"{key}.mp4", **settings)  # type: ignore[arg-type]


CLEAN: Sides = {
    "train": [_video("a", identity="Anna"), _video("a-fake", original="a", identity="Anna;Ben"), _video("x")],
    "val": [_video("c", identity="Cleo"), _video("c-fake", original="c"), _video("y")],
    "test": [_video("d", identity="Dora"), _video("d-fake", original="d", identity="Dora; Emil"), _video("z")],
}


def _plant(**videos: VideoRow) -> Sides:
    return {side: [*rows, *([videos[side]] if side in videos else [])] for side, rows in CLEAN.items()}


def test_sides_that_share_nothing_do_not_leak() -> None:
    assert find_leaks(CLEAN) == []
    refuse_leaks(CLEAN)


@pytest.mark.parametrize(
    ("sides", "leak"),
    [
        (_plant(val=_video("copy", content="x")), Leak("content", "sha-x", ("train", "val"), (("x",), ("copy",)))),
        (_plant(test=_video("x")), Leak("content", "sha-x", ("train", "test"), (("x",), ("x",)))),
        (
            _plant(val=_video("late", original="x")),
            Leak("original", "x", ("train", "val"), (("x",), ("late",))),
        ),
        (
            _plant(test=_video("late", original="c")),
            Leak("original", "c", ("val", "test"), (("c", "c-fake"), ("late",))),
        ),
        (
            _plant(train=_video("one", original="gone"), val=_video("other", original="gone.mp4")),
            Leak("original", "gone", ("train", "val"), (("one",), ("other",))),
        ),
        (
            _plant(train=_video("real/e"), test=_video("late", original="e.mp4")),
            Leak("original", "real/e", ("train", "test"), (("real/e",), ("late",))),
        ),
        (
            _plant(test=_video("again", original="y-fake"), val=_video("y-fake", original="y")),
            Leak("original", "y", ("val", "test"), (("y", "y-fake"), ("again",))),
        ),
        (
            _plant(val=_video("b", identity="Ben")),
            Leak("identity", "Ben", ("train", "val"), (("a-fake",), ("b",))),
        ),
        (
            _plant(train=_video("e", identity=" Emil ;Fred;")),
            Leak("identity", "Emil", ("train", "test"), (("e",), ("d-fake",))),
        ),
        (
            _plant(train=_video("e", identity="Cleo"), test=_video("f", identity="Cleo")),
            Leak("identity", "Cleo", ("train", "val", "test"), (("e",), ("c", "c-fake"), ("f",))),
        ),
    ],
    ids=[
        "a copy of a file",
        "one row twice",
        "a fake without its original",
        "a second fake",
        "two fakes of an original that is not there",
        "an original by its file name",
        "a fake of a fake",
        "the source of a swap",
        "names with spaces",
        "a fake of which nothing is said shows its original's identity",
    ],
)
def test_a_planted_leak_is_found_with_its_sides_and_videos(sides: Sides, leak: Leak) -> None:
    assert find_leaks(sides) == [leak]
    with pytest.raises(LeakError, match=f"^1 {leak.kind} on more than one side of train, val, test: {leak.kind} "):
        refuse_leaks(sides)


@pytest.mark.parametrize(
    ("train", "val", "kinds"),
    [
        ([_video("a", identity="A")], [_video("b", content="a", identity="A")], ["content"]),
        ([_video("a", identity="A")], [_video("b", original="a", identity="A")], ["original"]),
        ([_video("a")], [_video("b", content="a"), _video("c", original="a")], ["content", "original"]),
        (
            [_video("a", identity="A")],
            [_video("b", original="a", identity="A"), _video("c", identity="A")],
            ["original", "identity"],
        ),
        ([_video("a", identity="A;B")], [_video("c", identity="B;A")], ["identity", "identity"]),
        ([_video("a", identity=""), _video("b", identity=" ; ")], [_video("c", identity=";")], []),
    ],
)
def test_a_leak_is_told_once_unless_a_further_video_takes_part(
    train: list[VideoRow], val: list[VideoRow], kinds: list[str]
) -> None:
    assert [leak.kind for leak in find_leaks({"train": train, "val": val})] == kinds


def test_videos_that_can_not_be_read_are_no_copies_of_each_other() -> None:
    lost = {side: [VideoRow("", "", f"lost in {side}", "x.mp4", status="unreadable")] for side in ("train", "val")}
    assert find_leaks(lost) == []


def test_videos_on_no_side_tell_what_belongs_together() -> None:
    """The original is left out, as its identity is held out; a fake of it trains all the same."""
    original = _video("deep/a", identity="Anna")
    sides = {"train": [_video("f", original="a.mp4")], "val": [_video("b", identity="Anna")]}
    assert find_leaks(sides) == []
    assert [(leak.kind, leak.value) for leak in find_leaks(sides, others=[original])] == [("identity", "Anna")]


def test_an_identity_that_any_video_of_the_family_has_is_that_of_those_of_which_nothing_is_said() -> None:
    """The family goes by a copy of the original, and only the original itself is said to show Anna."""
    copy, original = _video("a", content="s"), _video("b", content="s", identity="Anna")
    sides = {"train": [_video("f", original="b")], "test": [_video("g", identity="Anna")]}
    for others in ([copy, original], [original, copy]):
        expected = Leak("identity", "Anna", ("train", "test"), (("f",), ("g",)))
        assert find_leaks(sides, others=others) == [expected]
    source = _video("f2", original="b", identity="Anna;Ben")
    assert [leak.value for leak in find_leaks(
        {"train": [_video("f", original="b")], "test": [_video("g", identity="Ben")]}, others=[source]
    )] == ["Ben"]  # fmt: skip


def test_the_message_counts_and_names_and_says_what_to_do() -> None:
    train = [_video(f"t{number}", content=str(number), identity="Anna" if number < 3 else None) for number in range(6)]
    val = [_video(f"v{number}", content=str(number)) for number in range(3, 6)]
    sides = {"train": train, "val": [*val, _video("v", identity="Anna")], "test": [_video("f", original="t0")]}
    with pytest.raises(LeakError) as caught:
        refuse_leaks(sides)
    assert str(caught.value) == (
        "3 contents, 1 original, 1 identity on more than one side of train, val, test: "
        "content sha-3: t3 (train), v3 (val); content sha-4: t4 (train), v4 (val); original 't0': t0 (train), f (test); "
        "identity 'Anna': t0 and 2 more (train), v (val), f (test); and 1 more. "
        "Keep copies on one side only, and give videos of one original, group or identity the same split in the labels"
    )
    assert not isinstance(caught.value, ConfigError)


def _random_collection(seed: int) -> list[VideoRow]:
    """Originals of a few people, their swaps with others, copies, and some splits."""
    draw = random.Random(seed)
    people = [f"person {number}" for number in range(40)]
    videos = []
    for number in range(80):
        person = draw.choice(people[:20])
        split = draw.choice([None, None, None, "test"])
        videos.append(_video(f"r{number}", identity=draw.choice([person, None]), split=split))
        for index in range(draw.randrange(3)):
            source = draw.choice([person, draw.choice(people[20:])])
            identity = draw.choice([f"{person};{source}", None])
            fields = {"original": draw.choice([f"r{number}", f"r{number}.mp4"]), "identity": identity}
            videos.append(_video(f"f{number}-{index}", **fields, split=split))
    copies = [_video(f"copy/{video.video_key}", content=video.video_key) for video in videos[::25]]
    return [*videos, *copies]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_dealt_never_leaks_and_what_is_held_out_keeps_its_own_out_of_training(seed: int) -> None:
    videos = _random_collection(seed)
    split = split_videos(videos, val_fraction=0.2, seed=seed)
    sides = {"train": split.train, "val": split.val}
    assert find_leaks(sides, others=split.unused) == []
    named = {video.video_key for video in videos if video.split == "test"}
    assert {video.video_key for video in split.test} == named
    apart = {"train": [video for video in split.train if video.split is None], "test": split.test}
    assert find_leaks(apart, others=split.unused) == []
