"""Which labelled videos are not independent: what a bootstrap draws together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.data.groups import group_videos
from pipelines.evaluation.scored import Integers, Texts
from pipelines.evaluation.sources import LabelledVideo
from pipelines.records import VideoRow


def name_clusters(labelled: Sequence[LabelledVideo], scope: str) -> list[str]:
    """The cluster of each video; equal names are one cluster in all sources.

    A fake, its original and their copies are a family, and never torn: it goes by the first `group` that one of it names,
    else by the first person (a swap's is its target), else by itself. Such names hold in their data set; where the labels
    tell of none, in the scope: what the labels, or the source, go by.
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
