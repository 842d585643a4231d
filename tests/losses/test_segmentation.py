"""Losses on label maps, against loops over pixels."""

import math

import pytest
import torch

from histill.core.labels import IGNORE
from histill.losses.segmentation import cross_entropy, dice_loss


def test_cross_entropy_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = IGNORE
    terms = []
    for i in range(2):
        for y in range(4):
            for x in range(5):
                if labels[i, y, x] != IGNORE:
                    column = [math.exp(float(z)) for z in logits[i, :, y, x]]
                    terms.append(-math.log(column[int(labels[i, y, x])] / sum(column)))
    assert len(terms) == 30
    assert float(cross_entropy(logits, labels)) == pytest.approx(sum(terms) / 30, rel=1e-5)


def test_ignored_pixels_get_no_gradient() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    cross_entropy(logits, torch.tensor([[[0, IGNORE], [1, IGNORE]]])).backward()
    assert logits.grad is not None
    assert bool((logits.grad[..., 1] == 0).all())
    assert bool((logits.grad[..., 0] != 0).all())


def test_all_pixels_ignored_is_0_with_finite_gradient() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_half_logits_give_a_float32_loss() -> None:
    assert cross_entropy(torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16), torch.zeros(1, 1, 1).long()).dtype == (
        torch.float32
    )


def test_dice_loss_of_each_image_over_its_valid_pixels() -> None:
    torch.manual_seed(0)
    output, target = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    valid = torch.rand(3, 4, 5) > 0.3
    output[~valid] = math.nan
    expected = []
    for i in range(3):
        both = first = second = 0.0
        for y in range(4):
            for x in range(5):
                if valid[i, y, x]:
                    both += float(output[i, y, x]) * float(target[i, y, x])
                    first += float(output[i, y, x])
                    second += float(target[i, y, x])
        expected.append(1 - (2 * both + 1) / (first + second + 1))
    assert dice_loss(output, target, valid).tolist() == pytest.approx(expected, rel=1e-5)


def test_dice_loss_is_0_at_the_optimum_and_on_nothing() -> None:
    hard = torch.tensor([[[1.0, 0], [1, 1]], [[0, 0], [0, 0]]])
    assert dice_loss(hard, hard).tolist() == [0, 0]
    assert dice_loss(hard, hard, torch.zeros(2, 2, 2, dtype=torch.bool)).tolist() == [0, 0]
    assert float(dice_loss(1 - hard, hard)[0]) == pytest.approx(1 - 1 / 5)
