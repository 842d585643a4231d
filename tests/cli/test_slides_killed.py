"""Slides, stopped at every step: nothing half under a final name, and in the end the bytes of an untouched run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scanned import tissue, write_run, write_slide

WRECK = Path(__file__).with_name("slides_wreck.py")
# Dozens of processes in turn: on a busy machine they take their time.
pytestmark = pytest.mark.timeout(900)
SIGNALS = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -9}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, and a folder with two slides."""
    place = tmp_path_factory.mktemp("given")
    for seed, name in enumerate(("a.tif", "c.tif")):
        write_slide(place / "in" / name, tissue(200, 260, seed))
    return [str(write_run(place / "model")), str(place / "in")]


def wrecked(given: list[str], place: Path, step: int, *deeds: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(WRECK), *given, str(place), str(step), *deeds]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


@pytest.fixture(scope="module")
def some(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of a few strikes, and of the signals."""
    return wrecked(given, tmp_path_factory.mktemp("some"), 45, "killed", "full", *SIGNALS)


def check(result: dict[str, Any], way: str, least: int) -> None:
    codes = result["codes"]
    assert codes[:-1] == [-9 if way == "killed" else 7] * (len(codes) - 1)
    assert codes[-1] == 0
    assert len(codes) > least
    assert result["half"] == []
    assert result["left"] == []
    assert result["differs"] == []
    for said in result["said"][:-1]:
        lines = [line for line in said.splitlines() if line.startswith("histill: ")]
        assert len(lines) == 1, said
        assert "the disk is full" in lines[0]
        assert "Traceback" not in said


@pytest.mark.parametrize("way", ["killed", "full"])
def test_struck_again_and_again(way: str, some: dict[str, dict[str, Any]]) -> None:
    check(some[way], way, least=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["killed", "full"])
def test_struck_at_every_operation(way: str, given: list[str], tmp_path: Path) -> None:
    check(wrecked(given, tmp_path, 0, way)[way], way, least=100)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_while_a_map_is_written(name: str, some: dict[str, dict[str, Any]]) -> None:
    result = some[name]
    assert result["code"] == SIGNALS[name]
    assert result["seconds"] < 30, "it went on as if nothing had happened"
    assert result["alive"] == []
    if Path("/proc/self/stat").exists():
        assert result["readers"] == 1
    if name != "SIGKILL":
        assert result["left"] == []
        (line,) = [line for line in result["said"].splitlines() if line.startswith("histill: ")]
        assert "run the same command again to go on" in line
        assert "Traceback" not in result["said"]
    assert result["again"] == 0
    assert result["left at last"] == []
    assert result["differs"] == []
