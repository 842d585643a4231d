"""Which maps of a teacher at high resolution meet which of a student at low resolution, and how they become alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.errors import Exit, HistillError


@dataclass(frozen=True)
class Meeting:
    """A teacher's map and the student's that learns from it.

    Attributes:
        teacher: the map's name, a letter and a level, such as `c4` or `p5`; level l has a stride of 2^l px.
        student: the name of the student's.
        pool: side of the squares of the teacher's cells that are averaged; 1 where both maps are of one size.
    """

    teacher: str
    student: str
    pool: int = 1


def meetings(ratio: int, teacher: Collection[str], student: Collection[str]) -> tuple[Meeting, ...]:
    """The meetings of two detectors, the teacher's images being `ratio` times as wide and high as the student's.

    Level l of the teacher meets level l - log2 ratio of the student, which is of the same size. Where the student has
    no such level (as for the teacher's c2, c3 and p3 at a ratio of 8), it meets the student's own level l, and is
    averaged over squares of `ratio` cells. Maps for which the student has neither are left out.

    Args:
        ratio: a power of 2, at least 2.
        teacher: names of the teacher's maps.
        student: names of the student's.

    Raises:
        HistillError: usage (2) if the ratio is no power of 2.
    """
    if ratio < 2 or ratio & (ratio - 1):
        what = f"high resolution is {ratio} times low resolution"
        raise HistillError(what, code=Exit.USAGE, subject="ratio", mend="Choose 2, 4, 8 or 16: levels are halvings")
    down, found = ratio.bit_length() - 1, []
    for name in teacher:
        same = f"{name[0]}{int(name[1:]) - down}"
        if same in student:
            found.append(Meeting(name, same))
        elif name in student:
            found.append(Meeting(name, name, ratio))
    return tuple(found)


class Alignment(nn.Module):
    """Makes maps that meet comparable: the teacher's is averaged, the student's goes through a 1x1 convolution.

    There is no convolution where maps of equal size and width meet. Where only the widths are equal it begins as the
    identity: a student who inherits the teacher's trunk has its channels in their order.

    Args:
        meetings: which maps meet.
        teacher: channels of the teacher's maps by name.
        student: channels of the student's.
        units: both maps are told in units of the teacher's root mean square, image by image: without normalisation
            layers a trunk's maps may be hundreds, and losses on them would drown all others.
    """

    def __init__(
        self,
        meetings: Sequence[Meeting],
        teacher: Mapping[str, int],
        student: Mapping[str, int],
        *,
        units: bool = False,
    ) -> None:
        super().__init__()
        self.meetings, self.units = tuple(meetings), units
        self.adapters = nn.ModuleDict()
        for each in meetings:
            narrow, wide = student[each.student], teacher[each.teacher]
            alike = each.pool == 1 and narrow == wide
            self.adapters[each.teacher] = nn.Identity() if alike else _adapter(narrow, wide)

    def forward(
        self, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]
    ) -> dict[Meeting, tuple[Tensor, Tensor]]:
        """Maps [b, c, h, w] by name -> the teacher's and the student's of one shape for each meeting.

        Raises:
            HistillError: usage (2) if the sizes do not fit the ratio.
        """
        pairs = {}
        for each in self.meetings:
            target, learnt = teacher[each.teacher], self.adapters[each.teacher](student[each.student])
            sides = tuple(each.pool * side for side in learnt.shape[-2:])
            if target.shape[-2:] != sides:
                raise HistillError(
                    f"the teacher's {each.teacher} is {target.shape[-1]} x {target.shape[-2]} cells, "
                    f"the student's {each.student} asks for {sides[1]} x {sides[0]}",
                    code=Exit.USAGE,
                    subject="ratio",
                    mend="Make the images' sides differ by the ratio, and the teacher's `pad_to` by it too",
                )
            # Means of cells, in the precision of the map.
            target = F.avg_pool2d(target, each.pool) if each.pool > 1 else target
            if self.units:
                scale = target.detach().float().square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
                target, learnt = target / scale, learnt / scale
            pairs[each] = target, learnt
        return pairs


def _adapter(narrow: int, wide: int) -> nn.Conv2d:
    """A 1x1 convolution; the identity at first if the widths are equal."""
    made = nn.Conv2d(narrow, wide, kernel_size=1)
    if narrow == wide:
        nn.init.dirac_(made.weight)
        nn.init.zeros_(cast(Tensor, made.bias))
    return made
