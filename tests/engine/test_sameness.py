"""What processes must have in common, and what not. That settings must stay is in test_run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from histill.core.errors import Exit, HistillError
from histill.engine.run import Machine, meet
from histill.engine.sameness import check_alike, check_apart, check_shares, not_shared
from histill.engine.team import Team


class Told(Team):
    """A team in which others say what they are told to."""

    def __init__(self, others: list[Any]) -> None:
        super().__init__()
        self.size, self.others = 1 + len(others), others

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def test_processes_of_one_gpu_are_refused() -> None:
    check_apart(Told(["b 1", "c 0"]), "b 0")
    with pytest.raises(HistillError, match="2 processes share one GPU") as caught:
        check_apart(Told(["b 0", "c 0"]), "b 0")
    assert (caught.value.code, caught.value.subject) == (Exit.USAGE, "b 0")


def test_every_process_has_an_image_of_each_batch() -> None:
    check_shares(3, Told([0, 0]), "x")
    with pytest.raises(HistillError, match="x: a batch of 2 images cannot be shared by 3 processes") as caught:
        check_shares(2, Told([0, 0]), "x")
    assert caught.value.code == Exit.USAGE


def test_settings_that_differ_are_named() -> None:
    said: list[dict[str, str]] = []

    class Listening(Told):
        def gather(self, value: Any) -> list[Any]:
            said.append(value)
            return super().gather(value)

    check_alike(Listening([]), {"a": 1, "b": {"c": [2]}})
    (own,) = said
    check_alike(Told([own, own]), {"b": {"c": [2]}, "a": 1})
    with pytest.raises(HistillError, match="do not have the same b, d") as caught:
        check_alike(Told([own]), {"a": 1, "b": {"c": [3]}, "d": 0})
    assert caught.value.code == Exit.USAGE


def test_files_that_are_not_the_same_are_a_matter_of_storage() -> None:
    assert not_shared(Path("run")).code == Exit.STORAGE


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HistillError, match="process 3 of this machine has no GPU: there are 2") as caught:
        meet(Machine())
    assert caught.value.code == Exit.USAGE
