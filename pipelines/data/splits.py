"""Which videos are for training and which for choosing, so that nobody and nothing stands on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipelines.data.dealing import deal_sides
from pipelines.data.groups import Counts, group_videos, hash_group, join_ties, ties_of
from pipelines.errors import DatasetError
from pipelines.records import LABELS, VideoRow

FEW_GROUPS = 10
"""Of so many groups every choice is compared: 2**10."""


@dataclass(frozen=True)
class Split:
    """Every video on one side, in the order given."""

    train: list[VideoRow]
    val: list[VideoRow]
    test: list[VideoRow]
    """Labelled for a test by the manifest: never trained on, never used for choosing."""
    unused: list[VideoRow]
    """Without a label or a face, without a split while something of theirs is held out, or of people on both sides."""


def split_videos(videos: Iterable[VideoRow], *, val_fraction: float, seed: int, trains_on_fakes: bool = True) -> Split:
    """Videos for training, validation and test; what is dealt here never separates what belongs together.

    What belongs together: copies of one content, a fake and its original, all fakes of one original, all videos of one
    identity, and all of one `group`. Splits of the manifest are kept where any video has one: a video without a split is
    then left out if something of its content, original, identities or group is held out for `val` or `test`.

    Without `val` in the manifest the groups of the training videos are dealt by a hash of the group and the seed, so a
    video that is added later hardly moves the others. `val_fraction` is a share of the groups; where identities or
    a `group` are known, and groups therefore may differ much in size, it is a share of the videos, met as nearly as the
    groups allow. Where everything hangs together, as everybody was swapped with everybody, people are dealt instead, and a
    video that shows people of both sides is left out. Without `trains_on_fakes` the training side may have no fake.

    Raises:
        DatasetError: no labels, one class only, or a side that would be empty.
    """
    rows = list(videos)
    labelled = [video for video in rows if is_usable(video)]
    if not labelled:
        raise DatasetError("no labelled video with a face; give labels with --labels, or folders named real and fake")
    names = group_videos(labelled)
    groups = dict(zip(labelled, names, strict=True))
    ties = dict(zip(labelled, ties_of(labelled, names), strict=True))
    held_out = [video for video in labelled if video.split in ("val", "test")]
    held_groups = {groups[video] for video in held_out}
    held_ties = {tie for video in held_out for tie in ties[video]}

    def may_train(video: VideoRow) -> bool:
        if video.split is not None:
            return video.split == "train"
        return groups[video] not in held_groups and held_ties.isdisjoint(ties[video])

    train = [video for video in labelled if may_train(video)]
    val = [video for video in held_out if video.split == "val"]
    test = [video for video in held_out if video.split == "test"]
    if not val:
        train, val = _deal(train, groups, ties, val_fraction, seed)
    _refuse_missing_class(train, val, trains_on_fakes)
    used = {*train, *val, *test}
    return Split(train, val, test, [video for video in rows if video not in used])


def is_usable(video: VideoRow) -> bool:
    """Whether a network can learn from the video or be measured on it."""
    return video.status == "ok" and video.label is not None


def _deal(
    videos: Sequence[VideoRow],
    base_groups: Mapping[VideoRow, str],
    ties: Mapping[VideoRow, Sequence[str]],
    val_fraction: float,
    seed: int,
) -> tuple[list[VideoRow], list[VideoRow]]:
    """The groups with the smallest hashes go to validation: a fixed share, at least one group of each label."""
    group_of = join_ties(videos, base_groups, ties)
    counts: dict[str, Counter[str]] = {}
    for video in videos:
        counts.setdefault(group_of[video], Counter())[str(video.label)] += 1
    if _is_single_group(counts):
        return _deal_people(videos, val_fraction, seed)
    groups = sorted(counts, key=lambda group: hash_group(group, seed))
    if any(ties[video] for video in videos):
        chosen = _choose_by_videos(groups, counts, val_fraction)
    else:
        chosen = _choose_by_groups(groups, counts, val_fraction)
    train = [video for video in videos if group_of[video] not in chosen]
    return train, [video for video in videos if group_of[video] in chosen]


def _refuse_missing_class(train: Sequence[VideoRow], val: Sequence[VideoRow], trains_on_fakes: bool) -> None:
    for name, side in (("training", train), ("validation", val)):
        for label in LABELS:
            is_needed = label == "real" or side is val or trains_on_fakes
            if is_needed and not any(video.label == label for video in side):
                raise DatasetError(
                    f"no {label} video for {name} ({len(train)} training, {len(val)} validation videos); "
                    "add videos, raise --val-fraction, change --seed, or give splits in the labels"
                )


def _is_single_group(counts: Counts) -> bool:
    """Whether all videos of a class hang together, so that none could be held out."""
    holders = {label: [count for count in counts.values() if count[label]] for label in LABELS}
    return any(len(found) == 1 and found[0][label] > 1 for label, found in holders.items())


def _deal_people(videos: Sequence[VideoRow], val_fraction: float, seed: int) -> tuple[list[VideoRow], list[VideoRow]]:
    """People to one side or the other; a video that shows people of both is left out.

    Raises:
        DatasetError: that leaves no video of a class on a side.
    """
    sides = deal_sides(videos, (1 - val_fraction, val_fraction, 0), seed)
    train, val = ([video for video, own in zip(videos, sides, strict=True) if own == side] for side in ("train", "val"))
    for label in LABELS:
        total = sum(video.label == label for video in videos)
        if total > 1 and not all(any(video.label == label for video in side) for side in (train, val)):
            raise DatasetError(
                f"all {total} {label} videos belong to one group, joined by originals, people, `group` or copies, "
                "so none can be held out for validation; add videos of others, or give some the split val in the labels: "
                "what has no split and shares any of these with them is then left out"
            )
    return train, val


def _choose_by_groups(groups: Sequence[str], counts: Counts, val_fraction: float) -> set[str]:
    chosen = set(groups[: max(1, round(val_fraction * len(groups)))])
    for label in LABELS:  # small collections: make sure that both classes are there
        if not any(counts[group][label] for group in chosen):
            chosen |= set([group for group in groups if counts[group][label]][:1])
    return chosen


def _choose_by_videos(groups: Sequence[str], counts: Counts, val_fraction: float) -> set[str]:
    """Groups that have nearly the share of the videos, with both classes on both sides where that is possible.

    Many groups are taken in their order as long as they fit, then a few small ones make up what is lacking; of few
    groups the best choice is taken, the earlier one of equals.
    """
    total = sum(counts.values(), Counter[str]())
    target = val_fraction * total.total()
    taken = [] if len(groups) <= FEW_GROUPS else _fill(groups, counts, target)
    start = sum((counts[group] for group in taken), Counter[str]())
    pool = list(groups) if len(groups) <= FEW_GROUPS else _smallest(groups, counts, excluded=set(taken))

    def cost(added: Sequence[str]) -> tuple[int, float]:
        val = sum((counts[group] for group in added), start)
        missing = sum(val[label] in (0, total[label]) for label in LABELS)
        return missing, abs(val.total() - target)

    return {*taken, *min(_subsets(pool), key=cost)}


def _fill(groups: Sequence[str], counts: Counts, target: float) -> list[str]:
    """In the given order, what fits into the target and leaves something of each class."""
    left = sum(counts.values(), Counter[str]())
    taken: list[str] = []
    for group in groups:
        count = counts[group]
        if count.total() <= target and all(count[label] < left[label] for label in count):
            taken.append(group)
            target -= count.total()
            left -= count
    return taken


def _smallest(groups: Sequence[str], counts: Counts, *, excluded: set[str]) -> list[str]:
    """A few of the smallest groups with a real video, and of those with a fake one."""
    by_size = sorted((group for group in groups if group not in excluded), key=lambda group: counts[group].total())
    chosen = [[group for group in by_size if counts[group][label]][: FEW_GROUPS // len(LABELS)] for label in LABELS]
    return list(dict.fromkeys(group for side in chosen for group in side))


def _subsets(groups: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The smaller ones first, equals in the given order."""
    for size in range(len(groups) + 1):
        yield from combinations(groups, size)
