"""Which videos are for training and which for choosing, so that nobody and nothing stands on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath

from pipelines.errors import DatasetError
from pipelines.records import LABELS, VideoRow

FEW_GROUPS = 10
"""Of so many groups every choice is compared: 2**10."""
Counts = Mapping[str, Counter[str]]
"""How many videos of each label a group has."""


@dataclass(frozen=True)
class Split:
    """Every video on one side, in the order given."""

    train: list[VideoRow]
    val: list[VideoRow]
    test: list[VideoRow]
    """Labelled for a test by the manifest: never trained on, never used for choosing."""
    unused: list[VideoRow]
    """Without a label or a face, or without a split while something of theirs is held out."""


def split_videos(videos: Iterable[VideoRow], *, val_fraction: float, seed: int) -> Split:
    """Videos for training, validation and test; what is dealt here never separates what belongs together.

    What belongs together: copies of one content, a fake and its original, all fakes of one original, all videos of one
    identity, and all of one `group`. Splits of the manifest are kept where any video has one: a video without a split is
    then left out if something of its content, original, identities or group is held out for `val` or `test`.

    Without `val` in the manifest the groups of the training videos are dealt by a hash of the group and the seed, so a
    video that is added later hardly moves the others. `val_fraction` is a share of the groups; where identities or
    a `group` are known, and groups therefore may differ much in size, it is a share of the videos, met as nearly as the
    groups allow.

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
    _refuse_missing_class(train, val)
    used = {*train, *val, *test}
    return Split(train, val, test, [video for video in rows if video not in used])


def is_usable(video: VideoRow) -> bool:
    """Whether a network can learn from the video or be measured on it."""
    return video.status == "ok" and video.label is not None


def group_videos(videos: Sequence[VideoRow]) -> list[str]:
    """The group of each video, by name: a fake with the original it was made from, and copies of one content."""
    resolve = _make_resolver(video.video_key for video in videos)
    names = _Joined()
    for video in videos:
        if video.original:
            names.join(resolve(video.original), video.video_key)
    first_of_content: dict[str, str] = {}
    for video in videos:
        if video.sha256:
            names.join(first_of_content.setdefault(video.sha256, video.video_key), video.video_key)
    return [names.find(video.video_key) for video in videos]


def people_in(videos: Sequence[VideoRow], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Who is seen in each video; a fake of which nothing is said shows at least the person of its original."""
    known = {video.video_key: video.identities for video in videos}
    return [video.identities or known.get(group, ()) for video, group in zip(videos, groups, strict=True)]


def ties_of(videos: Sequence[VideoRow], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """What else holds each video to others, beside its original: the people in it, and its `group`."""
    people = people_in(videos, groups)
    return [
        (*(f"identity:{person}" for person in seen), *([f"group:{video.group}"] if video.group else ()))
        for video, seen in zip(videos, people, strict=True)
    ]


class _Joined:
    """Sets of names that grow together; each goes by one of its names."""

    def __init__(self) -> None:
        self._leads_to: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name that the set goes by."""
        while name in self._leads_to:
            above = self._leads_to[name]
            if above in self._leads_to:  # shorten the way for the next one
                self._leads_to[name] = self._leads_to[above]
            name = above
        return name

    def join(self, leader: str, name: str) -> None:
        """Both are of one set, which goes by what the leader's went by."""
        leader, name = self.find(leader), self.find(name)
        if leader != name:
            self._leads_to[name] = leader


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
    _refuse_single_group(counts)
    groups = sorted(counts, key=lambda group: hash_group(group, seed))
    if any(ties[video] for video in videos):
        chosen = _choose_by_videos(groups, counts, val_fraction)
    else:
        chosen = _choose_by_groups(groups, counts, val_fraction)
    train = [video for video in videos if group_of[video] not in chosen]
    return train, [video for video in videos if group_of[video] in chosen]


def join_ties(
    videos: Sequence[VideoRow], base_groups: Mapping[VideoRow, str], ties: Mapping[VideoRow, Sequence[str]]
) -> dict[VideoRow, str]:
    """Groups joined where they share a tie, named after the tie whose name comes first in the alphabet.

    Not after a video: many more may be added to a person without the group moving to the other side.
    """
    joined = _Joined()
    for video in videos:
        for tie in ties[video]:
            joined.join(tie, base_groups[video])
    name_of: dict[str, str] = {}
    for tie in sorted({tie for video in videos for tie in ties[video]}):
        name_of.setdefault(joined.find(tie), tie)
    leaders = {video: joined.find(base_groups[video]) for video in videos}
    return {video: name_of.get(leader, leader) for video, leader in leaders.items()}


def _refuse_missing_class(train: Sequence[VideoRow], val: Sequence[VideoRow]) -> None:
    for name, side in (("training", train), ("validation", val)):
        for label in LABELS:
            if not any(video.label == label for video in side):
                raise DatasetError(
                    f"no {label} video for {name} ({len(train)} training, {len(val)} validation videos); "
                    "add videos, raise --val-fraction, change --seed, or give splits in the labels"
                )


def _refuse_single_group(counts: Counts) -> None:
    for label in LABELS:
        holders = [count for count in counts.values() if count[label]]
        if len(holders) == 1 and holders[0][label] > 1:
            raise DatasetError(
                f"all {holders[0][label]} {label} videos belong to one group, joined by originals, people, `group` or copies, "
                "so none can be held out for validation; add videos of others, or give some the split val in the labels: "
                "what has no split and shares any of these with them is then left out"
            )


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


def hash_group(group: str, seed: int) -> str:
    """What a group's place in a dealing is decided by: nothing but its name and the seed."""
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).hexdigest()
