"""The learning rate follows its schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn, optim

from pipelines.config import Schedule, TrainConfig
from pipelines.training.optimization import learning_rate_factor, make_optimizer, set_learning_rate

SCHEDULES: dict[str, tuple[Schedule, int, int, dict[int, float]]] = {
    "constant": ("constant", 10, 0, {0: 1, 5: 1, 9: 1, 1000: 1}),
    "constant after a warm-up": ("constant", 10, 4, {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1, 9: 1}),
    "cosine": ("cosine", 8, 0, {0: 1, 2: (2 + math.sqrt(2)) / 4, 4: 0.5, 6: (2 - math.sqrt(2)) / 4, 8: 0, 99: 0}),
    "cosine after a warm-up": ("cosine", 10, 2, {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 0.5, 10: 0}),
    "a warm-up as long as the run": ("cosine", 4, 4, {0: 0.2, 3: 0.8, 4: 1}),
    "a warm-up longer than the run": ("constant", 2, 4, {0: 0.2, 1: 0.4}),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_rate_s_factor_at_each_step(case: str) -> None:
    schedule, total, warmup, expected = SCHEDULES[case]
    got = {
        step: learning_rate_factor(step, total_steps=total, warmup_steps=warmup, schedule=schedule) for step in expected
    }
    assert got == pytest.approx(expected, abs=1e-12)


def test_the_cosine_only_falls_and_the_warm_up_only_rises() -> None:
    factors = [learning_rate_factor(i, total_steps=50, warmup_steps=10, schedule="cosine") for i in range(50)]
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert min(factors) > 0 and max(factors) == 1


@pytest.mark.parametrize(("name", "kind"), [("adam", optim.Adam), ("adamw", optim.AdamW)])
def test_the_optimizer_has_the_config_s_rate_and_decay(name: str, kind: type[optim.Optimizer]) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.02, weight_decay=0.3)  # type: ignore[arg-type]
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), config)
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.02, 0.3)]


def test_a_new_rate_is_for_all_groups() -> None:
    groups: list[dict[str, Any]] = [
        {"params": nn.Linear(1, 1).parameters()},
        {"params": nn.Linear(1, 1).parameters(), "lr": 5.0},
    ]
    optimizer = optim.Adam(groups, lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
