"""Optimisers and their schedules, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from histill.core.config import Share, Strict


class Schedule(Strict):
    """How one stage learns: warm-up, then polynomial decay."""

    epochs: PositiveInt
    """passes over the training set"""
    batch_size: PositiveInt = 20
    """patches a step"""
    accumulate: PositiveInt = 1
    """steps of the optimiser see this many batches: for machines where a whole batch does not fit"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd as in most of the papers; adamw forgives a short schedule"""
    learning_rate: PositiveFloat = 0.01
    """of the trunk, after warm-up"""
    head_factor: PositiveFloat = 10.0
    """the new layers learn this many times faster than the trunk"""
    momentum: Share = 0.9
    """of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """on every weight"""
    power: NonNegativeFloat = 0.9
    """the learning rate falls as (1 - step / steps) ** power"""
    warmup: Share = 0.0
    """share of all steps over which the learning rate rises from 0"""
    clip: NonNegativeFloat = 0.0
    """the gradient's greatest norm; 0 for no limit"""
    average: Share = 0.0
    """decay of an exponential moving average of the weights, which is then what is kept; 0 for none"""


def build_optimizer(learns: nn.Module, trunk: nn.Module, schedule: Schedule) -> Optimizer:
    """An optimiser of what learns: the trunk at the learning rate, everything else `head_factor` times faster.

    Parameters that are frozen are left out.
    """
    slow = {id(parameter) for parameter in trunk.parameters()}
    rates: Mapping[bool, float] = {True: 1.0, False: schedule.head_factor}
    groups = []
    for in_trunk, factor in rates.items():
        chosen = [p for p in learns.parameters() if p.requires_grad and (id(p) in slow) == in_trunk]
        groups.append({"params": chosen, "factor": factor})
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "adamw":
        return AdamW(groups, lr=rate, weight_decay=decay, foreach=True)
    return SGD(groups, lr=rate, momentum=schedule.momentum, weight_decay=decay, foreach=True)


def set_rate(optimizer: Optimizer, schedule: Schedule, step: int, steps: int) -> None:
    """Set the learning rates of a step (0-based) of a stage of `steps` steps."""
    rate = schedule.learning_rate * rate_factor(step, steps, schedule.warmup, schedule.power)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def rate_factor(step: int, steps: int, warmup: float, power: float) -> float:
    """Linear warm-up over the first ``warmup * steps`` steps times ``(1 - step / steps) ** power``."""
    rising = warmup * steps
    rise = min(1.0, (step + 1) / rising) if rising > 0 else 1.0
    return float(rise * (1 - step / steps) ** power)
