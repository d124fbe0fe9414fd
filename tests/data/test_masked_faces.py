"""Training views with forgery masks: the mask is cropped and mirrored with the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.data import faces as faces_module
from pipelines.data.faces import Face, FaceImages, load_batches
from pipelines.data.image_augmentation import augment_image, augment_with_mask
from pipelines.system.image_files import read_image, write_image

CONTRACT = Preprocessing(crop_box=(70, 70, 310, 310), input_size=120)
Image = npt.NDArray[np.uint8]


@pytest.fixture
def marked(tmp_path: Path) -> list[Face]:
    """A real face, a fake whose red region is its mask, and a fake without a mask."""
    rng = np.random.default_rng(0)
    picture = np.zeros((380, 380, 3), np.uint8)
    picture[..., 1] = rng.integers(0, 200, (380, 380))
    mask = np.zeros((380, 380), np.uint8)
    mask[120:230, 100:180] = 255
    fake = picture.copy()
    fake[..., 0] = mask
    for name, image in (("real", picture), ("fake", fake), ("mask", mask)):
        write_image(tmp_path / f"{name}.png", image)
    return [
        Face(tmp_path / "real.png", 0, "real"),
        Face(tmp_path / "fake.png", 1, "fake", mask_path=tmp_path / "mask.png"),
        Face(tmp_path / "fake.png", 1, "other"),
    ]


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_the_mask_goes_where_the_image_goes(marked: list[Face], jitter: float) -> None:
    images = FaceImages(marked, CONTRACT, crop_jitter=jitter, masks=True)
    shifts = set()
    for seed in range(20):
        image, mask = images.training_view(1, np.random.default_rng(seed))
        assert mask is not None and mask.shape == (120, 120) and mask.dtype == np.uint8
        assert np.array_equal(mask, image[..., 0])  # the red channel of the image is its mask
        shifts.add(int(np.flatnonzero(mask.any(axis=0))[0]))
    assert len(shifts) >= 2  # mirrored at least, so the check above means something


def test_real_faces_have_empty_masks_and_others_none(marked: list[Face]) -> None:
    images = FaceImages(marked, CONTRACT, masks=True)
    mask = images.training_view(0, np.random.default_rng(0)).mask
    assert mask is not None and mask.shape == (120, 120) and not mask.any()
    assert images.training_view(2, np.random.default_rng(0)).mask is None


def test_without_masks_the_images_are_the_same(marked: list[Face]) -> None:
    with_masks, without = FaceImages(marked, CONTRACT, masks=True), FaceImages(marked, CONTRACT)
    for index in range(3):
        view = without.training_view(index, np.random.default_rng(index))
        assert view.mask is None
        assert np.array_equal(view.image, with_masks.training_image(index, np.random.default_rng(index)))


def test_a_stored_mask_goes_before_the_difference(marked: list[Face], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    found = np.zeros((380, 380), np.uint8)
    found[200:220, 200:220] = 255

    def difference(fake: Image, original: Image, *, margin: float) -> Image:
        asked.append((np.array_equal(fake, read_image(marked[1].path)), margin))
        return found

    monkeypatch.setattr(faces_module, "difference_mask", difference)
    both = replace(marked[1], original_path=marked[0].path)
    pair = replace(marked[2], original_path=marked[0].path)
    images = FaceImages([both, pair], replace(CONTRACT, margin=1.2), crop_jitter=0.0, augment="none", masks=True)
    stored = images.training_view(0, np.random.default_rng(0)).mask
    assert stored is not None and np.array_equal(stored, images.evaluation_image(0)[..., 0]) and not asked
    computed = images.training_view(1, np.random.default_rng(0)).mask
    assert computed is not None and computed[65:75, 65:75].all() and computed.sum() < 150 * 255
    images.training_view(1, np.random.default_rng(1))
    assert asked == [(True, 1.2)]  # once: remembered


def test_an_unknown_difference_is_remembered(marked: list[Face], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(faces_module, "difference_mask", lambda *_, **__: asked.append(1))
    images = FaceImages([replace(marked[2], original_path=marked[0].path)], CONTRACT, masks=True)
    for seed in range(3):
        assert images.training_view(0, np.random.default_rng(seed)).mask is None
    assert asked == [1]


def test_a_self_blend_differs_from_its_target_only_in_its_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write_image(tmp_path / "real.png", rng.integers(60, 200, (380, 380, 3), dtype=np.uint8))
    images = FaceImages(
        [Face(tmp_path / "real.png", 0, "v")], CONTRACT, crop_jitter=0.05, augment="flip", self_blends=True, masks=True
    )
    for seed in range(6):
        fake = images.self_blended_view(0, np.random.default_rng(seed), as_fake=True)
        target = images.self_blended_view(0, np.random.default_rng(seed), as_fake=False)
        assert fake.mask is not None and target.mask is not None
        assert not target.mask.any() and fake.mask.max() == 255
        changed = (fake.image != target.image).any(axis=2)
        assert changed.any() and not changed[fake.mask == 0].mean() > 0.01  # resizing spreads an edge by a pixel
        assert changed[fake.mask == 255].mean() > 0.5


def test_batches_carry_masks_whatever_the_threads_and_processes(marked: list[Face]) -> None:
    images = FaceImages(marked, CONTRACT, masks=True)
    order = [0, 1, 0, 2, 0, 1, 0, 1]
    (whole, _) = load_batches(images, order, 4, seed=(3,), workers=1)
    parts = [next(iter(load_batches(images, order, 4, seed=(3,), workers=3, rank=r, world_size=2))) for r in (0, 1)]
    assert whole.masks is not None and [mask is None for mask in whole.masks] == [False, False, False, True]
    for one, other in zip(whole.masks, [m for part in parts for m in part.masks or []], strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)  # type: ignore[arg-type]
    assert next(iter(load_batches(FaceImages(marked, CONTRACT), order, 4, seed=(3,), workers=1))).masks is None


def test_only_the_mirror_changes_a_mask() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    mask = np.zeros((60, 60), np.uint8)
    mask[10:20, 5:25] = 255
    seen = set()
    for seed in range(60):
        changed, kept = augment_with_mask(image, mask, "robust", np.random.default_rng(seed))
        assert np.array_equal(changed, augment_image(image, "robust", np.random.default_rng(seed)))
        assert kept is not None
        mirrored = np.array_equal(kept, mask[:, ::-1])
        assert mirrored or np.array_equal(kept, mask)
        seen.add(mirrored)
    assert seen == {True, False}
