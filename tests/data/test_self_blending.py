"""A self-blend is one face laid over itself within a soft mask of a face's shape, and nothing else is changed."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import resize_square
from pipelines.data import self_blending
from pipelines.data.face_hull import HULL_SHARES, HullKind, draw_outline, face_frame, outline_points
from pipelines.data.self_blending import RATIOS, SelfBlend, blend_with_itself, draw_source_and_target
from pipelines.faces.align import apply_transform, template_points

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
SIZE = 96
FACE = template_points(size_px=SIZE)
EYE_DISTANCE = float(FACE[1, 0] - FACE[0, 0])


@pytest.fixture(scope="module")
def picture(face_pictures: dict[str, list[Image]]) -> Image:
    return resize_square(face_pictures["real"][0][:150], SIZE)


def _draw(image: Image, seed: int, landmarks: Points | None = FACE) -> SelfBlend:
    return blend_with_itself(image, landmarks, np.random.default_rng(seed))


def _flat(size: int = SIZE) -> Image:
    return np.full((size, size, 3), 120, dtype=np.uint8)


def _mirror(points: Points, width: int) -> Points:
    """Of five landmarks in a picture of that width: left and right change names."""
    mirrored = points[[1, 0, 2, 4, 3]].copy()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def _area(points: Points) -> float:
    return float(cv2.contourArea(cv2.convexHull(points.astype(np.float32))))


def _sorted(points: Points) -> Points:
    rounded = points.round(6) + 0.0
    return rounded[np.lexsort(rounded.T)]


def test_the_frame_begins_between_the_eyes_and_reaches_to_eyes_and_mouth() -> None:
    landmarks = np.array([(10, 20), (50, 28), (28, 45), (14, 62), (40, 70)], dtype=np.float64)
    frame = face_frame(landmarks)
    assert frame is not None
    places = apply_transform(frame, np.array([(0, 0), (-0.5, 0), (0.5, 0), (0, 1)]))
    assert places == pytest.approx(np.array([(30, 24), (10, 20), (50, 28), (27, 66)]))


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 1, (30, -7)), (25, 0.3, (0, 0)), (-160, 4, (5, 900))])
def test_the_frame_turns_grows_and_moves_with_the_face(degrees: float, scale: float, shift: tuple[int, int]) -> None:
    turn = np.radians(degrees)
    turned = scale * np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    similarity = np.column_stack([turned, shift])
    before, after = face_frame(FACE), face_frame(apply_transform(similarity, FACE))
    assert before is not None and after is not None
    for kind in HULL_SHARES:
        expected = apply_transform(similarity, apply_transform(before, outline_points(kind)))
        assert apply_transform(after, outline_points(kind)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", HULL_SHARES)
def test_a_mirrored_face_has_the_mirrored_hull(kind: HullKind) -> None:
    landmarks = FACE + np.array([(0, 2), (1, 0), (9, 3), (0, -4), (-3, 1)])
    frame, mirrored = face_frame(landmarks), face_frame(_mirror(landmarks, SIZE))
    assert frame is not None and mirrored is not None
    expected = apply_transform(frame, outline_points(kind))
    expected[:, 0] = SIZE - 1 - expected[:, 0]
    assert _sorted(apply_transform(mirrored, outline_points(kind))) == pytest.approx(_sorted(expected))


@pytest.mark.parametrize(
    ("kind", "top", "area_of_face"),
    [("face", -0.34, 1.0), ("raised-brows", -0.4675, 1 / 0.92), ("forehead", -1.05, 1.3)],
)
def test_the_hulls_reach_from_the_chin_to_brows_or_forehead(kind: HullKind, top: float, area_of_face: float) -> None:
    points = outline_points(kind)
    assert (points[:, 1].min(), points[:, 1].max()) == pytest.approx((top, 1.72))
    assert (points[:, 0].min(), points[:, 0].max()) == pytest.approx((-1, 1))
    jaw = points[4]  # a quarter of the way
    assert jaw == pytest.approx((-(0.5**0.35), -0.08 + 1.8 * 0.5**0.65))
    # the two ratios were found with 68 and 81 points of real faces
    assert _area(points) / _area(outline_points("face")) == pytest.approx(area_of_face, rel=0.08)


NOT_A_FACE: dict[str, list[tuple[float, float]]] = {
    "eyes on one point": [(50, 50), (50, 50), (50, 60), (45, 80), (55, 80)],
    "mouth between the eyes": [(30, 50), (70, 50), (50, 50), (45, 50), (55, 50)],
    "a profile": [(48, 50), (52, 50), (50, 60), (48, 80), (52, 80)],
    "squashed": [(20, 50), (80, 50), (50, 55), (40, 75), (60, 75)],
    "sheared": [(30, 50), (70, 50), (60, 55), (80, 58), (100, 58)],
    "not known": [(np.nan, np.nan)] * 5,
}


@pytest.mark.parametrize("case", NOT_A_FACE)
def test_points_that_are_no_face_have_no_frame_and_stand_for_the_usual_place(case: str, picture: Image) -> None:
    landmarks = np.array(NOT_A_FACE[case])
    assert face_frame(landmarks) is None
    for seed in range(3):
        expected = _draw(picture, seed)
        for unusable in (landmarks, None):
            blend = _draw(picture, seed, unusable)
            assert np.array_equal(blend.image, expected.image) and np.array_equal(blend.mask, expected.mask)


def test_outlines_are_drawn_as_often_as_they_say_and_vary() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_outline(rng) for _ in range(4000)]
    tops = np.array([points[17:27, 1].min() / points[:17, 1].max() for points in drawn])
    kinds = Counter(
        "forehead" if len(points) == 40 else "raised-brows" if top < -0.235 else "face"
        for points, top in zip(drawn, tops, strict=True)
    )
    for kind, share in (("face", 0.5625), ("raised-brows", 0.25), ("forehead", 0.1875)):
        assert kinds[kind] / 4000 == pytest.approx(share, abs=0.03), kind
    for axis, size in ((0, 2.0), (1, 1.80)):
        spans = np.array([np.ptp(points[:17, axis]) / size for points in drawn])
        assert 0.03 < spans.std() < 0.05 and 0.88 < spans.min() < 0.94 and 1.06 < spans.max() < 1.16
    noise = [points[2:6, 0] / points[2:6, 0].mean() for points in drawn]
    assert 0.01 < np.std(noise, axis=0).mean() < 0.03


def test_a_blend_has_the_shapes_and_ranges_it_names(picture: Image) -> None:
    before, image = picture.copy(), picture[:80]
    for seed in range(60):
        blend = _draw(image, seed)
        assert blend.image.shape == blend.target.shape == image.shape and blend.mask.shape == image.shape[:2]
        assert blend.image.dtype == blend.target.dtype == np.uint8 and blend.mask.dtype == np.float32
        assert blend.mask.min() == 0 and blend.mask.max() == pytest.approx(1, abs=1e-5) and blend.mask.max() <= 1
    assert np.array_equal(picture, before), "the argument must not be written to"


def test_the_ratio_is_one_of_the_published_as_often_as_published() -> None:
    counts = Counter(_draw(_flat(32), seed, template_points(size_px=32)).ratio for seed in range(600))
    assert counts.keys() == set(RATIOS) == {0.25, 0.5, 0.75, 1.0}
    assert counts[1.0] / 600 == pytest.approx(0.5, abs=0.07)
    assert all(counts[ratio] / 600 == pytest.approx(1 / 6, abs=0.06) for ratio in (0.25, 0.5, 0.75))


def test_where_nothing_was_pasted_the_image_is_the_target(picture: Image) -> None:
    for seed in range(60):
        blend = _draw(picture, seed)
        outside = blend.mask == 0
        assert 0.2 < outside.mean() < 0.95
        assert np.array_equal(blend.image[outside], blend.target[outside])
        assert not np.array_equal(blend.image, blend.target)


def test_the_image_is_as_many_parts_source_as_mask_and_ratio_say() -> None:
    for seed in range(60):
        source, target = draw_source_and_target(_flat(), np.random.default_rng(seed))
        blend = _draw(_flat(), seed)
        assert np.array_equal(blend.target, target)
        weight = blend.ratio * blend.mask[..., None].astype(np.float64)
        expected = weight * source[50, 50] + (1 - weight) * target[50, 50]
        assert np.abs(blend.image - expected).max() <= 0.51


def test_one_of_source_and_target_is_the_image_itself_each_half_of_the_time(picture: Image) -> None:
    drawn = [draw_source_and_target(picture, np.random.default_rng(seed)) for seed in range(300)]
    for source, target in drawn:
        assert np.array_equal(source, picture) + np.array_equal(target, picture) == 1
    assert np.mean([target is picture for _, target in drawn]) == pytest.approx(0.5, abs=0.1)


def _looks(image: Image, count: int) -> list[Image]:
    drawn = [draw_source_and_target(image, np.random.default_rng(seed)) for seed in range(count)]
    return [target if source is image else source for source, target in drawn]


def test_the_change_of_colour_is_as_strong_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_blending, "_sharpen", lambda image, rng: image)
    colours = np.array([look[20, 20] for look in _looks(_flat(40), 1000)], dtype=np.float64)
    shifted = np.ptp(colours, axis=1) > 2
    assert shifted.mean() == pytest.approx(0.3 * 0.99, abs=0.05)
    # 120 levels, at most one less by the value, times 0.9..1.1, plus a tenth of 255
    plain = colours[~shifted].mean(axis=1)
    assert 80 < plain.min() < 90 and 148 < plain.max() < 158 and plain.std() == pytest.approx(16.3, rel=0.1)
    assert plain.mean() == pytest.approx(119.5, abs=2)
    differences = np.abs(colours[shifted, 0] - colours[shifted, 1])
    assert 30 < differences.max() <= 46


def test_half_of_the_looks_are_coarser_and_half_are_sharper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_blending, "COLOUR_SHIFT_SHARE", 0)
    for name in ("BRIGHTNESS", "CONTRAST"):
        monkeypatch.setattr(self_blending, name, 0)
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    image[::2, ::2] = 110
    inner = np.array([look[16:48, 16:48, 0] for look in _looks(image, 400)], dtype=np.float64)
    ranges = np.ptp(inner, axis=(1, 2))
    assert inner[ranges == 0].min() > 107, "every second pixel is taken as it is"
    assert (ranges == 0).mean() == pytest.approx(0.5, abs=0.08), "the nearest pixels of a coarser grid are all alike"
    # a bright pixel among dark ones, against a dark one between four bright ones: 10 (1 + 11 alpha + alpha lightness)
    sharp = ranges[ranges > 0]
    assert 10 * 3.3 - 1 < sharp.min() < 38 and 62 < sharp.max() < 10 * 7 + 1
    flat = np.array([look[20, 20, 0] for look in _looks(_flat(40), 400)], dtype=np.float64)[ranges > 0]
    assert flat.mean() == pytest.approx(120 * (1 - 0.35 * 0.25) - 0.5, abs=2) and 89 <= flat.min() < 97
    step = np.full((64, 64, 3), 60, dtype=np.uint8)
    step[:, 32:] = 180
    widths = Counter(int(((look[32, :, 0] > 64) & (look[32, :, 0] < 176)).sum()) for look in _looks(step, 200))
    assert {2, 4} <= set(widths), "a half and a quarter of the size smear an edge over so many pixels"


def test_hue_saturation_and_value_stay_or_fall_by_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLOUR_SHIFT_SHARE", "BRIGHTNESS", "CONTRAST"):
        monkeypatch.setattr(self_blending, name, 0)
    for name in ("_coarsen", "_sharpen"):
        monkeypatch.setattr(self_blending, name, lambda image, rng: image)
    image = np.random.default_rng(0).integers(20, 256, (40, 40, 3)).astype(np.uint8)
    looks = np.array(_looks(image, 100), dtype=np.float64)
    assert np.abs(looks - image).max() < 16 and np.abs(looks - image).mean() < 3
    falls = (image.max(axis=2) - looks.max(axis=3)).mean(axis=(1, 2))
    assert set(falls.round(2)) == {0, 1} and falls.mean() == pytest.approx(0.5, abs=0.15)


def test_the_mask_has_the_place_and_size_of_a_face() -> None:
    frame = face_frame(FACE)
    assert frame is not None
    reach = np.zeros((SIZE, SIZE), dtype=np.uint8)
    outline = cv2.convexHull(apply_transform(frame, outline_points("forehead")).round().astype(np.int32))
    cv2.fillConvexPoly(reach, outline, 1)
    allowed = cv2.dilate(reach, np.ones((3, 3)), iterations=round(0.5 * EYE_DISTANCE)) > 0
    eyes_nose_mouth = tuple(FACE.round().astype(int).T[::-1])
    inner = []
    for seed in range(200):
        mask = _draw(_flat(), seed).mask
        assert not mask[~allowed].any()
        inner.append(mask[eyes_nose_mouth])
    assert np.array(inner)[:, 2].min() > 0.99 and np.mean(inner, axis=0).min() > 0.8


def test_masks_are_on_average_as_symmetric_as_faces() -> None:
    landmarks = np.array([(33, 40), (62, 40), (47.5, 55), (39, 70), (56, 70)], dtype=np.float64)  # about 47.5
    mean = np.mean([_draw(_flat(), seed, landmarks).mask for seed in range(400)], axis=0)
    assert np.abs(mean - mean[:, ::-1]).max() < 0.09 and np.abs(mean - mean[:, ::-1]).mean() < 0.008
    assert np.abs(mean - mean[::-1]).max() > 0.5


def test_without_chance_the_mask_of_a_symmetric_face_is_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks = np.array([(33, 40), (62, 40), (47.5, 55), (39, 70), (56, 70)], dtype=np.float64)
    monkeypatch.setattr(self_blending, "draw_outline", lambda rng: outline_points("face"))
    monkeypatch.setattr(self_blending, "ELASTIC_PX", 0)
    monkeypatch.setattr(self_blending, "SHIFT_SHARES", (0, 0))
    monkeypatch.setattr(self_blending, "SCALE_RANGE", (1, 1))
    for seed in range(20):
        mask = _draw(_flat(), seed, landmarks).mask
        assert np.abs(mask - mask[:, ::-1]).mean() < 0.002


def test_masks_are_eroded_and_softened_by_varying_widths() -> None:
    frame = face_frame(FACE)
    assert frame is not None
    mean_area = sum(share * _area(apply_transform(frame, outline_points(kind))) for kind, share in HULL_SHARES.items())
    masks = [_draw(_flat(), seed).mask for seed in range(200)]
    # on a canvas of 224 px the hull is about 112 by 95 px, and on average 15 px narrower after the erosion
    assert np.mean([(mask > 0.5).sum() for mask in masks]) / mean_area == pytest.approx(0.75, abs=0.06)
    edges = [((mask > 0.02) & (mask < 0.98)).sum() / np.sqrt((mask > 0.5).sum()) for mask in masks]
    assert min(edges) > 3 and max(edges) > 2 * min(edges)


def test_the_waves_are_as_high_and_long_as_published() -> None:
    ramp = np.tile(np.arange(224) % 40 * 6, (224, 1)).astype(np.uint8)
    rows = []
    for seed in range(60):
        moved = self_blending._draw_elastic(ramp, np.random.default_rng(seed)).astype(np.float64)
        shifts = (moved - ramp)[30:-30, 60:200:40] / 6  # away from the border
        rows.append(((shifts**2).mean(), (shifts[7:] * shifts[:-7]).mean()))
    power, common = np.mean(rows, axis=0)
    height, likeness = np.sqrt(power), common / power
    # uniform noise under a Gaussian of 7 px, times 50; its autocorrelation is a Gaussian of 7 sqrt(2) px
    assert height == pytest.approx(50 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 7), rel=0.1)
    assert likeness == pytest.approx(np.exp(-(7**2) / (4 * 7**2)), abs=0.06)


def test_edges_of_masks_are_wavy(monkeypatch: pytest.MonkeyPatch) -> None:
    calm, wavy = [], []
    for seed in range(20):
        wavy.append(_draw(_flat(), seed).mask)
        with monkeypatch.context() as patch:
            patch.setattr(self_blending, "ELASTIC_PX", 0.0)
            calm.append(_draw(_flat(), seed).mask)
    difference = np.abs(np.array(wavy) - calm)
    assert 0.003 < difference.mean() < 0.02 and difference.max() > 0.1


@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_larger_face_has_the_same_mask_enlarged(scale: float) -> None:
    for seed in range(10):
        mask = _draw(_flat(), seed).mask
        size = round(scale * SIZE)
        scaled = _draw(_flat(size), seed, (FACE + 0.5) * scale - 0.5).mask
        expected = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        assert np.abs(scaled - expected).mean() < 0.006


def test_a_part_of_a_crop_has_that_part_of_the_mask() -> None:
    for seed in range(10):
        whole = _draw(_flat(), seed)
        part = _draw(_flat()[20:80, 10:70], seed, FACE - (10, 20))
        assert np.abs(part.mask - whole.mask[20:80, 10:70]).max() < 0.02 and part.ratio == whole.ratio


def _ruler_shifts(monkeypatch: pytest.MonkeyPatch, count: int) -> list[tuple[npt.NDArray[Any], SelfBlend]]:
    """Blends of a picture that shows its columns in red and its rows in green, with nothing but the motion; and by how
    many pixels the full parts moved: (K, 2), K of them with their places (K, 2)."""
    monkeypatch.setattr(self_blending, "_change_look", lambda image, rng: image)
    y, x = np.indices((SIZE, SIZE))
    ruler = np.stack([2 * x, 2 * y, 0 * x], axis=-1).astype(np.uint8)
    found = []
    for seed in range(count):
        blend = _draw(ruler, seed)
        if blend.ratio == 1:
            rows, columns = np.nonzero(blend.mask > 0.999)
            moved = (ruler[rows, columns, :2] - blend.image[rows, columns, :2].astype(np.float64)) / 2
            found.append((np.column_stack([columns, rows, moved]), blend))
    return found


def test_the_source_is_scaled_and_shifted_by_a_few_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = 4 * EYE_DISTANCE, 2.4 * 2.06 * (FACE[3, 1] - FACE[0, 1])  # of the loose box
    fits = []
    for places, _ in _ruler_shifts(monkeypatch, 300):
        slopes = [np.polyfit(places[:, axis], places[:, 2 + axis], 1)[0] for axis in (0, 1)]
        fits.append((*slopes, *places[:, 2:].mean(axis=0)))
    scale_x, scale_y, shift_x, shift_y = np.array(fits).T
    for scale in (1 / (1 - scale_x), 1 / (1 - scale_y)):
        assert 0.93 < scale.min() < 0.97 and 1.03 < scale.max() < 1.08
    assert abs(np.corrcoef(scale_x, scale_y)[0, 1]) < 0.3, "each axis has its own scale"
    assert np.abs(shift_x).max() == pytest.approx(0.03 * width, rel=0.25)
    assert np.abs(shift_y).max() < 0.015 * height + 0.0527 * 0.45 * height and np.abs(shift_x).mean() > 0.008 * width


def test_the_mask_moves_with_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    shifts, centers = [], []
    for places, blend in _ruler_shifts(monkeypatch, 300):
        shifts.append(places[:, 2].mean())
        centers.append((blend.mask * np.arange(SIZE)).sum() / blend.mask.sum())
    assert np.corrcoef(shifts, centers)[0, 1] > 0.8
    assert np.polyfit(shifts, centers, 1)[0] == pytest.approx(1, abs=0.25)


def test_the_generator_makes_the_blend_and_threads_change_nothing(picture: Image) -> None:
    expected = [_draw(picture, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: _draw(picture, seed), range(40)))
    for first, second in zip(expected, again, strict=True):
        assert np.array_equal(first.image, second.image) and np.array_equal(first.target, second.target)
        assert np.array_equal(first.mask, second.mask) and first.ratio == second.ratio
    assert len({blend.image.tobytes() for blend in expected}) == 40
