"""histill doctor: what there is, and what is missing."""

import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import pytest
from small import Histill

from histill.cli import doctor


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_machine_that_has_all(histill: Histill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 39))
    said = histill("doctor")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("all well\n")
    for name in ("histill", "torch", "timm"):
        assert re.search(rf"^{name} +{re.escape(version(name))}", said.out, re.MULTILINE)
    assert re.search("^device +c(pu|uda), ", said.out, re.MULTILINE)
    assert "512 GiB free" in said.out


def test_troubles_are_named_and_counted(histill: Histill, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_timm(name: str) -> str:
        if name == "timm":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_timm)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 20))
    said = histill("doctor")
    assert said.code == 1
    assert "trouble: timm is not installed" in said.err
    assert "trouble: less than 2 GiB are free" in said.err
    assert said.out.endswith("2 troubles\n")
