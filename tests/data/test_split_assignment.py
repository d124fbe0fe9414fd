"""Videos are dealt to training and validation by group, and stay there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest

from pipelines.data.split_assignment import split_videos
from pipelines.errors import DatasetError
from pipelines.records import VideoRow


def _video(key: str, label: str | None, *, original: str | None = None, **fields: str | None) -> VideoRow:
    settings = {"video_id": f"id-{key}", "sha256": f"sha-{key}", "path": f"{key}.mp4"} | fields
    return VideoRow(video_key=key, label=label, original=original, **settings)  # type: ignore[arg-type]


def _families(count: int, *, fakes: int = 2) -> list[VideoRow]:
    """Originals, each with the fakes made from it."""
    videos = []
    for number in range(count):
        videos.append(_video(f"real{number}", "real"))
        videos += [_video(f"fake{number}-{i}", "fake", original=f"real{number}") for i in range(fakes)]
    return videos


def _keys(videos: Iterable[VideoRow]) -> set[str]:
    return {video.video_key for video in videos}


def _groups(videos: Iterable[VideoRow]) -> set[str]:
    return {video.original or video.video_key for video in videos}


def _split(videos: list[VideoRow], val_fraction: float = 0.25, seed: int = 0) -> tuple[list[VideoRow], list[VideoRow]]:
    split = split_videos(videos, val_fraction=val_fraction, seed=seed)
    return split.train, split.val


@pytest.mark.parametrize("seed", range(8))
def test_no_group_stands_on_both_sides_and_no_video_is_lost(seed: int) -> None:
    videos = _families(20)
    train, val = _split(videos, seed=seed)
    assert _groups(train) & _groups(val) == set()
    assert sorted(_keys(train) | _keys(val)) == sorted(_keys(videos)) and len(train) + len(val) == len(videos)


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, 2), (0.25, 5), (0.5, 10), (0.9, 18), (0.001, 1)])
def test_the_share_is_of_the_groups(fraction: float, expected: int) -> None:
    _, val = _split(_families(20), fraction)
    assert len(_groups(val)) == expected


def test_another_seed_chooses_other_groups_and_the_same_seed_the_same() -> None:
    chosen = [frozenset(_keys(_split(_families(20), seed=seed)[1])) for seed in range(10)]
    assert len(set(chosen)) > 5
    assert frozenset(_keys(_split(_families(20), seed=3)[1])) == chosen[3]


def test_the_order_of_the_videos_does_not_matter() -> None:
    videos = _families(20)
    train, val = _split(videos)
    again_train, again_val = _split(videos[::-1])
    assert _keys(train) == _keys(again_train) and _keys(val) == _keys(again_val)


def test_a_video_added_later_moves_at_most_one_other_group() -> None:
    """The share of the groups is fixed, so one more can push one out or draw one in, and never reshuffles the rest."""
    moved = []
    for number in range(60):
        videos = _families(20)
        before = _groups(_split(videos)[1])
        after = _groups(_split([*videos, *_families(21 + number)[-3:]])[1]) & _groups(videos)
        moved.append(len(before ^ after))
    assert max(moved) <= 1
    assert moved.count(0) > len(moved) / 2


def test_small_collections_get_both_classes_on_both_sides() -> None:
    videos = [_video(f"r{i}", "real") for i in range(2)] + [_video(f"f{i}", "fake") for i in range(2)]
    for seed in range(20):
        for side in _split(videos, 0.1, seed):
            assert {video.label for video in side} == {"real", "fake"}


def test_splits_that_are_given_are_kept_and_every_video_stands_on_one_side_in_order() -> None:
    videos = [
        replace(video, split=("train", "val", "test", None)[number // 3 % 4])
        for number, video in enumerate(_families(9))
    ]
    videos[0] = replace(videos[0], status="no_face")
    held_out = [_video("late", "fake", original="real2"), _video("nobody", None, split="train")]
    split = split_videos([*videos, *held_out], val_fraction=0.5, seed=0)
    assert split.train == [video for video in videos[1:] if video.split in ("train", None)]
    assert split.val == [video for video in videos if video.split == "val"]
    assert split.test == [video for video in videos if video.split == "test"]
    assert split.unused == [videos[0], *held_out]


def test_validation_is_dealt_from_training_where_only_that_is_given() -> None:
    videos = [replace(video, split="test" if number < 9 else "train") for number, video in enumerate(_families(20))]
    train, val = _split(videos)
    assert _keys(train) | _keys(val) == {video.video_key for video in videos if video.split == "train"}
    assert _groups(train) & _groups(val) == set() and len(_groups(val)) == 4


def test_videos_without_a_split_train_where_others_have_one() -> None:
    videos = [replace(video, split="val") for video in _families(3)] + [_video("r", "real"), _video("f", "fake")]
    train, val = _split(videos)
    assert _keys(train) == {"r", "f"} and _keys(val) == _keys(videos[:9])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_video_without_a_split_never_trains_beside_a_group_that_is_held_out(split: str) -> None:
    families = _families(6)
    held_out = [replace(video, split=split) for video in families[:3]]
    others = [replace(video, split="train") for video in families[3:9]] + [
        replace(video, split="val") for video in families[9:]
    ]
    late = _video("late", "fake", original="real0")
    train, _ = _split([*held_out, *others, late])
    assert "late" not in _keys(train)


def test_copies_of_one_file_never_stand_on_both_sides() -> None:
    originals = [_video(f"{label}{i}", label) for i in range(10) for label in ("real", "fake")]
    copies = [replace(video, video_key=f"copy/{video.video_key}", path=f"copy/{video.path}") for video in originals]
    for seed in range(5):
        train, val = _split([*originals, *copies], seed=seed)
        assert {video.video_id for video in train} & {video.video_id for video in val} == set()


def test_videos_without_label_or_result_are_left_out() -> None:
    extra = [
        _video("unlabelled", None),
        _video("blank", "real", status="no_face"),
        _video("bad", "fake", status="failed"),
    ]
    train, val = _split([*_families(20), *extra])
    assert _keys(train) | _keys(val) == _keys(_families(20))


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "no labelled video with a face; give labels with --labels"),
        ([_video("a", None)], "no labelled video with a face"),
        ([_video(f"r{i}", "real") for i in range(4)], "no fake video for training"),
        ([_video(f"f{i}", "fake") for i in range(4)], "no real video for training"),
        ([_video("r", "real"), *[_video(f"f{i}", "fake") for i in range(9)]], "no real video for training"),
        (
            [replace(video, split="train") for video in _families(2)] + [_video("r", "real", split="val")],
            r"no fake video for validation \(6 training, 1 validation videos\)",
        ),
        ([replace(video, split="val") for video in _families(2)], "no real video for training"),
        ([replace(video, split="test") for video in _families(4)], "no real video for training"),
    ],
)
def test_a_missing_class_is_named_with_its_side(videos: list[VideoRow], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _split(videos)


@pytest.mark.parametrize("spelling", ["real/{}", "real/{}.mp4", "{}.mp4", "{}"])
def test_an_original_is_known_by_its_key_its_path_and_its_file_name(spelling: str) -> None:
    videos = [_video(f"real/{number}", "real") for number in range(12)]
    videos += [_video(f"fake/{number}-x", "fake", original=spelling.format(number)) for number in range(12)]
    train, val = _split(videos)
    sides = [{video.video_key.split("/")[1].split("-")[0] for video in side} for side in (train, val)]
    assert sides[0] & sides[1] == set()


def test_a_fake_of_a_fake_stays_with_the_first_original() -> None:
    videos = [*_families(12), *(_video(f"again{number}", "fake", original=f"fake{number}-0") for number in range(12))]
    for seed in range(5):
        train, val = _split(videos, seed=seed)
        numbers = [{re.findall(r"\d+", video.video_key)[0] for video in side} for side in (train, val)]
        assert numbers[0] & numbers[1] == set()


def _people(sizes: Iterable[int]) -> list[VideoRow]:
    """Of each person so many videos, none made from another: every second one is fake."""
    return [
        _video(f"p{person:02d}-{i}", ("real", "fake")[i % 2], identity=f"person {person}")
        for person, size in enumerate(sizes)
        for i in range(size)
    ]


def _seen(videos: Iterable[VideoRow]) -> set[str]:
    return {person for video in videos for person in video.identities}


@pytest.mark.parametrize("seed", range(6))
def test_one_identity_never_stands_on_both_sides(seed: int) -> None:
    swaps = [
        _video(f"swap{n}", "fake", original=f"p{n:02d}-0", identity=f"person {n};person {n + 10}") for n in range(5)
    ]
    train, val = _split([*_people([7] * 20), *swaps], seed=seed)
    assert _seen(train) & _seen(val) == set()
    assert len(train) + len(val) == 145


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected", "within"),
    [
        ([300, 300, 300, 300, 300], 0.1, 300, 0),
        ([400, 350, 300, 250, 200], 0.1, 200, 0),
        ([500, 300, 200], 0.5, 500, 0),
        ([100, 90, 60, 400, 350], 0.15, 150, 0),
        ([1000, *[10] * 40], 0.1, 140, 0),
        ([200] * 30, 0.12, 800, 0),
        (range(2, 80, 2), 0.06, 94, 2),
        (range(2, 80, 2), 0.5, 780, 8),
    ],
)
def test_where_identities_are_known_the_share_is_of_the_videos_as_nearly_as_they_allow(
    sizes: Iterable[int], fraction: float, expected: int, within: int
) -> None:
    for seed in range(4):
        train, val = _split(_people(sizes), fraction, seed)
        assert abs(len(val) - expected) <= within and {video.label for video in train} == {"real", "fake"}


def test_classes_that_no_person_shares_are_both_held_out_all_the_same() -> None:
    videos = [replace(video, label=("real", "fake")[int(video.video_key[1:3]) % 2]) for video in _people([20] * 14)]
    for seed in range(6):
        for side in _split(videos, 0.05, seed):
            assert {video.label for video in side} == {"real", "fake"}


def test_more_videos_of_known_people_hardly_move_the_others() -> None:
    before = _people(range(20, 60))
    added = [_video(f"0-{i}", ("real", "fake")[i % 2], identity=f"person {i % 5}") for i in range(10)]
    moved = []
    for seed in range(20):
        first, second = (_seen(_split(videos, 0.2, seed)[1]) for videos in (before, [*before, *added]))
        moved.append(len(first ^ second))
    assert sum(moved) / len(moved) < 3


def test_what_has_no_split_and_shows_somebody_who_is_held_out_never_trains() -> None:
    people = _people([4] * 5)
    videos = [replace(video, split="val") if "person 0" in video.identities else video for video in people]
    swap = _video("swap", "fake", identity="person 0;person 1")
    fake = _video("fake", "fake", original="quiet")
    quiet = _video("quiet", "real", identity="person 0")
    split = split_videos([*videos, swap, fake, quiet], val_fraction=0.5, seed=0)
    assert split.unused == [swap, fake, quiet]
    assert _seen(split.train) == {f"person {number}" for number in range(1, 5)}


def test_what_may_show_somebody_who_is_held_out_as_a_video_of_its_family_does_never_trains() -> None:
    people = _people([4] * 5)
    videos = [replace(video, split="val") if "person 0" in video.identities else video for video in people]
    copy = _video("copy", "real", sha256="same")
    quiet = _video("quiet", "real", sha256="same", identity="person 0")
    fake = _video("fake", "fake", original="quiet")
    split = split_videos([*videos, copy, quiet, fake], val_fraction=0.5, seed=0)
    assert split.unused == [copy, quiet, fake]


@pytest.mark.parametrize("seed", range(5))
def test_where_everybody_was_swapped_with_everybody_people_are_dealt_and_the_mixed_videos_left_out(seed: int) -> None:
    names = [f"person {number}" for number in range(12)]
    reals = [_video(f"real {name} {i}", "real", identity=name) for name in names for i in range(3)]
    swaps = [_video(f"{a} as {b}", "fake", identity=f"{a};{b}") for a in names for b in names if a != b]
    split = split_videos([*reals, *swaps], val_fraction=0.2, seed=seed)
    sides = [_seen(split.train), _seen(split.val)]
    assert sides[0].isdisjoint(sides[1]) and sides[0] | sides[1] == set(names)
    assert {video.label for side in (split.train, split.val) for video in side} == {"real", "fake"}
    assert {video.label for video in split.unused} == {"fake"}
    assert all({*video.identities} & sides[0] and {*video.identities} & sides[1] for video in split.unused)


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (
            _people([8]),
            "all 4 real videos belong to one group, joined by originals, people, `group` or copies, "
            ".* give some the split val in the labels",
        ),
        (_families(1, fakes=5) + [_video(f"r{i}", "real") for i in range(5)], "all 5 fake videos belong to one group"),
    ],
)
def test_videos_that_all_belong_together_are_refused_with_the_way_out(videos: list[VideoRow], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _split(videos)
