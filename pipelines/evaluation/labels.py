"""Labels of videos: where they come from, which split is measured, and which videos are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from pipelines.data.groups import group_videos
from pipelines.errors import DatasetError
from pipelines.evaluation.scores import Integers, LabelledVideo, RawScores, Texts
from pipelines.records import SPLITS, VideoRow, table_to_rows
from pipelines.workspace.labels import VideoLabel, label_and_split_in, read_label_rows, slashed
from pipelines.workspace.manifest import read_table


def read_labelled(path: Path) -> list[LabelledVideo]:
    """The rows of a labels CSV, equal ones once, or of a videos manifest.

    Raises:
        DatasetError: no readable CSV, an unknown label, a video labelled twice, or no rows.
        ManifestError: no manifest.
    """
    if path.suffix.lower() == ".parquet":
        rows = [describe_row(row) for row in table_to_rows(read_table(path, VideoRow), VideoRow)]
        found = [replace(row, file=str(path)) for row in rows]
    else:
        about_of = _labels_by_video(path)
        found = [
            LabelledVideo(video, without_suffix(video), about, file=str(path)) for video, about in about_of.items()
        ]
    if not found:
        raise DatasetError(f"{path} holds no rows; name the videos and their labels in it")
    return found


def describe_row(row: VideoRow) -> LabelledVideo:
    """A row of a manifest as a labelled video."""
    return LabelledVideo(row.path, row.video_key, VideoLabel.of(row), row.sha256)


def labels_from_folders(scores: RawScores) -> list[LabelledVideo]:
    """Labels and splits of the scored videos from folders named real, fake, train, val and test.

    Raises:
        DatasetError: no folder is named so.
    """
    found: dict[LabelledVideo, None] = {}
    for video, key, digest in zip(scores.videos, scores.keys, scores.digests, strict=True):
        label, split = label_and_split_in(PurePath(slashed(video)).parent)
        if label:
            found[LabelledVideo(video, key or video, VideoLabel(label, split), digest)] = None
    if not found:
        raise DatasetError(
            f"{scores.name}: nothing says which videos are real; pass --labels with a CSV (video,label) or the "
            "videos.parquet of a stage"
        )
    return list(found)


def without_suffix(name: str) -> str:
    """A path as a video_key is made from it."""
    path = PurePath(name)
    return path.with_suffix("").as_posix() if path.name else name


def choose_split(labelled: Sequence[LabelledVideo], split: str | None, default: str) -> str:
    """The requested split, else the default one; `all` if no label names a split.

    Raises:
        DatasetError: the labels name splits, but not the default one.
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


def name_clusters(labelled: Sequence[LabelledVideo], scope: str) -> list[str]:
    """The cluster of each video; equal names are the same cluster in all sources.

    A fake, its original and their copies are one family. It is named by the first `group` of its members,
    else by the first person (of a swap: the target), else by itself. Such names are unique in their dataset or, if the labels
    name none, in the scope: the labels file, or the source.
    """
    videos = [VideoRow(row.sha256[:16], row.sha256, row.key, row.name, **vars(row.about)) for row in labelled]
    families = group_videos(videos)
    group_of: dict[str, str] = {}
    person_of: dict[str, str] = {}
    itself: dict[str, str] = {}
    for video, family in zip(videos, families, strict=True):
        place = video.dataset or scope
        if video.group:
            group_of.setdefault(family, f"{place}: group {video.group}")
        if video.identities:
            person_of.setdefault(family, f"{place}: person {video.identities[0]}")
        itself.setdefault(family, f"{place}: {family}")
    name_of = itself | person_of | group_of
    return [name_of[family] for family in families]


def number_clusters(names: Texts) -> Integers:
    """The names as numbers from 0."""
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _labels_by_video(path: Path) -> dict[str, VideoLabel]:
    """The labels of a CSV, by video."""
    about_of: dict[str, VideoLabel] = {}
    for video, about in read_label_rows(path):
        if not video and about.label:
            raise DatasetError(f"{path} has a label without a video; name the video, or remove the row")
        if about_of.setdefault(video, about) != about:
            raise DatasetError(f"{path}: {video!r} is labelled twice, differently; keep one row")
    return about_of
