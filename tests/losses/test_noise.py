"""Losses on labels that are wrong in places, against loops over pixels."""

import math

import pytest
import torch
from torch import Tensor

from histill.losses.noise import oeem_cross_entropy, oeem_weights

ALL = torch.ones(1, 1, 4, dtype=torch.bool)


def slow(
    probabilities: Tensor, labels: Tensor, valid: Tensor
) -> tuple[list[float], list[dict[tuple[int, int], float]]]:
    """mean(w CE) of each image, and its weights by pixel."""
    means, weights = [], []
    for i in range(len(labels)):
        where = [(y, x) for y in range(labels.shape[1]) for x in range(labels.shape[2]) if valid[i, y, x]]
        losses = {(y, x): -math.log(max(float(probabilities[i, labels[i, y, x], y, x]), 1e-6)) for y, x in where}
        total = sum(math.exp(-loss) for loss in losses.values())
        easy = {pixel: math.exp(-loss) / total for pixel, loss in losses.items()}
        mean = sum(easy.values()) / len(easy)
        one_class = len({int(labels[i, y, x]) for y, x in where}) == 1
        found = {pixel: 1.0 if one_class else easy[pixel] / mean for pixel in where}
        weights.append(found)
        means.append(sum(found[pixel] * losses[pixel] for pixel in where) / len(where))
    return means, weights


def test_weights_by_hand() -> None:
    losses = -torch.tensor([[[0.5, 0.25, 0.25, 1.0]]]).log()  # softmax(-CE) is each p over their sum, 2
    weights = oeem_weights(losses, torch.tensor([[[0, 1, 1, 0]]]), ALL)
    assert weights[0, 0].tolist() == pytest.approx([1.0, 0.5, 0.5, 2.0])
    without_the_last = ALL.clone()
    without_the_last[..., 3] = False
    weights = oeem_weights(losses, torch.tensor([[[0, 1, 1, 0]]]), without_the_last)
    assert weights[0, 0].tolist() == pytest.approx([1.5, 0.75, 0.75, 0.0])


def test_weights_are_1_where_there_is_one_class_only() -> None:
    losses = torch.rand(3, 1, 4)
    labels = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]], [[1, 1, 1, 0]]])
    valid = ALL.repeat(3, 1, 1)
    valid[2, 0, 3] = False  # of the third image only one class is valid
    weights = oeem_weights(losses, labels, valid)
    assert weights[:2].tolist() == [[[1.0] * 4]] * 2
    assert weights[2, 0].tolist() == [1, 1, 1, 0]


def test_weights_have_no_gradient_and_are_float32() -> None:
    losses = torch.rand(1, 1, 4, dtype=torch.bfloat16, requires_grad=True)
    weights = oeem_weights(losses, torch.tensor([[[0, 1, 1, 0]]]), ALL)
    assert not weights.requires_grad
    assert weights.dtype == torch.float32


def test_the_weighted_cross_entropy_against_loops() -> None:
    torch.manual_seed(0)
    probabilities = torch.randn(4, 3, 5, 6).mul(4).softmax(dim=1)
    probabilities[0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0])  # below 1e-6, whatever the label
    labels = torch.randint(0, 3, (4, 5, 6))
    labels[0, 0, 0] = 2
    labels[3] = 1
    valid = torch.rand(4, 5, 6) > 0.3
    valid[0, 0, 0] = True
    means, weights = slow(probabilities, labels, valid)
    assert oeem_cross_entropy(probabilities, labels, valid).tolist() == pytest.approx(means, rel=1e-4)
    losses = -probabilities.gather(1, labels[:, None])[:, 0].clamp(min=1e-6).log()
    found = oeem_weights(losses, labels, valid)
    for i in range(4):
        assert float(found[i].sum() / valid[i].sum()) == pytest.approx(1, rel=1e-5)
        for (y, x), weight in weights[i].items():
            assert float(found[i, y, x]) == pytest.approx(weight, rel=1e-4)


def test_the_gradient_is_the_weight_times_that_of_the_cross_entropy() -> None:
    chances = torch.tensor([[[[0.5, 0.75, 0.75, 0.2]], [[0.5, 0.25, 0.25, 0.8]]]], requires_grad=True)
    labels = torch.tensor([[[0, 1, 1, 0]]])
    oeem_cross_entropy(chances, labels, ALL).sum().backward()
    total = 0.5 + 0.25 + 0.25 + 0.2
    assert chances.grad is not None
    # d(-log p) / dp = -1 / p, and w = 4 p / total: the same for every pixel.
    assert chances.grad[0, 0, 0].tolist() == pytest.approx([-1 / total, 0, 0, -1 / total])
    assert chances.grad[0, 1, 0].tolist() == pytest.approx([0, -1 / total, -1 / total, 0])


def test_nothing_valid_is_0_with_finite_gradient() -> None:
    chances = torch.full((1, 2, 1, 4), 0.5, requires_grad=True)
    loss = oeem_cross_entropy(chances, torch.zeros(1, 1, 4, dtype=torch.int64), torch.zeros_like(ALL))
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert chances.grad is not None
    assert bool((chances.grad == 0).all())


def test_what_is_not_valid_may_be_anything_and_nan_elsewhere_is_seen() -> None:
    chances = torch.full((1, 2, 1, 4), 0.5)
    labels, valid = torch.tensor([[[0, 1, 1, 255]]]), ALL.clone()
    valid[..., 3] = False
    chances[..., 3] = math.nan
    assert oeem_cross_entropy(chances, labels, valid).tolist() == pytest.approx([math.log(2)])
    chances[..., 0] = math.nan
    assert math.isnan(float(oeem_cross_entropy(chances, labels, valid)))
