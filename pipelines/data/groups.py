"""Which videos are related: copies, a fake and its original, videos of one identity or of one `group`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath

from pipelines.records import VideoRow

Counts = Mapping[str, Counter[str]]
"""How many videos of each label a group has."""


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
    """The identities in each video; one without known identities may show any of its group (see `group_videos`)."""
    known: dict[str, dict[str, None]] = {}
    for video, group in zip(videos, groups, strict=True):
        known.setdefault(group, {}).update(dict.fromkeys(video.identities))
    return [video.identities or tuple(known[group]) for video, group in zip(videos, groups, strict=True)]


def ties_of(videos: Sequence[VideoRow], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """What relates each video to others in addition to its original: its identities, and its `group`."""
    people = people_in(videos, groups)
    return [
        (*(f"identity:{person}" for person in seen), *([f"group:{video.group}"] if video.group else ()))
        for video, seen in zip(videos, people, strict=True)
    ]


def join_ties(
    videos: Sequence[VideoRow], base_groups: Mapping[VideoRow, str], ties: Mapping[VideoRow, Sequence[str]]
) -> dict[VideoRow, str]:
    """Groups merged where they share a tie, named after their alphabetically first tie.

    Not after a video, so that videos of an identity can be added without moving its group to another split.
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


def hash_group(group: str, seed: int) -> str:
    """The sort key of a group; it depends only on its name and the seed."""
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).hexdigest()


class _Joined:
    """Disjoint sets of names (union-find); each is represented by one of its names."""

    def __init__(self) -> None:
        self._leads_to: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The representative of the name's set."""
        while name in self._leads_to:
            above = self._leads_to[name]
            if above in self._leads_to:  # path compression
                self._leads_to[name] = self._leads_to[above]
            name = above
        return name

    def join(self, leader: str, name: str) -> None:
        """Merge two sets; the leader's representative is kept."""
        leader, name = self.find(leader), self.find(name)
        if leader != name:
            self._leads_to[name] = leader


def _make_resolver(keys: Iterable[str]) -> Callable[[str], str]:
    """Maps an original as named in a labels file (key, path or file name, with or without suffix) to its key."""
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
