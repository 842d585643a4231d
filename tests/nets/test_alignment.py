"""Which levels of teacher and student meet at each ratio, and what becomes of their maps."""

import pytest
import torch
from torch import Tensor

from histill.core.errors import Exit, HistillError
from histill.nets.alignment import Alignment, Meeting, meetings
from histill.nets.detector import DetectorSettings, build_detector

TRUNK, PYRAMID = ["c2", "c3", "c4", "c5"], ["p2", "p3", "p4", "p5", "p6"]

TABLE = {
    2: "c2>c2/2 c3>c2 c4>c3 c5>c4 p2>p2/2 p3>p2 p4>p3 p5>p4 p6>p5",
    4: "c2>c2/4 c3>c3/4 c4>c2 c5>c3 p2>p2/4 p3>p3/4 p4>p2 p5>p3 p6>p4",
    8: "c2>c2/8 c3>c3/8 c4>c4/8 c5>c2 p2>p2/8 p3>p3/8 p4>p4/8 p5>p2 p6>p3",
    16: "c2>c2/16 c3>c3/16 c4>c4/16 c5>c5/16 p2>p2/16 p3>p3/16 p4>p4/16 p5>p5/16 p6>p2",
}
"""The teacher's map > the student's, / the side of the squares of the teacher's cells that are averaged."""


def written(found: tuple[Meeting, ...]) -> str:
    return " ".join(f"{m.teacher}>{m.student}" + (f"/{m.pool}" if m.pool > 1 else "") for m in found)


@pytest.mark.parametrize("ratio", TABLE)
def test_the_table_of_each_ratio(ratio: int) -> None:
    assert written(meetings(ratio, TRUNK + PYRAMID, TRUNK + PYRAMID)) == TABLE[ratio]


@pytest.mark.parametrize("ratio", TABLE)
def test_maps_that_meet_cover_the_same_field(ratio: int) -> None:
    for each in meetings(ratio, TRUNK + PYRAMID, TRUNK + PYRAMID):
        # One cell of the student in px of the high resolution, and the teacher's cells that it meets.
        assert ratio * 2 ** int(each.student[1:]) == each.pool * 2 ** int(each.teacher[1:])
        assert each.student[0] == each.teacher[0]


def test_levels_that_the_student_lacks() -> None:
    # A student without stride 4: p5 of the teacher has no map of its size, p7 of the teacher has.
    assert written(meetings(8, ["p3", "p5", "p6", "p7"], ["p3", "p4", "p5"])) == "p3>p3/8 p5>p5/8 p6>p3 p7>p4"
    assert written(meetings(2, ["p6", "p7"], ["p3", "p4", "p5"])) == "p6>p5"
    assert meetings(2, [], TRUNK) == ()


@pytest.mark.parametrize("ratio", [-2, 0, 1, 3, 6, 12])
def test_ratios_that_are_no_halvings_are_refused(ratio: int) -> None:
    with pytest.raises(HistillError, match=f"{ratio} times") as caught:
        meetings(ratio, TRUNK, TRUNK)
    assert caught.value.code == Exit.USAGE
    assert "2, 4, 8 or 16" in caught.value.mend


def maps(channels: dict[str, int], side: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, c, -(-side // 2 ** int(name[1:])), -(-side // 2 ** int(name[1:])), generator=generator)
        for name, c in channels.items()
    }


@pytest.mark.parametrize("ratio", TABLE)
def test_aligned_maps_are_of_one_shape(ratio: int) -> None:
    wide, narrow = {"c2": 6, "c3": 8, "p3": 5, "p4": 5, "p6": 5}, {"c2": 3, "c3": 4, "p2": 5, "p3": 5, "p4": 5}
    alignment = Alignment(meetings(ratio, wide, narrow), wide, narrow)
    high, low = maps(wide, 128 * ratio, 0), maps(narrow, 128, 1)
    found = alignment(high, low)
    assert tuple(found) == alignment.meetings
    for each, (target, learnt) in found.items():
        assert target.shape == learnt.shape == (2, wide[each.teacher], *low[each.student].shape[-2:])
        if each.pool == 1:
            assert target is high[each.teacher]
        else:
            squares = high[each.teacher].unfold(2, each.pool, each.pool).unfold(3, each.pool, each.pool)
            torch.testing.assert_close(target, squares.mean((-2, -1)))
        adapter = alignment.adapters[each.teacher]
        if each.pool == 1 and wide[each.teacher] == narrow[each.student]:
            assert learnt is low[each.student]
        else:
            expected = torch.einsum("bchw,dc->bdhw", low[each.student], adapter.weight[..., 0, 0])
            torch.testing.assert_close(learnt, expected + adapter.bias[:, None, None])


def test_maps_of_equal_width_are_compared_as_they_are_at_first() -> None:
    wide, narrow = {"c3": 6, "p3": 5}, {"c3": 6, "p3": 4}
    alignment = Alignment(meetings(4, wide, narrow), wide, narrow)
    low = maps(narrow, 64, 1)
    found = {each.teacher: learnt for each, (_, learnt) in alignment(maps(wide, 256, 0), low).items()}
    torch.testing.assert_close(found["c3"], low["c3"])
    assert found["p3"].shape[1] == 5
    assert alignment.adapters["c3"].weight.requires_grad, "it learns from there"


def test_detectors_of_two_resolutions_meet() -> None:
    settings = DetectorSettings(encoder="test_resnet", weights="none", channels=64, depth=1, levels=(2, 5), pad_to=32)
    teacher = build_detector(settings.model_copy(update={"levels": (3, 7), "pad_to": 128}), 1).eval()
    student = build_detector(settings, 1).eval()
    alignment = Alignment(meetings(4, teacher.channels, student.channels), teacher.channels, student.channels)
    with torch.no_grad():
        high, low = teacher(torch.rand(1, 3, 4 * 50, 4 * 40)), student(torch.rand(1, 3, 50, 40))
    found = alignment(high.trunk | high.pyramid, low.trunk | low.pyramid)
    assert written(tuple(found)) == "c2>c2/4 c3>c3/4 c4>c2 c5>c3 p3>p3/4 p4>p2 p5>p3 p6>p4 p7>p5"
    assert {target.shape == learnt.shape for target, learnt in found.values()} == {True}


def test_sizes_that_do_not_fit_are_named() -> None:
    wide = {"p3": 5, "p4": 5}
    alignment = Alignment(meetings(2, wide, wide), wide, wide)
    with pytest.raises(HistillError, match="the teacher's p3 is 24 x 24 cells, the student's p3 asks for 16 x 16"):
        alignment(maps(wide, 192, 0), maps(wide, 64, 1))


def test_in_units_of_the_teacher_a_common_scale_is_nothing() -> None:
    wide = {"c2": 5, "p3": 5, "p2": 5}
    found = meetings(2, ["c2", "p3"], ["c2", "p2"])
    alignment, plain = Alignment(found, wide, wide, units=True), Alignment(found, wide, wide)
    plain.load_state_dict(alignment.state_dict())
    high, low = maps(wide, 128, 0), maps(wide, 64, 1)
    first = alignment(high, low)
    for each, (target, learnt) in first.items():
        torch.testing.assert_close(target.square().mean((1, 2, 3)), torch.ones(2))
        size = plain(high, low)[each][0].square().mean((1, 2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(learnt * size, plain(high, low)[each][1])
    meeting = next(each for each in found if each.pool == 1)
    larger = alignment({k: 300 * v for k, v in high.items()}, {k: 300 * v for k, v in low.items()})
    for one, other in zip(first[meeting], larger[meeting], strict=True):
        torch.testing.assert_close(one, other)
