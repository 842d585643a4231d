"""Divergences between Bernoullis, against torch's own and loops over pixels."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional as F

from histill.losses.distillation import bernoulli_kl, class_kl, mutual_kl


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_kl(teacher: float, student: float) -> float:
    q, p = 1 / (1 + math.exp(-teacher)), 1 / (1 + math.exp(-student))
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def test_kl_is_torchs_of_bernoullis_and_of_two_classes() -> None:
    teacher, student = logits(4, 5), logits(4, 5, seed=1)
    found = bernoulli_kl(teacher, student)
    torch.testing.assert_close(found, kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)))
    both = [torch.stack([each, torch.zeros_like(each)]).log_softmax(0) for each in (teacher, student)]
    torch.testing.assert_close(found, F.kl_div(both[1], both[0], reduction="none", log_target=True).sum(0))
    assert float(found[1, 2]) == pytest.approx(slow_kl(float(teacher[1, 2]), float(student[1, 2])), rel=1e-5)
    assert float(found.min()) > 0


def test_kl_of_a_thing_with_itself_is_0() -> None:
    assert bool((bernoulli_kl(logits(9), logits(9)) == 0).all())


def test_kl_stays_finite_where_a_sigmoid_is_0_or_1() -> None:
    teacher, student = torch.tensor([90.0, -90.0, 200.0]), torch.tensor([-90.0, 90.0, 200.0]).requires_grad_()
    found = bernoulli_kl(teacher, student)
    torch.testing.assert_close(found, torch.tensor([90.0, 90.0, 0.0]))
    found.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([-1.0, 1.0, 0.0]))


def test_the_teacher_stands_still() -> None:
    teacher, student = logits(3).requires_grad_(), logits(3, seed=1).requires_grad_()
    bernoulli_kl(teacher, student).sum().backward()
    assert teacher.grad is None
    # d KL / d z = p - q
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.sigmoid() - teacher.sigmoid()).detach())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_mutual_kl_is_each_images_mean_over_valid_pixels_of_both_ways(temperature: float) -> None:
    first, second = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    valid[0, 2], valid[1, :, 1:] = False, False
    first[~valid] = math.nan
    expected = []
    for i, count in enumerate((8, 3)):
        terms = []
        for y, x in valid[i].nonzero().tolist():
            a, b = float(first[i, y, x]) / temperature, float(second[i, y, x]) / temperature
            terms.append(slow_kl(b, a) + slow_kl(a, b))
        assert len(terms) == count
        expected.append(temperature**2 * sum(terms) / count)
    assert mutual_kl(first, second, valid, temperature).tolist() == pytest.approx(expected, rel=1e-5)


def test_each_learns_from_the_other_alone() -> None:
    first, second = logits(1, 2, 3).requires_grad_(), logits(1, 2, 3, seed=1).requires_grad_()
    mutual_kl(first, second, torch.ones(1, 2, 3, dtype=torch.bool), 2.0).backward()
    # T^2 d KL / d z = T (p - q), a mean over 6 pixels.
    difference = ((first / 2).sigmoid() - (second / 2).sigmoid()).detach() * 2 / 6
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, difference)
    torch.testing.assert_close(second.grad, -difference)


def test_half_logits_give_a_float32_loss() -> None:
    half = logits(1, 2, 2).bfloat16()
    assert mutual_kl(half, half, torch.ones(1, 2, 2, dtype=torch.bool), 2.0).dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_class_kl_is_the_sum_over_cells_and_classes_by_the_count(temperature: float) -> None:
    teacher, student = logits(2, 5, 3).requires_grad_(), logits(2, 5, 3, seed=1).requires_grad_()
    pairs = zip(teacher.flatten().tolist(), student.flatten().tolist(), strict=True)
    expected = temperature**2 * sum(slow_kl(t / temperature, s / temperature) for t, s in pairs)
    found = class_kl(teacher, student, temperature, 7)
    assert float(found.detach()) == pytest.approx(expected / 7, rel=1e-5)
    assert float(class_kl(teacher, student, temperature, 0).detach()) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None
    # T^2 d KL / d z = T (p - q)
    difference = temperature * ((student / temperature).sigmoid() - (teacher / temperature).sigmoid()).detach()
    torch.testing.assert_close(student.grad, difference / 7)
