"""What boxes cost, against loops."""

import math

import pytest
import torch

from histill.losses.detection import box_distance


def slow_giou(one: list[float], other: list[float]) -> float:
    w, h = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    shared = max(w, 0.0) * max(h, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    hull = math.prod(max(one[k + 2], other[k + 2]) - min(one[k], other[k]) for k in (0, 1))
    return shared / union - (hull - union) / hull


def boxes(seed: int) -> torch.Tensor:
    corner, size = torch.rand(2, 3, 5, 2, generator=torch.Generator().manual_seed(seed)) * 20
    return torch.cat([corner, corner + size + 0.1], -1)  # [3, 5, 4]


def test_it_is_the_mean_over_cells_of_which_the_teacher_is_sure() -> None:
    teacher, student = boxes(0), boxes(1)
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))
    scores[0, 0], scores[1, 1] = 0.3, 0.2999
    sure = [(i, j) for i in range(3) for j in range(5) if float(scores[i, j]) >= float(torch.tensor(0.3))]
    assert (0, 0) in sure
    assert (1, 1) not in sure
    expected = sum(1 - slow_giou(student[at].tolist(), teacher[at].tolist()) for at in sure) / len(sure)
    assert float(box_distance(teacher, student, scores, 0.3)) == pytest.approx(expected, rel=1e-5)
    assert float(box_distance(teacher, teacher, scores, 0.3)) == pytest.approx(0, abs=1e-6)


def test_nobody_sure_costs_nothing_and_only_the_student_learns() -> None:
    teacher, student = boxes(0).requires_grad_(), boxes(1).requires_grad_()
    nothing = box_distance(teacher, student, torch.zeros(3, 5), 0.3)
    assert float(nothing.detach()) == 0
    nothing.backward()
    box_distance(teacher, student, torch.ones(3, 5), 0.3).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool((student.grad != 0).any(-1).all())
    assert box_distance(teacher.bfloat16(), student.bfloat16(), torch.ones(3, 5), 0.3).dtype == torch.float32
