"""What belongs together: copies, a fake and its original, the videos of one person or of one `group`."""

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
    """Who is seen in each video; one of which nothing is said may show anybody of its group (see `group_videos`)."""
    known: dict[str, dict[str, None]] = {}
    for video, group in zip(videos, groups, strict=True):
        known.setdefault(group, {}).update(dict.fromkeys(video.identities))
    return [video.identities or tuple(known[group]) for video, group in zip(videos, groups, strict=True)]


def ties_of(videos: Sequence[VideoRow], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """What else holds each video to others, beside its original: the people in it, and its `group`."""
    people = people_in(videos, groups)
    return [
        (*(f"identity:{person}" for person in seen), *([f"group:{video.group}"] if video.group else ()))
        for video, seen in zip(videos, people, strict=True)
    ]


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


def hash_group(group: str, seed: int) -> str:
    """What a group's place in a dealing is decided by: nothing but its name and the seed."""
    return hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).hexdigest()


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
