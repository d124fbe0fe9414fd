"""The losses on attention maps, mask and consistency: values by hand or by loops, unknown masks, gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipelines.models import build_model
from pipelines.models.outputs import DenseOutput
from pipelines.training.config import DenseSupervisionConfig, make_train_config
from pipelines.training.dense_losses import (
    anchor_targets,
    attention_loss,
    boundary_of,
    consistency_loss,
    dense_losses,
    mask_loss,
    pair_targets,
)
from pipelines.training.multi_task_step import MultiTaskStep
from tests.networks import random_images

CONFIG = DenseSupervisionConfig()
KNOWN = torch.ones(2)


def _masks() -> Tensor:
    """(2, 8, 8): a real face, and a fake with a soft square."""
    masks = torch.zeros(2, 8, 8)
    masks[1, 2:6, 2:6] = 1.0
    masks[1, 2, 2:6] = 0.5
    return masks


def _bce(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_boundary_is_one_at_half_and_zero_inside_and_outside() -> None:
    assert boundary_of(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == [0.0, 0.75, 1.0, 0.75, 0.0]


@pytest.mark.parametrize("target", ["boundary", "mask"])
def test_attention_loss_by_loops(target: str) -> None:
    config = replace(CONFIG, attention_target=target)
    levels = [_logits(2, 1, 4, 4), _logits(2, 1, 2, 2, seed=1)]
    truth = 4 * _masks() * (1 - _masks()) if target == "boundary" else _masks()
    means = []
    for logits in levels:
        cell = 8 // logits.shape[-1]
        terms = [
            _bce(float(logits[n, 0, y, x]), float(truth[n, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].max()))
            for n in range(2)
            for y in range(logits.shape[-1])
            for x in range(logits.shape[-1])
        ]
        means.append(sum(terms) / len(terms))
    assert float(attention_loss(levels, _masks(), KNOWN, config)) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_mask_loss_by_loops() -> None:
    config = replace(CONFIG, focal_gamma=3.0, focal_alpha=0.3, focal_scale=7.0, dice_weight=1.5)
    logits = _logits(2, 1, 4, 4)
    target = _masks().reshape(2, 4, 2, 4, 2).mean(dim=(2, 4))
    focal = []
    for n in range(2):
        for y in range(4):
            for x in range(4):
                t, z = float(target[n, y, x]), float(logits[n, 0, y, x])
                p = 1 / (1 + math.exp(-z))
                focal.append((0.3 * t + 0.7 * (1 - t)) * abs(t - p) ** 3 * _bce(z, t))
    p, t = logits[1, 0].sigmoid(), target[1]
    dice = 1 - (2 * (p * t).sum() + 1) / ((p * p).sum() + (t * t).sum() + 1)
    expected = 7 * sum(focal) / len(focal) + 1.5 * float(dice)
    assert float(mask_loss(logits, _masks(), KNOWN, config)) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_mask_costs_almost_nothing() -> None:
    masks = (_masks() == 1).float()
    assert float(mask_loss((masks[:, None] - 0.5) * 80, masks, KNOWN, CONFIG)) < 1e-6


def test_pair_targets_are_symmetric_with_ones_on_the_diagonal_and_for_real_faces() -> None:
    targets = pair_targets(_masks(), (4, 4))
    assert targets.shape == (2, 16, 16)
    assert torch.equal(targets, targets.transpose(1, 2))
    assert (targets.diagonal(dim1=1, dim2=2) == 1).all()
    assert (targets[0] == 1).all()
    places = _masks()[1].reshape(4, 2, 4, 2).mean(dim=(1, 3)).flatten()
    assert targets[1, 0, 5].item() == pytest.approx(1 - abs(float(places[0] - places[5])))
    assert targets[1].min() < 0.5


def test_anchor_targets() -> None:
    targets, anchors = anchor_targets(_masks(), (8, 8))
    assert (targets[0] == 1).all()
    assert anchors[1].item() == 2 * 8 + 2  # the first pixel at one half
    assert targets[1, anchors[1]] == 1 and targets[1, 0] == 0 and targets[1, 3 * 8 + 3] == 0


@pytest.mark.parametrize("balanced", [True, False])
def test_consistency_loss_by_loops(balanced: bool) -> None:
    features = _logits(2, 3, 4, 4) / 3
    logits = torch.einsum("nci,ncj->nij", features.flatten(2), features.flatten(2))
    targets = pair_targets(_masks(), (4, 4))
    per_image = []
    for n in range(2):
        same, other = [], []
        for i in range(16):
            for j in range(16):
                t = float(targets[n, i, j])
                (same if t >= 0.5 else other).append(_bce(float(logits[n, i, j]), t))
        if not balanced:
            per_image.append(sum(same + other) / 256)
        else:
            mean_same = sum(same) / len(same)
            per_image.append((mean_same + sum(other) / len(other)) / 2 if other else mean_same)
    got = consistency_loss(features, lambda f: logits, _masks(), KNOWN, anchored=False, balanced=balanced)
    assert float(got) == pytest.approx(sum(per_image) / 2, rel=1e-5)


def test_anchored_consistency_compares_with_the_anchor() -> None:
    asked = []

    def compare(features: Tensor, anchors: Tensor) -> Tensor:
        asked.append(anchors.tolist())
        return torch.zeros(2, 64)

    loss = consistency_loss(torch.zeros(2, 3, 8, 8), compare, _masks(), KNOWN, anchored=True, balanced=False)
    assert asked == [[0, 18]] and float(loss) == pytest.approx(math.log(2))


def _dense(requires_grad: bool = False) -> DenseOutput:
    tensors = [_logits(2, 1, 4, 4, seed=1), _logits(2, 1, 4, 4, seed=2), _logits(2, 3, 4, 4, seed=3)]
    for tensor in tensors:
        tensor.requires_grad_(requires_grad)
    return DenseOutput((tensors[0],), tensors[1], tensors[2])


def _compare(features: Tensor) -> Tensor:
    return torch.einsum("nci,ncj->nij", features.flatten(2), features.flatten(2))


def _all(dense: DenseOutput, masks: Tensor, known: Tensor) -> tuple[Tensor, ...]:
    found = dense_losses(dense, _compare, masks, known, CONFIG, anchored=False)
    assert all(loss is not None for loss in found)
    return tuple(loss for loss in found if loss is not None)


def test_an_unknown_mask_gives_no_gradient_and_leaves_the_others_as_they_are() -> None:
    dense = _dense(requires_grad=True)
    losses = _all(dense, _masks(), torch.tensor([1.0, 0.0]))
    sum(losses).backward()  # type: ignore[union-attr]
    for tensor in (dense.attention[0], dense.mask, dense.consistency):
        assert tensor is not None and tensor.grad is not None
        assert not tensor.grad[1].any() and tensor.grad[0].any()
    alone = DenseOutput(tuple(a[:1] for a in dense.attention), dense.mask[:1], dense.consistency[:1])  # type: ignore[index]
    for both, one in zip(losses, _all(alone, _masks()[:1], torch.ones(1)), strict=True):
        torch.testing.assert_close(both, one / 2)


def test_a_batch_in_two_parts_has_the_same_mean() -> None:
    dense, masks = _dense(), torch.cat([_masks(), _masks().flip(2)])
    four = DenseOutput(
        tuple(torch.cat([a, a + 0.3]) for a in dense.attention),
        torch.cat([dense.mask, dense.mask * 0.7]),  # type: ignore[list-item, operator]
        torch.cat([dense.consistency, dense.consistency * 1.1]),  # type: ignore[list-item, operator]
    )
    known = torch.tensor([1.0, 1.0, 1.0, 0.0])
    whole = _all(four, masks, known)
    parts = [
        _all(
            DenseOutput(tuple(a[rows] for a in four.attention), four.mask[rows], four.consistency[rows]),  # type: ignore[index]
            masks[rows],
            known[rows],
        )
        for rows in (slice(0, 2), slice(2, 4))
    ]
    for together, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(together, (first + second) / 2)


@pytest.mark.parametrize("name", ["attention", "mask", "consistency"])
def test_a_weight_of_zero_leaves_a_term_out(name: str) -> None:
    config = replace(CONFIG, **{f"{name}_weight": 0.0})
    losses = dense_losses(_dense(), _compare, _masks(), KNOWN, config, anchored=False)
    assert getattr(losses, name) is None and sum(loss is None for loss in losses) == 1


def _step(**settings: object) -> MultiTaskStep:
    torch.manual_seed(0)
    named = {"network.dropout": 0.0, "input_size": 64, **settings}
    config = make_train_config("f-bifpn-mtlnet-small", named)
    network = build_model(config.model, **vars(config.network))
    return MultiTaskStep(network, config)  # type: ignore[arg-type]


def _batch(size: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    masks = torch.zeros(4, size, size)
    masks[1::2, 20:44, 16:40] = 1
    masks[1::2, 20, 16:40] = 0.5
    return random_images(4, size), torch.tensor([0, 1, 0, 1]), masks, torch.ones(4)


@pytest.mark.parametrize("consistency", ["cosine", "dot", "anchor"])
@pytest.mark.parametrize("fusion", ["attention", "plain", "top-down"])
def test_every_parameter_gets_a_gradient(consistency: str, fusion: str) -> None:
    step = _step(**{"network.consistency": consistency, "network.fusion": fusion})
    step(*_batch(), ramp=1.0).total.backward()
    without = [name for name, p in step.named_parameters() if p.grad is None or not p.grad.any()]
    # the top-down pyramid of L layers leaves nothing unused either
    assert without == []
    assert all(bool(p.grad.isfinite().all()) for p in step.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("loss", "part"),
    [
        ("ce", "attention.spatial.weight"),
        ("ce", "fusion.0.kappa"),
        ("mask", "fusion.0.kappa"),
        ("mask", "attention.spatial.weight"),
        ("consistency", "fusion.1.kappa"),
        ("attention", "laterals.0.0.weight"),
    ],
)
def test_each_loss_reaches_what_it_depends_on(loss: str, part: str) -> None:
    step = _step()
    parameter = dict(step.network.named_parameters())[part]
    (gradient,) = torch.autograd.grad(getattr(step(*_batch(), ramp=1.0), loss), parameter)
    assert bool(gradient.any())


def test_the_gradient_of_the_mask_loss_by_differences() -> None:
    logits = _logits(2, 1, 4, 4).requires_grad_()
    mask_loss(logits, _masks(), KNOWN, CONFIG).backward()
    assert logits.grad is not None
    for place in ((0, 0, 1, 2), (1, 0, 1, 1), (1, 0, 3, 0)):
        shifts = []
        for step in (-0.01, 0.01):
            moved = logits.detach().clone()
            moved[place] += step
            shifts.append(float(mask_loss(moved, _masks(), KNOWN, CONFIG)))
        assert float(logits.grad[place]) == pytest.approx((shifts[1] - shifts[0]) / 0.02, rel=0.02, abs=1e-4)


def test_the_total_is_the_weighted_sum() -> None:
    step = _step(
        **{
            "dense.attention_weight": 0.5,
            "dense.mask_weight": 2.0,
            "dense.consistency_weight": 3.0,
            "optimization.label_smoothing": 0.1,
        }
    ).eval()
    images, labels, masks, known = _batch()
    losses = step(images, labels, masks, known, ramp=0.25)
    logits = step.network(images).logits.log_softmax(dim=1)
    target = torch.full((4, 2), 0.05)
    target[torch.arange(4), labels] = 0.95
    torch.testing.assert_close(losses.ce, -(target * logits).sum(dim=1).mean())
    expected = losses.ce + 0.25 * (0.5 * losses.attention + 2 * losses.mask + 3 * losses.consistency)
    torch.testing.assert_close(losses.total, expected)


def test_finite_under_bf16_autocast() -> None:
    step = _step()
    with torch.autocast("cpu", torch.bfloat16):
        losses = step(*_batch(), ramp=1.0)
    losses.total.backward()
    assert losses.total.dtype == torch.float32 and bool(losses.total.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in step.parameters() if p.grad is not None)


def test_extreme_logits_stay_finite() -> None:
    dense = DenseOutput((torch.full((2, 1, 4, 4), 1e4),), torch.full((2, 1, 4, 4), -1e4), torch.full((2, 3, 4, 4), 1e2))
    dense.mask.requires_grad_()  # type: ignore[union-attr]
    total = sum(_all(dense, _masks(), KNOWN))
    total.backward()  # type: ignore[union-attr]
    assert bool(total.isfinite()) and bool(dense.mask.grad.isfinite().all())  # type: ignore[union-attr]
