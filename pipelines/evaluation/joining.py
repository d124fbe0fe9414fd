"""Which score belongs to which label: by video_key, then path, then content; a bare name only where it is unique."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from pipelines.data.groups import group_videos
from pipelines.errors import DatasetError
from pipelines.evaluation.scored import Integers, Scored, ScoredFaces, ScoredVideos, Texts
from pipelines.evaluation.sources import LabelledVideo, RawScores, without_suffix
from pipelines.records import LABELS, VideoRow

log = logging.getLogger(__name__)
NOT_SCORED = "not_scored"


def choose_split(labelled: Sequence[LabelledVideo], split: str | None, default: str) -> str:
    """The side that is asked for, else the default one where the labels have it, else `all`."""
    return split or (default if any(row.about.split == default for row in labelled) else "all")


def join(scores: RawScores, labelled: Sequence[LabelledVideo], split: str = "all") -> Scored:
    """Every labelled video of the split (`all`, or a side) with its score.

    One that the scores do not know gets the status `not_scored`; scored videos without a label are left out, and counted
    in a warning.

    Raises:
        DatasetError: a name that fits several videos, two scores of one video, or nothing that fits.
    """
    scores, row_of = _with_copies(scores, labelled, _match(scores, labelled))
    wanted = [row.about.label is not None and split in ("all", row.about.split) for row in labelled]
    rows = [row for row, is_wanted in zip(labelled, wanted, strict=True) if is_wanted]
    position = np.cumsum(wanted) - 1
    video_of = np.array([position[row] if row >= 0 and wanted[row] else -1 for row in row_of], dtype=np.int64)
    if not (video_of >= 0).any():
        raise DatasetError(
            f"none of the {len(row_of)} scored videos of {scores.name} has a label"
            + ("" if split == "all" else f" of the split {split}")
            + f"; a score such as {_name(scores, 0)!r} was looked for among labels such as {labelled[0].key!r}"
        )
    unlabelled = sum(row < 0 or labelled[row].about.label is None for row in row_of)
    if unlabelled:
        log.warning("%s: %d scored videos have no label and are left out", scores.name, unlabelled)
    missing = len(rows) - len(set(video_of[video_of >= 0].tolist()))
    if missing:
        log.warning("%s: %d of %d labelled videos are not among the scores", scores.name, missing, len(rows))
    return Scored(_make_videos(scores, rows, video_of), _make_faces(scores, video_of), (scores.name,))


def merge(parts: Sequence[Scored]) -> Scored:
    """Several sources as one; videos whose labels name no data set go by the name of the source that scored them.

    Sources may share their labels: a video without a score in one of them is missing only if no other has scored it, and
    counts once.

    Raises:
        DatasetError: two sources have scored the same video.
    """
    if len(parts) == 1:
        return parts[0]
    named = [_with_dataset(part) for part in _drop_scored_elsewhere(parts)]
    counts = Counter(key for part in named for key in part.videos.keys)
    twice = [key for key, number in counts.items() if number > 1]
    if twice:
        raise DatasetError(f"the video {twice[0]} is in more than one of the sources; measure them one by one")
    offsets = np.cumsum([0, *(len(part.videos) for part in named)])
    columns = {
        name: np.concatenate([getattr(part.videos, name) for part in named])
        for name in ("keys", "labels", "probabilities", "statuses", "datasets", "methods", "compressions")
    }
    shifted = [part.videos.clusters + shift for part, shift in zip(named, _cluster_shifts(parts), strict=True)]
    thresholds = {part.videos.threshold for part in named}
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    videos = ScoredVideos(**columns, clusters=np.concatenate(shifted), threshold=threshold)
    faces = None
    if all(part.faces is not None for part in named):
        tables = [
            replace(part.faces, videos=part.faces.videos + offset)
            for part, offset in zip(named, offsets, strict=False)
            if part.faces is not None
        ]
        names = ("videos", "frames", "tracks", "areas", "probabilities")
        faces = ScoredFaces(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})
    return Scored(videos, faces, tuple(source for part in named for source in part.sources))


def _match(scores: RawScores, labelled: Sequence[LabelledVideo]) -> list[int]:
    """For each scored video the index of its label, -1 without."""
    by_name, by_key = _index([row.name for row in labelled]), _index([row.key for row in labelled])
    # a CSV may name a video_key as it is, and that may hold a dot
    ways = (by_name, by_key, by_name, _index([row.sha256 for row in labelled]))
    found = []
    for index, (video, key, digest) in enumerate(zip(scores.videos, scores.keys, scores.digests, strict=True)):
        names = (key, key or without_suffix(video), video, digest)
        matches = next((way[name] for way, name in zip(ways, names, strict=True) if name and name in way), [])
        found.append(_single(scores, labelled, index, matches))
    _refuse_two_scores(scores, labelled, found)
    by_bare_name = _index([_bare(row.name) for row in labelled])
    taken = set(found)
    for index, video in enumerate(scores.videos):
        if found[index] < 0:
            matches = by_bare_name.get(_bare(video), [])
            found[index] = -1 if taken.issuperset(matches) else _single(scores, labelled, index, matches)
    _refuse_two_scores(scores, labelled, found)
    return found


def _with_copies(
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


def _single(scores: RawScores, labelled: Sequence[LabelledVideo], index: int, matches: Sequence[int]) -> int:
    """The one label that fits a score, -1 if none does."""
    if len(matches) > 1:
        first, second = (labelled[match].name for match in matches[:2])
        raise DatasetError(
            f"{scores.name}: the score of {_name(scores, index)!r} could be that of {first!r} or of {second!r}; "
            "name the labels by video_key or path, as predict and index write them"
        )
    return matches[0] if matches else -1


def _refuse_two_scores(scores: RawScores, labelled: Sequence[LabelledVideo], found: Sequence[int]) -> None:
    taken: dict[int, int] = {}
    for index, row in enumerate(found):
        if row < 0:
            continue
        other = taken.setdefault(row, index)
        if other != index:
            raise DatasetError(
                f"{scores.name}: {_name(scores, other)!r} and {_name(scores, index)!r} both fit the label of "
                f"{labelled[row].name!r}; "
                "name the labels by video_key or path, as predict and index write them"
            )


def _name(scores: RawScores, index: int) -> str:
    return scores.keys[index] or scores.videos[index]


def _index(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if name:
            found.setdefault(name, []).append(index)
    return found


def _bare(name: str) -> str:
    """The file's own name without suffix."""
    return PurePath(without_suffix(name)).name


def _make_videos(scores: RawScores, rows: Sequence[LabelledVideo], video_of: Integers) -> ScoredVideos:
    probabilities = np.full(len(rows), np.nan)
    statuses = np.full(len(rows), NOT_SCORED, dtype=object)
    known = video_of >= 0
    probabilities[video_of[known]] = scores.probabilities[known]
    statuses[video_of[known]] = np.array(scores.statuses, dtype=object)[known]

    def column(name: str) -> Texts:
        return np.array([getattr(row.about, name) or "" for row in rows], dtype=object)

    return ScoredVideos(
        keys=np.array([row.key for row in rows], dtype=object),
        labels=np.array([LABELS.index(row.about.label) for row in rows], dtype=np.int64),
        probabilities=probabilities,
        statuses=statuses,
        clusters=_clusters(rows),
        datasets=column("dataset"),
        methods=column("method"),
        compressions=column("compression"),
        threshold=scores.threshold,
    )


def _clusters(rows: Sequence[LabelledVideo]) -> Integers:
    """By `group` if there is one, else by the first identity (a swap's is its target), else by original and content."""
    videos = [VideoRow(row.sha256[:16], row.sha256, row.key, row.name, **vars(row.about)) for row in rows]
    names = [
        f"group {video.group}" if video.group else f"person {video.identities[0]}" if video.identities else origin
        for video, origin in zip(videos, group_videos(videos), strict=True)
    ]
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)


def _make_faces(scores: RawScores, video_of: Integers) -> ScoredFaces | None:
    if scores.faces is None:
        return None
    faces = scores.faces
    rows, videos = [np.arange(len(faces.sources))], [video_of[faces.sources]]
    with_faces = dict.fromkeys(faces.sources.tolist())
    source_of = {scores.digests[index]: index for index in with_faces if scores.digests[index]}
    for index, digest in enumerate(scores.digests):
        if digest in source_of and index not in with_faces:  # a copy: its faces are read, or were scored, but once
            rows.append(np.flatnonzero(faces.sources == source_of[digest]))
            videos.append(np.full(len(rows[-1]), video_of[index]))
    row, video = np.concatenate(rows), np.concatenate(videos)
    chosen = row[video >= 0]
    return ScoredFaces(
        videos=video[video >= 0],
        frames=faces.frames[chosen],
        tracks=faces.tracks[chosen],
        areas=faces.areas[chosen],
        probabilities=faces.probabilities[chosen],
    )


def _cluster_shifts(parts: Sequence[Scored]) -> list[int]:
    """What is added to the clusters of each part: nothing where all have the same labels, and so the same clusters."""
    if all(np.array_equal(part.videos.keys, parts[0].videos.keys) for part in parts):
        return [0] * len(parts)
    return [int(shift) for shift in np.cumsum([0, *(part.videos.clusters.max() + 1 for part in parts[:-1])])]


def _drop_scored_elsewhere(parts: Sequence[Scored]) -> list[Scored]:
    """Without what another part has scored, or an earlier one is missing too."""
    told = {key for part in parts for key in part.videos.keys[part.videos.statuses != NOT_SCORED]}
    kept = []
    for part in parts:
        is_missing = part.videos.statuses == NOT_SCORED
        wanted = np.array(
            [not missing or key not in told for key, missing in zip(part.videos.keys, is_missing, strict=True)]
        )
        told.update(part.videos.keys[wanted])
        kept.append(_select(part, wanted))
    return kept


def _select(part: Scored, wanted: npt.NDArray[np.bool_]) -> Scored:
    """The videos of a mask; the others have no faces."""
    faces = part.faces
    if faces is not None:
        faces = replace(faces, videos=np.cumsum(wanted)[faces.videos] - 1)
    return replace(part, videos=part.videos.select(wanted), faces=faces)


def _with_dataset(part: Scored) -> Scored:
    """Data sets and keys that do not meet those of another source."""
    source = PurePath(part.sources[0]).stem if part.sources else ""
    videos = part.videos
    known = zip(videos.datasets, videos.statuses, strict=True)
    datasets = np.array([name or ("" if status == NOT_SCORED else source) for name, status in known], dtype=object)
    keys = np.array([f"{name}: {key}" for name, key in zip(datasets, videos.keys, strict=True)], dtype=object)
    return replace(part, videos=replace(videos, datasets=datasets, keys=keys))
