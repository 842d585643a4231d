"""The one rule for weights: whole, fitting, finite and harmless, or refused."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from histill.core.errors import Exit, HistillError
from histill.nets.weights import is_file, load_into, read_weights

TENSORS = {"a.weight": torch.arange(200.0).view(10, 20), "a.bias": torch.zeros(10)}


def as_safetensors(path: Path) -> None:
    save_file(TENSORS, path)


def as_torch(path: Path) -> None:
    torch.save(TENSORS, path)


def as_numpy(path: Path) -> None:
    np.savez(path, **{key: value.numpy() for key, value in TENSORS.items()})


KINDS: list[tuple[str, Callable[[Path], None]]] = [
    ("w.safetensors", as_safetensors),
    ("w.pth", as_torch),
    ("w.pt", as_torch),
    ("w.npz", as_numpy),
]


def refused(path: Path) -> HistillError:
    with pytest.raises(HistillError) as caught:
        read_weights(path)
    assert caught.value.subject == str(path)
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize(("name", "save"), KINDS)
def test_every_kind_gives_the_same_tensors(name: str, save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path / name)
    assert is_file(name)
    found = read_weights(tmp_path / name)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize(("name", "save"), KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_torn_file_is_an_input_error(name: str, save: Callable[[Path], None], share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refused(path).code == Exit.INPUT


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.npz"])
def test_rubbish_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"these are not weights " * 20)
    assert refused(tmp_path / name).code in (Exit.INPUT, Exit.UNSAFE)


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["plain.pth", "zipped.pth", "objects.npz"])
def test_a_pickle_with_code_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    payload, path = Payload(tmp_path / "ran"), tmp_path / name
    if name == "plain.pth":
        path.write_bytes(pickle.dumps({"a": payload}))
    elif name == "zipped.pth":
        torch.save({"a": payload}, path)
    else:
        np.savez(path, a=np.array([payload], object))
    error = refused(path)
    assert error.code == Exit.UNSAFE
    assert "safetensors" in error.mend
    assert not payload.mark.exists()


@pytest.mark.parametrize("value", [[1, 2], {"a": 3}, {"state_dict": {"a": "text"}}])
def test_a_pth_without_a_state_dict_says_what_to_save(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pth")
    error = refused(tmp_path / "w.pth")
    assert error.code == Exit.INPUT
    assert "state_dict" in error.mend


def test_arrays_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array(["text"]))
    assert refused(tmp_path / "w.npz").code == Exit.INPUT


def test_wrappers_of_training_codes_are_taken_off(tmp_path: Path) -> None:
    for wrapper in ("state_dict", "model"):
        torch.save({wrapper: {f"module.{key}": value for key, value in TENSORS.items()}, "epoch": 3}, tmp_path / "w.pt")
        assert read_weights(tmp_path / "w.pt").keys() == TENSORS.keys()


def test_missing_files_and_unknown_kinds(tmp_path: Path) -> None:
    assert "no such" in refused(tmp_path / "w.pth").what
    (tmp_path / "w.onnx").write_bytes(b"")
    error = refused(tmp_path / "w.onnx")
    assert error.code == Exit.INPUT
    assert ".safetensors" in error.mend
    assert not is_file("w.onnx")
    assert not is_file("imagenet")
    assert not is_file("none")


# --- fitting ----------------------------------------------------------------------------------------------------------


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"weight": torch.ones(2, 3)}, "1 missing: bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}, "1 not known here: more"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "weight (2, 4), not (2, 3)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(weights: dict[str, torch.Tensor], told: str) -> None:
    own = network()
    with pytest.raises(HistillError) as caught:
        load_into(own, weights, "here")
    assert caught.value.code == Exit.INPUT
    assert told in caught.value.what
    assert torch.equal(own.weight, network().weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_a_numbers_error(bad: float) -> None:
    own = network()
    with pytest.raises(HistillError, match="bias") as caught:
        load_into(own, {"weight": torch.ones(2, 3), "bias": torch.tensor([0.0, bad])}, "here")
    assert caught.value.code == Exit.NUMBERS
    assert torch.equal(own.weight, network().weight)


def test_many_faults_are_counted_and_five_named() -> None:
    big = nn.Sequential(*(nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(HistillError, match=r"20 missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight, \.\.\."):
        load_into(big, {}, "here")
