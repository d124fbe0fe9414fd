"""Figures of localisation on maps and masks that are small enough to be counted by hand."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from pipelines.evaluation.bootstrap import means_with_intervals
from pipelines.evaluation.localisation import (
    EVEN_PLACE,
    THRESHOLDS,
    FaceMatch,
    FoundFaces,
    Localisation,
    compare,
    marked_share,
    measure_localisation,
    resize_map,
)
from pipelines.evaluation.measuring import Bootstrap
from pipelines.evaluation.scores import ScoredVideos

NO_INTERVALS = Bootstrap(rounds=0)
Array = npt.NDArray[Any]


def _map(*rows: list[float]) -> npt.NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def _mask(*rows: list[int]) -> npt.NDArray[np.bool_]:
    return np.array(rows, dtype=bool)


def test_the_grid_of_thresholds_holds_the_even_one() -> None:
    assert THRESHOLDS[EVEN_PLACE] == 0.5 and len(THRESHOLDS) == 99


def test_figures_of_a_map_that_is_counted_by_hand() -> None:
    """Forged: 0.9, 0.5, 0.2; genuine: 0.5, 0.9 and four of 0.1."""
    found = compare(_map([0.9, 0.5, 0.1], [0.2, 0.5, 0.1], [0.9, 0.1, 0.1]), _mask([1, 1, 0], [1, 0, 0], [0, 0, 0]))
    # of 3 x 6 pairs: 0.9 wins 5 and ties 1, 0.5 wins 4, ties 1 and loses 1, 0.2 wins 4 and loses 2
    assert found.pixel_auc == pytest.approx((5 + 0.5 + 4 + 0.5 + 4) / 18)
    assert found.pointing == 0.5  # one of the two maxima lies in the mask
    # at 0.5 the marked are 0.9, 0.5, 0.5, 0.9: 2 of them in the mask of 3
    assert found.ious[EVEN_PLACE] == pytest.approx(2 / 5)
    assert found.ious[THRESHOLDS.tolist().index(0.51)] == pytest.approx(1 / 4)  # 0.9, 0.9
    assert found.ious[THRESHOLDS.tolist().index(0.15)] == pytest.approx(3 / 5)  # all but four
    assert found.ious[0] == pytest.approx(3 / 9) and found.ious[-1] == 0


def test_a_perfect_map_and_a_constant_one() -> None:
    mask = _mask([1, 0], [0, 0])
    perfect, constant = compare(mask.astype(np.float32), mask), compare(_map([0.5, 0.5], [0.5, 0.5]), mask)
    assert (perfect.pixel_auc, perfect.pointing, perfect.ious.tolist()) == (1, 1, [1.0] * 99)
    assert (constant.pixel_auc, constant.pointing) == (0.5, 0.25)
    assert (constant.ious[EVEN_PLACE], constant.ious[EVEN_PLACE + 1]) == (0.25, 0)
    assert compare(_map([0.9, 0.89], [0.8, 0.8]), mask).pointing == 1  # the maximum alone counts


def test_figures_of_any_map_are_those_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((40, 40)).round(2).astype(np.float32)
    mask = rng.random((40, 40)) < 0.2 + 0.5 * values
    found = compare(values, mask)
    assert found.pixel_auc == pytest.approx(metrics.roc_auc_score(mask.ravel(), values.ravel()))
    for place in (0, 33, EVEN_PLACE, 98):
        is_marked = values.astype(np.float64) >= THRESHOLDS[place]
        assert found.ious[place] == pytest.approx(metrics.jaccard_score(mask.ravel(), is_marked.ravel()))


def test_a_map_is_brought_to_the_masks_size_with_its_samples_in_the_middle_of_their_places() -> None:
    row = resize_map(_map([0, 1]), 4)[0]
    assert row.tolist() == [0, 0.25, 0.75, 1]
    assert resize_map(_map([0, 1], [0, 1]), 4).shape == (4, 4)
    mask = _mask([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0])
    found = compare(_map([0, 1]), mask)
    assert found.pointing == 0.5 and found.ious[EVEN_PLACE] == pytest.approx(2 / 8)


def test_the_marked_share_of_a_real_face() -> None:
    assert marked_share(_map([0.5, 0.49], [0.9, 0.0]), 2) == 0.5
    assert marked_share(_map([0, 1]), 4) == 0.5


def _match(auc: float, pointing: float, **iou_at: float) -> FaceMatch:
    """IoU 0.1 everywhere but at the thresholds that are named in hundredths, such as t30."""
    ious = np.full(len(THRESHOLDS), 0.1)
    for name, value in iou_at.items():
        ious[int(name[1:]) - 1] = value
    return FaceMatch(auc, pointing, ious)


def _videos(**columns: Any) -> ScoredVideos:
    """Videos v0, v1, ... with 16-digit ids as their digests begin."""
    number = len(columns["labels"])
    values = {field.name: np.full(number, "", dtype=object) for field in fields(ScoredVideos)}
    values |= {"digests": np.array([f"v{place}".ljust(64, "-") for place in range(number)], dtype=object)}
    values |= {"labels": np.array(columns.pop("labels")), "clusters": np.arange(number)}
    values |= {name: np.array(value, dtype=object) for name, value in columns.items()}
    return ScoredVideos(**(values | {"threshold": None}))


def _id(place: int) -> str:
    return f"v{place}".ljust(16, "-")


@pytest.fixture
def found() -> FoundFaces:
    """Two fakes of one method with two faces and one, a fake of another, and two real videos."""
    return FoundFaces(
        fakes={
            _id(0): [_match(0.9, 1, t50=0.4, t30=0.6), _match(0.7, 0, t50=0.2, t30=0.4)],
            _id(1): [_match(0.6, 0.5, t50=0.5, t30=0.7)],
            _id(2): [_match(0.5, 1, t50=0.9, t30=0.2, t60=0.8)],
        },
        reals={_id(3): [0.1, 0.3], _id(4): [0.0]},
        masks={"file": 4, "difference": 0, "unknown": 2, "unreadable": 0, "wrong_size": 0, "uniform": 1},
        first={"unknown": "crops/a.png", "uniform": "crops/b.png"},
    )


def _measure(found: FoundFaces, bootstrap: Bootstrap = NO_INTERVALS) -> Localisation:
    videos = _videos(labels=[1, 1, 1, 0, 0, 1], methods=["swap", "swap", "lips", "", "", "lips"])
    return measure_localisation(videos, found, "forgery map", 64, bootstrap)


def test_faces_are_averaged_by_video_and_videos_by_part(found: FoundFaces) -> None:
    located = _measure(found)
    whole, lips, swap = (row.figures for row in located.rows)
    assert [row.title for row in located.rows] == ["all", "lips", "swap"]
    assert whole["pixel_auc"].value == pytest.approx((0.8 + 0.6 + 0.5) / 3)
    assert swap["pixel_auc"].value == pytest.approx((0.8 + 0.6) / 2)
    assert lips["pointing"].value == 1 and whole["pointing"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert whole["iou"].value == pytest.approx((0.3 + 0.5 + 0.9) / 3)
    assert whole["marked_real"].value == pytest.approx((0.2 + 0.0) / 2) == swap["marked_real"].value
    counts = [(row.videos_fake, row.faces_fake, row.videos_real, row.faces_real) for row in located.rows]
    assert counts == [(3, 4, 2, 3), (1, 1, 2, 3), (2, 3, 2, 3)]


def test_one_best_threshold_is_chosen_for_all_faces(found: FoundFaces) -> None:
    """Means over videos: 1.7 / 3 at 0.5 and 1.4 / 3 at 0.3; for swaps alone 0.3 would be better."""
    located = _measure(found)
    assert located.best_threshold == 0.5
    swap = located.rows[2].figures
    assert swap["best_iou"].value == swap["iou"].value == pytest.approx(0.4)
    del found.fakes[_id(2)]
    located = _measure(found)
    assert located.best_threshold == 0.3 and located.rows[0].figures["best_iou"].value == pytest.approx(0.6)


def test_intervals_draw_whole_clusters(found: FoundFaces) -> None:
    bootstrap = Bootstrap(rounds=7, confidence=0.4, seed=3)
    located = _measure(found, bootstrap)
    aucs = np.array([0.8, 0.6, 0.5])
    means = []
    for number in range(7):
        drawn = np.random.default_rng((3, number)).integers(3, size=3)
        means.append(aucs[drawn].mean())
    estimate = located.rows[0].figures["pixel_auc"]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, (0.3, 0.7))))
    assert np.isnan(located.rows[1].figures["pixel_auc"].low)  # a single video


def test_rows_of_a_cluster_are_drawn_together_and_weigh_by_their_number() -> None:
    values, clusters = np.array([[0.0], [1.0], [1.0], [0.4]]), ["b", "a", "a", "c"]
    (estimate,) = means_with_intervals(values, clusters, rounds=40, confidence=0.5, seed=1)
    members = [[1, 2], [0], [3]]
    means = []
    for number in range(40):
        drawn = np.random.default_rng((1, number)).integers(3, size=3)
        means.append(values[np.concatenate([members[place] for place in drawn])].mean())
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.6, *np.quantile(means, (0.25, 0.75))))


def test_nothing_to_average_is_undefined() -> None:
    first, second = means_with_intervals(np.empty((0, 2)), [], rounds=10)
    assert np.isnan([first.value, first.low, second.high]).all()


def test_fakes_that_are_left_out_are_counted_and_named(found: FoundFaces) -> None:
    located = _measure(found)
    notes = "\n".join(located.notes)
    assert "2 of 7 fake faces are left out, without a known mask, such as crops/a.png" in notes
    assert "1 of 7 fake faces are left out, whose mask covers nothing or everything" in notes
    assert "threshold 0.50 of the best IoU was chosen on these very faces" in notes and "attention" not in notes
    facts = located.to_json()
    assert (facts["masks.file"], facts["masks.unknown"], facts["masks.difference"]) == (4, 2, 0)
    assert facts["pixel_auc"] == located.rows[0].figures["pixel_auc"].value
    assert [part["method"] for part in facts["parts"]] == ["lips", "swap"]
    assert facts["method"] is None and facts["faces.fake"] == 4 and facts["parts"][1]["videos.fake"] == 2
