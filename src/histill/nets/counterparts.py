"""Which cells of a detector at high resolution speak for those of one at low resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from histill.core.errors import Exit, HistillError
from histill.nets.detector import Views


def counterparts(teacher: Views, student: Views, ratio: int) -> Tensor:
    """The teacher's cell that speaks for each of the student's.

    It is the one of the same square: level l of the teacher stands for level l - log2 ratio of the student. The
    student's first level answers for everything small, which the teacher has on finer levels too: there it is, of all
    the teacher's cells in the square on its level or a finer one, the cell with the highest score.

    Args:
        teacher: what it says of images that are `ratio` times as wide and high as the student's.
        student: what it says of the same fields.
        ratio: a power of 2.

    Returns:
        int64 [b, n], a teacher's cell for each of the student's n; -1 where the teacher has no such level.

    Raises:
        HistillError: usage (2) if the sizes of the maps do not fit the ratio.
    """
    down, best = ratio.bit_length() - 1, teacher.scores.detach().amax(-1)  # [b, m]
    sizes = {int(name[1:]): each.shape[-2:] for name, each in teacher.pyramid.items()}
    starts, start = {}, 0
    for level, (h, w) in sizes.items():
        starts[level], start = start, start + h * w
    found = []
    for i, (name, maps) in enumerate(student.pyramid.items()):
        h, w = maps.shape[-2:]
        own = int(name[1:]) + down
        inside = []
        for level in sorted(sizes, reverse=True):
            if level == own or (i == 0 and level < own):
                cells = 2 ** (own - level)
                if sizes[level] != (h * cells, w * cells):
                    raise _unfit(level, sizes[level], (h * cells, w * cells))
                inside.append(starts[level] + _squares(h, w, cells))
        if not inside:
            found.append(best.new_full((len(best), h * w), -1, dtype=torch.int64))
            continue
        candidates = torch.cat(inside, dim=1).to(best.device)  # [h w, c]
        chosen = best[:, candidates].argmax(-1, keepdim=True)  # [b, h w, 1]
        found.append(candidates.expand(len(best), -1, -1).gather(-1, chosen)[..., 0])  # [b, h w]
    return torch.cat(found, dim=1)


def taken(values: Tensor, cells: Tensor) -> Tensor:
    """Values of the teacher's cells [b, m, ...] at `counterparts` [b, n]: [b, n, ...]; those of cell 0 for -1."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, cells.clamp(min=0)]


def _squares(h: int, w: int, cells: int) -> Tensor:
    """The cells of a map of h x w squares of `cells` x `cells`, square by square; int64 [h w, cells^2]."""
    every = torch.arange(h * cells * w * cells).view(h, cells, w, cells)
    return every.permute(0, 2, 1, 3).reshape(h * w, cells**2)


def _unfit(level: int, size: tuple[int, ...], asked: tuple[int, int]) -> HistillError:
    return HistillError(
        f"the teacher's p{level} is {size[1]} x {size[0]} cells, the student's maps ask for {asked[1]} x {asked[0]}",
        code=Exit.USAGE,
        subject="ratio",
        mend="Make the images' sides differ by the ratio, and the teacher's `pad_to` by it too",
    )
