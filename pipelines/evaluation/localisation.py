"""How well a detector says where a face is forged: maps against true masks, per face, per video, part by part.

Map and mask are compared at the network's input size S: the map, of whatever size, is resized bilinearly, its outer samples
lying half a sample inside the edge. Marked is what is at or above a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.evaluation.bootstrap import Estimate, means_with_intervals
from pipelines.evaluation.measuring import Bootstrap, Part, parts_of, title_of
from pipelines.evaluation.scores import Floats, ScoredVideos
from pipelines.scoring.metrics import EVEN_THRESHOLD, roc_auc

MapKind = Literal["forgery map", "attention"]
MaskState = Literal["file", "difference", "unknown", "unreadable", "wrong_size", "uniform"]
THRESHOLDS: Floats = np.arange(1, 100) / 100
"""The grid on which the best threshold is sought."""
EVEN_PLACE = int(np.searchsorted(THRESHOLDS, EVEN_THRESHOLD))
FIGURES = ("pixel_auc", "iou", "best_iou", "pointing")
"""Of fakes."""
MARKED_REAL = "marked_real"
"""Of real faces."""
STATES: Mapping[MaskState, str] = {
    "file": "with a stored mask",
    "difference": "with the difference from their original as mask",
    "unknown": "without a known mask",
    "unreadable": "whose mask is missing or damaged",
    "wrong_size": "whose mask has another size than the face",
    "uniform": "whose mask covers nothing or everything that the network sees",
}
"""How fake faces are counted; those of the last four kinds are left out."""
COMPARED: tuple[MaskState, ...] = ("file", "difference")
Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FaceMatch:
    """How the map of one forged face agrees with its mask."""

    pixel_auc: float
    """Probability that a forged pixel has a larger value than a genuine one of the same face, ties counting half."""
    pointing: float
    """1 if the map's maximum lies in the mask, else 0; of several equal maxima the share that does."""
    ious: Floats
    """(T,) marked and forged pixels over marked or forged ones, at `THRESHOLDS`."""


def compare(forgery_map: Map, mask: Mask) -> FaceMatch:
    """The agreement of a map (h, w) in 0..1 with a mask (S, S) that covers some pixels, but not all."""
    values = resize_map(forgery_map, len(mask))
    return FaceMatch(
        pixel_auc=roc_auc(mask.ravel(), values.ravel()),
        pointing=float(mask[values == values.max()].mean()),
        ious=_measure_ious(values, mask),
    )


def marked_share(forgery_map: Map, size_px: int) -> float:
    """The share of a face's pixels at or above 0.5, of a map (h, w) resized to size_px."""
    return float((resize_map(forgery_map, size_px) >= EVEN_THRESHOLD).mean())


def resize_map(forgery_map: Map, size_px: int) -> Floats:
    """(size_px, size_px) from (h, w), bilinear."""
    resized = cv2.resize(forgery_map, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float64)


def _measure_ious(values: Floats, mask: Mask) -> Floats:
    """(T,) at `THRESHOLDS`; the mask must not be empty."""
    num_passed = np.searchsorted(THRESHOLDS, values, side="right")  # thresholds at or below each pixel's value
    marked, hits = (_count_at_least(passed) for passed in (num_passed.ravel(), num_passed[mask]))
    ious: Floats = hits / (marked + mask.sum() - hits)
    return ious


def _count_at_least(num_passed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(T,) how many pixels pass each threshold, from how many thresholds each pixel passes."""
    counts = np.bincount(num_passed, minlength=len(THRESHOLDS) + 1)
    return np.cumsum(counts[::-1])[::-1][1:]


@dataclass(frozen=True)
class Example:
    """A forged face for a picture."""

    face: Image
    """(S, S, 3): the network's input."""
    mask: Mask
    """(S, S)"""
    map: Map
    """(h, w)"""


@dataclass
class FoundFaces:
    """The compared faces of all sources, by `video_id`, and how many were left out."""

    fakes: dict[str, list[FaceMatch]] = field(default_factory=dict)
    reals: dict[str, list[float]] = field(default_factory=dict)
    """`marked_share` of each real face."""
    masks: dict[MaskState, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    """Fake faces by what is known of their mask."""
    first: dict[MaskState, str] = field(default_factory=dict)
    """The first face of each kind, for messages."""
    examples: list[Example] = field(default_factory=list)

    def count(self, state: MaskState, face: str) -> None:
        self.masks[state] += 1
        self.first.setdefault(state, face)


@dataclass(frozen=True)
class LocalisationRow:
    """What was measured on the faces of one part."""

    part: Part
    videos_fake: int
    """Videos with a compared face; likewise the others."""
    faces_fake: int
    videos_real: int
    faces_real: int
    figures: Mapping[str, Estimate]
    """`FIGURES` and `MARKED_REAL`: means over videos of means over their faces."""

    @property
    def title(self) -> str:
        """Such as `ffpp c23 FaceSwap`, or `all`."""
        return title_of(self.part)


@dataclass(frozen=True)
class Localisation:
    """How well forgeries were located."""

    kind: MapKind
    size_px: int
    """Side of the compared maps and masks."""
    best_threshold: float
    """One for all faces: that of the largest mean IoU on these very faces, the lowest of equals."""
    masks: Mapping[MaskState, int]
    first: Mapping[MaskState, str]
    """The first face of each kind."""
    rows: Sequence[LocalisationRow]
    """All faces first."""

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the figures."""
        notes = [
            f"localisation: the threshold {self.best_threshold:.2f} of the best IoU was chosen on these very faces, so that "
            "IoU is somewhat too high; its interval takes the threshold as given"
        ]
        if self.kind == "attention":
            notes.append(
                "localisation: this network has no forgery map. Its attention maps were compared instead, summed and divided "
                "by each face's maximum: they show where it looks, not what it takes for forged. Pixel AUC and pointing "
                "accuracy do not depend on that scale; figures at 0.5 are those of the scaled maps"
            )
        for state, what in STATES.items():
            if state not in COMPARED and self.masks[state]:
                total = sum(self.masks.values())
                notes.append(
                    f"localisation: {self.masks[state]} of {total} fake faces are left out, {what}, such as "
                    f"{self.first[state]}"
                )
        return notes

    def to_json(self) -> dict[str, Any]:
        """One flat object, with the parts as objects of the same form."""
        facts: dict[str, Any] = {
            "maps": self.kind,
            "size_px": self.size_px,
            "best_threshold": self.best_threshold,
        } | {f"masks.{state}": number for state, number in self.masks.items()}
        first, *others = (_row_json(row) for row in self.rows)
        return facts | first | {"parts": others}


def measure_localisation(
    videos: ScoredVideos, found: FoundFaces, kind: MapKind, size_px: int, bootstrap: Bootstrap
) -> Localisation:
    """All videos first, then the parts that have compared faces; `found` must have at least one compared fake face."""
    table = _average_faces(videos, found)
    ious = table.fakes[:, 2:]
    best = int(np.argmax(np.nanmean(ious, axis=0)))
    columns = np.column_stack([table.fakes[:, 0], ious[:, EVEN_PLACE], ious[:, best], table.fakes[:, 1]])
    rows = []
    for part, chosen in parts_of(videos):
        row = _measure_part(part, chosen, columns, table, videos, bootstrap)
        if row.faces_fake or (row.faces_real and part[2] is None):
            rows.append(row)
    return Localisation(kind, size_px, float(THRESHOLDS[best]), found.masks, found.first, rows)


@dataclass(frozen=True)
class _VideoMeans:
    """Means over the compared faces of N videos; NaN for videos without any."""

    fakes: Floats
    """(N, 2 + T): pixel AUC, pointing accuracy, IoU at `THRESHOLDS`."""
    reals: Floats
    """(N, 1): marked share."""
    num_faces: npt.NDArray[np.int64]
    """(N,)"""


def _average_faces(videos: ScoredVideos, found: FoundFaces) -> _VideoMeans:
    fakes = np.full((len(videos), 2 + len(THRESHOLDS)), np.nan)
    reals = np.full((len(videos), 1), np.nan)
    num_faces = np.zeros(len(videos), dtype=np.int64)
    for place, (digest, label) in enumerate(zip(videos.digests, videos.labels, strict=True)):
        video_id = str(digest)[:16]
        if label == 1 and video_id in found.fakes:
            faces = found.fakes[video_id]
            fakes[place] = np.mean([(face.pixel_auc, face.pointing, *face.ious) for face in faces], axis=0)
            num_faces[place] = len(faces)
        elif label == 0 and video_id in found.reals:
            reals[place] = np.mean(found.reals[video_id])
            num_faces[place] = len(found.reals[video_id])
    return _VideoMeans(fakes, reals, num_faces)


def _measure_part(
    part: Part, chosen: Mask, columns: Floats, table: _VideoMeans, videos: ScoredVideos, bootstrap: Bootstrap
) -> LocalisationRow:
    """`columns` (N, 4): the `FIGURES` of each video."""
    is_fake, is_real = (chosen & ~np.isnan(values[:, 0]) for values in (columns, table.reals))

    def estimate(values: Floats, is_wanted: Mask) -> Iterator[Estimate]:
        yield from means_with_intervals(
            values[is_wanted],
            videos.clusters[is_wanted],
            rounds=bootstrap.rounds,
            confidence=bootstrap.confidence,
            seed=bootstrap.seed,
        )

    figures = dict(zip(FIGURES, estimate(columns, is_fake), strict=True))
    (figures[MARKED_REAL],) = estimate(table.reals, is_real)
    return LocalisationRow(
        part=part,
        videos_fake=int(is_fake.sum()),
        faces_fake=int(table.num_faces[is_fake].sum()),
        videos_real=int(is_real.sum()),
        faces_real=int(table.num_faces[is_real].sum()),
        figures=figures,
    )


def _row_json(row: LocalisationRow) -> dict[str, Any]:
    dataset, compression, method = row.part
    facts: dict[str, Any] = {
        "dataset": dataset,
        "compression": compression,
        "method": method,
        "videos.fake": row.videos_fake,
        "videos.real": row.videos_real,
        "faces.fake": row.faces_fake,
        "faces.real": row.faces_real,
    }
    for name, estimate in row.figures.items():
        facts |= {name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
    return facts
