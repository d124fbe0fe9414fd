"""Scores beside their labels, and several sources as one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from pipelines.errors import DatasetError
from pipelines.evaluation.clusters import name_clusters, number_clusters
from pipelines.evaluation.matching import match, name_of_score, with_copies
from pipelines.evaluation.scored import COLUMNS, NOT_SCORED, Integers, Scored, ScoredFaces, ScoredVideos, Texts
from pipelines.evaluation.sources import LabelledVideo, RawScores
from pipelines.records import LABELS, SPLITS

log = logging.getLogger(__name__)
TABLE_SUFFIXES = (".csv", ".json", ".parquet")


def choose_split(labelled: Sequence[LabelledVideo], split: str | None, default: str) -> str:
    """The side that is asked for, else the default one; `all` where no label names a side.

    Raises:
        DatasetError: the labels name sides, but not the default one.
    """
    named = {row.about.split for row in labelled if row.about.label}
    known = [side for side in SPLITS if side in named]
    if split or not known:
        return split or "all"
    if default not in known:
        raise DatasetError(
            f"the labels name the split{'s' if len(known) > 1 else ''} {', '.join(known)} but no {default}; "
            f"say which with --split {' or '.join([*known, 'all'])}"
        )
    return default


def join(scores: RawScores, labelled: Sequence[LabelledVideo], split: str = "all") -> Scored:
    """Every labelled video of the split (`all`, or a side) with its score.

    One that the scores do not know gets the status `not_scored`; scored videos without a label are left out, and counted
    in a warning.

    Raises:
        DatasetError: a name that fits several videos, two scores of one video, or nothing that fits.
    """
    scores, row_of = with_copies(scores, labelled, match(scores, labelled))
    wanted = np.array([row.about.label is not None and split in ("all", row.about.split) for row in labelled])
    position = np.cumsum(wanted) - 1
    video_of = np.array([position[row] if row >= 0 and wanted[row] else -1 for row in row_of], dtype=np.int64)
    if not (video_of >= 0).any():
        raise DatasetError(
            f"none of the {len(row_of)} scored videos of {scores.name} has a label"
            + ("" if split == "all" else f" of the split {split}")
            + f"; a score such as {name_of_score(scores, 0)!r} was looked for among labels such as {labelled[0].key!r}"
        )
    unlabelled = sum(row < 0 or labelled[row].about.label is None for row in row_of)
    if unlabelled:
        log.warning("%s: %d scored videos have no label and are left out", scores.name, unlabelled)
    videos = _make_videos(scores, labelled, wanted, video_of)
    return Scored(videos, _make_faces(scores, video_of), (scores.name,), scores.path or scores.name)


def merge(parts: Sequence[Scored]) -> Scored:
    """Several sources as one; videos whose labels name no data set go by the name of the source that scored them.

    Sources may share their labels: a video without a score in one of them is missing only if no other has scored it, and
    counts once. What is missing is counted in a warning.

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
    """The shortest ends of the paths that tell them apart, such as `dfdc/scores`; equal paths have equal names."""
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


def _without_table_suffix(path: str) -> str:
    return str(PurePath(path).with_suffix("")) if PurePath(path).suffix.lower() in TABLE_SUFFIXES else path


def _make_videos(
    scores: RawScores, labelled: Sequence[LabelledVideo], wanted: npt.NDArray[np.bool_], video_of: Integers
) -> ScoredVideos:
    rows = [row for row, is_wanted in zip(labelled, wanted, strict=True) if is_wanted]
    scope = labelled[0].file or scores.path or scores.name
    # of all labels: an original of another side still says who is in a fake
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


def _refuse_shared(parts: Sequence[Scored], sources: Sequence[str]) -> None:
    """Refuse a row of shared labels, or a content, that two parts have scored."""
    source_of: dict[str, str] = {}
    for part, source in zip(parts, sources, strict=True):
        told = part.videos.select(part.videos.statuses != NOT_SCORED)
        for key, names in zip(told.keys, zip(told.ids, told.digests, strict=True), strict=True):
            other = next((source_of[name] for name in names if name in source_of), None)
            if other is not None:
                raise DatasetError(
                    f"the video {key} is in more than one of the sources, {other} and {source}; measure them one by one"
                )
        source_of |= {name: source for name in (*told.ids, *told.digests) if name}


def _drop_scored_elsewhere(parts: Sequence[Scored]) -> list[Scored]:
    """Without what another part has scored, or an earlier one is missing too."""
    told = {name for part in parts for name in part.videos.ids[part.videos.statuses != NOT_SCORED]}
    kept = []
    for part in parts:
        is_missing = part.videos.statuses == NOT_SCORED
        wanted = np.array(
            [not missing or name not in told for name, missing in zip(part.videos.ids, is_missing, strict=True)]
        )
        told.update(part.videos.ids[wanted])
        kept.append(_select(part, wanted))
    return kept


def _select(part: Scored, wanted: npt.NDArray[np.bool_]) -> Scored:
    """The videos of a mask; the others have no faces."""
    faces = part.faces
    if faces is not None:
        faces = replace(faces, videos=np.cumsum(wanted)[faces.videos] - 1)
    return replace(part, videos=part.videos.select(wanted), faces=faces)


def _with_dataset(part: Scored, source: str) -> Scored:
    """Data sets and keys that do not meet those of another source."""
    videos = part.videos
    known = zip(videos.datasets, videos.statuses, strict=True)
    datasets = np.array([name or ("" if status == NOT_SCORED else source) for name, status in known], dtype=object)
    keys = np.array([f"{name}: {key}" for name, key in zip(datasets, videos.keys, strict=True)], dtype=object)
    return replace(part, videos=replace(videos, datasets=datasets, keys=keys))
