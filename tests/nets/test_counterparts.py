"""Which of the teacher's cells speaks for each of the student's, against loops over squares."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from histill.core.errors import Exit, HistillError
from histill.nets.counterparts import counterparts, taken
from histill.nets.detector import Views


def views(levels: tuple[int, int], h: int, w: int, seed: int, k: int = 2) -> Views:
    """Random words on an image of h x w px."""
    random = torch.Generator().manual_seed(seed)
    pyramid, cells = {}, []
    for level in range(levels[0], levels[1] + 1):
        stride = 2**level
        rows, columns = -(-h // stride), -(-w // stride)
        pyramid[f"p{level}"] = torch.zeros(2, 1, rows, columns)
        cells += [
            (x * stride, y * stride, (x + 1) * stride, (y + 1) * stride) for y in range(rows) for x in range(columns)
        ]
    n = len(cells)
    logits = torch.randn(2, n, k, generator=random)
    return Views(
        {}, pyramid, logits, torch.rand(2, n, 4), torch.randn(2, n, generator=random), torch.tensor(cells) * 1.0
    )


def slow(teacher: Views, student: Views, ratio: int) -> Tensor:
    """By comparing squares in px of the high resolution."""
    first = min(float(c[2] - c[0]) for c in student.cells)
    best = teacher.scores.amax(-1)
    found = torch.full(student.logits.shape[:2], -1)
    for i in range(len(best)):
        for n, cell in enumerate((student.cells * ratio).tolist()):
            wanted = cell[2] - cell[0]
            inside = []
            for m, (x0, y0, x1, y1) in enumerate(teacher.cells.tolist()):
                fits = x0 >= cell[0] and y0 >= cell[1] and x1 <= cell[2] and y1 <= cell[3]
                if fits and (x1 - x0 == wanted or wanted == first * ratio):
                    inside.append(m)
            if inside:
                found[i, n] = max(inside, key=lambda m: float(best[i, m]))
    return found


@pytest.mark.parametrize(
    ("ratio", "teacher", "student"),
    [(2, (3, 7), (2, 6)), (4, (3, 7), (2, 5)), (8, (3, 7), (2, 6)), (16, (2, 6), (2, 4)), (2, (4, 5), (2, 5))],
)
def test_the_cell_of_the_same_square_or_the_surest_in_it(
    ratio: int, teacher: tuple[int, int], student: tuple[int, int]
) -> None:
    low = views(student, 32, 64, 0)
    high = views(teacher, 32 * ratio, 64 * ratio, 1)
    if ratio > 4:
        low, high = views(student, 32, 32, 0), views(teacher, 32 * ratio, 32 * ratio, 1)
        low, high = (replace(each, logits=each.logits[:1], centerness=each.centerness[:1]) for each in (low, high))
    found = counterparts(high, low, ratio)
    assert torch.equal(found, slow(high, low, ratio))
    assert (found >= 0).any()


def test_levels_that_the_teacher_lacks_are_not_spoken_for() -> None:
    low, high = views((2, 6), 64, 64, 0), views((3, 5), 256, 256, 1)
    levels = low.by_level(counterparts(high, low, 4))
    assert {name: bool((cells >= 0).all()) for name, cells in levels.items()} == {
        "p2": True,
        "p3": True,
        "p4": False,
        "p5": False,
        "p6": False,
    }
    assert all(bool((cells == -1).all()) for name, cells in levels.items() if name > "p3")


def test_values_are_taken_from_where_they_stand() -> None:
    values, cells = torch.arange(12.0).view(2, 3, 2), torch.tensor([[2, -1], [0, 1]])
    assert taken(values, cells).tolist() == [[[4, 5], [0, 1]], [[6, 7], [8, 9]]]


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        HistillError, match="the teacher's p3 is 6 x 6 cells, the student's maps ask for 8 x 8"
    ) as caught:
        counterparts(views((3, 4), 48, 48, 0), views((2, 3), 32, 32, 0), 2)
    assert caught.value.code == Exit.USAGE
