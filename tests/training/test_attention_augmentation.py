"""Attention-guided augmentation is equation 6: the image where attention is zero, its blurred copy where it is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pipelines.training.attention_augmentation import AttentionAugmentation, blur, normalize_maps

AUGMENT = AttentionAugmentation()


def _images(count: int = 2, height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_zero_attention_leaves_the_image_bit_equal() -> None:
    images = _images()
    degraded, _ = AUGMENT(images, torch.zeros(2, 4, 5, 6), _generator())
    assert torch.equal(degraded, images)


def test_attention_one_on_a_region_gives_exactly_the_degraded_image_there() -> None:
    images, maps = _images(), torch.zeros(2, 1, 40, 48)
    maps[:, :, 10:20, 5:30] = 0.7
    degraded, _ = AUGMENT(images, maps, _generator())
    inside = (maps > 0).expand_as(images)
    assert torch.equal(degraded[inside], AUGMENT.degrade(images)[inside])
    assert torch.equal(degraded[~inside], images[~inside])
    assert (degraded[inside] - images[inside]).abs().mean() > 0.3


def test_attention_in_between_mixes_by_equation_6() -> None:
    """A map of two samples, 2 on the left and 0 on the right: resized and normalised it is a line from 1 to 0."""
    images, maps = _images(), torch.tensor([[2.0, 0.0], [2.0, 0.0]]).expand(2, 1, 2, 2)
    degraded, _ = AUGMENT(images, maps, _generator())
    weight = np.linspace(1, 0, 48)
    expected = images.numpy() * (1 - weight) + AUGMENT.degrade(images).numpy() * weight
    np.testing.assert_allclose(degraded.numpy(), expected, atol=1e-5)


def test_the_images_themselves_are_not_changed() -> None:
    images, maps = _images(), torch.rand(2, 4, 5, 6, generator=_generator())
    before, maps_before = images.clone(), maps.clone()
    AUGMENT(images, maps, _generator())
    assert torch.equal(images, before) and torch.equal(maps, maps_before)


def test_no_gradient_runs_into_the_augmentation() -> None:
    images = _images().requires_grad_()
    maps = torch.rand(2, 4, 5, 6, generator=_generator()).requires_grad_()
    degraded, chosen = AUGMENT(images, maps, _generator())
    assert not degraded.requires_grad and not chosen.requires_grad


def test_each_image_is_degraded_by_the_map_drawn_for_it() -> None:
    maps = torch.zeros(32, 4, 8, 8)
    for k, (rows, columns) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        maps[:, k, rows : rows + 4, columns : columns + 4] = k + 1
    images = _images(32, 8, 8)
    degraded, chosen = AUGMENT(images, maps, _generator())
    drawn = torch.stack([maps[i, int(k)] for i, k in enumerate(chosen)]) > 0
    assert torch.equal((degraded != images).any(dim=1), drawn)


def test_maps_are_drawn_equally_often_and_always_alike_for_one_generator_state() -> None:
    images, maps = torch.zeros(2000, 3, 2, 2), torch.ones(2000, 4, 1, 1)
    _, chosen = AUGMENT(images, maps, _generator(7))
    counts = torch.bincount(chosen, minlength=4)
    assert len(counts) == 4 and counts.sum() == 2000
    assert counts.min() > 420 and counts.max() < 580
    assert torch.equal(AUGMENT(images, maps, _generator(7))[1], chosen)
    assert not torch.equal(AUGMENT(images, maps, _generator(8))[1], chosen)


def test_the_draw_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    AUGMENT(_images(), torch.ones(2, 4, 2, 2), _generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_maps_are_divided_by_their_own_peak_and_dead_ones_stay_zero() -> None:
    maps = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[1e-6, 0.0], [0.0, 5e-7]]])
    expected = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.5]]])
    torch.testing.assert_close(normalize_maps(maps), expected)


def test_the_copy_is_reduced_blurred_and_enlarged() -> None:
    images = _images(2, 60, 90)
    small = transforms.resize(images, [18, 27], interpolation=InterpolationMode.BILINEAR, antialias=True)
    blurred = transforms.gaussian_blur(small, [11, 11], [7.0, 7.0])
    expected = transforms.resize(blurred, [60, 90], interpolation=InterpolationMode.BILINEAR, antialias=False)
    torch.testing.assert_close(AUGMENT.degrade(images), expected, atol=1e-5, rtol=1e-4)


def test_the_copy_has_lost_what_is_fine_and_kept_what_is_coarse() -> None:
    checkers = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert AUGMENT.degrade(checkers).abs().max() < 0.2
    halves = (torch.arange(128) >= 64).float().expand(1, 3, 128, 128)
    copy = AUGMENT.degrade(halves)
    assert copy[..., :40].max() < 0.02 and copy[..., 88:].min() > 0.98


@pytest.mark.parametrize(("height", "width"), [(30, 40), (6, 6), (7, 50)])
def test_blur_is_a_gaussian_mirrored_at_the_border(height: int, width: int) -> None:
    images = _images(2, height, width)
    expected = transforms.gaussian_blur(images, [11, 11], [7.0, 7.0])
    torch.testing.assert_close(blur(images, sigma_px=7.0, kernel_px=11), expected, atol=1e-5, rtol=1e-4)


def test_blur_spreads_a_point_into_a_gaussian_that_sums_to_one() -> None:
    image = torch.zeros(1, 1, 25, 25)
    image[0, 0, 12, 12] = 1
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 7.0**2))
    expected = np.zeros((25, 25))
    expected[7:18, 7:18] = np.outer(weights, weights) / weights.sum() ** 2
    spread = blur(image, sigma_px=7.0, kernel_px=11)[0, 0].numpy()
    assert spread.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(spread, expected, atol=1e-7)


def test_channels_do_not_mix() -> None:
    images = _images()
    images[:, 1] = 0
    assert not AUGMENT.degrade(images)[:, 1].any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 3), (5, 4), (11, 380)])
def test_constants_stay_and_tiny_images_pass(height: int, width: int) -> None:
    images = torch.full((1, 3, height, width), -1.25)
    degraded, _ = AUGMENT(images, torch.ones(1, 4, 1, 1), _generator())
    torch.testing.assert_close(degraded, images)
    torch.testing.assert_close(blur(images, sigma_px=7.0, kernel_px=11), images)
