"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn, optim

from pipelines.training.config import OptimizationConfig


def make_optimizer(
    backbone: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], config: OptimizationConfig
) -> optim.Optimizer:
    """Adam or AdamW; each group carries `lr_factor`, its share of the learning rate."""
    kind = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    rest = list(rest)
    groups = [{"params": list(backbone), "lr_factor": config.backbone_lr_factor if rest else 1.0}]
    if rest:
        groups.append({"params": rest, "lr_factor": 1.0})
    return kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate_factor(step: int, *, steps_per_epoch: int, epochs: int, config: OptimizationConfig) -> float:
    """Factor of the base rate at a step of a phase, both from 0.

    A linear warm-up from `warmup_start`; then constant, a half cosine or a straight line down to 0 at the phase's end, or a
    fall by `step_factor` every `step_epochs`.
    """
    steps = epochs * steps_per_epoch
    warmup = config.warmup_steps or round(config.warmup_share * steps)
    if step < warmup:
        return config.warmup_start + (1 - config.warmup_start) * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """The rate of every group, each with its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
