"""The regional independence loss is equations 3 and 4, and its gradient runs through the moving centres."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.training.losses import RegionalIndependenceLoss

Array = npt.NDArray[np.float64]
INNER, OUTER, ALPHA = (0.05, 0.1), 0.2, 0.05
LABELS = [0, 1, 1, 0, 1]


def _move_centers(centers: Array, vectors: Array, alpha: float) -> Array:
    """Equation 4."""
    moved = centers.copy()
    for j in range(len(centers)):
        mean = sum(vectors[i, j] for i in range(len(vectors))) / len(vectors)
        moved[j] = centers[j] - alpha * (centers[j] - mean)
    return moved


def _loss(vectors: Array, labels: list[int], centers: Array) -> float:
    """Equation 3 with the centres after their step: a mean over the batch, then a sum over ordered pairs."""
    intra = 0.0
    for vector, label in zip(vectors, labels, strict=True):
        for j in range(len(centers)):
            intra += max(float(((vector[j] - centers[j]) ** 2).sum()) - INNER[label], 0.0)
    inter = 0.0
    for i in range(len(centers)):
        for j in range(len(centers)):
            if i != j:
                inter += max(OUTER - float(((centers[i] - centers[j]) ** 2).sum()), 0.0)
    return intra / len(vectors) + inter


def _gradient(vectors: Array, labels: list[int], old_centers: Array, *, through_centers: bool) -> Array:
    """dL/dV in closed form; without `through_centers` as if the centres had been detached."""
    centers, batch = _move_centers(old_centers, vectors, ALPHA), len(vectors)
    direct, to_centers = np.zeros_like(vectors), np.zeros_like(centers)
    for i, label in enumerate(labels):
        for j in range(len(centers)):
            apart = vectors[i, j] - centers[j]
            if (apart**2).sum() > INNER[label]:
                direct[i, j] += 2 * apart / batch
                to_centers[j] -= 2 * apart / batch
    for i in range(len(centers)):
        for j in range(len(centers)):
            apart = centers[i] - centers[j]
            if i != j and (apart**2).sum() < OUTER:
                to_centers[i] -= 2 * apart
                to_centers[j] += 2 * apart
    through = ALPHA / batch * to_centers if through_centers else np.zeros_like(to_centers)
    whole: Array = direct + through[None]
    return whole


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


def _loss_module(centers: Array) -> RegionalIndependenceLoss:
    loss = RegionalIndependenceLoss(*centers.shape)
    loss.centers.copy_(torch.from_numpy(centers))
    return loss


def _value(loss: RegionalIndependenceLoss, vectors: Array, labels: list[int]) -> float:
    return float(loss(torch.from_numpy(vectors).float(), torch.tensor(labels)))


@pytest.mark.parametrize("spread", [0.02, 0.15, 1.0])
def test_the_loss_is_equation_3_after_the_centres_have_moved(spread: float) -> None:
    centers = _centers()
    vectors = _near(centers, spread)
    expected = _loss(vectors, LABELS, _move_centers(centers, vectors, ALPHA))
    assert _value(_loss_module(centers), vectors, LABELS) == pytest.approx(expected, abs=1e-5)
    assert _value(_loss_module(centers).eval(), vectors, LABELS) == pytest.approx(expected, abs=1e-5)


def test_the_loss_starts_at_zero_centres() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4, 6))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    expected = _loss(vectors, LABELS, _move_centers(np.zeros((4, 6)), vectors, ALPHA))
    assert _value(RegionalIndependenceLoss(4, 6), vectors, LABELS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("squared", "real", "fake"), [(0.04, 0.0, 0.0), (0.07, 0.02, 0.0), (0.3, 0.25, 0.2)])
def test_real_faces_have_the_tighter_margin(squared: float, real: float, fake: float) -> None:
    loss = RegionalIndependenceLoss(1, 2, update_rate=0.0)
    vectors = np.array([[[np.sqrt(squared), 0.0]]])
    assert _value(loss, vectors, [0]) == pytest.approx(real, abs=1e-6)
    assert _value(loss, vectors, [1]) == pytest.approx(fake, abs=1e-6)


def test_each_pair_of_centres_counts_twice() -> None:
    centers = np.array([[0.0, 0.0], [0.3, 0.0], [9.0, 9.0]])
    loss = RegionalIndependenceLoss(3, 2, update_rate=0.0)
    loss.centers.copy_(torch.from_numpy(centers))
    assert _value(loss, centers[None], [0]) == pytest.approx(2 * (0.2 - 0.09), abs=1e-6)


def test_one_map_has_no_pairs() -> None:
    loss = RegionalIndependenceLoss(1, 2)
    assert _value(loss, np.zeros((2, 1, 2)), [0, 1]) == 0


def test_the_loss_is_a_mean_over_the_batch() -> None:
    centers = _centers()
    vectors = _near(centers, 1.0)
    once = _value(_loss_module(centers), vectors, LABELS)
    thrice = _value(_loss_module(centers), np.concatenate([vectors] * 3), LABELS * 3)
    assert once > 0.5 and thrice == pytest.approx(once, rel=1e-5)


@pytest.mark.parametrize("spread", [0.15, 1.0])
def test_the_gradient_runs_through_the_centres_step(spread: float) -> None:
    centers = _centers()
    vectors = _near(centers, spread)
    inputs = torch.from_numpy(vectors).float().requires_grad_()
    _loss_module(centers)(inputs, torch.tensor(LABELS)).backward()
    assert inputs.grad is not None
    whole = _gradient(vectors, LABELS, centers, through_centers=True)
    detached = _gradient(vectors, LABELS, centers, through_centers=False)
    np.testing.assert_allclose(inputs.grad.numpy(), whole, atol=1e-5)
    assert np.abs(whole - detached).max() > 1e-3, "the case must tell the two apart"


def test_centres_closer_than_the_margin_push_their_vectors_apart() -> None:
    """Vectors inside their inner margins feel the outer term alone, which reaches them only through the centres."""
    centers = np.array([[0.0, 0.0], [0.1, 0.0]])
    inputs = torch.tensor([[[0.0, 0.0], [0.1, 0.0]]], requires_grad=True)
    _loss_module(centers)(inputs, torch.tensor([0])).backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, torch.tensor([[[0.4, 0.0], [-0.4, 0.0]]]) * ALPHA)


def test_centres_move_by_equation_4_in_training() -> None:
    centers = _centers()
    loss = _loss_module(centers).train()
    for seed in range(3):
        vectors = _near(centers, 1.0, seed)
        centers = _move_centers(centers, vectors, ALPHA)
        _value(loss, vectors, LABELS)
        np.testing.assert_allclose(loss.centers.numpy(), centers, atol=1e-6)
    assert not loss.centers.requires_grad


def test_centres_stay_in_evaluation() -> None:
    centers = _centers()
    loss = _loss_module(centers).eval()
    before = loss.centers.clone()
    _value(loss, _near(centers, 1.0), LABELS)
    assert torch.equal(loss.centers, before)


def test_several_steps_can_be_taken_one_after_another() -> None:
    loss = RegionalIndependenceLoss(4, 6)
    for seed in range(3):
        inputs = torch.from_numpy(_near(_centers(), 1.0, seed)).float().requires_grad_()
        loss(inputs, torch.tensor(LABELS)).backward()
        assert inputs.grad is not None and inputs.grad.isfinite().all()


def test_the_step_shrinks_by_a_tenth_each_epoch_down_to_a_floor() -> None:
    loss = RegionalIndependenceLoss(1, 2)
    rates = [float(loss.update_rate)]
    for _ in range(60):
        loss.end_epoch()
        rates.append(float(loss.update_rate))
    assert rates[:4] == pytest.approx([0.05, 0.045, 0.0405, 0.03645])
    assert rates[37] == pytest.approx(0.05 * 0.9**37) and rates[38:] == pytest.approx([1e-3] * 23)


def test_a_slower_step_moves_the_centres_less() -> None:
    loss = RegionalIndependenceLoss(1, 2)
    loss.end_epoch()
    _value(loss, np.array([[[1.0, 0.0]]]), [0])
    assert loss.centers.tolist() == [[pytest.approx(0.045), 0.0]]


def test_state_keeps_centres_and_step() -> None:
    loss = RegionalIndependenceLoss(4, 6)
    _value(loss, _near(_centers(), 1.0), LABELS)
    loss.end_epoch()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert set(state) == {"centers", "update_rate"}
    again = RegionalIndependenceLoss(4, 6)
    again.load_state_dict(state, strict=True)
    assert torch.equal(again.centers, loss.centers) and float(again.update_rate) == pytest.approx(0.045)
    vectors = _near(_centers(), 1.0, seed=7)
    assert _value(again, vectors, LABELS) == _value(loss, vectors, LABELS)


def test_nothing_in_the_loss_is_decayed_by_the_optimizer() -> None:
    assert list(RegionalIndependenceLoss(4, 6).parameters()) == []


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_is_finite(label: int) -> None:
    vectors = _near(_centers(), 1.0)
    labels = [label] * len(LABELS)
    expected = _loss(vectors, labels, _move_centers(np.zeros((4, 6)), vectors, ALPHA))
    assert _value(RegionalIndependenceLoss(4, 6), vectors, labels) == pytest.approx(expected, abs=1e-5)


def test_dead_maps_cost_the_outer_margin_and_have_a_finite_gradient() -> None:
    inputs = torch.zeros(3, 4, 6, requires_grad=True)
    value = RegionalIndependenceLoss(4, 6)(inputs, torch.tensor([0, 1, 0]))
    value.backward()
    assert float(value.detach()) == pytest.approx(4 * 3 * 0.2)
    assert inputs.grad is not None and inputs.grad.isfinite().all()


def test_the_loss_is_float32_under_autocast() -> None:
    vectors = torch.from_numpy(_near(_centers(), 1.0)).bfloat16()
    plain, mixed = _loss_module(_centers()), _loss_module(_centers())
    expected = plain(vectors.float(), torch.tensor(LABELS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mixed(vectors, torch.tensor(LABELS))
    assert value.dtype == mixed.centers.dtype == torch.float32
    assert torch.equal(value, expected) and torch.equal(mixed.centers, plain.centers)
