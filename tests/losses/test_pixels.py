"""The mean over the pixels that count."""

import math

import pytest
import torch

from histill.losses.pixels import mean_over


def test_only_what_counts_is_averaged() -> None:
    values = torch.tensor([[[1.0, 2.0], [math.nan, 6.0]], [[4.0, 8.0], [math.inf, math.inf]]])
    counts = torch.tensor([[[True, True], [False, True]], [[True, True], [False, False]]])
    assert mean_over(values, counts).tolist() == pytest.approx([3, 6])


def test_nothing_that_counts_is_0_with_finite_gradient() -> None:
    values = torch.tensor([[[1.0, math.inf]]], requires_grad=True)
    found = mean_over(values, torch.zeros(1, 1, 2, dtype=torch.bool))
    found.sum().backward()
    assert found.tolist() == [0]
    assert values.grad is not None
    assert values.grad.tolist() == [[[0, 0]]]


def test_half_values_give_a_float32_mean() -> None:
    assert mean_over(torch.ones(1, 1, 2).bfloat16(), torch.ones(1, 1, 2, dtype=torch.bool)).dtype == torch.float32
