"""The lesson of shallow maps, put together by hand from its terms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from histill.engine.focal_global import FocalGlobal, FocalGlobalSettings
from histill.losses.feature_distillation import attention, attention_error, box_shares, feature_error, relation_error
from histill.nets.alignment import Alignment, meetings

WIDE, NARROW = {"c2": 6, "p3": 5}, {"c2": 4, "p3": 5, "p2": 5}
BOXES = (torch.tensor([[4.0, 8, 30, 40]]), torch.zeros(0, 4))


def lesson(**values: float) -> FocalGlobal:
    torch.manual_seed(0)
    settings = FocalGlobalSettings(**{"ramp": 4, **values})
    return FocalGlobal(settings, Alignment(meetings(2, WIDE, NARROW), WIDE, NARROW), WIDE)


def maps(channels: dict[str, int], side: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, c, side >> int(name[1:]), side >> int(name[1:]), generator=random).requires_grad_()
        for name, c in channels.items()
    }


def by_hand(module: FocalGlobal, high: dict[str, Tensor], low: dict[str, Tensor]) -> dict[str, float]:
    """Unweighted terms. At a ratio of 2 c2 meets c2 over squares of 2, and p3 meets p2."""
    met = {
        "c2": (F.avg_pool2d(high["c2"], 2), module.alignment.adapters["c2"](low["c2"]), 8),
        "p3": (high["p3"], low["p2"], 8),
    }
    found = dict.fromkeys(("foreground", "background", "attention", "relation"), 0.0)
    for name, (target, learnt, stride) in met.items():
        focus, shares = attention(target, 0.5), box_shares(BOXES, (8, 8), stride)
        found["foreground"] += feature_error(target, learnt, shares.foreground, focus).item()
        found["background"] += feature_error(target, learnt, shares.background, focus).item()
        found["attention"] += attention_error(focus, attention(learnt, 0.5)).item()
        found["relation"] += relation_error(module.teachers[name](target), module.students[name](learnt)).item()
    return found


def test_terms_are_weighted_sums_over_maps_and_rise() -> None:
    module, high, low = lesson(), maps(WIDE, 64, 0), maps(NARROW, 32, 1)
    expected = by_hand(module, high, low)
    weights = {"foreground": 1e-3, "background": 5e-4, "attention": 5e-4, "relation": 5e-6}
    for rise in (0.25, 0.5, 0.75, 1, 1):
        found = {name: term.item() for name, term in module(BOXES, high, low).items()}
        assert found == pytest.approx({name: rise * weights[name] * expected[name] for name in weights}, rel=1e-5)


def test_the_teacher_learns_nothing_and_its_own_block_does() -> None:
    module, high, low = lesson(), maps(WIDE, 64, 0), maps(NARROW, 32, 1)
    torch.stack(list(module(BOXES, high, low).values())).sum().backward()
    assert all(each.grad is None for each in high.values())
    assert all(bool(low[name].grad.abs().sum() > 0) for name in ("c2", "p2"))
    # The blocks begin as the identity: their last layers learn first.
    for blocks in (module.teachers, module.students):
        assert all(bool(block.change[-1].weight.grad.abs().sum() > 0) for block in blocks.values())


@pytest.mark.parametrize("off", ["foreground", "background", "attention", "relation"])
def test_a_weight_of_nothing_takes_out_its_term_alone(off: str) -> None:
    high, low = maps(WIDE, 64, 0), maps(NARROW, 32, 1)
    every, fewer = lesson()(BOXES, high, low), lesson(**{off: 0})(BOXES, high, low)
    assert set(every) - set(fewer) == {off}
    assert {name: term.item() for name, term in fewer.items()} == {name: every[name].item() for name in fewer}
    if off == "relation":
        assert len(lesson(relation=0).teachers) == 0
