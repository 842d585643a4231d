"""Losses of reconstructed bags, against loops over tiles and slides."""

import math

import pytest
import torch
from torch import Tensor

from histill.losses.reconstruction import masked_mse, slide_mse, teacher_loss


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mse(p: list[float], t: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) / len(p)


def cosine(p: list[float], t: list[float]) -> float:
    return sum(a * b for a, b in zip(p, t, strict=True)) / (math.hypot(*p) * math.hypot(*t))


def test_masked_mse_is_a_mean_over_bags_of_means_over_tiles() -> None:
    predicted, target = drawn(4, 6, 3), drawn(4, 6, 3, seed=1)
    counts = drawn(4, 6, seed=2) > 0
    counts[2] = False
    target[~counts], predicted.data[~counts] = math.nan, math.inf
    bags = [[mse(predicted[b, i].tolist(), target[b, i].tolist()) for i in range(6) if counts[b, i]] for b in (0, 1, 3)]
    expected = sum(sum(bag) / len(bag) for bag in bags) / 3
    predicted.requires_grad_(True)
    found = masked_mse(predicted, target, counts)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert predicted.grad is not None
    assert bool((predicted.grad[~counts] == 0).all())
    assert bool((predicted.grad[counts] != 0).all())


def test_bags_count_alike_however_many_tiles_they_have() -> None:
    counts = torch.tensor([[True] * 9 + [False], [False] * 9 + [True]])
    errors = torch.zeros(2, 10, 1)
    errors[0], errors[1] = 1.0, 3.0
    assert float(masked_mse(errors, torch.zeros(2, 10, 1), counts)) == pytest.approx((1 + 9) / 2)


def test_slide_mse_over_known_targets() -> None:
    predicted, target, known = drawn(4, 5), drawn(4, 5, seed=1), torch.tensor([True, False, True, True])
    target[1] = math.nan
    expected = sum(mse(predicted[b].tolist(), target[b].tolist()) for b in (0, 2, 3)) / 3
    assert float(slide_mse(predicted, target, known)) == pytest.approx(expected, rel=1e-5)


def test_teachers_that_lack_slides() -> None:
    predicted = {"titan": drawn(4, 5), "prism": drawn(4, 3, seed=1), "chief": drawn(4, 2, seed=2)}
    targets = {"chief": drawn(4, 2, seed=3), "titan": drawn(4, 5, seed=4), "prism": drawn(4, 3, seed=5)}
    known = {
        "titan": torch.tensor([True, False, True, True]),
        "prism": torch.tensor([False, False, True, False]),
        "chief": torch.zeros(4, dtype=torch.bool),
    }
    pairs = []
    for name, output in predicted.items():
        output.requires_grad_(True)
        targets[name][~known[name]] = math.nan
        for b in range(4):
            if known[name][b]:
                p, t = output[b].tolist(), targets[name][b].tolist()
                pairs.append(1 - cosine(p, t) + mse(p, t))
    assert len(pairs) == 4
    found = teacher_loss(predicted, targets, known)
    assert float(found.detach()) == pytest.approx(sum(pairs) / 4, rel=1e-5)
    found.backward()
    for name, output in predicted.items():
        assert output.grad is not None
        assert bool(((output.grad != 0).all(dim=1) == known[name]).all())
        assert bool(output.grad.isfinite().all())


def test_nothing_known_is_a_loss_of_0_that_can_be_followed_back() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    predicted, target = drawn(2, 3).requires_grad_(True), torch.full((2, 3), math.nan)
    loss = slide_mse(predicted, target, nothing) + teacher_loss({"a": predicted}, {"a": target}, {"a": nothing})
    loss = loss + masked_mse(predicted[None], target[None], nothing[None])
    loss.backward()
    assert float(loss.detach()) == 0
    assert predicted.grad is not None
    assert bool((predicted.grad == 0).all())


def test_a_perfect_reconstruction_costs_nothing_and_targets_learn_nothing() -> None:
    target, known = drawn(2, 3).requires_grad_(True), torch.ones(2, dtype=torch.bool)
    predicted = target.detach().clone().requires_grad_(True)
    loss = slide_mse(predicted, target, known) + teacher_loss({"a": predicted}, {"a": target}, {"a": known})
    loss = loss + masked_mse(predicted[None], target[None], known[None])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert target.grad is None


def test_halves_give_a_float32_loss() -> None:
    half, known = drawn(2, 3).bfloat16(), torch.ones(2, dtype=torch.bool)
    assert masked_mse(half[None], half[None], known[None]).dtype == torch.float32
    assert slide_mse(half, half, known).dtype == torch.float32
    assert teacher_loss({"a": half}, {"a": half}, {"a": known}).dtype == torch.float32
