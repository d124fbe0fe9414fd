"""Attention-guided augmentation is equation 6: the image where attention is zero, its degraded copy where it is one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pipelines.errors import ConfigError
from pipelines.training.attention_augmentation import AttentionAugmentation, gaussian_blur, normalize_maps
from pipelines.training.config import PRESETS, AttentionAugmentationConfig


def _augmentation(**settings: Any) -> AttentionAugmentation:
    return AttentionAugmentation(AttentionAugmentationConfig(**settings))


AUGMENT = _augmentation()
REFERENCE = AttentionAugmentation(PRESETS["reference"].agda)
KINDS = {"soft": AUGMENT, "hard": _augmentation(mode="hard"), "reference": REFERENCE}


def _images(count: int = 2, height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ramp(count: int = 2) -> Tensor:
    """Maps of two samples, 2 on the left and 0 on the right: resized and normalised a line from 1 to 0."""
    return torch.tensor([[2.0, 0.0], [2.0, 0.0]]).expand(count, 1, 2, 2)


def _weights(augmentation: AttentionAugmentation, maps: Tensor, seed: int = 0) -> np.ndarray[Any, Any]:
    """How much of the degraded image each column holds, (W,): images whose copies differ from them by one all over."""
    augmentation.degrade = lambda images: images + 1  # type: ignore[method-assign]
    images = torch.zeros(len(maps), 3, 40, 49)
    mixed: np.ndarray[Any, Any] = augmentation(images, maps, _generator(seed)).images[:, 0, 7].numpy()
    return mixed[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("kind", "rounding"), [("soft", 0), ("hard", 0), ("reference", 1e-6)])
def test_zero_attention_leaves_the_image_as_it_is(kind: str, rounding: float, seed: int) -> None:
    images = _images()
    degraded = KINDS[kind](images, torch.zeros(2, 4, 5, 6), _generator(seed)).images
    torch.testing.assert_close(degraded, images, atol=rounding, rtol=0)


def test_attention_one_on_a_region_gives_exactly_the_degraded_image_there() -> None:
    images, maps = _images(), torch.zeros(2, 1, 40, 48)
    maps[:, :, 10:20, 5:30] = 0.7
    degraded, _ = AUGMENT(images, maps, _generator())
    inside = (maps > 0).expand_as(images)
    assert torch.equal(degraded[inside], AUGMENT.degrade(images)[inside])
    assert torch.equal(degraded[~inside], images[~inside])
    assert (degraded[inside] - images[inside]).abs().mean() > 0.3


def test_attention_in_between_mixes_by_equation_6() -> None:
    images = _images()
    degraded, _ = AUGMENT(images, _ramp(), _generator())
    weight = np.linspace(1, 0, 48)
    expected = images.numpy() * (1 - weight) + AUGMENT.degrade(images).numpy() * weight
    np.testing.assert_allclose(degraded.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_hard_form_erases_where_attention_exceeds_its_threshold(threshold: float) -> None:
    images = _images(2, 40, 49)
    degraded, _ = _augmentation(mode="hard", drop_threshold=threshold)(images, _ramp(), _generator())
    kept = np.linspace(1, 0, 49) <= threshold + 1e-6
    assert torch.equal(degraded[..., kept], images[..., kept])
    assert not degraded[..., ~kept].any() and (~kept).sum() in (24, 34)


@pytest.mark.parametrize(("threshold", "zoom"), [(0.5, 4.0), (0.4, 3.0), (0.6, 5.0)])
def test_the_sigmoid_keeps_0_and_sharpens_around_its_threshold(threshold: float, zoom: float) -> None:
    augmentation = _augmentation(remap="sigmoid", remap_threshold=(threshold, threshold), remap_zoom=(zoom, zoom))
    attention = np.linspace(1, 0, 49)

    def logistic(x: np.ndarray[Any, Any] | float) -> Any:
        return 1 / (1 + np.exp(-x))

    at_zero = logistic(-threshold * zoom)
    expected = (logistic((attention - threshold) * zoom) - at_zero) / (1 - at_zero)
    np.testing.assert_allclose(_weights(augmentation, _ramp()), expected, atol=1e-5)
    assert expected[-1] == 0


def test_the_sigmoid_s_threshold_and_zoom_are_drawn_anew_for_every_batch_between_their_bounds() -> None:
    at_one = np.array([_weights(_augmentation(remap="sigmoid"), _ramp(1), seed)[0] for seed in range(150)])
    assert at_one.min() >= 0.73 and at_one.max() <= 0.95 and at_one.max() - at_one.min() > 0.14
    for settings, bounds in (
        ({"remap_zoom": (4.0, 4.0)}, [(0.4, 4.0), (0.6, 4.0)]),
        ({"remap_threshold": (0.5, 0.5)}, [(0.5, 5.0), (0.5, 3.0)]),
    ):
        got = [_weights(_augmentation(remap="sigmoid", **settings), _ramp(1), seed)[0] for seed in range(150)]
        high, low = (1 - (1 - 1 / (1 + math.exp(-(1 - t) * z))) / (1 - 1 / (1 + math.exp(t * z))) for t, z in bounds)
        assert low <= min(got) < low + 0.02 * high and high - 0.02 * high < max(got) <= high + 1e-6


def test_the_sigmoid_is_the_same_for_all_images_of_a_batch() -> None:
    augmentation = _augmentation(remap="sigmoid")
    augmentation.degrade = lambda images: images + 1  # type: ignore[method-assign]
    mixed = augmentation(torch.zeros(6, 3, 8, 8), torch.ones(6, 2, 1, 1), _generator()).images
    assert len(mixed.unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_themselves_are_not_changed(kind: str) -> None:
    images, maps = _images(), torch.rand(2, 4, 5, 6, generator=_generator())
    before, maps_before = images.clone(), maps.clone()
    degraded = KINDS[kind](images, maps, _generator()).images
    degraded.zero_()
    assert torch.equal(images, before) and torch.equal(maps, maps_before)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_runs_into_the_augmentation(kind: str) -> None:
    images = _images().requires_grad_()
    maps = torch.rand(2, 4, 5, 6, generator=_generator()).requires_grad_()
    degraded, drawn = KINDS[kind](images, maps, _generator())
    assert not degraded.requires_grad and not drawn.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_degraded_by_the_map_drawn_for_it(kind: str) -> None:
    maps = torch.zeros(32, 4, 8, 8)
    for k, (rows, columns) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        maps[:, k, rows : rows + 4, columns : columns + 4] = k + 1
    images = _images(32, 8, 8)
    degraded, drawn = KINDS[kind](images, maps, _generator())
    looked_at = torch.stack([maps[i, int(k)] for i, k in enumerate(drawn)]) > 0
    assert torch.equal(((degraded - images).abs() > 1e-5).any(dim=1), looked_at)
    assert len(drawn.unique()) == 4


@pytest.mark.parametrize("select", ["uniform", "sqrt-mass"])
def test_maps_are_drawn_with_their_chances_and_always_alike_for_one_generator_state(select: str) -> None:
    """Masses 0, 3, 8 and 24: the square roots of the mass plus one are 1, 2, 3 and 5."""
    count = 4000
    masses = torch.tensor([0.0, 3.0, 8.0, 24.0])
    images, maps = torch.zeros(count, 3, 2, 2), (masses / 20)[:, None, None].expand(count, 4, 4, 5)
    augmentation = _augmentation(select=select)
    _, drawn = augmentation(images, maps, _generator(7))
    chances = [0.25] * 4 if select == "uniform" else [1 / 11, 2 / 11, 3 / 11, 5 / 11]
    assert (torch.bincount(drawn, minlength=4) / count).tolist() == pytest.approx(chances, abs=0.03)
    assert torch.equal(augmentation(images, maps, _generator(7)).drawn, drawn)
    assert not torch.equal(augmentation(images, maps, _generator(8)).drawn, drawn)


@pytest.mark.parametrize("select", ["uniform", "sqrt-mass"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_draw_what_one_process_draws_for_the_whole_batch(select: str, world_size: int) -> None:
    augmentation = _augmentation(select=select, remap="sigmoid")
    images, maps = _images(6 * world_size, 8, 8), torch.rand(6 * world_size, 4, 5, 6, generator=_generator()) * 9
    whole = augmentation(images, maps, _generator(3))
    parts = [
        augmentation(
            images[rank * 6 : (rank + 1) * 6],
            maps[rank * 6 : (rank + 1) * 6],
            _generator(3),
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert torch.equal(torch.cat([part.drawn for part in parts]), whole.drawn)
    torch.testing.assert_close(torch.cat([part.images for part in parts]), whole.images)


def test_the_draw_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _augmentation(select="sqrt-mass", remap="sigmoid")(_images(), torch.ones(2, 4, 2, 2), _generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_maps_are_divided_by_their_own_peak_and_dead_ones_stay_zero() -> None:
    maps = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[1e-6, 0.0], [0.0, 5e-7]]])
    expected = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.5]]])
    torch.testing.assert_close(normalize_maps(maps), expected)
    torch.testing.assert_close(normalize_maps(maps + 1)[0], torch.tensor([[0.2, 0.6], [1.0, 0.4]]))


def test_maps_are_brought_to_their_own_range_and_constant_ones_become_zero() -> None:
    maps = torch.tensor([[[1.0, 3.0], [5.0, 2.0]], [[0.7, 0.7], [0.7, 0.7]]])
    expected = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(normalize_maps(maps, "minmax"), expected)


@pytest.mark.parametrize(("normalize", "right"), [("max", 0.5), ("minmax", 0.0)])
def test_how_maps_are_normalized_is_a_setting(normalize: str, right: float) -> None:
    weights = _weights(_augmentation(normalize=normalize), _ramp() + 2)
    np.testing.assert_allclose(weights, np.linspace(1, right, 49), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "small", "kernel", "sigma"),
    [
        ({}, [18, 27], 11, 7.0),
        ({"scale": 0.5}, [30, 45], 11, 7.0),
        ({"kernel_px": 5}, [18, 27], 5, 7.0),
        ({"sigma_px": 1.5}, [18, 27], 11, 1.5),
        ({"scale": 1.0, "kernel_px": 3}, [60, 90], 3, 7.0),
    ],
)
def test_the_copy_is_reduced_blurred_and_enlarged(
    settings: dict[str, Any], small: list[int], kernel: int, sigma: float
) -> None:
    images = _images(2, 60, 90)
    reduced = transforms.resize(images, small, interpolation=InterpolationMode.BILINEAR, antialias=True)
    blurred = transforms.gaussian_blur(reduced, [kernel, kernel], [sigma, sigma])
    expected = transforms.resize(blurred, [60, 90], interpolation=InterpolationMode.BILINEAR, antialias=False)
    torch.testing.assert_close(_augmentation(**settings).degrade(images), expected, atol=1e-5, rtol=1e-4)


def test_noise_is_added_to_the_reduced_image_after_the_blur() -> None:
    """At half the size a pixel of the enlarged copy is (3 a + b) / 4 along each axis: the deviation falls to 5 / 8."""
    torch.manual_seed(0)
    images = torch.zeros(1, 3, 200, 200)
    assert _augmentation(noise=0.2, scale=1.0).degrade(images).std().item() == pytest.approx(0.2, rel=0.03)
    noisy = _augmentation(noise=0.2, scale=0.5).degrade(images)
    assert noisy[..., 2:-2, 2:-2].std().item() == pytest.approx(0.2 * 5 / 8, rel=0.03)
    assert abs(noisy.mean().item()) < 0.01
    assert not AUGMENT.degrade(images).any()


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
    torch.testing.assert_close(gaussian_blur(images, 7.0, 11), expected, atol=1e-5, rtol=1e-4)


def test_blur_spreads_a_point_into_a_gaussian_that_sums_to_one() -> None:
    image = torch.zeros(1, 1, 25, 25)
    image[0, 0, 12, 12] = 1
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 7.0**2))
    expected = np.zeros((25, 25))
    expected[7:18, 7:18] = np.outer(weights, weights) / weights.sum() ** 2
    spread = gaussian_blur(image, 7.0, 11)[0, 0].numpy()
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
    torch.testing.assert_close(gaussian_blur(images, 7.0, 11), images)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_degraded_the_same_under_autocast(kind: str) -> None:
    images, maps = _images(), torch.rand(2, 4, 5, 6, generator=_generator()).bfloat16()
    torch.manual_seed(0)
    expected = KINDS[kind](images, maps, _generator())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = KINDS[kind](images, maps, _generator())
    assert mixed.images.dtype == torch.float32 and torch.equal(mixed.drawn, expected.drawn)
    torch.testing.assert_close(mixed.images, expected.images, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, r"agda.scale must be in \(0, 1\], got 0"),
        ({"sigma_px": 0.0}, "agda.sigma_px must be > 0, got 0"),
        ({"kernel_px": 10}, "agda.kernel_px must be odd, got 10"),
        ({"drop_threshold": 1.0}, "agda.drop_threshold must be between 0 and 1, got 1"),
        ({"noise": -0.1}, "agda.noise must be >= 0, got -0.1"),
        ({"ce_weight": -1.0}, "agda.ce_weight must be >= 0, got -1"),
        ({"match_weight": -1.0}, "agda.match_weight must be >= 0, got -1"),
        ({"last_epochs": -1}, "agda.last_epochs must be >= 0, got -1"),
    ],
)
def test_impossible_settings_say_what_they_got(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttentionAugmentationConfig(**settings)
