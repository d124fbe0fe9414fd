"""Assigns videos to train, val and test so that related videos never end up in different splits.

Two callers: `index` splits a whole data set (`assign_splits`), `train` holds out a validation set where the manifest has
none (`split_videos`). They differ in how many groups they compare and in which of equally good choices they take; both are
kept, as a checkpoint's training videos must not become the validation videos of a run that starts from it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from pipelines.data.groups import Counts, group_videos, hash_group, join_ties, ties_of
from pipelines.errors import DatasetError
from pipelines.records import LABELS, SPLITS, VideoRow

log = logging.getLogger(__name__)
COMPARED_GROUPS = 6
"""Up to this many groups, all assignments to three splits are compared: 3**6."""
COMPARED_VAL_GROUPS = 10
"""Up to this many groups, all choices of validation groups are compared: 2**10."""
ATTEMPTS = 8
"""Assignments of identities that are compared if whole groups leave a split without a class."""
Splits = Sequence[str | None]


@dataclass(frozen=True)
class VideosBySplit:
    """Every video in one split, in the given order."""

    train: list[VideoRow]
    val: list[VideoRow]
    test: list[VideoRow]
    """In the manifest's test split: used neither for training nor for choosing the best epoch."""
    unused: list[VideoRow]
    """No label, no face, or related to videos of different splits."""


def split_videos(
    videos: Iterable[VideoRow], *, val_fraction: float, seed: int, trains_on_fakes: bool = True
) -> VideosBySplit:
    """Videos for training, validation and test; related videos are never separated by an assignment made here.

    Related are copies of one content, a fake and its original, all fakes of one original, all videos of one identity, and
    all videos of one `group`. Splits in the manifest are kept: a video without one is left out if it is related to a
    held-out (`val` or `test`) video.

    If the manifest has no `val`, groups of training videos are held out in the order of a hash of group and seed, so that
    videos added later move few others. `val_fraction` is a share of the groups, or, where identities or a `group` are known
    and group sizes may differ much, a share of the videos, met as closely as the groups allow. If all videos are connected,
    identities are assigned instead, and videos that show identities of both splits are left out. Without `trains_on_fakes`
    the training split needs no fakes.

    Raises:
        DatasetError: no labels, one class only, or a split that would be empty.
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
        train, val = _hold_out(train, groups, ties, val_fraction, seed)
    _refuse_missing_class(train, val, trains_on_fakes)
    used = {*train, *val, *test}
    return VideosBySplit(train, val, test, [video for video in rows if video not in used])


def is_usable(video: VideoRow) -> bool:
    """Whether the video has a label and was processed without an error."""
    return video.status == "ok" and video.label is not None


def assign_splits(videos: Sequence[VideoRow], fractions: Sequence[float], seed: int) -> list[str | None]:
    """A split for each video; related videos (see `split_videos`) never get different ones.

    Whole groups are assigned, in the order of a hash of their name and the seed, so that videos added later move few
    others. If nearly all videos form one group, as where everyone was swapped with everyone, identities and each `group`
    are assigned instead, and a video related to several splits is left out. The shares are then the square roots of the
    fractions, as a swap stays only if both of its identities are in the same split.

    Args:
        fractions: of train, val and test; they sum to 1.

    Returns:
        `train`, `val`, `test`, or None for a video that is left out.
    """
    shares: dict[str, float] = {
        split: fraction for split, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0
    }
    families = group_videos(videos)
    ties = ties_of(videos, families)
    whole = _assign_whole(videos, families, ties, shares, seed)
    candidates = [whole]
    if any(ties) and any(_shortfall(videos, whole, shares)):
        candidates += [
            _assign_identities(videos, families, ties, shares, _order(seed, attempt)) for attempt in range(ATTEMPTS)
        ]
    best = min(candidates, key=lambda splits: _shortfall(videos, splits, shares))
    if best is not whole:
        log.info(
            "most videos are connected, so identities and groups were assigned one by one: %d of %d videos are left out, "
            "as theirs are in different splits",
            best.count(None),
            len(videos),
        )
    return best


def drop_leaks(videos: Sequence[VideoRow]) -> list[str | None]:
    """The given splits, without training videos that are related to val or test, and validation videos related to test."""
    families = group_videos(videos)
    bonds = [{f"family:{family}", *ties} for family, ties in zip(families, ties_of(videos, families), strict=True)]
    splits = [video.split for video in videos]
    for split, others in (("val", ("test",)), ("train", ("val", "test"))):
        held_out = {bond for held, own in zip(splits, bonds, strict=True) if held in others for bond in own}
        splits = [
            None if old == split and not held_out.isdisjoint(own) else old
            for old, own in zip(splits, bonds, strict=True)
        ]
    return splits


def _hold_out(
    videos: Sequence[VideoRow],
    base_groups: Mapping[VideoRow, str],
    ties: Mapping[VideoRow, Sequence[str]],
    val_fraction: float,
    seed: int,
) -> tuple[list[VideoRow], list[VideoRow]]:
    """Training and validation videos: the groups with the smallest hashes are held out, at least one of each label."""
    group_of = join_ties(videos, base_groups, ties)
    counts = _count((group_of[video], video) for video in videos)
    if _is_single_group(counts):
        return _hold_out_identities(videos, val_fraction, seed)
    groups = sorted(counts, key=_order(seed))
    if any(ties[video] for video in videos):
        chosen = _choose_by_videos(groups, counts, val_fraction)
    else:
        chosen = _choose_by_groups(groups, counts, val_fraction)
    train = [video for video in videos if group_of[video] not in chosen]
    return train, [video for video in videos if group_of[video] in chosen]


def _is_single_group(counts: Counts) -> bool:
    """Whether all videos of a class are connected, so that none could be held out."""
    holders = {label: [count for count in counts.values() if count[label]] for label in LABELS}
    return any(len(found) == 1 and found[0][label] > 1 for label, found in holders.items())


def _hold_out_identities(
    videos: Sequence[VideoRow], val_fraction: float, seed: int
) -> tuple[list[VideoRow], list[VideoRow]]:
    """Raises: DatasetError if a class would be missing in a split."""
    splits = assign_splits(videos, (1 - val_fraction, val_fraction, 0), seed)
    train, val = (
        [video for video, own in zip(videos, splits, strict=True) if own == each] for each in ("train", "val")
    )
    for label in LABELS:
        total = sum(video.label == label for video in videos)
        if total > 1 and not all(any(video.label == label for video in side) for side in (train, val)):
            raise DatasetError(
                f"all {total} {label} videos belong to one group, joined by originals, people, `group` or copies, "
                "so none can be held out for validation; add videos of others, or give some the split val in the labels: "
                "videos without a split that share any of these with them are then left out"
            )
    return train, val


def _choose_by_groups(groups: Sequence[str], counts: Counts, val_fraction: float) -> set[str]:
    chosen = set(groups[: max(1, round(val_fraction * len(groups)))])
    for label in LABELS:  # small collections need both classes, too
        if not any(counts[group][label] for group in chosen):
            chosen |= set([group for group in groups if counts[group][label]][:1])
    return chosen


def _choose_by_videos(groups: Sequence[str], counts: Counts, val_fraction: float) -> set[str]:
    """Groups that have nearly the share of the videos; of equally good choices the one with the fewest groups."""
    target = val_fraction * sum(count.total() for count in counts.values())
    is_few = len(groups) <= COMPARED_VAL_GROUPS
    taken = [] if is_few else _fill(groups, counts, target, dict.fromkeys(LABELS, 1))
    free = [group for group in groups if group not in taken]
    pool = free if is_few else _smallest(free, counts, COMPARED_VAL_GROUPS // len(LABELS))
    settled = dict.fromkeys(taken, "val") | {group: "train" for group in free if group not in pool}
    choices = (
        tuple("val" if group in chosen else "train" for group in pool)
        for size in range(len(pool) + 1)
        for chosen in combinations(pool, size)
    )
    best = _best_choice(pool, choices, counts, settled, ("train", "val"), {"val": target})
    return {*taken, *(group for group, split in best.items() if split == "val")}


def _refuse_missing_class(train: Sequence[VideoRow], val: Sequence[VideoRow], trains_on_fakes: bool) -> None:
    for name, side in (("training", train), ("validation", val)):
        for label in LABELS:
            is_needed = label == "real" or side is val or trains_on_fakes
            if is_needed and not any(video.label == label for video in side):
                raise DatasetError(
                    f"no {label} video for {name} ({len(train)} training, {len(val)} validation videos); "
                    "add videos, raise --val-fraction, change --seed, or give splits in the labels"
                )


def _assign_whole(
    videos: Sequence[VideoRow],
    families: Sequence[str],
    ties: Sequence[Sequence[str]],
    shares: Mapping[str, float],
    seed: int,
) -> list[str | None]:
    """Connected videos get the same split, however indirect the connection."""
    group_of = join_ties(videos, dict(zip(videos, families, strict=True)), dict(zip(videos, ties, strict=True)))
    split_of = _assign_groups(_count((group_of[video], video) for video in videos), shares, _order(seed))
    return [split_of[group_of[video]] for video in videos]


def _assign_identities(
    videos: Sequence[VideoRow],
    families: Sequence[str],
    ties: Sequence[Sequence[str]],
    shares: Mapping[str, float],
    order: Callable[[str], str],
) -> list[str | None]:
    """Each tie gets a split; a video is kept if all of its ties and its family have the same one."""
    split_of_tie = _assign_groups(
        _count((tie, video) for video, own in zip(videos, ties, strict=True) for tie in own), _roots(shares), order
    )
    wanted = [{split_of_tie[tie] for tie in own} for own in ties]
    votes: dict[str, Counter[str]] = {family: Counter() for family in families}
    tied = {family for family, own in zip(families, ties, strict=True) if own}
    for family, splits in zip(families, wanted, strict=True):
        if len(splits) == 1:
            votes[family].update(splits)
    loose = _count((family, video) for family, video in zip(families, videos, strict=True) if family not in tied)
    split_of_family: dict[str, str] = {family: vote.most_common(1)[0][0] for family, vote in votes.items() if vote}
    split_of_family |= _assign_groups(loose, shares, order)
    return [
        split_of_family[family] if family in split_of_family and splits <= {split_of_family[family]} else None
        for family, splits in zip(families, wanted, strict=True)
    ]


def _assign_groups(counts: Counts, shares: Mapping[str, float], order: Callable[[str], str]) -> dict[str, str]:
    """A split for each group: nearly the shares of the videos, with both classes in every split where possible.

    Groups are taken in their order while they fit and enough groups of each class remain; a few small ones, or all if
    there are few, are then assigned by comparing all choices.
    """
    groups = sorted(counts, key=order)
    rest = max(shares, key=lambda split: shares[split])
    targets = {split: share * sum(count.total() for count in counts.values()) for split, share in shares.items()}
    split_of: dict[str, str] = {}
    if len(groups) > COMPARED_GROUPS:
        for split in [split for split in shares if split != rest]:
            free = [group for group in groups if group not in split_of]
            has = {(own, label) for group, own in split_of.items() for label in counts[group]}
            needed: dict[str, int] = {
                label: sum((other, label) not in has for other in shares if other != split) for label in LABELS
            }
            split_of |= dict.fromkeys(_fill(free, counts, targets[split], needed), split)
    free = [group for group in groups if group not in split_of]
    small = free if len(groups) <= COMPARED_GROUPS else _smallest(free, counts, COMPARED_GROUPS // len(LABELS))
    pool = [group for group in free if group in small]
    settled = split_of | {group: rest for group in free if group not in pool}
    best = _best_choice(pool, product(targets, repeat=len(pool)), counts, settled, tuple(targets), targets)
    return dict.fromkeys(groups, rest) | split_of | best


def _fill(groups: Sequence[str], counts: Counts, target: float, needed: Mapping[str, int]) -> list[str]:
    """Groups in the given order that fit into the target, leaving `needed` groups of each class for the other splits."""
    holders = Counter(label for group in groups for label in counts[group])
    taken: list[str] = []
    for group in groups:
        count = counts[group]
        if count.total() <= target and all(holders[label] > needed[label] for label in count):
            taken.append(group)
            target -= count.total()
            holders.subtract(count.keys())
    return taken


def _smallest(groups: Sequence[str], counts: Counts, per_label: int) -> list[str]:
    """The smallest groups with a real video, then those with a fake one; of equal size in the given order."""
    by_size = sorted(groups, key=lambda group: counts[group].total())
    chosen = [[group for group in by_size if counts[group][label]][:per_label] for label in LABELS]
    return list(dict.fromkeys(group for found in chosen for group in found))


def _best_choice(
    pool: Sequence[str],
    choices: Iterable[tuple[str, ...]],
    counts: Counts,
    settled: Mapping[str, str],
    splits: Sequence[str],
    targets: Mapping[str, float],
) -> dict[str, str]:
    """Splits for the groups in the pool: the fewest classes missing in a split, then the sizes nearest to the targets."""
    start: dict[str, Counter[str]] = {split: Counter() for split in splits}
    for group, split in settled.items():
        start[split].update(counts[group])
    present = [label for label in LABELS if any(count[label] for count in counts.values())]

    def cost(choice: Iterable[str]) -> tuple[int, float]:
        totals = {split: numbers.copy() for split, numbers in start.items()}
        for group, split in zip(pool, choice, strict=True):
            totals[split].update(counts[group])
        missing = sum(not numbers[label] for numbers in totals.values() for label in present)
        return missing, sum(abs(totals[split].total() - target) for split, target in targets.items())

    return dict(zip(pool, min(choices, key=cost), strict=True))


def _shortfall(videos: Sequence[VideoRow], splits: Splits, shares: Mapping[str, float]) -> tuple[int, int]:
    """The number of classes missing in a split, and of splits with less than half of their share."""
    labels = {video.label for video in videos}
    there = {(split, video.label) for split, video in zip(splits, videos, strict=True)}
    sizes = Counter(split for split in splits if split is not None)
    missing = sum((split, label) not in there for split in shares for label in labels)
    return missing, sum(sizes[split] < share * sizes.total() / 2 for split, share in shares.items())


def _count(pairs: Iterable[tuple[str, VideoRow]]) -> Counts:
    counts: dict[str, Counter[str]] = {}
    for group, video in pairs:
        counts.setdefault(group, Counter())[str(video.label)] += 1
    return counts


def _roots(shares: Mapping[str, float]) -> dict[str, float]:
    total = sum(math.sqrt(share) for share in shares.values())
    return {split: math.sqrt(share) / total for split, share in shares.items()}


def _order(seed: int, attempt: int = 0) -> Callable[[str], str]:
    return lambda group: hash_group(f"{attempt}/{group}" if attempt else group, seed)
