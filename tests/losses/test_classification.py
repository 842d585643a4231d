"""Losses on image labels, against loops over the formula."""

import math

import pytest
import torch

from histill.losses.classification import multilabel_soft_margin, pooled_mask_loss


def test_soft_margin_is_the_mean_of_every_term() -> None:
    logits = torch.tensor([[0.3, -2.0, 5.0], [0.0, 1.5, -4.0]])
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    total = 0.0
    for i in range(2):
        for k in range(3):
            chance = 1 / (1 + math.exp(-float(logits[i, k])))
            total -= math.log(chance if labels[i, k] else 1 - chance)
    assert float(multilabel_soft_margin(logits, labels)) == pytest.approx(total / 6, rel=1e-5)


def test_soft_margin_is_float32_of_half_logits_and_finite_far_out() -> None:
    loss = multilabel_soft_margin(torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16), torch.tensor([[0, 1]]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(300)


@pytest.mark.parametrize("exponent", [1.0, 4.0])
def test_pooled_mask_loss_of_a_generalised_mean(exponent: float) -> None:
    probabilities = torch.tensor([[[[0.1, 0.9], [0.4, 0.2]], [[0.9, 0.1], [0.6, 0.8]]]])  # [1, 2, 2, 2]
    labels = torch.tensor([[1.0, 0.0]])
    first = (sum(p**exponent for p in (0.1, 0.9, 0.4, 0.2)) / 4) ** (1 / exponent)
    second = (sum(p**exponent for p in (0.9, 0.1, 0.6, 0.8)) / 4) ** (1 / exponent)
    expected = -(math.log(first) + math.log(1 - second)) / 2
    assert float(pooled_mask_loss(probabilities, labels, exponent)) == pytest.approx(expected, rel=1e-5)


def test_a_mask_of_the_labelled_class_loses_less_than_one_of_another() -> None:
    mask = torch.zeros(1, 2, 4, 4)
    mask[:, 0] = 1
    right = pooled_mask_loss(mask, torch.tensor([[1.0, 0.0]]))
    wrong = pooled_mask_loss(mask, torch.tensor([[0.0, 1.0]]))
    assert 0 <= float(right) < 1e-4
    assert math.isfinite(float(wrong))
    assert float(wrong) > 10
