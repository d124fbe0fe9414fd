"""Which videos are for training and which for choosing, so that no group stands on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pipelines.errors import DatasetError
from pipelines.records import VideoRow


def split_videos(
    videos: Iterable[VideoRow], *, val_fraction: float, seed: int
) -> tuple[list[VideoRow], list[VideoRow]]:
    """Training and validation videos.

    Splits of the manifest are kept where any video has one: `train` and `val` are used, `test` never is. Without splits the
    groups are dealt by a hash of the group and the seed, so a video added later moves no other.

    Raises:
        DatasetError: no labels, one class only, or a side that would be empty.
    """
    labelled = [video for video in videos if video.status == "ok" and video.label is not None]
    if not labelled:
        raise DatasetError("no labelled video with a face; give labels with --labels, or folders named real and fake")
    if any(video.split for video in labelled):
        train = [video for video in labelled if video.split in (None, "train")]
        val = [video for video in labelled if video.split == "val"]
        if not val:
            train, val = _deal(train, val_fraction, seed)
    else:
        train, val = _deal(labelled, val_fraction, seed)
    for name, side in (("training", train), ("validation", val)):
        for label in ("real", "fake"):
            if not any(video.label == label for video in side):
                raise DatasetError(
                    f"no {label} video for {name} ({len(train)} training, {len(val)} validation videos); "
                    "add videos, raise --val-fraction, change --seed, or give splits in the labels"
                )
    return train, val


def group_of(video: VideoRow) -> str:
    """What must stay on one side: a fake and the original it was made from share a group."""
    return video.original or video.video_key


def _deal(videos: Sequence[VideoRow], val_fraction: float, seed: int) -> tuple[list[VideoRow], list[VideoRow]]:
    """The groups with the smallest hashes go to validation: a fixed share, at least one group of each label."""
    groups = sorted({group_of(video) for video in videos}, key=lambda group: _hash(group, seed))
    labels_of: dict[str, set[str]] = {}
    for video in videos:
        labels_of.setdefault(group_of(video), set()).add(str(video.label))
    wanted = max(1, round(val_fraction * len(groups)))
    chosen = set(groups[:wanted])
    for label in ("real", "fake"):  # small collections: make sure that both classes are there
        if not any(label in labels_of[group] for group in chosen):
            chosen |= set([group for group in groups if label in labels_of[group]][:1])
    train = [video for video in videos if group_of(video) not in chosen]
    return train, [video for video in videos if group_of(video) in chosen]


def _hash(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).hexdigest()
