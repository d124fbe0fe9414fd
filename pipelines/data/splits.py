"""Which videos are for training and which for choosing, so that no group stands on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath

from pipelines.errors import DatasetError
from pipelines.records import LABELS, VideoRow


def split_videos(
    videos: Iterable[VideoRow], *, val_fraction: float, seed: int
) -> tuple[list[VideoRow], list[VideoRow]]:
    """Training and validation videos; no group stands on both sides.

    Splits of the manifest are kept where any video has one: `train` and `val` are used, `test` never is, and a video
    without a split is left out if its group is held out. Without splits the groups are dealt by a hash of the group and
    the seed, so a video that is added later hardly moves the others.

    Raises:
        DatasetError: no labels, one class only, or a side that would be empty.
    """
    labelled = [video for video in videos if video.status == "ok" and video.label is not None]
    if not labelled:
        raise DatasetError("no labelled video with a face; give labels with --labels, or folders named real and fake")
    groups = _group(labelled)
    held_out = {groups[video] for video in labelled if video.split in ("val", "test")}
    train = [v for v in labelled if v.split == "train" or (v.split is None and groups[v] not in held_out)]
    val = [video for video in labelled if video.split == "val"]
    if not val:
        train, val = _deal(train, groups, val_fraction, seed)
    for name, side in (("training", train), ("validation", val)):
        for label in LABELS:
            if not any(video.label == label for video in side):
                raise DatasetError(
                    f"no {label} video for {name} ({len(train)} training, {len(val)} validation videos); "
                    "add videos, raise --val-fraction, change --seed, or give splits in the labels"
                )
    return train, val


def _group(videos: Sequence[VideoRow]) -> dict[VideoRow, str]:
    """What must stay on one side: a fake with the original it was made from, and copies of one content."""
    resolve = _make_resolver(video.video_key for video in videos)
    name_of = {video: resolve(video.original) if video.original else video.video_key for video in videos}
    first_of_content: dict[str, str] = {}
    same: dict[str, str] = {}

    def find(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    for video, name in name_of.items():
        first = find(first_of_content.setdefault(video.video_id, name))
        if find(name) != first:
            same[find(name)] = first
    return {video: find(name) for video, name in name_of.items()}


def _make_resolver(keys: Iterable[str]) -> Callable[[str], str]:
    """From what a labels file calls an original (a key, a path or a file name, with suffix or without) to its key."""
    known = set(keys)
    by_stem: dict[str, list[str]] = {}
    for key in known:
        by_stem.setdefault(PurePath(key).name, []).append(key)

    def resolve(original: str) -> str:
        bare = PurePath(original).with_suffix("") if PurePath(original).name else PurePath(original)
        for name in (original, bare.as_posix()):
            if name in known:
                return name
        matches = by_stem.get(PurePath(original).name) or by_stem.get(bare.name, [])
        return matches[0] if len(matches) == 1 else bare.as_posix()

    return resolve


def _deal(
    videos: Sequence[VideoRow], group_of: Mapping[VideoRow, str], val_fraction: float, seed: int
) -> tuple[list[VideoRow], list[VideoRow]]:
    """The groups with the smallest hashes go to validation: a fixed share, at least one group of each label."""
    labels_of: dict[str, set[str]] = {}
    for video in videos:
        labels_of.setdefault(group_of[video], set()).add(str(video.label))
    groups = sorted(labels_of, key=lambda group: _hash(group, seed))
    chosen = set(groups[: max(1, round(val_fraction * len(groups)))])
    for label in LABELS:  # small collections: make sure that both classes are there
        if not any(label in labels_of[group] for group in chosen):
            chosen |= set([group for group in groups if label in labels_of[group]][:1])
    train = [video for video in videos if group_of[video] not in chosen]
    return train, [video for video in videos if group_of[video] in chosen]


def _hash(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).hexdigest()
