"""The learning rate follows its schedule, for each group at its share."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn, optim

from pipelines.training.config import OptimizationConfig
from pipelines.training.optimization import learning_rate_factor, make_optimizer, set_learning_rate

SCHEDULES: dict[str, tuple[dict[str, Any], int, int, dict[int, float]]] = {
    "constant": ({}, 5, 2, {0: 1, 5: 1, 9: 1, 1000: 1}),
    "constant after a warm-up": ({"warmup_steps": 4}, 5, 2, {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1, 9: 1}),
    "cosine": (
        {"schedule": "cosine"},
        4,
        2,
        {0: 1, 2: (2 + math.sqrt(2)) / 4, 4: 0.5, 6: (2 - math.sqrt(2)) / 4, 8: 0, 99: 0},
    ),
    "cosine after a warm-up": (
        {"schedule": "cosine", "warmup_steps": 2},
        2,
        5,
        {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 0.5, 10: 0},
    ),
    "a warm-up as long as the run": ({"schedule": "cosine", "warmup_steps": 4}, 4, 1, {0: 0.2, 3: 0.8, 4: 1}),
    "a warm-up longer than the run": ({"warmup_steps": 4}, 2, 1, {0: 0.2, 1: 0.4}),
    "step": (
        {"schedule": "step", "step_epochs": 5, "step_factor": 0.5},
        3,
        30,
        {0: 1, 14: 1, 15: 0.5, 29: 0.5, 30: 0.25, 89: 0.5**5},
    ),
    "step of one epoch by another factor": (
        {"schedule": "step", "step_epochs": 1, "step_factor": 0.1},
        4,
        3,
        {0: 1, 3: 1, 4: 0.1, 7: 0.1, 8: 0.01, 11: 0.01},
    ),
    "linear": ({"schedule": "linear"}, 4, 2, {0: 1, 1: 7 / 8, 2: 3 / 4, 7: 1 / 8, 8: 0, 99: 0}),
    "linear after a warm-up": (
        {"schedule": "linear", "warmup_steps": 2},
        2,
        5,
        {0: 1 / 3, 1: 2 / 3, 2: 1, 4: 3 / 4, 6: 1 / 2, 9: 1 / 8, 10: 0},
    ),
    "a warm-up of a share of the phase from a quarter of the rate": (
        {"schedule": "linear", "warmup_share": 0.25, "warmup_start": 0.25},
        4,
        3,
        {0: 0.25 + 0.75 / 4, 1: 0.25 + 0.75 / 2, 2: 0.25 + 0.75 * 3 / 4, 3: 1, 6: 2 / 3, 9: 1 / 3, 11: 1 / 9, 12: 0},
    ),
    "a share of the steps that is rounded": ({"warmup_share": 0.3}, 4, 1, {0: 0.5, 1: 1}),
    "a share that is too small for a step": ({"warmup_share": 0.1}, 4, 1, {0: 1, 1: 1}),
    "cosine after a share of the phase": (
        {"schedule": "cosine", "warmup_share": 0.2},
        5,
        2,
        {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 0.5, 10: 0},
    ),
    "a warm-up that starts at the whole rate": ({"warmup_steps": 4, "warmup_start": 1.0}, 5, 2, {0: 1, 3: 1, 9: 1}),
    "step after a warm-up": (
        {"schedule": "step", "step_epochs": 2, "step_factor": 0.5, "warmup_steps": 3},
        2,
        6,
        {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 0.5, 8: 0.25},
    ),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_rate_s_factor_at_each_step(case: str) -> None:
    settings, steps_per_epoch, epochs, expected = SCHEDULES[case]
    config = OptimizationConfig(**settings)
    got = {
        step: learning_rate_factor(step, steps_per_epoch=steps_per_epoch, epochs=epochs, config=config)
        for step in expected
    }
    assert got == pytest.approx(expected, abs=1e-12)


def test_the_cosine_only_falls_and_the_warm_up_only_rises() -> None:
    config = OptimizationConfig(schedule="cosine", warmup_steps=10)
    factors = [learning_rate_factor(i, steps_per_epoch=10, epochs=5, config=config) for i in range(50)]
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert min(factors) > 0 and max(factors) == 1
    assert len(set(factors[10:])) == 40


def _optimizer(backbone: int = 1, rest: int = 1, **settings: Any) -> optim.Optimizer:
    parts = [[nn.Parameter(torch.ones(1)) for _ in range(count)] for count in (backbone, rest)]
    return make_optimizer(*parts, OptimizationConfig(**settings))


@pytest.mark.parametrize(("name", "kind"), [("adam", optim.Adam), ("adamw", optim.AdamW)])
def test_the_optimizer_has_the_config_s_rate_and_decay(name: str, kind: type[optim.Optimizer]) -> None:
    optimizer = _optimizer(optimizer=name, learning_rate=0.02, weight_decay=0.3)
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.02, 0.3)] * 2


def test_backbone_and_rest_are_groups_with_their_own_share_of_the_rate() -> None:
    optimizer = _optimizer(backbone=2, rest=3, backbone_lr_factor=0.1)
    assert [(len(group["params"]), group["lr_factor"]) for group in optimizer.param_groups] == [(2, 0.1), (3, 1.0)]
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.25])


def test_a_backbone_that_is_trained_alone_has_the_whole_rate() -> None:
    optimizer = _optimizer(backbone=2, rest=0, backbone_lr_factor=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [(2, 0.25)]


def test_the_groups_may_be_read_once_only() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), nn.Linear(2, 2).parameters(), OptimizationConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_rate_of_each_group_is_really_applied(name: str) -> None:
    """The first step of Adam is as long as its rate, whatever the gradient."""
    optimizer = _optimizer(optimizer=name, backbone_lr_factor=0.1, weight_decay=0.0, learning_rate=1.0)
    factor = learning_rate_factor(1, steps_per_epoch=10, epochs=1, config=OptimizationConfig(warmup_steps=3))
    set_learning_rate(optimizer, 1.0 * factor)
    parameters = [group["params"][0] for group in optimizer.param_groups]
    sum(7 * each.sum() for each in parameters).backward()
    optimizer.step()
    assert [1 - each.item() for each in parameters] == pytest.approx([0.05, 0.5], rel=1e-5)


@pytest.mark.parametrize(("name", "moved"), [("adam", 0.1), ("adamw", 0.02)])
def test_weight_decay_is_part_of_the_gradient_in_adam_and_apart_from_it_in_adamw(name: str, moved: float) -> None:
    optimizer = _optimizer(optimizer=name, learning_rate=0.1, weight_decay=0.2)
    parameter = optimizer.param_groups[0]["params"][0]
    (0 * parameter.sum()).backward()
    optimizer.step()
    assert 1 - parameter.item() == pytest.approx(moved, rel=1e-5)
