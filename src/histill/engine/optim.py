"""Optimisers and their schedules, as settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from histill.core.config import Share, Strict


class Schedule(Strict):
    """How one stage learns: warm-up, then decay."""

    epochs: PositiveInt
    """passes over the training set"""
    batch_size: PositiveInt = 20
    """patches a step"""
    accumulate: PositiveInt = 1
    """steps of the optimiser see this many batches: for machines where a whole batch does not fit"""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """as each paper has it; adamw forgives a short schedule"""
    learning_rate: PositiveFloat = 0.01
    """of the trunk, after warm-up"""
    head_factor: PositiveFloat = 10.0
    """the new layers learn this many times faster than the trunk"""
    momentum: Share = 0.9
    """of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """on every weight"""
    decay: Literal["polynomial", "cosine"] = "polynomial"
    """how the learning rate falls to 0: as (1 - step / steps) ** power, or as half a cosine"""
    floor: NonNegativeFloat = 0.0
    """the learning rate that it falls to"""
    power: NonNegativeFloat = 0.9
    """of the polynomial; 0 for a constant rate"""
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
    if schedule.optimizer == "adam":
        return Adam(groups, lr=rate, weight_decay=decay, foreach=True)
    if schedule.optimizer == "adamw":
        return AdamW(groups, lr=rate, weight_decay=decay, foreach=True)
    return SGD(groups, lr=rate, momentum=schedule.momentum, weight_decay=decay, foreach=True)


def set_rate(optimizer: Optimizer, schedule: Schedule, step: int, steps: int) -> None:
    """Set the learning rates of a step (0-based) of a stage of `steps` steps."""
    power = None if schedule.decay == "cosine" else schedule.power
    factor = rate_factor(step, steps, schedule.warmup, power)
    # What falls does so towards the floor, and what rises does so from 0.
    rise = min(1.0, (step + 1) / (schedule.warmup * steps)) if schedule.warmup else 1.0
    rate = schedule.learning_rate * factor + schedule.floor * (rise - factor)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def rate_factor(step: int, steps: int, warmup: float, power: float | None) -> float:
    """Linear warm-up over the first ``warmup * steps`` steps times ``(1 - step / steps) ** power``, or half a cosine.

    Args:
        step: 0-based.
        steps: in all.
        warmup: share of the steps over which the rate rises.
        power: of the fall; None for half a cosine.
    """
    rising = warmup * steps
    rise = min(1.0, (step + 1) / rising) if rising > 0 else 1.0
    fall = (1 + math.cos(math.pi * step / steps)) / 2 if power is None else (1 - step / steps) ** power
    return float(rise * fall)
