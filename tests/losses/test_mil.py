"""Losses between maps and image labels, against loops over pixels."""

import math

import pytest
import torch
from torch import Tensor

from histill.losses.mil import generalised_mean, mil_dice


def slow_dice(output: list[float], target: list[float]) -> float:
    both = sum(o * t for o, t in zip(output, target, strict=True))
    return 1 - (2 * both + 1) / (sum(output) + sum(target) + 1)


def test_dice_of_positives_and_negatives_by_hand() -> None:
    output = torch.tensor([[[0.2, 0.8]], [[0.2, 0.8]]])
    target = torch.tensor([[[0.5, 1.0]], [[0.5, 1.0]]])
    found = mil_dice(output, target, torch.tensor([True, False]))
    # A positive: both 0.1 + 0.8, sums 1 and 1.5. A negative: 1 - o is 0.8, 0.2, against 1, 1, whatever the target.
    assert found.tolist() == pytest.approx([1 - 2.8 / 3.5, 1 - 3 / 4], rel=1e-6)


def test_dice_leaves_out_what_is_not_valid() -> None:
    torch.manual_seed(0)
    output, target = torch.rand(4, 3, 5), torch.rand(4, 3, 5)
    positive = torch.tensor([True, False, True, False])
    valid = torch.rand(4, 3, 5) > 0.4
    output[~valid], target[~valid] = math.nan, math.nan
    expected = []
    for i in range(4):
        o, t = output[i][valid[i]].tolist(), target[i][valid[i]].tolist()
        expected.append(slow_dice(o, t) if positive[i] else slow_dice([1 - x for x in o], [1.0] * len(o)))
    assert mil_dice(output, target, positive, valid).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_label_painted_over_the_image_is_met_by_a_map_of_it() -> None:
    ones = torch.ones(2, 4, 4)
    right = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    assert mil_dice(right, ones, torch.tensor([True, False])).tolist() == [0, 0]
    assert mil_dice(1 - right, ones, torch.tensor([True, False])).tolist() == pytest.approx([1 - 1 / 17] * 2)


def test_half_maps_give_a_float32_loss() -> None:
    half = torch.full((1, 2, 2), 0.5, dtype=torch.bfloat16)
    assert mil_dice(half, half, torch.tensor([True])).dtype == torch.float32
    assert generalised_mean(half[None], 4.0).dtype == torch.float32


@pytest.mark.parametrize("exponent", [0.5, 1.0, 4.0, 12.0])
def test_generalised_mean_over_valid_pixels(exponent: float) -> None:
    torch.manual_seed(0)
    maps, valid = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5) > 0.4
    maps.permute(0, 2, 3, 1)[~valid] = 1.0
    for i in range(2):
        for k in range(3):
            values = [float(maps[i, k, y, x]) for y in range(4) for x in range(5) if valid[i, y, x]]
            expected = (sum(value**exponent for value in values) / len(values)) ** (1 / exponent)
            assert float(generalised_mean(maps, exponent, valid)[i, k]) == pytest.approx(expected, rel=1e-5)


def test_generalised_mean_goes_to_the_maximum() -> None:
    maps = torch.tensor([[[[0.1, 0.7], [0.3, 0.2]]]])
    assert float(generalised_mean(maps, 1.0)) == pytest.approx(0.325)
    assert float(generalised_mean(maps, 200.0)) == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize("value", [0.0, 1e-12, 1.0])
@pytest.mark.parametrize("exponent", [4.0, 20.0])
def test_generalised_mean_of_extremes_has_a_finite_gradient(value: float, exponent: float) -> None:
    # Written as it stands, 1e-12 to the fourth is 0 in float32, and the root of a mean of 0 has an infinite slope.
    maps = torch.full((1, 1, 4, 4), value, requires_grad=True)
    pooled = generalised_mean(maps, exponent)
    pooled.sum().backward()
    assert float(pooled.detach()) == pytest.approx(max(value, 1e-6), rel=1e-4)
    assert isinstance(maps.grad, Tensor)
    assert bool(maps.grad.isfinite().all())
