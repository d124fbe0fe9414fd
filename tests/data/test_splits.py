"""Videos are dealt to training and validation by group, and stay there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from pipelines.data.splits import split_videos
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
    return split_videos(videos, val_fraction=val_fraction, seed=seed)


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


def test_splits_that_are_given_are_kept_and_test_is_never_used() -> None:
    videos = [
        replace(video, split=("train", "val", "test")[number // 3 % 3]) for number, video in enumerate(_families(9))
    ]
    train, val = _split(videos)
    assert _keys(train) == {video.video_key for video in videos if video.split == "train"}
    assert _keys(val) == {video.video_key for video in videos if video.split == "val"}


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
