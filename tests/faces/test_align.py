"""A face is cut out upright, with its landmarks on the template, whatever its place, size and turn in the picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.faces.align import (
    TEMPLATE,
    TEMPLATE_SIZE_PX,
    AlignedFace,
    Border,
    align_face,
    apply_transform,
    estimate_similarity,
    template_points,
)

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
SIZE = TEMPLATE_SIZE_PX


def _similarity(scale: float, degrees: float, shift: tuple[float, float]) -> Points:
    angle = np.radians(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def _inverse(transform: Points) -> Points:
    return np.linalg.inv(np.vstack([transform, [0, 0, 1]]))[:2]


def _align(image: Image, landmarks: Points, *, margin: float = 1.0, border: Border = "black") -> AlignedFace:
    face = align_face(image, landmarks, margin=margin, border=border)
    assert face is not None
    return face


def _landmarks_of(transform: Points, margin: float = 1.0) -> Points:
    """Where the landmarks of a face stand that `transform` carries into the crop."""
    return apply_transform(_inverse(transform), template_points(margin))


SIMILARITIES = [
    (1.0, 0.0, (0.0, 0.0)),
    (0.3, 0.0, (12.0, -7.0)),
    (2.5, 30.0, (-800.0, 1200.0)),
    (0.01, -135.0, (0.5, 0.25)),
    (1.0, 180.0, (380.0, 380.0)),
    (40.0, 90.0, (0.0, 3e4)),
]


@pytest.mark.parametrize(("scale", "degrees", "shift"), SIMILARITIES)
def test_rotation_scale_and_shift_are_recovered_exactly(
    scale: float, degrees: float, shift: tuple[float, float]
) -> None:
    transform = _similarity(scale, degrees, shift)
    source = np.random.default_rng(0).uniform(-200, 200, (5, 2))
    found = estimate_similarity(source, apply_transform(transform, source))
    assert found is not None
    np.testing.assert_allclose(found, transform, rtol=1e-9, atol=1e-6)


def test_points_are_moved_by_a_matrix_product() -> None:
    transform = np.array([[0.0, -2.0, 10.0], [2.0, 0.0, 20.0]])
    assert apply_transform(transform, np.array([[1.0, 0], [0, 1], [3, 4]])).tolist() == [[10, 22], [8, 20], [2, 26]]


def test_the_fit_is_the_least_squares_one() -> None:
    """Against the normal equations of x' = a x - b y + c, y' = b x + a y + d."""
    rng = np.random.default_rng(0)
    source, target = rng.uniform(0, 300, (5, 2)), rng.uniform(0, 300, (5, 2))
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    found = estimate_similarity(source, target)
    assert found is not None
    np.testing.assert_allclose(found, [[a, -b, c], [b, a, d]], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("degrees", [0, 37, 90, 180])
def test_reflected_points_are_turned_and_never_mirrored(degrees: float) -> None:
    mirrored = TEMPLATE * [-1, 1] + [SIZE, 0]
    turned = apply_transform(_similarity(1.7, degrees, (50, 60)), mirrored)
    found = estimate_similarity(turned, TEMPLATE)
    assert found is not None
    assert np.linalg.det(found[:, :2]) > 0
    np.testing.assert_allclose(found[0, :2], [found[1, 1], -found[1, 0]], atol=1e-12)


@pytest.mark.parametrize("margin", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("degrees", [0, 25, -170])
def test_landmarks_land_on_the_template(degrees: float, margin: float) -> None:
    landmarks = apply_transform(_similarity(0.6, degrees, (300, 200)), TEMPLATE)
    face = _align(np.zeros((600, 800, 3), np.uint8), landmarks, margin=margin)
    np.testing.assert_allclose(face.landmarks, (TEMPLATE - 190) / margin + 190, atol=1e-6)
    assert face.crop.shape == (SIZE, SIZE, 3) and face.crop.dtype == np.uint8


def test_an_upright_face_of_the_template_s_size_is_copied() -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    face = _align(image, TEMPLATE + [70, 40])
    assert np.array_equal(face.crop, image[40 : 40 + SIZE, 70 : 70 + SIZE])
    assert face.valid_share == pytest.approx(1.0)


def test_a_turned_face_is_turned_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    quarter = np.ascontiguousarray(np.rot90(image, k=-1))
    landmarks = np.stack([SIZE - 1 - TEMPLATE[:, 1], TEMPLATE[:, 0]], axis=1)
    assert np.array_equal(_align(quarter, landmarks).crop, image)


def test_the_left_eye_of_the_picture_stays_left() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[160:176, 138:154] = 255
    crop = _align(image, TEMPLATE).crop
    assert crop[168, 146, 0] == 255 and crop[168, 234, 0] == 0


@pytest.mark.parametrize("margin", [1.3, 2.0])
def test_a_margin_shows_that_much_more_in_each_direction(margin: float) -> None:
    """The picture's red tells the column and its green the row: a step in the crop is `margin` steps in the picture."""
    y, x = np.indices((800, 800))
    image = np.stack([x * 255 / 799, y * 255 / 799, x * 0], axis=-1).round().astype(np.uint8)
    crop = _align(image, TEMPLATE + [210, 210], margin=margin).crop.astype(float)
    for channel in (0, 1):
        line = crop[..., channel].mean(axis=channel) * 799 / 255
        slope, start = np.polyfit(np.arange(SIZE), line, 1)
        assert slope == pytest.approx(margin, rel=0.005)
        assert start + slope * SIZE / 2 == pytest.approx(400, abs=1.5), "the centre stays"


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 70.0),
        np.full((5, 2), 1e5) + np.arange(10).reshape(5, 2) * 1e-5,
        np.where(np.arange(10).reshape(5, 2) == 3, np.nan, TEMPLATE),
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, TEMPLATE),
    ],
    ids=["one point", "almost one point", "not a number", "infinite"],
)
def test_landmarks_without_extent_give_no_face(landmarks: Points) -> None:
    with np.errstate(invalid="ignore"):
        assert align_face(np.zeros((100, 100, 3), np.uint8), landmarks) is None


def _share_by_counting(transform: Points, width: int, height: int) -> float:
    """Of a fine grid of points in the crop, those that come from inside the picture."""
    steps = (np.arange(400) + 0.5) * SIZE / 400
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    points = apply_transform(_inverse(transform), grid)
    return float(((points >= 0) & (points <= [width, height])).all(axis=1).mean())


@pytest.mark.parametrize(
    ("shift", "expected"),
    [((0, 0), 1.0), ((190, 0), 0.5), ((0, -190), 0.5), ((190, 190), 0.25), ((380, 0), 0.0), ((0, 1000), 0.0)],
)
def test_the_valid_share_of_a_face_at_the_edge(shift: tuple[float, float], expected: float) -> None:
    face = _align(np.full((SIZE, SIZE, 3), 255, np.uint8), TEMPLATE - shift)
    assert face.valid_share == pytest.approx(expected, abs=1e-4)
    assert (face.crop > 127).mean() == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("seed", range(12))
def test_the_valid_share_is_the_crop_s_area_inside_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    transform = _similarity(
        rng.uniform(0.2, 3), rng.uniform(-180, 180), (rng.uniform(-400, 400), rng.uniform(-400, 400))
    )
    width, height = (int(value) for value in rng.integers(50, 900, 2))
    face = _align(np.full((height, width, 3), 255, np.uint8), _landmarks_of(transform))
    assert face.valid_share == pytest.approx(_share_by_counting(transform, width, height), abs=0.01)


@pytest.mark.parametrize("factor", [2.1, 3.2, 4.5, 8.3, 15.9])
@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_a_large_face_is_the_average_of_its_pixels(factor: float, offset: tuple[int, int]) -> None:
    """Noise averaged over areas has little spread left; pixels that were skipped would leave more."""
    side = int(SIZE * factor)
    noise = np.random.default_rng(0).integers(0, 256, (side + 40, side + 40, 3), dtype=np.uint8)
    crop = _align(noise, TEMPLATE * factor + offset).crop[5:-5, 5:-5].astype(float)
    averaged = cv2.resize(noise[:side, :side], (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(float)
    assert crop.std() < 1.15 * averaged.std()
    assert crop.mean() == pytest.approx(averaged.mean(), abs=0.5)


@pytest.mark.parametrize("scale", [0.49, 0.45, 0.35, 0.21, 0.12])
def test_fine_checkers_in_a_large_face_become_grey(scale: float) -> None:
    side = int(SIZE / scale) + 10
    checkers = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    crop = _align(checkers, TEMPLATE / scale).crop[5:-5, 5:-5].astype(float)
    assert np.abs(crop - 127.5).max() < 32


@pytest.mark.parametrize("scale", [1.5, 1.0, 0.7, 0.45, 0.3, 0.12])
@pytest.mark.parametrize("degrees", [0, 30])
def test_coarse_structure_stays_in_place_at_any_scale(scale: float, degrees: float) -> None:
    """A slow ramp comes out where the transform puts it, within the rounding to 8 bits: reducing shifts nothing."""
    side = int(SIZE / scale) + 60
    y, x = np.indices((side, side)) / side
    image = np.stack([255 * x, 255 * y, 127.5 * (x + y)], axis=-1).round().astype(np.uint8)
    transform = _similarity(scale, degrees, (0, 0))
    transform[:, 2] = 190 - transform[:, :2] @ np.array([side / 2, side / 2])
    crop = _align(image, _landmarks_of(transform)).crop.astype(float)
    middle = np.stack(np.meshgrid(np.arange(100, 280), np.arange(100, 280)), axis=-1).reshape(-1, 2).astype(float)
    expected = apply_transform(_inverse(transform), middle) * 255 / side
    got = crop[100:280, 100:280, :2].reshape(-1, 2)
    assert np.abs(got - expected).max() < 1.6
    assert np.abs((got - expected).mean(axis=0)).max() < 0.25


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_outside_the_picture_is_black_or_its_edge_goes_on(scale: float) -> None:
    side = int(SIZE / scale)
    image = np.full((side, side, 3), 200, np.uint8)
    landmarks = TEMPLATE / scale - [side / 2, 0]
    black, replicated = (_align(image, landmarks, border=border) for border in ("black", "replicate"))
    assert (black.crop[:, :185] == 0).all() and (black.crop[2:-2, 195:] == 200).all()
    assert (replicated.crop == 200).all()
    assert black.valid_share == replicated.valid_share == pytest.approx(0.5, abs=1e-3)


def test_black_is_the_default_border() -> None:
    image = np.full((SIZE, SIZE, 3), 200, np.uint8)
    face = align_face(image, TEMPLATE - [190, 0])
    assert face is not None and not face.crop[:, :185].any()


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("away", [(-9000, 0), (9000, 9000), (0, -9000)])
def test_a_face_far_outside_the_picture_is_an_empty_crop(scale: float, away: tuple[int, int]) -> None:
    face = _align(np.full((300, 400, 3), 255, np.uint8), TEMPLATE / scale + away)
    assert not face.crop.any() and face.valid_share == 0


@pytest.mark.parametrize("size_px", [95, 190, 760])
def test_a_crop_of_another_size_is_the_same_view(size_px: int) -> None:
    y, x = np.indices((500, 500))
    image = np.stack([x / 2, y / 2, x * 0 + 9], axis=-1).astype(np.uint8)
    face = align_face(image, TEMPLATE + [60, 60], size_px=size_px)
    assert face is not None and face.crop.shape == (size_px, size_px, 3)
    np.testing.assert_allclose(face.landmarks, TEMPLATE * size_px / SIZE, atol=1e-6)
    assert face.crop[size_px // 2, size_px // 2, 0] == pytest.approx(125, abs=2)
    assert np.ptp(face.crop[size_px // 2, :, 0].astype(float)) == pytest.approx(190, abs=4)


def test_the_source_picture_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    before, landmarks = image.copy(), TEMPLATE * 2.2
    landmarks_before = landmarks.copy()
    _align(image, landmarks)
    assert np.array_equal(image, before) and np.array_equal(landmarks, landmarks_before)
