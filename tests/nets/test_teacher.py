"""The role of the teacher: fenced off, and truly exchanged."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from histill.nets.teacher import Teacher


def network(seed: int, width: int = 4) -> nn.Sequential:
    """A small network whose buffers have seen something."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.5))
    for _ in range(seed + 1):
        layers(torch.randn(2, 3, 8, 8) * (seed + 1))
    return layers


def held(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_it_answers_in_eval_without_gradient_whatever_it_is_asked_for() -> None:
    teacher = Teacher(network(0))
    assert teacher.train() is teacher
    assert not any(module.training for module in teacher.modules())
    before = held(teacher)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    first, second = teacher(images), teacher(images)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert same(held(teacher), before)


def test_inside_something_that_trains_it_stays_in_eval_and_out_of_the_optimiser() -> None:
    whole = nn.ModuleDict({"student": network(1), "teacher": Teacher(network(0))}).train()
    assert whole["student"].training
    assert not any(module.training for module in whole["teacher"].modules())
    learning = {name.split(".")[0] for name, each in whole.named_parameters() if each.requires_grad}
    assert learning == {"student"}


def test_a_swap_exchanges_weights_and_statistics_and_back() -> None:
    student = network(1).train()
    teacher = Teacher(network(0))
    old_teacher, old_student = held(teacher.network), held(student)
    assert not same(old_teacher, old_student)
    assert old_teacher["1.num_batches_tracked"] != old_student["1.num_batches_tracked"]

    teacher.swap(student)
    assert same(held(teacher.network), old_student)
    assert same(held(student), old_teacher)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())

    teacher.swap(student)
    assert same(held(teacher.network), old_teacher)
    assert same(held(student), old_student)


def test_after_a_swap_what_one_learns_the_other_does_not() -> None:
    student, teacher = network(1), Teacher(network(0))
    teacher.swap(student)
    before = held(teacher.network)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert same(held(teacher.network), before)


def test_following_without_momentum_is_promotion() -> None:
    student, teacher = network(1), Teacher(network(0))
    before = held(student)
    teacher.follow(student)
    assert same(held(teacher.network), before)
    assert same(held(student), before)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert same(held(teacher.network), before)


def test_following_is_a_moving_average_of_weights_and_statistics() -> None:
    student, teacher = network(1), Teacher(network(0))
    old = held(teacher.network)
    teacher.follow(student, 0.9)
    new = held(student)
    for key, value in held(teacher.network).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.9 * old[key] + 0.1 * new[key])
        else:
            assert torch.equal(value, new[key])
    assert not torch.equal(old["1.running_mean"], held(teacher.network)["1.running_mean"])


def test_memory_format_stays() -> None:
    student = network(1).to(memory_format=torch.channels_last)
    teacher = Teacher(deepcopy(student))
    teacher.swap(student)
    for each in (student[0].weight, teacher.network.get_parameter("0.weight")):
        assert isinstance(each, Tensor)
        assert each.is_contiguous(memory_format=torch.channels_last)


def test_the_teachers_own_network_is_no_student() -> None:
    own = network(0)
    teacher = Teacher(own)
    with pytest.raises(ValueError, match="a network of its own"):
        teacher.swap(own)


def test_a_student_of_another_architecture_is_refused_before_anything_changes() -> None:
    teacher, student = Teacher(network(0)), network(1, width=5)
    before = held(teacher)
    for change in (teacher.swap, teacher.follow):
        with pytest.raises(ValueError, match="architectures"):
            change(student)
    assert same(held(teacher), before)
