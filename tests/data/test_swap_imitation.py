"""An imitated swap is a bent, recoloured, mostly smoother copy of a face inside the untouched face, and nothing outside."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import resize_square
from pipelines.data import swap_imitation
from pipelines.data.face_hull import face_frame
from pipelines.data.self_blending import SelfBlend
from pipelines.data.swap_imitation import LOOKS, RATIOS, SHAPES, draw_shape, imitate_swap
from pipelines.faces.align import template_points

Image = npt.NDArray[np.uint8]
SIZE = 128
FACE = template_points(size_px=SIZE)
EYE_DISTANCE = float(FACE[1, 0] - FACE[0, 0])


@pytest.fixture(scope="module")
def picture(face_pictures: dict[str, list[Image]]) -> Image:
    return resize_square(face_pictures["real"][0][:150], SIZE)


def _draw(image: Image, seed: int, landmarks: npt.NDArray[np.float64] | None = FACE) -> SelfBlend:
    return imitate_swap(image, landmarks, np.random.default_rng(seed))


def _detail(image: Image) -> float:
    return float(cv2.Laplacian(image.astype(np.float32).mean(axis=2), cv2.CV_32F).var())


def test_the_face_stays_untouched_where_nothing_was_pasted_and_as_an_argument(picture: Image) -> None:
    before = picture.copy()
    changed = 0
    for seed in range(40):
        blend = _draw(picture, seed)
        assert blend.target is picture and blend.image.shape == picture.shape and blend.image.dtype == np.uint8
        assert blend.mask.min() >= 0 and 0.9 < blend.mask.max() <= 1 and blend.ratio in RATIOS
        assert np.array_equal(blend.image[blend.mask == 0], picture[blend.mask == 0])
        changed += int(np.abs(blend.image.astype(int) - picture)[blend.mask > 0.9].mean() > 1)
    assert changed == 40
    assert np.array_equal(picture, before)


def test_the_generator_makes_the_swap(picture: Image) -> None:
    for seed in range(10):
        first, again = _draw(picture, seed), _draw(picture, seed)
        assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert len({_draw(picture, seed).image.tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize("unusable", [None, FACE * np.nan, FACE[[0, 0, 2, 3, 4]]], ids=["none", "not known", "no face"])
def test_without_usable_landmarks_the_face_is_where_aligned_crops_have_it(
    picture: Image, unusable: npt.NDArray[np.float64] | None
) -> None:
    for seed in range(5):
        assert np.array_equal(_draw(picture, seed, unusable).image, _draw(picture, seed).image)


def test_the_swap_moves_with_the_landmarks(picture: Image) -> None:
    def center(landmarks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weights = np.mean([_draw(picture, seed, landmarks).mask for seed in range(80)], axis=0)
        y, x = np.indices(weights.shape)
        return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()

    small = (FACE - SIZE / 2) * 0.5 + SIZE / 2  # so that the whole mask is in the picture
    assert center(small + 10) - center(small) == pytest.approx([10, 10], abs=1)


def test_every_shape_lies_about_the_face_and_is_drawn_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    hulls = Counter[bool]()

    def note(rng: np.random.Generator) -> npt.NDArray[np.float64]:
        hulls[True] += 1
        return np.zeros((3, 2))

    monkeypatch.setattr(swap_imitation, "draw_outline", note)
    others = []
    for seed in range(1000):
        before = hulls[True]
        shape = draw_shape(np.random.default_rng(seed))
        if hulls[True] == before:
            others.append(shape)
    assert hulls[True] / 1000 == pytest.approx(SHAPES["hull"], abs=0.05)
    fill = [cv2.contourArea(s.astype(np.float32)) / np.prod(np.ptp(s, axis=0)) for s in others]
    squares = [value > 0.9 for value in fill]
    assert sum(squares) / 1000 == pytest.approx(SHAPES["square"], abs=0.04)
    assert all(
        0.77 < value < 0.8 for value, square in zip(fill, squares, strict=True) if not square
    )  # ellipses: pi / 4
    for shape in others:
        (u0, v0), (u1, v1) = shape.min(axis=0), shape.max(axis=0)
        assert -1.4 < u0 < -0.6 and 0.6 < u1 < 1.4 and -0.9 < v0 < 0 and 1.3 < v1 < 2.2


@pytest.mark.parametrize(("look", "sharper"), [("shrunken", False), ("smoothed", False), ("restored", None)])
def test_looks_take_detail_and_a_restored_one_gets_some_back(
    picture: Image, look: str, sharper: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
    monkeypatch.setattr(swap_imitation, "LOOKS", {look: 1.0})
    details = [_detail(swap_imitation._change_look(noisy, np.random.default_rng(seed))) for seed in range(20)]
    assert max(details) < (0.95 if sharper is False else 3) * _detail(noisy)
    if look == "restored":
        monkeypatch.setattr(swap_imitation, "LOOKS", {"shrunken": 1.0})
        plain = [_detail(swap_imitation._change_look(noisy, np.random.default_rng(seed))) for seed in range(20)]
        assert all(with_edges > without for with_edges, without in zip(details, plain, strict=True))
    assert sum(LOOKS.values()) == 1 and sum(SHAPES.values()) == 1


def test_features_are_bent_as_far_as_the_share_says() -> None:
    x = np.repeat(np.linspace(0, 255, 256)[None], 256, axis=0)
    ramp = np.repeat(x[..., None], 3, axis=2).astype(np.uint8)
    frame = face_frame(template_points(size_px=256))
    assert frame is not None
    moves = []
    for seed in range(60):
        bent = swap_imitation._bend(ramp, (0, 0, 256, 256), 90.0, np.random.default_rng(seed))
        moves.append(bent[100:156, 100:156, 0].astype(float) - ramp[100:156, 100:156, 0])
    assert np.std(moves) == pytest.approx(swap_imitation.BEND_SHARE * 90, rel=0.35)
    assert abs(np.mean(moves)) < 1
    steps = np.abs(np.diff(np.array(moves), axis=2)).max()
    assert steps <= 2  # smooth: neighbours move alike


def test_colours_are_changed_by_gain_and_offset_within_bounds() -> None:
    grey = np.full((32, 32, 3), 100, dtype=np.uint8)
    values = np.array([swap_imitation._change_colours(grey, np.random.default_rng(seed))[0, 0] for seed in range(400)])
    largest = 100 * swap_imitation.GAIN + swap_imitation.OFFSET_LEVELS
    assert abs(values.astype(float) - 100).max() <= largest + 0.5 and values.std() > largest / 4
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.2
