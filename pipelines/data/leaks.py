"""Leaks: a content, an original with its fakes, a group or an identity in more than one split."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.data.groups import group_videos, people_in
from pipelines.data.split_assignment import is_usable
from pipelines.errors import LeakError
from pipelines.records import VideoRow

LeakKind = Literal["content", "original", "group", "identity"]
NAMES: Mapping[LeakKind, tuple[str, str]] = {
    "content": ("content", "contents"),
    "original": ("original", "originals"),
    "group": ("group", "groups"),
    "identity": ("identity", "identities"),
}
"""Singular and plural of each kind, the narrowest first."""
EXAMPLES = 2
"""Examples of each kind in a message."""


@dataclass(frozen=True)
class Leak:
    """One content, original, group or identity in several splits."""

    kind: LeakKind
    value: str
    """The content's SHA-256, the video_key of the original, or the name of the group or identity."""
    sides: tuple[str, ...]
    videos: tuple[tuple[str, ...], ...]
    """The video_keys in each of the `sides`."""

    def __str__(self) -> str:
        value = self.value[:12] if self.kind == "content" else repr(self.value)
        places = (f"{_shorten(names)} ({side})" for side, names in zip(self.sides, self.videos, strict=True))
        return f"{self.kind} {value}: {', '.join(places)}"


def find_leaks(sides: Mapping[str, Sequence[VideoRow]], *, others: Sequence[VideoRow] = ()) -> list[Leak]:
    """Contents, originals, groups and identities in two or more of the named splits.

    Each cause is reported once: copies of one content on two sides are not a leak of their original as well, and a fake and its
    original are not one of their group or identity, unless a further video takes part.

    Args:
        sides: rows of one manifest by the name of their split.
        others: its rows in no split. They may relate videos: an original that is left out, with its identity.
    """
    names = [name for name, videos in sides.items() for _ in videos]
    videos = [video for side in sides.values() for video in side]
    known = [*videos, *(video for video in others if is_usable(video))]
    groups = group_videos(known)
    people = people_in(known, groups)
    contents = [video.sha256 or video.video_key for video in videos]
    each = range(len(videos))
    return [
        *_find("content", [(video.sha256,) if video.sha256 else () for video in videos], each, names, videos),
        *_find("original", [(group,) for group in groups[: len(videos)]], contents, names, videos),
        *_find("group", [(video.group,) if video.group else () for video in videos], groups, names, videos),
        *_find("identity", people[: len(videos)], groups, names, videos),
    ]


def refuse_leaks(sides: Mapping[str, Sequence[VideoRow]], *, others: Sequence[VideoRow] = ()) -> None:
    """Stop before anything is trained or measured on sides that leak.

    Raises:
        LeakError: there is a leak; the message counts and names it.
    """
    leaks = find_leaks(sides, others=others)
    if not leaks:
        return
    of_kind = {kind: [leak for leak in leaks if leak.kind == kind] for kind in NAMES}
    counts = [f"{len(found)} {NAMES[kind][len(found) > 1]}" for kind, found in of_kind.items() if found]
    examples = [leak for found in of_kind.values() for leak in found[:EXAMPLES]]
    more = len(leaks) - len(examples)
    raise LeakError(
        f"{', '.join(counts)} on more than one side of {', '.join(sides)}: "
        f"{'; '.join(map(str, examples))}{f'; and {more} more' if more else ''}. "
        "Keep copies on one side only, and give videos of one original, group or identity the same split in the labels"
    )


def _find(
    kind: LeakKind,
    values_of: Sequence[Sequence[str]],
    cause_of: Sequence[Hashable],
    side_of: Sequence[str],
    videos: Sequence[VideoRow],
) -> Iterator[Leak]:
    """Values in several splits, except where all have one narrower cause, which is reported itself."""
    bearers: dict[str, list[int]] = {}
    for index, values in enumerate(values_of):
        for value in values:
            bearers.setdefault(value, []).append(index)
    for value, indices in bearers.items():
        on_side: dict[str, list[str]] = {}
        for index in indices:
            on_side.setdefault(side_of[index], []).append(videos[index].video_key)
        if len(on_side) > 1 and len({cause_of[index] for index in indices}) > 1:
            yield Leak(kind, value, tuple(on_side), tuple(tuple(keys) for keys in on_side.values()))


def _shorten(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
