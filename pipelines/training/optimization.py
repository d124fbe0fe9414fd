"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn, optim

from pipelines.config import Schedule, TrainConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> optim.Optimizer:
    """Adam or AdamW at the config's rate and weight decay."""
    kind = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Factor of the base rate at a step, from 0: a linear warm-up, then constant, or a half cosine down to 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """The same rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
