"""Rates and groups of the optimisers."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from histill.engine.optim import Schedule, build_optimizer, rate_factor, set_rate


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0.1, 2))
def test_the_rate_rises_and_then_falls_towards_0(steps: int, warmup: float, power: float) -> None:
    factors = [rate_factor(step, steps, warmup, power) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    for step, factor in enumerate(factors):
        rising = min(1, (step + 1) / (warmup * steps)) if warmup * steps > 0 else 1
        assert factor == pytest.approx(rising * ((steps - step) / steps) ** power, rel=1e-6)
    after = factors[int(warmup * steps) :]
    assert after == sorted(after, reverse=True)


def test_the_papers_schedule_in_numbers() -> None:
    assert rate_factor(0, 10, 0.0, 0.9) == 1
    assert rate_factor(5, 10, 0.0, 0.9) == pytest.approx(0.5**0.9)
    assert rate_factor(0, 10, 0.4, 1.0) == pytest.approx(0.25)
    assert rate_factor(1, 10, 0.4, 1.0) == pytest.approx(0.5 * 0.9)


def test_half_a_cosine_in_numbers() -> None:
    fall = [rate_factor(step, 4, 0.0, None) for step in range(4)]
    assert fall == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    net = network()
    schedule = Schedule.model_validate({"epochs": 1, "learning_rate": 0.01, "head_factor": 1.0, "decay": "cosine"})
    optimizer = build_optimizer(net, net["trunk"], schedule)
    set_rate(optimizer, schedule, 2, 4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.005])


@given(
    st.integers(1, 60),
    st.floats(0, 0.9),
    st.floats(0, 0.1),
    st.sampled_from(["cosine", "polynomial"]),
    st.floats(0.1, 3),
)
def test_the_rate_falls_to_its_floor_and_rises_from_0(
    steps: int, warmup: float, floor: float, decay: str, factor: float
) -> None:
    values = {"epochs": 1, "learning_rate": 0.1, "warmup": warmup, "floor": floor, "decay": decay}
    schedule = Schedule.model_validate({**values, "head_factor": factor})
    net = network()
    optimizer = build_optimizer(net, net["trunk"], schedule)
    rates = []
    for step in range(steps):
        set_rate(optimizer, schedule, step, steps)
        trunk, head = (group["lr"] for group in optimizer.param_groups)
        assert head == pytest.approx(factor * trunk)
        rise = min(1, (step + 1) / (warmup * steps)) if warmup * steps > 0 else 1
        done = step / steps
        fall = (1 + math.cos(math.pi * done)) / 2 if decay == "cosine" else (1 - done) ** 0.9
        assert trunk == pytest.approx(rise * (floor + (0.1 - floor) * fall), rel=1e-6, abs=1e-12)
        rates.append(trunk)
    after = rates[int(warmup * steps) :]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(after))
    assert min(after) >= floor * (1 - 1e-12)


def test_wsisums_schedule_in_numbers() -> None:
    # 100 of 300 epochs of warm-up, 1.5e-4, half a cosine to 1e-5, over all epochs.
    values = {"epochs": 300, "learning_rate": 1.5e-4, "floor": 1e-5, "decay": "cosine", "warmup": 1 / 3}
    schedule = Schedule.model_validate({**values, "head_factor": 1.0})
    net = network()
    optimizer = build_optimizer(net, net["trunk"], schedule)
    found = []
    for step in (0, 150, 299):
        set_rate(optimizer, schedule, step, 300)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1.5e-6, 8e-5, 1e-5], rel=1e-3)


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"trunk": nn.Linear(2, 3), "head": nn.Linear(3, 1)})


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_head_learns_faster_than_the_trunk_and_what_is_frozen_not_at_all(optimizer: str) -> None:
    net = network()
    net["trunk"].bias.requires_grad_(False)
    schedule = Schedule.model_validate(
        {"epochs": 1, "optimizer": optimizer, "learning_rate": 0.01, "head_factor": 5.0, "weight_decay": 0.1}
    )
    built = build_optimizer(net, net["trunk"], schedule)
    set_rate(built, schedule, 1, 2)
    trunk, head = built.param_groups
    assert [id(p) for p in trunk["params"]] == [id(net["trunk"].weight)]
    assert {id(p) for p in head["params"]} == {id(p) for p in net["head"].parameters()}
    assert trunk["lr"] == pytest.approx(0.01 * 0.5**0.9)
    assert head["lr"] == pytest.approx(0.05 * 0.5**0.9)
    assert {group["weight_decay"] for group in built.param_groups} == {0.1}


def test_a_wholly_frozen_trunk_leaves_the_head() -> None:
    net = network()
    net["trunk"].requires_grad_(False)
    built = build_optimizer(net, net["trunk"], Schedule(epochs=1))
    before = net["trunk"].weight.clone(), net["head"].weight.clone()
    net["head"](net["trunk"](torch.ones(1, 2))).sum().backward()
    built.step()
    assert torch.equal(net["trunk"].weight, before[0])
    assert not torch.equal(net["head"].weight, before[1])


def test_a_step_of_sgd_by_hand() -> None:
    net = network()
    schedule = Schedule(epochs=1, learning_rate=0.1, head_factor=10.0, momentum=0.9, weight_decay=0.01)
    built = build_optimizer(net, net["trunk"], schedule)
    weight, momentum = net["trunk"].weight.detach().clone(), torch.zeros(3, 2)
    for _ in range(3):
        built.zero_grad()
        net["trunk"](torch.tensor([[1.0, 2.0]])).sum().backward()
        momentum = 0.9 * momentum + torch.tensor([[1.0, 2.0]]) + 0.01 * weight
        weight = weight - 0.1 * momentum
        built.step()
        torch.testing.assert_close(net["trunk"].weight.detach(), weight)
