"""A run's folder: finished work is kept, changed work is noticed, settings are held to."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.storage import write_inside
from histill.engine.optim import Schedule
from histill.engine.run import Machine, open_run
from histill.engine.stage import Stage

MakeStage = Callable[..., Stage]
MACHINE = Machine(accelerator="cpu", precision="float32")
SETTINGS: dict[str, Any] = {"method": "m", "config": {"rate": 0.1, "taps": [1, 2]}, "seed": 0}


def opened(folder: Path, settings: dict[str, Any] = SETTINGS) -> Any:
    return open_run(folder, settings=settings, seed=0, machine=MACHINE)


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file that is part of a result."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def events(folder: Path) -> list[str]:
    return [event["event"] for event in read_journal(folder / "journal.jsonl")]


def masks(make: list[int]) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        make.append(1)
        write_inside(folder, "a/x.bin", b"abc" * 100)
        write_inside(folder, "y.bin", b"")

    return fill


def work(folder: Path, make_stage: MakeStage, made: list[int] | None = None, **more: Any) -> Stage:
    """Two stages and a folder between."""
    first = make_stage(Schedule(epochs=2), dropout=0.3)
    second = make_stage(Schedule(epochs=2), name="second", norm=True, **more)
    with opened(folder) as run:
        run.train(first)
        run.once("masks", masks([] if made is None else made))
        run.train(second)
    return second


def test_a_finished_run_is_loaded_not_repeated(tmp_path: Path, make_stage: MakeStage) -> None:
    made: list[int] = []
    first = work(tmp_path, make_stage, made)
    before = tree(tmp_path)
    assert sorted(before) == [
        "masks/a/x.bin",
        "masks/record.json",
        "masks/y.bin",
        "run.json",
        "stages/second/record.json",
        "stages/second/weights.safetensors",
        "stages/stage/record.json",
        "stages/stage/weights.safetensors",
    ]

    def never(batch: object) -> dict[str, torch.Tensor]:
        raise AssertionError("trained again")

    again = work(tmp_path, make_stage, made, loss=never)
    assert made == [1]
    assert tree(tmp_path) == before
    assert not again.learns.training
    for key, value in first.learns.state_dict().items():
        assert torch.equal(again.learns.state_dict()[key], value)
    assert events(tmp_path)[-2:] == ["stage loaded", "stage loaded"]


def test_the_kept_score_is_the_same_trained_and_loaded(tmp_path: Path, make_stage: MakeStage) -> None:
    scores = iter([0.25, 0.75, 0.5])
    stage = make_stage(Schedule(epochs=3), select=lambda: next(scores))
    for _ in range(2):
        with opened(tmp_path) as run:
            assert run.train(stage) == 0.75
            assert run.train(make_stage(Schedule(epochs=1), name="other")) is None


def test_two_runs_of_the_same_settings_have_the_same_bytes(tmp_path: Path, make_stage: MakeStage) -> None:
    work(tmp_path / "a", make_stage)
    torch.rand(5)
    work(tmp_path / "b", make_stage)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("name", ["masks/a/x.bin", "stages/stage/weights.safetensors", "masks/record.json"])
@pytest.mark.parametrize("way", ["flip", "cut", "gone"])
def test_a_result_that_changed_is_made_again(name: str, way: str, tmp_path: Path, make_stage: MakeStage) -> None:
    work(tmp_path, make_stage)
    before = tree(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if way == "flip":
        # In a record, the first byte: elsewhere it may be a number that nothing depends on.
        content[0 if name.endswith("json") else len(content) // 2] ^= 1
    path.write_bytes(content[: -9 if way == "cut" else None])
    if way == "gone":
        path.unlink()
    work(tmp_path, make_stage)
    assert tree(tmp_path) == before


def test_a_change_upstream_makes_what_came_of_it_anew(tmp_path: Path, make_stage: MakeStage) -> None:
    work(tmp_path, make_stage)
    record = tmp_path / "stages" / "second" / "record.json"
    source = json.loads(record.read_bytes())["source"]

    def other(folder: Path) -> None:
        write_inside(folder, "z.bin", b"other")

    (tmp_path / "masks" / "y.bin").write_bytes(b"changed")
    with opened(tmp_path) as run:
        run.train(make_stage(Schedule(epochs=2), dropout=0.3))
        run.once("masks", other)
        run.train(make_stage(Schedule(epochs=2), name="second", norm=True))
    assert json.loads(record.read_bytes())["source"] != source
    assert events(tmp_path).count("stage") == 3  # twice at first, then the second stage alone


@pytest.mark.parametrize("damage", ["none", "flip", "cut"])
def test_after_numbers_that_are_not_finite_the_run_goes_on_from_the_last_good_epoch(
    damage: str, tmp_path: Path, make_stage: MakeStage
) -> None:
    def stage(*, fails: bool) -> Stage:
        sound, calls = make_stage(Schedule(epochs=3), dropout=0.3), []

        def loss(batch: Any) -> Any:
            calls.append(1)
            return {"a": sound.loss(batch)["square"] * (torch.nan if fails and len(calls) == 7 else 1.0)}

        return make_stage(Schedule(epochs=3), learns=sound.learns, trunk=sound.trunk, loss=loss)

    with opened(tmp_path / "clean") as run:
        run.train(stage(fails=False))
    broken = tmp_path / "broken"
    with pytest.raises(HistillError) as caught, opened(broken) as run:
        run.train(stage(fails=True))
    assert caught.value.code == Exit.NUMBERS
    state = broken / "stages" / "stage" / "state.pt"
    assert state.is_file()
    assert not state.with_name("weights.safetensors").exists()
    content = bytearray(state.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    state.write_bytes(content[: -7 if damage == "cut" else None])
    with opened(broken) as run:
        run.train(stage(fails=False))
    assert tree(broken) == tree(tmp_path / "clean")
    begins = [event["begins_at"] for event in read_journal(broken / "journal.jsonl") if event["event"] == "stage"]
    assert begins == [0, 1 if damage == "none" else 0]


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        write_inside(folder, "half.bin", b"x")
        raise HistillError("stopped", code=Exit.INPUT)

    with pytest.raises(HistillError, match="stopped"), opened(tmp_path) as run:
        run.once("masks", fails)
    assert sorted(tree(tmp_path)) == ["run.json"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    other = {**SETTINGS, "config": {"rate": 0.2, "taps": [1, 2]}, "more": None}
    with pytest.raises(HistillError) as caught, opened(tmp_path, other):
        pass
    assert caught.value.code == Exit.USAGE
    assert "config.rate: 0.1 then, 0.2 now" in str(caught.value)
    assert "taps" not in str(caught.value)
    assert "--run" in caught.value.mend
    with opened(tmp_path, {**SETTINGS, "config": {"rate": 0.1, "taps": (1, 2)}}):
        pass


def test_what_computes_is_a_setting(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with (
        pytest.raises(HistillError, match=r"computes\.precision"),
        open_run(tmp_path, settings=SETTINGS, seed=0, machine=Machine(accelerator="cpu", precision="bf16")),
    ):
        pass


def test_a_folder_in_use_is_busy(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(HistillError) as caught, opened(tmp_path):
        pass
    assert caught.value.code == Exit.BUSY
    with opened(tmp_path):
        pass


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / ".histill-0123").write_bytes(b"half")
    with opened(tmp_path):
        assert not (tmp_path / "stages" / ".histill-0123").exists()


def test_operations_are_deterministic_inside_a_run_only(tmp_path: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with opened(tmp_path):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
