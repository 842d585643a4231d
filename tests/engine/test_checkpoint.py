"""Weights and training states: the same back, the same bytes, and damage noticed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from histill.core.errors import Exit, HistillError
from histill.engine.checkpoint import copy_of, load_weights, read_state, weight_bytes, write_state


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net(torch.rand(2, 3, 8, 8))
    return net


def test_weights_and_buffers_come_back(tmp_path: Path) -> None:
    first, second = network(0), network(1)
    (tmp_path / "w.safetensors").write_bytes(weight_bytes(first))
    load_weights(second, tmp_path / "w.safetensors")
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


def test_equal_weights_give_equal_bytes_whatever_their_layout() -> None:
    net = network(0)
    expected = weight_bytes(net)
    assert weight_bytes(network(0)) == expected
    assert weight_bytes(net.to(memory_format=torch.channels_last)) == expected
    assert weight_bytes(network(1)) != expected


def test_weights_that_are_not_finite_are_not_written() -> None:
    net = network(0)
    with torch.no_grad():
        net.get_parameter("0.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(HistillError, match=r"0\.weight") as caught:
        weight_bytes(net)
    assert caught.value.code == Exit.NUMBERS


def test_a_copy_does_not_follow_the_network() -> None:
    net = network(0)
    copy = copy_of(net)
    with torch.no_grad():
        net.get_parameter("0.weight").zero_()
    assert bool((copy["0.weight"] != 0).any())


STATE: dict[str, Any] = {
    "epoch": 3,
    "weights": {"a": torch.arange(50.0)},
    "average": None,
    "best": {"score": 0.5},
    "scores": [0.5, None],
}


def test_a_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pt", STATE)
    found = read_state(tmp_path / "state.pt")
    assert found is not None
    assert torch.equal(found["weights"].pop("a"), STATE["weights"]["a"])
    assert found == {**STATE, "weights": {}}
    assert read_state(tmp_path / "other.pt") is None


@given(data=st.data())
def test_a_damaged_state_does_not_count(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("state") / "state.pt"
    write_state(path, STATE)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    path.write_bytes(content)
    assert read_state(path) is None
