"""The losses are their equations, term by term, and the gradient of regional independence runs through the moving centres."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.training.config import PRESETS, AdditiveMarginConfig, RegionalIndependenceConfig
from pipelines.training.losses import UPDATE_RATE_FLOOR, AdditiveMarginLoss, RegionalIndependenceLoss, match_loss

Array = npt.NDArray[np.float64]
PAPER, REFERENCE = PRESETS["paper"].ril, PRESETS["reference"].ril
LABELS = [0, 1, 1, 0, 1]
VARIANTS: dict[str, RegionalIndependenceConfig] = {
    "paper": PAPER,
    "reference": REFERENCE,
    "paper, frobenius": replace(PAPER, distance="frobenius"),
    "paper, real margin": replace(PAPER, inner_margins=(0.15, 0.1)),
    "paper, fake margin": replace(PAPER, inner_margins=(0.05, 0.2)),
    "paper, fakes pushed": replace(PAPER, inner_margins=(0.05, -0.5)),
    "paper, outer margin": replace(PAPER, outer_margin=0.4),
    "paper, unordered": replace(PAPER, pairs="unordered"),
    "paper, scaled": replace(PAPER, inter_scale="per-map-and-rate"),
    "paper, sum": replace(PAPER, reduction="sum"),
    "paper, real centres": replace(PAPER, centers="real"),
    "paper, faster": replace(PAPER, update_rate=0.3),
    "reference, squared": replace(REFERENCE, distance="squared"),
    "reference, reals pushed": replace(REFERENCE, inner_margins=(-0.9, 0.3)),
    "reference, ordered": replace(REFERENCE, pairs="ordered"),
    "reference, sum": replace(REFERENCE, reduction="sum"),
    "reference, all centres": replace(REFERENCE, centers="all"),
    "reference, unscaled": replace(REFERENCE, inter_scale="one"),
}


def _move_centers(centers: Array, vectors: Array, labels: list[int], config: RegionalIndependenceConfig) -> Array:
    """Equation 4, one centre at a time; of real images alone the mean is over the whole batch all the same."""
    moved = centers.copy()
    for j in range(len(centers)):
        pulling = [i for i in range(len(vectors)) if config.centers == "all" or labels[i] == 0]
        pull = sum((centers[j] - vectors[i, j] for i in pulling), start=np.zeros(centers.shape[1])) / len(vectors)
        moved[j] = centers[j] - config.update_rate * pull
    return moved


def _loss(vectors: Array, labels: list[int], old_centers: Array, config: RegionalIndependenceConfig) -> float:
    """Equation 3 with the centres after their step, as the settings' names say."""
    centers = _move_centers(old_centers, vectors, labels, config)
    count = len(centers)
    intra = 0.0
    for vector, label in zip(vectors, labels, strict=True):
        squares = [float(((vector[j] - centers[j]) ** 2).sum()) for j in range(count)]
        margin = config.inner_margins[label]
        for distance in squares if config.distance == "squared" else [math.sqrt(sum(squares))]:
            intra += max(-margin - distance, 0.0) if margin < 0 else max(distance - margin, 0.0)
    if config.reduction == "mean":
        intra /= len(vectors)
    inter = 0.0
    for i in range(count):
        for j in range(count):
            if i < j or (i > j and config.pairs == "ordered"):
                square = float(((centers[i] - centers[j]) ** 2).sum())
                distance = square if config.distance == "squared" else math.sqrt(square)
                inter += max(config.outer_margin - distance, 0.0)
    if config.inter_scale == "per-map-and-rate":
        inter /= count * config.update_rate
    return intra + inter


def _numerical_gradient(vectors: Array, labels: list[int], centers: Array, config: RegionalIndependenceConfig) -> Array:
    """dL/dV by central differences."""
    gradient, step = np.zeros_like(vectors), 1e-6
    for place in np.ndindex(*vectors.shape):
        above, below = vectors.copy(), vectors.copy()
        above[place] += step
        below[place] -= step
        rise = _loss(above, labels, centers, config) - _loss(below, labels, centers, config)
        gradient[place] = rise / (2 * step)
    return gradient


def _near(centers: Array, spread: float, seed: int = 0) -> Array:
    """Vectors around the centres: some inside a margin, some between the two margins, some outside both."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(rng.uniform(0.2 * spread, spread, (len(LABELS), len(centers), 1)))
    direction = rng.normal(size=(len(LABELS), *centers.shape))
    vectors: Array = centers + radius * direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    return vectors


def _centers(seed: int = 1) -> Array:
    """Four centres of which some pairs are closer than the outer margin."""
    return np.random.default_rng(seed).normal(size=(4, 6)) * 0.18


def _unit_vectors(images: int, count: int = 4, channels: int = 6, seed: int = 0) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(images, count, channels))
    unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _module(centers: Array, config: RegionalIndependenceConfig = PAPER) -> RegionalIndependenceLoss:
    loss = RegionalIndependenceLoss(*centers.shape, config)
    loss.centers.copy_(torch.from_numpy(centers))
    return loss


def _value(loss: RegionalIndependenceLoss, vectors: Array, labels: list[int]) -> float:
    return float(loss(torch.from_numpy(vectors).float(), torch.tensor(labels)))


def _still(**settings: Any) -> RegionalIndependenceConfig:
    """The paper's loss with centres that hardly move, for values in closed form."""
    return replace(PAPER, update_rate=1e-9, **settings)


@pytest.mark.parametrize("spread", [0.02, 0.15, 1.0])
@pytest.mark.parametrize("case", VARIANTS)
def test_the_loss_is_equation_3_after_the_centres_have_moved(case: str, spread: float) -> None:
    config, centers = VARIANTS[case], _centers()
    vectors = _near(centers, spread)
    expected = _loss(vectors, LABELS, centers, config)
    assert _value(_module(centers, config), vectors, LABELS) == pytest.approx(expected, abs=2e-5, rel=1e-5)
    assert _value(_module(centers, config).eval(), vectors, LABELS) == pytest.approx(expected, abs=2e-5, rel=1e-5)


@pytest.mark.parametrize("case", [case for case in VARIANTS if "," in case])
def test_each_setting_changes_the_loss(case: str) -> None:
    centers = _centers()
    vectors = _near(centers, 0.3)
    base = _value(_module(centers, VARIANTS[case.split(",")[0]]), vectors, LABELS)
    assert abs(_value(_module(centers, VARIANTS[case]), vectors, LABELS) - base) > 1e-3


@pytest.mark.parametrize("spread", [0.15, 1.0])
@pytest.mark.parametrize("case", VARIANTS)
def test_the_gradient_runs_through_the_centres_step(case: str, spread: float) -> None:
    config, centers = VARIANTS[case], _centers()
    vectors = _near(centers, spread)
    inputs = torch.from_numpy(vectors).float().requires_grad_()
    _module(centers, config)(inputs, torch.tensor(LABELS)).backward()
    assert inputs.grad is not None
    expected = _numerical_gradient(vectors, LABELS, centers, config)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(inputs.grad.numpy(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
def test_centres_closer_than_the_margin_push_their_vectors_apart(config: RegionalIndependenceConfig) -> None:
    """A vector inside its inner margin feels the outer term alone, which reaches it only through the centres."""
    inputs = torch.tensor([[[0.0, 0.0], [0.1, 0.0]]], requires_grad=True)
    _module(np.array([[0.0, 0.0], [0.1, 0.0]]), config)(inputs, torch.tensor([0])).backward()
    push = 0.4 * config.update_rate if config is PAPER else 1 / 2
    torch.testing.assert_close(inputs.grad, torch.tensor([[[push, 0.0], [-push, 0.0]]]))


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
def test_the_loss_starts_at_zero_centres(config: RegionalIndependenceConfig) -> None:
    vectors, centers = _unit_vectors(5), np.zeros((4, 6))
    loss = RegionalIndependenceLoss(4, 6, config)
    assert not loss.centers.any()
    assert _value(loss, vectors, LABELS) == pytest.approx(_loss(vectors, LABELS, centers, config), rel=1e-5)


def test_the_authors_loss_starts_at_about_24_and_a_half() -> None:
    """Six pairs of centres that have hardly left zero, 6 * 0.8 / (4 * 0.05), and real images at distance 2 of zero."""
    value = _value(RegionalIndependenceLoss(4, 32, REFERENCE), _unit_vectors(16, channels=32), [0, 1] * 8)
    assert value == pytest.approx(24.5, abs=0.4)


def test_the_paper_s_loss_starts_at_an_image_s_distance_and_twelve_outer_margins() -> None:
    value = _value(RegionalIndependenceLoss(4, 32, PAPER), _unit_vectors(16, channels=32), [0, 1] * 8)
    assert value == pytest.approx(4 * (1 - 0.075) + 12 * 0.2, abs=0.1)


@pytest.mark.parametrize(("squared", "real", "fake"), [(0.04, 0.0, 0.0), (0.07, 0.02, 0.0), (0.3, 0.25, 0.2)])
def test_real_faces_have_the_tighter_margin(squared: float, real: float, fake: float) -> None:
    loss = RegionalIndependenceLoss(1, 2, _still())
    vectors = np.array([[[np.sqrt(squared), 0.0]]])
    assert _value(loss, vectors, [0]) == pytest.approx(real, abs=1e-6)
    assert _value(loss, vectors, [1]) == pytest.approx(fake, abs=1e-6)


@pytest.mark.parametrize(
    ("distance", "real", "fake"), [(0.1, 0.0, 0.7), (0.3, 0.1, 0.5), (0.8, 0.6, 0.0), (1.5, 1.3, 0.0)]
)
def test_the_authors_loss_pulls_real_images_within_and_pushes_fakes_beyond(
    distance: float, real: float, fake: float
) -> None:
    """One distance over both maps of an image; the centres are far enough apart."""
    centers = np.array([[0.0, 0.0], [5.0, 0.0]])
    loss = _module(centers, replace(REFERENCE, update_rate=1e-9)).eval()
    vectors = centers[None] + np.array([[[0.6 * distance, 0.0], [0.0, 0.8 * distance]]])
    assert _value(loss, vectors, [0]) == pytest.approx(real, abs=1e-5)
    assert _value(loss, vectors, [1]) == pytest.approx(fake, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2 * (0.2 - 0.09)),
        ({"pairs": "unordered"}, 0.2 - 0.09),
        ({"outer_margin": 0.5}, 2 * (0.5 - 0.09)),
        ({"distance": "frobenius", "outer_margin": 0.5}, 2 * (0.5 - 0.3)),
        ({"inter_scale": "per-map-and-rate"}, 2 * (0.2 - 0.09) / (3 * 1e-9)),
    ],
)
def test_centres_that_are_too_close_cost_what_is_missing(settings: dict[str, Any], expected: float) -> None:
    centers = np.array([[0.0, 0.0], [0.3, 0.0], [9.0, 9.0]])
    assert _value(_module(centers, _still(**settings)), centers[None], [0]) == pytest.approx(expected, rel=1e-5)


def test_one_map_has_no_pairs() -> None:
    assert _value(RegionalIndependenceLoss(1, 2, PAPER), np.zeros((2, 1, 2)), [0, 1]) == 0


def test_the_loss_is_a_mean_over_the_batch_or_a_sum() -> None:
    centers = _centers()
    vectors = _near(centers, 1.0)
    thrice, labels = np.concatenate([vectors] * 3), LABELS * 3
    once = _value(_module(centers), vectors, LABELS)
    assert once > 0.5 and _value(_module(centers), thrice, labels) == pytest.approx(once, rel=1e-5)
    config = replace(PAPER, reduction="sum", outer_margin=0.0)
    once = _value(_module(centers, config), vectors, LABELS)
    assert _value(_module(centers, config), thrice, labels) == pytest.approx(3 * once, rel=1e-5)


@pytest.mark.parametrize("config", [PAPER, REFERENCE, replace(PAPER, update_rate=0.4)])
def test_centres_move_by_equation_4_in_training(config: RegionalIndependenceConfig) -> None:
    centers = _centers()
    loss = _module(centers, config).train()
    for seed in range(3):
        vectors = _near(centers, 1.0, seed)
        centers = _move_centers(centers, vectors, LABELS, config)
        _value(loss, vectors, LABELS)
        np.testing.assert_allclose(loss.centers.numpy(), centers, atol=1e-6)
    assert not loss.centers.requires_grad and loss.centers.grad_fn is None


def test_real_images_alone_move_the_authors_centres_by_their_share_of_the_batch() -> None:
    loss = RegionalIndependenceLoss(1, 2, REFERENCE)
    _value(loss, np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 1.0]]]), [0, 1, 1, 1])
    assert loss.centers.tolist() == [[pytest.approx(0.05 / 4), 0.0]]


def test_centres_stay_in_evaluation() -> None:
    centers = _centers()
    loss = _module(centers).eval()
    before = loss.centers.clone()
    _value(loss, _near(centers, 1.0), LABELS)
    loss.move_centers(torch.from_numpy(_near(centers, 1.0)), torch.tensor(LABELS))
    assert torch.equal(loss.centers, before)


def test_several_steps_can_be_taken_one_after_another() -> None:
    loss = RegionalIndependenceLoss(4, 6, PAPER)
    for seed in range(3):
        inputs = torch.from_numpy(_near(_centers(), 1.0, seed)).float().requires_grad_()
        loss(inputs, torch.tensor(LABELS)).backward()
        assert inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize(("rate", "decay"), [(0.05, 0.9), (0.2, 0.5)])
def test_the_step_shrinks_each_epoch_down_to_a_floor(rate: float, decay: float) -> None:
    loss = RegionalIndependenceLoss(1, 2, replace(PAPER, update_rate=rate, update_rate_decay=decay))
    rates = [float(loss.update_rate)]
    for _ in range(60):
        loss.end_epoch()
        rates.append(float(loss.update_rate))
    assert rates == pytest.approx([max(rate * decay**epoch, 1e-3) for epoch in range(61)])
    assert rates[-1] == pytest.approx(UPDATE_RATE_FLOOR)


def test_a_slower_step_moves_the_centres_less_and_weighs_the_authors_pairs_more() -> None:
    loss = RegionalIndependenceLoss(1, 2, PAPER)
    loss.end_epoch()
    _value(loss, np.array([[[1.0, 0.0]]]), [0])
    assert loss.centers.tolist() == [[pytest.approx(0.045), 0.0]]
    centers = _centers()
    loss = _module(centers, REFERENCE)
    loss.end_epoch()
    expected = _loss(_near(centers, 1.0), LABELS, centers, replace(REFERENCE, update_rate=0.045))
    assert _value(loss, _near(centers, 1.0), LABELS) == pytest.approx(expected, rel=1e-5)


def test_state_keeps_centres_and_step() -> None:
    loss = RegionalIndependenceLoss(4, 6, PAPER)
    _value(loss, _near(_centers(), 1.0), LABELS)
    loss.end_epoch()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert set(state) == {"centers", "update_rate"}
    again = RegionalIndependenceLoss(4, 6, PAPER)
    again.load_state_dict(state, strict=True)
    assert torch.equal(again.centers, loss.centers) and float(again.update_rate) == pytest.approx(0.045)
    vectors = _near(_centers(), 1.0, seed=7)
    assert _value(again, vectors, LABELS) == _value(loss, vectors, LABELS)


def test_nothing_in_the_loss_is_decayed_by_the_optimizer() -> None:
    assert list(RegionalIndependenceLoss(4, 6, PAPER).parameters()) == []


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_is_finite(label: int, config: RegionalIndependenceConfig) -> None:
    vectors, labels = _near(_centers(), 1.0), [label] * len(LABELS)
    expected = _loss(vectors, labels, np.zeros((4, 6)), config)
    inputs = torch.from_numpy(vectors).float().requires_grad_()
    value = RegionalIndependenceLoss(4, 6, config)(inputs, torch.tensor(labels))
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    assert inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize(("config", "expected"), [(PAPER, 4 * 3 * 0.2), (REFERENCE, 6 * 0.8 / 4 / 0.05 + 0.8 / 3)])
def test_dead_maps_cost_the_outer_margin_and_have_a_finite_gradient(
    config: RegionalIndependenceConfig, expected: float
) -> None:
    inputs = torch.zeros(3, 4, 6, requires_grad=True)
    value = RegionalIndependenceLoss(4, 6, config)(inputs, torch.tensor([0, 1, 0]))
    value.backward()
    assert float(value.detach()) == pytest.approx(expected)
    assert inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
def test_one_dead_map_has_a_finite_gradient(config: RegionalIndependenceConfig) -> None:
    vectors = _unit_vectors(4)
    vectors[:, 2] = 0
    inputs = torch.from_numpy(vectors).float().requires_grad_()
    value = RegionalIndependenceLoss(4, 6, config)(inputs, torch.tensor([0, 1, 0, 1]))
    value.backward()
    assert value.isfinite() and inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize("config", [PAPER, REFERENCE])
def test_the_loss_is_float32_under_autocast(config: RegionalIndependenceConfig) -> None:
    vectors = torch.from_numpy(_near(_centers(), 1.0)).bfloat16()
    plain, mixed = _module(_centers(), config), _module(_centers(), config)
    expected = plain(vectors.float(), torch.tensor(LABELS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mixed(vectors, torch.tensor(LABELS))
    assert value.dtype == mixed.centers.dtype == torch.float32
    assert torch.equal(value, expected) and torch.equal(mixed.centers, plain.centers)


def _additive_margin(vectors: Array, directions: Array, scale: float, margin: float) -> float:
    """-log of exp(s (cos own - m)) over itself and exp(s cos other), one region at a time."""
    terms = []
    for image in vectors:
        for own, vector in enumerate(image):
            cosines = [float(vector @ each / np.linalg.norm(each)) for each in directions]
            numerator = math.exp(scale * (cosines[own] - margin))
            others = sum(math.exp(scale * cosine) for k, cosine in enumerate(cosines) if k != own)
            terms.append(-math.log(numerator / (numerator + others)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.35), (10.0, 0.35), (30.0, 0.0), (30.0, 1.0)])
def test_additive_margin_takes_the_margin_from_the_own_region_s_cosine_alone(scale: float, margin: float) -> None:
    torch.manual_seed(0)
    loss = AdditiveMarginLoss(4, 6, AdditiveMarginConfig(scale=scale, margin=margin))
    with torch.no_grad():
        loss.directions.mul_(torch.tensor([[0.1], [1.0], [3.0], [20.0]]))
    vectors = _unit_vectors(5)
    expected = _additive_margin(vectors, loss.directions.detach().double().numpy(), scale, margin)
    value = loss(torch.from_numpy(vectors).float(), torch.tensor(LABELS))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_additive_margin_has_the_paper_s_scale_and_margin() -> None:
    """Two regions, each exactly in its own direction and at a right angle to the other's."""
    loss = AdditiveMarginLoss(2, 2, AdditiveMarginConfig(scale=1.0))
    with torch.no_grad():
        loss.directions.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    value = loss(torch.eye(2)[None], torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.65)), rel=1e-5)
    assert (AdditiveMarginConfig().scale, AdditiveMarginConfig().margin) == (30.0, 0.35)


def test_additive_margin_learns_its_directions() -> None:
    torch.manual_seed(0)
    loss = AdditiveMarginLoss(4, 6, AdditiveMarginConfig())
    vectors = torch.from_numpy(_unit_vectors(1)).float().repeat(8, 1, 1)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(vectors, torch.zeros(8, dtype=torch.long))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]


def test_additive_margin_does_not_look_at_the_images_labels_and_survives_dead_maps() -> None:
    torch.manual_seed(0)
    loss = AdditiveMarginLoss(4, 6, AdditiveMarginConfig())
    vectors = torch.from_numpy(_unit_vectors(3)).float()
    assert torch.equal(loss(vectors, torch.tensor([0, 0, 0])), loss(vectors, torch.tensor([1, 0, 1])))
    dead = torch.zeros(3, 4, 6, requires_grad=True)
    value = loss(dead, torch.tensor([0, 1, 0]))
    value.backward()
    assert value.isfinite() and dead.grad is not None and dead.grad.isfinite().all()


def test_additive_margin_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    loss = AdditiveMarginLoss(4, 6, AdditiveMarginConfig())
    vectors = torch.from_numpy(_unit_vectors(3)).bfloat16()
    expected = loss(vectors.float(), torch.tensor([0, 1, 0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(vectors, torch.tensor([0, 1, 0]))
    assert value.dtype == torch.float32 and torch.equal(value, expected)


def _matching(clean: Tensor, degraded: Tensor, drawn: Tensor) -> float:
    total = 0.0
    for i in range(len(clean)):
        for m in range(clean.shape[1]):
            if m != int(drawn[i]):
                total += math.dist(clean[i, m].tolist(), degraded[i, m].tolist())
    return total / (clean.shape[0] * clean.shape[1])


def test_matching_is_the_mean_distance_without_the_drawn_maps() -> None:
    clean, degraded = (torch.from_numpy(_unit_vectors(5, seed=seed)).float() for seed in (0, 1))
    drawn = torch.tensor([0, 3, 1, 1, 2])
    expected = _matching(clean, degraded, drawn)
    assert match_loss(clean, degraded, drawn).item() == pytest.approx(expected, rel=1e-5)
    moved = degraded.clone()
    moved[torch.arange(5), drawn] += 10
    assert torch.equal(match_loss(clean, moved, drawn), match_loss(clean, degraded, drawn))


def test_matching_equal_vectors_costs_nothing_and_both_sides_learn() -> None:
    clean, degraded = (torch.from_numpy(_unit_vectors(2, seed=seed)).float().requires_grad_() for seed in (0, 0))
    value = match_loss(clean, degraded, torch.tensor([0, 1]))
    value.backward()
    assert value.item() == 0 and degraded.grad is not None and degraded.grad.isfinite().all()
    other = torch.from_numpy(_unit_vectors(2, seed=1)).float().requires_grad_()
    match_loss(clean, other, torch.tensor([0, 1])).backward()
    assert clean.grad is not None and clean.grad[0, 1].any() and other.grad is not None and other.grad[0, 1].any()
    assert not other.grad[0, 0].any()


def test_matching_is_float32_under_autocast() -> None:
    clean, degraded = (torch.from_numpy(_unit_vectors(3, seed=seed)).bfloat16() for seed in (0, 1))
    drawn = torch.tensor([0, 3, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = match_loss(clean, degraded, drawn)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(_matching(clean.float(), degraded.float(), drawn), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RegionalIndependenceConfig, {"weight": -1.0}, "ril.weight must be >= 0, got -1"),
        (RegionalIndependenceConfig, {"outer_margin": -0.1}, "ril.outer_margin must be >= 0, got -0.1"),
        (RegionalIndependenceConfig, {"update_rate": 0.0}, r"ril.update_rate must be in \(0, 1\], got 0"),
        (RegionalIndependenceConfig, {"update_rate_decay": 1.1}, r"ril.update_rate_decay must be in \(0, 1\], got 1.1"),
        (AdditiveMarginConfig, {"weight": -1.0}, "ams.weight must be >= 0, got -1"),
        (AdditiveMarginConfig, {"scale": 0.0}, "ams.scale must be > 0, got 0"),
        (AdditiveMarginConfig, {"margin": 2.0}, r"ams.margin must be in \[0, 2\), got 2"),
    ],
)
def test_impossible_settings_say_what_they_got(kind: Any, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_in_two_parts_has_the_loss_and_the_centres_of_one_in_whole(reduction: Literal["mean", "sum"]) -> None:
    config = replace(PAPER, reduction=reduction, update_rate=1e-6, update_rate_decay=1.0)  # the centres stay near
    vectors, labels = torch.from_numpy(_unit_vectors(4)).float(), torch.tensor([0, 1, 0, 1])
    whole, parted = _module(_centers(), config), _module(_centers(), config)
    loss = whole(vectors, labels)
    parts = [parted(vectors[i : i + 2], labels[i : i + 2], parts=2) for i in (0, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss, atol=1e-4, rtol=1e-4)
    twice = replace(config, update_rate=0.2)
    whole, parted = _module(_centers(), twice), _module(_centers(), twice)
    before = whole.centers.clone()
    whole.move_centers(vectors, labels)
    for i in (0, 2):
        parted.move_centers(vectors[i : i + 2], labels[i : i + 2], parts=2)
    moved, moved_in_parts = (whole.centers - before).norm(), (parted.centers - before).norm()
    assert 0.9 < float(moved_in_parts / moved) < 1.0  # by shares of 0.1: once 0.19, not 0.2, and never twice 0.2


def test_several_processes_sum_over_the_whole_batch() -> None:
    config = replace(PAPER, reduction="sum", update_rate=1e-6)
    vectors, labels = torch.from_numpy(_unit_vectors(4)).float(), torch.tensor([0, 1, 0, 1])
    whole = _module(_centers(), config)(vectors, labels)
    shares = [_module(_centers(), config)(vectors[i : i + 2], labels[i : i + 2], processes=2) for i in (0, 2)]
    torch.testing.assert_close(torch.stack(shares).mean(), whole, atol=1e-4, rtol=1e-4)


def test_the_floor_of_the_rate_never_raises_it() -> None:
    loss = _module(_centers(), replace(PAPER, update_rate=5e-4))
    loss.end_epoch()
    assert float(loss.update_rate) == pytest.approx(5e-4)
