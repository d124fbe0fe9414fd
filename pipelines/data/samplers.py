"""Samplers: the faces of an epoch in order, half real and half fake, each video in turn, or fakes paired with originals."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import numpy as np

from pipelines.data.faces import Face
from pipelines.errors import DatasetError


def draw_blended(count: int, share: float, rng: np.random.Generator) -> frozenset[int]:
    """The positions of self-blends: a random `share` of the fakes' positions 1, 3, 5, … below `count`."""
    places = np.arange(1, count, 2)
    return frozenset(rng.permutation(places)[: round(share * len(places))].tolist())


def draw_balanced(
    faces: Sequence[Face], count: int, rng: np.random.Generator, blended: Container[int] = frozenset()
) -> list[int]:
    """Indices of `count` faces, real and fake alternating; every video of a class is used once before any is repeated.

    A video's face is sampled each time, so videos with many faces do not outweigh others. The positions `blended` repeat
    the real face of the position before.

    Raises:
        DatasetError: a class that is needed has no face.
    """
    by_class: list[dict[str, list[int]]] = [{}, {}]
    for index, face in enumerate(faces):
        by_class[face.label].setdefault(face.video_id, []).append(index)
    needed = {position % 2 for position in range(count) if position not in blended}
    if not all(by_class[label] for label in needed):
        raise DatasetError("one class has no faces to train on; add videos of it")
    streams = [_endless_faces(list(videos.values()), rng) for videos in by_class]
    order: list[int] = []
    for position in range(count):
        order.append(order[-1] if position in blended else next(streams[position % 2]))
    return order


def draw_pairs(
    faces: Sequence[Face], count: int, rng: np.random.Generator, blended: Container[int] = frozenset()
) -> list[int]:
    """Like `draw_balanced`, but each fake is preceded by a real face of its group (its original), where there is one.

    Both show the same person, room and light; only the forgery differs. Each fake video is used once before any is repeated;
    a real video is used as often as its fakes are. For fakes without an original, and for self-blends, real videos alternate
    as in `draw_balanced`.

    Raises:
        DatasetError: a class that is needed has no face.
    """
    balanced = draw_balanced(faces, count, rng, blended)
    originals: dict[str, list[int]] = {}
    for index, face in enumerate(faces):
        if face.label == 0 and face.group is not None:
            originals.setdefault(face.group, []).append(index)
    for position in range(1, count, 2):
        group = faces[balanced[position]].group
        if position not in blended and group in originals:
            balanced[position - 1] = int(rng.choice(originals[group]))
    return balanced


def _endless_faces(videos: list[list[int]], rng: np.random.Generator) -> Iterator[int]:
    while True:
        for video in rng.permutation(len(videos)):
            faces = videos[video]
            yield faces[int(rng.integers(len(faces)))]
