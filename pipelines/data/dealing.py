"""Deals the videos of a data set without splits to train, val and test, so that nothing and nobody is on two sides."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

from pipelines.data.groups import Counts, group_videos, hash_group, join_ties, ties_of
from pipelines.records import LABELS, SPLITS, VideoRow

log = logging.getLogger(__name__)
FEW_GROUPS = 6
"""Of so many groups every way to deal them is compared: 3**6."""
ATTEMPTS = 8
"""Ways to deal people that are compared, where the first leaves a side without a class."""
Sides = Sequence[str | None]


def deal_sides(videos: Sequence[VideoRow], fractions: Sequence[float], seed: int) -> list[str | None]:
    """A side for each video; what belongs together (see `split_videos`) is never on two of them.

    Whole groups are dealt, in the order of a hash of their name and the seed, so a video that is added later moves few
    others. Where nearly all are one group (everybody was swapped with everybody), people, and every `group`, are dealt
    instead: a video that ties those of different sides together is left out. Their shares are the square roots of the
    fractions, as a swap stays only if both of its people are on its side.

    Args:
        fractions: of train, val and test; they sum to 1.

    Returns:
        `train`, `val`, `test`, or None for a video that is left out.
    """
    shares: dict[str, float] = {
        side: fraction for side, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0
    }
    families = group_videos(videos)
    ties = ties_of(videos, families)
    whole = _deal_whole(videos, families, ties, shares, seed)
    ways = [whole]
    if any(ties) and any(_shortfall(videos, whole, shares)):
        ways += [_deal_people(videos, families, ties, shares, _order(seed, attempt)) for attempt in range(ATTEMPTS)]
    best = min(ways, key=lambda sides: _shortfall(videos, sides, shares))
    if best is not whole:
        log.info(
            "people and groups were dealt one by one, as they tie most videos together: %d of %d videos are left out, "
            "as their people or groups are on different sides",
            best.count(None),
            len(videos),
        )
    return best


def drop_leaks(videos: Sequence[VideoRow]) -> list[str | None]:
    """The splits as they are, without those of training videos that share something with val or test, or of val with test."""
    families = group_videos(videos)
    bonds = [{f"family:{family}", *ties} for family, ties in zip(families, ties_of(videos, families), strict=True)]
    sides = [video.split for video in videos]
    for side, others in (("val", ("test",)), ("train", ("val", "test"))):
        held_out = {bond for held, own in zip(sides, bonds, strict=True) if held in others for bond in own}
        sides = [
            None if old == side and not held_out.isdisjoint(own) else old for old, own in zip(sides, bonds, strict=True)
        ]
    return sides


def _deal_whole(
    videos: Sequence[VideoRow],
    families: Sequence[str],
    ties: Sequence[Sequence[str]],
    shares: Mapping[str, float],
    seed: int,
) -> list[str | None]:
    """Nothing that is connected is separated, however long the way between."""
    group_of = join_ties(videos, dict(zip(videos, families, strict=True)), dict(zip(videos, ties, strict=True)))
    side_of = _deal_groups(_count((group_of[video], video) for video in videos), shares, _order(seed))
    return [side_of[group_of[video]] for video in videos]


def _deal_people(
    videos: Sequence[VideoRow],
    families: Sequence[str],
    ties: Sequence[Sequence[str]],
    shares: Mapping[str, float],
    order: Callable[[str], str],
) -> list[str | None]:
    """Each tie goes to a side; a video stays where all of its ties and its family are on one."""
    side_of_tie = _deal_groups(
        _count((tie, video) for video, own in zip(videos, ties, strict=True) for tie in own), _roots(shares), order
    )
    wanted = [{side_of_tie[tie] for tie in own} for own in ties]
    votes: dict[str, Counter[str]] = {family: Counter() for family in families}
    tied = {family for family, own in zip(families, ties, strict=True) if own}
    for family, sides in zip(families, wanted, strict=True):
        if len(sides) == 1:
            votes[family].update(sides)
    loose = _count((family, video) for family, video in zip(families, videos, strict=True) if family not in tied)
    side_of_family: dict[str, str] = {family: vote.most_common(1)[0][0] for family, vote in votes.items() if vote}
    side_of_family |= _deal_groups(loose, shares, order)
    return [
        side_of_family[family] if family in side_of_family and sides <= {side_of_family[family]} else None
        for family, sides in zip(families, wanted, strict=True)
    ]


def _deal_groups(counts: Counts, shares: Mapping[str, float], order: Callable[[str], str]) -> dict[str, str]:
    """A side for each group: nearly the shares of the videos, with both classes on every side where that is possible.

    Many groups are taken in their order as long as they fit and leave something of each class, then a few small ones
    make up what is lacking; of few groups the best way is taken.
    """
    groups = sorted(counts, key=order)
    rest = max(shares, key=lambda side: shares[side])
    targets = {side: share * sum(count.total() for count in counts.values()) for side, share in shares.items()}
    side_of: dict[str, str] = {}
    if len(groups) > FEW_GROUPS:
        for side in [side for side in shares if side != rest]:
            free = [group for group in groups if group not in side_of]
            has = {(own, label) for group, own in side_of.items() for label in counts[group]}
            needed: dict[str, int] = {
                label: sum((other, label) not in has for other in shares if other != side) for label in LABELS
            }
            side_of |= dict.fromkeys(_fill(free, counts, targets[side], needed), side)
    free = [group for group in groups if group not in side_of]
    pool = free if len(groups) <= FEW_GROUPS else _smallest(free, counts)
    chosen = _best_way(pool, counts, side_of | {group: rest for group in free if group not in pool}, targets)
    return dict.fromkeys(groups, rest) | side_of | chosen


def _fill(groups: Sequence[str], counts: Counts, target: float, needed: Mapping[str, int]) -> list[str]:
    """In the given order, what fits into the target and leaves as many groups of each class as other sides need."""
    holders = Counter(label for group in groups for label in counts[group])
    taken: list[str] = []
    for group in groups:
        count = counts[group]
        if count.total() <= target and all(holders[label] > needed[label] for label in count):
            taken.append(group)
            target -= count.total()
            holders.subtract(count.keys())
    return taken


def _smallest(groups: Sequence[str], counts: Counts) -> list[str]:
    """A few of the smallest groups with a real video, and of those with a fake one, in the given order."""
    by_size = sorted(groups, key=lambda group: counts[group].total())
    per_label = FEW_GROUPS // len(LABELS)
    chosen = {group for label in LABELS for group in [group for group in by_size if counts[group][label]][:per_label]}
    return [group for group in groups if group in chosen]


def _best_way(
    pool: Sequence[str], counts: Counts, settled: Mapping[str, str], targets: Mapping[str, float]
) -> dict[str, str]:
    """Sides for the groups in the pool: the fewest classes missing, then the least distance from the targets."""
    start: dict[str, Counter[str]] = {side: Counter() for side in targets}
    for group, side in settled.items():
        start[side].update(counts[group])
    present = [label for label in LABELS if any(count[label] for count in counts.values())]

    def cost(way: Iterable[str]) -> tuple[int, float]:
        totals = {side: numbers.copy() for side, numbers in start.items()}
        for group, side in zip(pool, way, strict=True):
            totals[side].update(counts[group])
        missing = sum(not numbers[label] for numbers in totals.values() for label in present)
        return missing, sum(abs(numbers.total() - targets[side]) for side, numbers in totals.items())

    return dict(zip(pool, min(product(targets, repeat=len(pool)), key=cost), strict=True))


def _shortfall(videos: Sequence[VideoRow], sides: Sides, shares: Mapping[str, float]) -> tuple[int, int]:
    """How many classes are missing on a side, and how many sides have less than half of their share."""
    labels = {video.label for video in videos}
    there = {(side, video.label) for side, video in zip(sides, videos, strict=True)}
    sizes = Counter(side for side in sides if side is not None)
    missing = sum((side, label) not in there for side in shares for label in labels)
    return missing, sum(sizes[side] < share * sizes.total() / 2 for side, share in shares.items())


def _count(pairs: Iterable[tuple[str, VideoRow]]) -> Counts:
    counts: dict[str, Counter[str]] = {}
    for group, video in pairs:
        counts.setdefault(group, Counter())[str(video.label)] += 1
    return counts


def _roots(shares: Mapping[str, float]) -> dict[str, float]:
    total = sum(math.sqrt(share) for share in shares.values())
    return {side: math.sqrt(share) / total for side, share in shares.items()}


def _order(seed: int, attempt: int = 0) -> Callable[[str], str]:
    return lambda group: hash_group(f"{attempt}/{group}" if attempt else group, seed)
