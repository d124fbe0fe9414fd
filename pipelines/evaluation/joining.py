"""Scores with their labels, and several sources as one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from pipelines.errors import DatasetError
from pipelines.evaluation.labels import name_clusters, number_clusters, without_suffix
from pipelines.evaluation.scores import (
    COLUMNS,
    NOT_SCORED,
    Integers,
    LabelledVideo,
    RawScores,
    Scored,
    ScoredFaces,
    ScoredVideos,
    Texts,
)
from pipelines.records import LABELS
from pipelines.workspace.labels import slashed

log = logging.getLogger(__name__)
TABLE_SUFFIXES = (".csv", ".json", ".parquet")
Index = Mapping[tuple[str, str], Sequence[int]]
"""Rows of the labels by kind of name (`path`, `key`, `content`, `bare`) and name."""


def join(scores: RawScores, labelled: Sequence[LabelledVideo], split: str = "all") -> Scored:
    """Every labelled video of the split (or of `all`) with its score.

    Labelled videos without a score get the status `not_scored`; scored videos without a label are left out and counted in
    a warning.

    Raises:
        DatasetError: a name that fits several videos, two scores of one video, or nothing that fits.
    """
    scores, row_of = _with_copies(scores, labelled, match(scores, labelled))
    wanted = np.array([row.about.label is not None and split in ("all", row.about.split) for row in labelled])
    position = np.cumsum(wanted) - 1
    video_of = np.array([position[row] if row >= 0 and wanted[row] else -1 for row in row_of], dtype=np.int64)
    if not (video_of >= 0).any():
        raise DatasetError(
            f"none of the {len(row_of)} scored videos of {scores.name} has a label"
            + ("" if split == "all" else f" of the split {split}")
            + f"; a score such as {_name_of_score(scores, 0)!r} was looked for among labels such as {labelled[0].key!r}"
        )
    unlabelled = sum(row < 0 or labelled[row].about.label is None for row in row_of)
    if unlabelled:
        log.warning("%s: %d scored videos have no label and are left out", scores.name, unlabelled)
    videos = _make_videos(scores, labelled, wanted, video_of)
    return Scored(videos, _make_faces(scores, video_of), (scores.name,), scores.path or scores.name)


def merge(parts: Sequence[Scored]) -> Scored:
    """Several sources as one; videos whose labels name no dataset get the name of the source that scored them.

    Sources may share labels: a video is missing only if no source has scored it, and it counts once. A warning gives the
    number of missing videos.

    Raises:
        DatasetError: two sources have scored the same video.
    """
    merged = parts[0] if len(parts) == 1 else _merge(parts)
    missing = int((merged.videos.statuses == NOT_SCORED).sum())
    if missing:
        names = ", ".join(merged.sources)
        log.warning("%s: %d of %d labelled videos are not among the scores", names, missing, len(merged.videos))
    return merged


def _merge(parts: Sequence[Scored]) -> Scored:
    names = name_sources([part.path for part in parts])
    _refuse_shared(parts, names)
    named = [_with_dataset(part, name) for part, name in zip(_drop_scored_elsewhere(parts), names, strict=True)]
    offsets = np.cumsum([0, *(len(part.videos) for part in named)])
    columns = {name: np.concatenate([getattr(part.videos, name) for part in named]) for name in COLUMNS}
    columns["clusters"] = number_clusters(columns["cluster_names"])
    thresholds = {part.videos.threshold for part in named}
    videos = ScoredVideos(**columns, threshold=thresholds.pop() if len(thresholds) == 1 else None)
    faces = None
    if all(part.faces is not None for part in named):
        tables = [
            replace(part.faces, videos=part.faces.videos + offset)
            for part, offset in zip(named, offsets, strict=False)
            if part.faces is not None
        ]
        fields = ("videos", "frames", "tracks", "areas", "probabilities")
        faces = ScoredFaces(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in fields})
    return Scored(videos, faces, tuple(source for part in named for source in part.sources))


def name_sources(paths: Sequence[str]) -> list[str]:
    """The shortest unique ends of the paths, such as `dfdc/scores`; equal paths have equal names."""
    bare = [_without_table_suffix(path) for path in paths]
    if len(set(bare)) < len(set(paths)):
        bare = list(paths)
    parts_of = {path: PurePath(path).parts for path in bare}
    names = {}
    for path, parts in parts_of.items():
        others = [other for name, other in parts_of.items() if name != path]
        length = 1
        while length < len(parts) and any(other[-length:] == parts[-length:] for other in others):
            length += 1
        names[path] = PurePath(*parts[-length:]).as_posix()
    return [names[path] for path in bare]


def match(scores: RawScores, labelled: Sequence[LabelledVideo]) -> list[int]:
    """For each scored video the row of its label, -1 without: by video_key, path or content, else by a unique bare name.

    Raises:
        DatasetError: a name that fits several labels, or two scores of one label.
    """
    index = _index(labelled)
    counts = Counter(scores.keys)
    found: list[int] = []
    copies: dict[int, Sequence[int]] = {}
    for position, digest in enumerate(scores.digests):
        video, key = slashed(scores.videos[position]), slashed(scores.keys[position])
        # a CSV may name a video_key as it is, and that may contain a dot
        names = [("path", key), ("key", key or without_suffix(video)), ("path", video), ("content", digest)]
        if key and counts[scores.keys[position]] > 1:  # merged runs: the path says more than the key
            names.insert(0, names[2])
        rows = _first_certain(index, names)
        if _are_copies(labelled, rows):
            copies[position] = rows
            rows = []
        found.append(_single(scores, labelled, position, rows))
    taken = set(found)
    for position, rows in copies.items():
        found[position] = next((row for row in rows if row not in taken), -1)
        taken.add(found[position])
    _refuse_two_scores(scores, labelled, found)
    for position, video in enumerate(scores.videos):
        if found[position] < 0:
            rows = index.get(("bare", _bare(video)), [])
            found[position] = -1 if taken.issuperset(rows) else _single(scores, labelled, position, rows)
    _refuse_two_scores(scores, labelled, found)
    return found


def _index(labelled: Sequence[LabelledVideo]) -> Index:
    index: dict[tuple[str, str], list[int]] = {}
    for row, video in enumerate(labelled):
        names = (("path", video.name), ("key", video.key), ("content", video.sha256), ("bare", _bare(video.name)))
        for kind, name in names:
            if name:
                index.setdefault((kind, slashed(name)), []).append(row)
    return index


def _bare(name: str) -> str:
    """The file name without folder and suffix."""
    return PurePath(without_suffix(slashed(name))).name


def _first_certain(index: Index, names: Sequence[tuple[str, str]]) -> Sequence[int]:
    """The rows of the first name that has only one row; else of the first name that has any."""
    fitting = [index[name] for name in names if name in index]
    return next((rows for rows in fitting if len(rows) == 1), fitting[0] if fitting else [])


def _are_copies(labelled: Sequence[LabelledVideo], rows: Sequence[int]) -> bool:
    """Several labels of one content that say the same."""
    if len(rows) < 2:
        return False
    said = {(labelled[row].sha256, labelled[row].about.label, labelled[row].about.split) for row in rows}
    return len(said) == 1 and bool(labelled[rows[0]].sha256)


def _single(scores: RawScores, labelled: Sequence[LabelledVideo], index: int, rows: Sequence[int]) -> int:
    """The one label that fits a score, -1 if none does."""
    if len(rows) > 1:
        first, second = (labelled[row].name for row in rows[:2])
        raise DatasetError(
            f"{scores.name}: the score of {_name_of_score(scores, index)!r} could be that of {first!r} or of {second!r}; "
            "name the labels by video_key or path, as predict and index write them"
        )
    return rows[0] if rows else -1


def _refuse_two_scores(scores: RawScores, labelled: Sequence[LabelledVideo], found: Sequence[int]) -> None:
    taken: dict[int, int] = {}
    for index, row in enumerate(found):
        if row < 0:
            continue
        other = taken.setdefault(row, index)
        if other == index:
            continue
        if (scores.videos[other], scores.keys[other]) == (scores.videos[index], scores.keys[index]):
            raise DatasetError(f"{scores.name}: {_name_of_score(scores, index)!r} is scored twice; keep one row")
        raise DatasetError(
            f"{scores.name}: {_name_of_score(scores, other)!r} and {_name_of_score(scores, index)!r} both fit the label of "
            f"{labelled[row].name!r}; name the labels by video_key or path, as predict and index write them"
        )


def _with_copies(
    scores: RawScores, labelled: Sequence[LabelledVideo], row_of: Sequence[int]
) -> tuple[RawScores, list[int]]:
    """Add labelled copies of scored content that the scores do not name: details keep one file for all copies."""
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


def _name_of_score(scores: RawScores, index: int) -> str:
    """The name of a score in messages."""
    return scores.keys[index] or scores.videos[index]


def _without_table_suffix(path: str) -> str:
    return str(PurePath(path).with_suffix("")) if PurePath(path).suffix.lower() in TABLE_SUFFIXES else path


def _make_videos(
    scores: RawScores, labelled: Sequence[LabelledVideo], wanted: npt.NDArray[np.bool_], video_of: Integers
) -> ScoredVideos:
    rows = [row for row, is_wanted in zip(labelled, wanted, strict=True) if is_wanted]
    scope = labelled[0].file or scores.path or scores.name
    # of all labels: an original in another split still says who is in a fake
    cluster_names = np.array(name_clusters(labelled, scope), dtype=object)[wanted]
    probabilities = np.full(len(rows), np.nan)
    statuses = np.full(len(rows), NOT_SCORED, dtype=object)
    digests = np.array([row.sha256 for row in rows], dtype=object)
    known = video_of >= 0
    probabilities[video_of[known]] = scores.probabilities[known]
    statuses[video_of[known]] = np.array(scores.statuses, dtype=object)[known]
    scored_digests = np.array(scores.digests, dtype=object)
    has_digest = known & (scored_digests != "")
    digests[video_of[has_digest]] = scored_digests[has_digest]

    def column(name: str) -> Texts:
        return np.array([getattr(row.about, name) or "" for row in rows], dtype=object)

    return ScoredVideos(
        keys=np.array([row.key for row in rows], dtype=object),
        ids=np.array([_identify(row, scope) for row in rows], dtype=object),
        digests=digests,
        labels=np.array([LABELS.index(row.about.label) for row in rows], dtype=np.int64),
        probabilities=probabilities,
        statuses=statuses,
        cluster_names=cluster_names,
        clusters=number_clusters(cluster_names),
        datasets=column("dataset"),
        methods=column("method"),
        compressions=column("compression"),
        threshold=scores.threshold,
    )


def _identify(row: LabelledVideo, scope: str) -> str:
    """See `ScoredVideos.ids`."""
    if row.file:
        return f"{row.file}: {row.name} {row.key}"
    return f"{row.about.dataset or scope}: {row.key} {row.sha256}"


def _make_faces(scores: RawScores, video_of: Integers) -> ScoredFaces | None:
    if scores.faces is None:
        return None
    faces = scores.faces
    rows, videos = [np.arange(len(faces.sources))], [video_of[faces.sources]]
    with_faces = dict.fromkeys(faces.sources.tolist())
    source_of = {scores.digests[index]: index for index in with_faces if scores.digests[index]}
    for index, digest in enumerate(scores.digests):
        if digest in source_of and index not in with_faces:  # a copy: its faces are listed only once
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


def _refuse_shared(parts: Sequence[Scored], sources: Sequence[str]) -> None:
    """Refuse a row of shared labels, or equal content, that two parts have scored."""
    source_of: dict[str, str] = {}
    for part, source in zip(parts, sources, strict=True):
        known = part.videos.select(part.videos.statuses != NOT_SCORED)
        for key, names in zip(known.keys, zip(known.ids, known.digests, strict=True), strict=True):
            other = next((source_of[name] for name in names if name in source_of), None)
            if other is not None:
                raise DatasetError(
                    f"the video {key} is in more than one of the sources, {other} and {source}; measure them one by one"
                )
        source_of |= {name: source for name in (*known.ids, *known.digests) if name}


def _drop_scored_elsewhere(parts: Sequence[Scored]) -> list[Scored]:
    """Without missing videos that another part has scored, or that an earlier part lists as missing too."""
    known = {name for part in parts for name in part.videos.ids[part.videos.statuses != NOT_SCORED]}
    kept = []
    for part in parts:
        is_missing = part.videos.statuses == NOT_SCORED
        wanted = np.array(
            [not missing or name not in known for name, missing in zip(part.videos.ids, is_missing, strict=True)]
        )
        known.update(part.videos.ids[wanted])
        kept.append(_select(part, wanted))
    return kept


def _select(part: Scored, wanted: npt.NDArray[np.bool_]) -> Scored:
    """The videos of a mask; the others have no faces."""
    faces = part.faces
    if faces is not None:
        faces = replace(faces, videos=np.cumsum(wanted)[faces.videos] - 1)
    return replace(part, videos=part.videos.select(wanted), faces=faces)


def _with_dataset(part: Scored, source: str) -> Scored:
    """Datasets and keys that differ from those of every other source."""
    videos = part.videos
    known = zip(videos.datasets, videos.statuses, strict=True)
    datasets = np.array([name or ("" if status == NOT_SCORED else source) for name, status in known], dtype=object)
    keys = np.array([f"{name}: {key}" for name, key in zip(datasets, videos.keys, strict=True)], dtype=object)
    return replace(part, videos=replace(videos, datasets=datasets, keys=keys))
