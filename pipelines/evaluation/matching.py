"""Which score belongs to which label: by video_key, then path, then content; a bare name only where it is unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from pipelines.errors import DatasetError
from pipelines.evaluation.sources import LabelledVideo, RawScores, without_suffix
from pipelines.workspace.labels import slashed

Index = Mapping[str, Sequence[int]]


def match(scores: RawScores, labelled: Sequence[LabelledVideo]) -> list[int]:
    """For each scored video the index of its label, -1 without.

    Raises:
        DatasetError: a name that fits several labels, or two scores of one label.
    """
    found, copies = _match_exactly(scores, labelled)
    taken = set(found)
    for index, matches in copies.items():
        found[index] = next((row for row in matches if row not in taken), -1)
        taken.add(found[index])
    _refuse_two_scores(scores, labelled, found)
    by_bare_name = _index([_bare(row.name) for row in labelled])
    for index, video in enumerate(scores.videos):
        if found[index] < 0:
            matches = by_bare_name.get(_bare(video), [])
            found[index] = -1 if taken.issuperset(matches) else _single(scores, labelled, index, matches)
    _refuse_two_scores(scores, labelled, found)
    return found


def with_copies(
    scores: RawScores, labelled: Sequence[LabelledVideo], row_of: Sequence[int]
) -> tuple[RawScores, list[int]]:
    """With the labelled copies of a scored content that the scores do not name: details keep one file for all of them."""
    scored = {digest: index for index, digest in enumerate(scores.digests) if digest}
    known = set(row_of)
    added = [row for row, video in enumerate(labelled) if row not in known and video.sha256 in scored]
    of_added = [scored[labelled[row].sha256] for row in added]
    extended = replace(
        scores,
        videos=[*scores.videos, *(labelled[row].name for row in added)],
        keys=[*scores.keys, *(labelled[row].key for row in added)],
        digests=[*scores.digests, *(labelled[row].sha256 for row in added)],
        statuses=[*scores.statuses, *(scores.statuses[index] for index in of_added)],
        probabilities=np.append(scores.probabilities, scores.probabilities[of_added])
        if added
        else scores.probabilities,
    )
    return extended, [*row_of, *added]


def name_of_score(scores: RawScores, index: int) -> str:
    """What a message calls it."""
    return scores.keys[index] or scores.videos[index]


def _match_exactly(scores: RawScores, labelled: Sequence[LabelledVideo]) -> tuple[list[int], dict[int, Sequence[int]]]:
    """The labels by key, path and content, and those of the scores that fit several copies alike."""
    by_name, by_key = _index([row.name for row in labelled]), _index([row.key for row in labelled])
    by_digest = _index([row.sha256 for row in labelled])
    counts = Counter(scores.keys)
    found: list[int] = []
    copies: dict[int, Sequence[int]] = {}
    for index, digest in enumerate(scores.digests):
        video, key = slashed(scores.videos[index]), slashed(scores.keys[index])
        # a CSV may name a video_key as it is, and that may hold a dot
        ways = [(by_name, key), (by_key, key or without_suffix(video)), (by_name, video), (by_digest, digest)]
        if key and counts[scores.keys[index]] > 1:  # runs that were put together: the path says more than the key
            ways.insert(0, ways[2])
        matches = _first_certain(ways)
        if _are_copies(labelled, matches):
            copies[index] = matches
            matches = []
        found.append(_single(scores, labelled, index, matches))
    return found, copies


def _first_certain(ways: Sequence[tuple[Index, str]]) -> Sequence[int]:
    """What fits by the first way that leaves no choice; else by the first that fits at all."""
    fitting = [way[name] for way, name in ways if name in way]
    return next((matches for matches in fitting if len(matches) == 1), fitting[0] if fitting else [])


def _are_copies(labelled: Sequence[LabelledVideo], matches: Sequence[int]) -> bool:
    """Several labels of one content that say the same."""
    if len(matches) < 2:
        return False
    said = {(labelled[row].sha256, labelled[row].about.label, labelled[row].about.split) for row in matches}
    return len(said) == 1 and bool(labelled[matches[0]].sha256)


def _single(scores: RawScores, labelled: Sequence[LabelledVideo], index: int, matches: Sequence[int]) -> int:
    """The one label that fits a score, -1 if none does."""
    if len(matches) > 1:
        first, second = (labelled[match].name for match in matches[:2])
        raise DatasetError(
            f"{scores.name}: the score of {name_of_score(scores, index)!r} could be that of {first!r} or of {second!r}; "
            "name the labels by video_key or path, as predict and index write them"
        )
    return matches[0] if matches else -1


def _refuse_two_scores(scores: RawScores, labelled: Sequence[LabelledVideo], found: Sequence[int]) -> None:
    taken: dict[int, int] = {}
    for index, row in enumerate(found):
        if row < 0:
            continue
        other = taken.setdefault(row, index)
        if other == index:
            continue
        if (scores.videos[other], scores.keys[other]) == (scores.videos[index], scores.keys[index]):
            raise DatasetError(f"{scores.name}: {name_of_score(scores, index)!r} is scored twice; keep one row")
        raise DatasetError(
            f"{scores.name}: {name_of_score(scores, other)!r} and {name_of_score(scores, index)!r} both fit the label of "
            f"{labelled[row].name!r}; name the labels by video_key or path, as predict and index write them"
        )


def _index(names: Sequence[str]) -> dict[str, list[int]]:
    """Where each name stands, as it is matched."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(map(slashed, names)):
        if name:
            found.setdefault(name, []).append(index)
    return found


def _bare(name: str) -> str:
    """The file's own name without suffix."""
    return PurePath(without_suffix(slashed(name))).name
