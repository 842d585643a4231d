"""A weight that rises with the steps of training, and goes on where it was."""

import pytest
import torch

from histill.nets.ramp import Ramp


def test_it_rises_in_steps_and_stays() -> None:
    ramp = Ramp(4)
    assert [float(ramp()) for _ in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_looking_is_no_step() -> None:
    ramp = Ramp(4)
    ramp()
    ramp.eval()
    assert [float(ramp()) for _ in range(3)] == [0.25] * 3
    assert float(ramp.train()()) == 0.5


def test_it_goes_on_from_its_weights() -> None:
    first, second = Ramp(4), Ramp(4)
    first(), first()
    second.load_state_dict(first.state_dict())
    assert float(second()) == float(first()) == 0.75


def test_without_steps_it_is_one_at_once() -> None:
    assert float(Ramp(0)()) == 1
    assert Ramp(0)().dtype == torch.float32


def test_it_learns_nothing() -> None:
    assert list(Ramp(3).parameters()) == []
    assert not Ramp(3)().requires_grad


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_an_average_of_it_can_be_kept(average: float) -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    ramp = Ramp(4)
    kept = AveragedModel(ramp, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    ramp()
    kept.update_parameters(ramp)
    assert kept.module.seen.dtype == torch.int64
