"""Killed without a warning, again and again, and each time begun anew: the same bytes as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import EVERYWHERE, SMALL, torn, tree

STRUCK = Path(__file__).with_name("struck.py")
# Twenty processes in turn: on a busy machine they take their time.
pytestmark = pytest.mark.timeout(900)


def codes_of(every: int, *arguments: object) -> list[int]:
    command = [sys.executable, str(STRUCK), str(every), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return list(json.loads(run.stdout))


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_training(every: int, made: Path, tmp_path: Path) -> None:
    codes = codes_of(every, "train", "mlps", "--train", made / "table/data.csv", "--run", tmp_path / "run", *SMALL)
    assert codes[:-1] == [-9] * (len(codes) - 1)
    assert codes[-1] == 0
    assert len(codes) > 2
    assert torn(tmp_path) == []
    assert tree(tmp_path / "run") == tree(made / "run")


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_predicting(every: int, made: Path, tmp_path: Path) -> None:
    codes = codes_of(every, "predict", made / "run", made / "table/data.csv", "--to", tmp_path / "out", *EVERYWHERE)
    assert codes[:-1] == [-9] * (len(codes) - 1)
    assert codes[-1] == 0
    assert len(codes) > 2
    assert torn(tmp_path) == []
    assert tree(tmp_path / "out") == tree(made / "predicted")
