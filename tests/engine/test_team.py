"""Several processes that train together: the same images, the same numbers, and any end they may come to."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from histill import methods
from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.engine.team import Place, Team, UntoldError, find_place, noticing_loss

TOGETHER = Path(__file__).with_name("together.py")
TOLERANCE = 1e-4
"""How far scores and weights of several processes may be from those of one: what adding in another order does."""

FAST = (
    *("norm", "known", "judged", "words", "one", "two", "killed", "told", "alone told", "fewer", "unlike"),
    *("not a number", "broken at work", "broken while choosing"),
)
SLOW = (
    *("one", "two", "three", "first killed", "more", "told while choosing", "broken", "bug", "too many", "three told"),
)


@dataclass
class Ran:
    """What the runs of `together.py` came to."""

    folder: Path
    codes: dict[str, list[list[int]]]
    said: str

    def seen(self, name: str, start: int, rank: int) -> dict[str, Any]:
        """What a process saw: ids of each batch, scores, the kept score, the error it ended with."""
        found: dict[str, Any] = json.loads((self.folder / f"seen/{name}.{start}.{rank}.json").read_bytes())
        return found

    def tree(self, name: str) -> dict[str, str]:
        """The hash of every file, but for the journal, which holds times, and the lock."""
        return {
            path.relative_to(self.folder / name).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.folder / name).rglob("*"))
            if path.is_file() and path.name not in ("journal.jsonl", ".lock")
        }

    def details(self, name: str, stage: str = "first") -> dict[str, Any]:
        """What the record of a stage tells of it."""
        found: dict[str, Any] = json.loads((self.folder / name / "stages" / stage / "record.json").read_bytes())
        return found["details"]

    def begins(self, name: str) -> list[tuple[int, int]]:
        """Where each start began the first stage: the epoch, and how many of its batches were behind."""
        events = read_journal(self.folder / name / "journal.jsonl")
        stages = [event for event in events if event["event"] == "stage" and event["stage"] == "first"]
        return [(event["begins_at"], event.get("begins_after", 0)) for event in stages]


def run(folder: Path, names: tuple[str, ...]) -> Ran:
    command = [sys.executable, str(TOGETHER), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Ran(folder, json.loads(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("together"), FAST)


@pytest.fixture(scope="module")
def ran_more(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("more"), SLOW)


def assert_near(ran: Ran, name: str, other: str) -> None:
    """Scores and weights of two runs agree within the tolerance."""
    assert ran.details(name)["scores"] == pytest.approx(ran.details(other)["scores"], rel=TOLERANCE, abs=TOLERANCE)
    for stage in ("first", "second"):
        first, second = (load_file(ran.folder / each / f"stages/{stage}/weights.safetensors") for each in (name, other))
        for key in first:
            assert first[key] == pytest.approx(second[key], rel=TOLERANCE, abs=TOLERANCE), key


# --- the same as one --------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_what_a_user_cannot_change(ran: Ran) -> None:
    assert "Traceback" not in ran.said
    assert "find_unused_parameters" not in ran.said


def test_parts_of_a_batch_are_normalised_as_the_whole(ran: Ran) -> None:
    assert ran.codes["norm"] == [[0, 0, 0]]


def test_a_mean_over_known_pixels_is_that_of_the_whole_batch(ran: Ran) -> None:
    assert ran.codes["known"] == [[0, 0, 0]]


def test_validation_that_is_shared_out_scores_the_same_to_the_bit(ran: Ran) -> None:
    assert ran.codes["judged"] == [[0, 0, 0]]


def test_what_one_says_all_hear(ran: Ran) -> None:
    assert ran.codes["words"] == [[0, 0, 0]]


def test_two_see_every_image_that_one_sees_once_in_the_same_steps(ran: Ran) -> None:
    assert (ran.codes["one"], ran.codes["two"]) == ([[0]], [[0, 0]])
    alone = ran.seen("one", 0, 0)["ids"]
    first, second = (ran.seen("two", 0, rank)["ids"] for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    # Three epochs of four batches of five, one of five batches of four.
    assert [len(ids) for ids in alone] == 12 * [5] + 5 * [4]
    assert {len(ids) for ids in first[:12]} == {2}
    assert {len(ids) for ids in second[:12]} == {3}
    assert all(len({each for ids in alone[e : e + 4] for each in ids}) == 20 for e in (0, 4, 8))


def test_two_come_to_the_scores_and_weights_of_one(ran: Ran) -> None:
    assert_near(ran, "two", "one")
    scores = ran.details("one")["scores"]
    # A tolerance that everything passes would say nothing.
    assert min(abs(a - b) for a, b in pairwise(scores)) > 100 * TOLERANCE
    trained = load_file(ran.folder / "two/stages/first/weights.safetensors")
    assert abs(trained["trunk.1.weight"] - 1).max() > 10 * TOLERANCE
    assert abs(trained["trunk.1.running_mean"]).max() > 100 * TOLERANCE


def test_all_know_the_kept_score(ran: Ran) -> None:
    kept = [ran.seen("two", 0, rank)["kept"] for rank in (0, 1)]
    assert kept == 2 * [max(ran.details("two")["scores"])]


def test_the_journal_tells_the_means_of_one(ran: Ran) -> None:
    told = []
    for name in ("one", "two", "told"):
        events = read_journal(ran.folder / name / "journal.jsonl")
        told.append([event["losses"] for event in events if event["event"] == "epoch"])
    assert len(told[0]) == 4
    for other in told[1:]:
        assert [{k: pytest.approx(v, abs=TOLERANCE) for k, v in losses.items()} for losses in told[0]] == other


def test_a_folder_that_all_make_is_that_of_one(ran: Ran) -> None:
    names = {"record.json", *(f"{number}.txt" for number in range(5))}
    for folder in ("made", "made together"):
        assert {path.name for path in (ran.folder / "two" / folder).iterdir()} == names


def test_the_record_tells_how_many_trained(ran: Ran) -> None:
    assert "processes" not in ran.details("one")
    assert ran.details("two")["processes"] == [2]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_after_a_kill_the_others_end_and_the_same_command_ends_in_the_same_bytes(ran: Ran) -> None:
    assert ran.codes["killed"] == [[Exit.TEMPORARY, -9], [0, 0]]
    assert "another process of this run is gone" in ran.seen("killed", 0, 0)["error"]
    assert ran.begins("killed") == [(0, 0), (1, 0)]
    assert ran.tree("killed") == ran.tree("two")


def test_one_that_is_told_to_end_takes_all_along_at_the_same_step(ran: Ran) -> None:
    assert ran.codes["told"] == [[Exit.TERMINATED, Exit.TERMINATED], [0, 0]]
    # At the sixth batch: the optimiser's step of two batches is finished.
    assert ran.begins("told") == [(0, 0), (1, 2)]
    steps = [[len(ran.seen("told", start, rank)["ids"]) for rank in (0, 1)] for start in (0, 1)]
    assert steps == [[6, 6], [11, 11]]
    assert ran.tree("told") == ran.tree("two")


def test_told_to_end_a_process_goes_on_from_the_next_step_to_the_same_bytes(ran: Ran) -> None:
    assert ran.codes["alone told"] == [[Exit.TERMINATED], [0]]
    assert ran.begins("alone told") == [(0, 0), (1, 2)]
    # Each image of each epoch once, over both starts.
    both = [ids for start in (0, 1) for ids in ran.seen("alone told", start, 0)["ids"]]
    assert both == ran.seen("one", 0, 0)["ids"]
    assert ran.tree("alone told") == ran.tree("one")


def test_fewer_may_go_on(ran: Ran) -> None:
    assert ran.codes["fewer"] == [[Exit.TERMINATED, Exit.TERMINATED], [0]]
    assert ran.details("fewer")["processes"] == [2, 1]
    assert "processes" not in ran.details("fewer", "second")
    assert_near(ran, "fewer", "one")
    notes = [e["text"] for e in read_journal(ran.folder / "fewer/journal.jsonl") if e["event"] == "note"]
    assert notes == ["2 processes began this stage, 1 go on: the last bits of numbers will differ"]


def test_a_number_that_is_none_ends_all_with_the_images_named(ran: Ran) -> None:
    assert ran.codes["not a number"] == [[Exit.NUMBERS, Exit.NUMBERS], [0, 0]]
    seen = [ran.seen("not a number", 0, rank) for rank in (0, 1)]
    assert seen[0]["error"] == seen[1]["error"]
    assert f"entropy is not finite in epoch 1 on: {', '.join(seen[1]['ids'][-1])}." in seen[0]["error"]
    assert ran.tree("not a number") == ran.tree("two")


def test_an_error_within_a_step_ends_the_others_too(ran: Ran) -> None:
    assert ran.codes["broken at work"] == [[Exit.TEMPORARY, Exit.STORAGE], [0, 0]]
    assert ran.seen("broken at work", 0, 1)["error"] == "step 6: it broke. Mend it"
    assert "is gone" in ran.seen("broken at work", 0, 0)["error"]
    assert ran.tree("broken at work") == ran.tree("two")


def test_an_error_where_an_epoch_is_judged_ends_all_and_the_epoch_is_not_lost(ran: Ran) -> None:
    assert ran.codes["broken while choosing"] == [[Exit.STORAGE, Exit.STORAGE], [0, 0]]
    assert [ran.seen("broken while choosing", 0, rank)["error"] for rank in (0, 1)] == 2 * [
        "select 1: it broke. Mend it"
    ]
    assert ran.begins("broken while choosing") == [(0, 0), (1, 4)]
    assert ran.tree("broken while choosing") == ran.tree("two")


def test_processes_of_unlike_settings_are_refused(ran: Ran) -> None:
    assert ran.codes["unlike"] == [[Exit.USAGE, Exit.USAGE]]
    assert "the processes do not have the same rank" in ran.seen("unlike", 0, 1)["error"]
    assert not (ran.folder / "unlike").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codes", "like"),
    [
        ("three", [[0, 0, 0]], "three"),
        ("first killed", [[-9, Exit.TEMPORARY], [0, 0]], "two"),
        ("more", [[Exit.TERMINATED], [0, 0]], None),
        ("told while choosing", [[Exit.TERMINATED, Exit.TERMINATED], [0, 0]], "two"),
        ("broken", [[Exit.STORAGE, Exit.STORAGE], [0, 0]], "two"),
        ("three told", [3 * [Exit.TERMINATED], [0, 0, 0]], "three"),
    ],
)
def test_other_ends(ran_more: Ran, name: str, codes: list[list[int]], like: str | None) -> None:
    assert ran_more.codes[name] == codes
    assert_near(ran_more, name, "one")
    if like is not None:
        assert ran_more.tree(name) == ran_more.tree(like)


@pytest.mark.slow
def test_a_bug_in_one_ends_the_others(ran_more: Ran) -> None:
    assert ran_more.codes["bug"] == [[Exit.TEMPORARY, Exit.BUG]]


@pytest.mark.slow
def test_more_processes_than_images_in_a_batch_are_refused(ran_more: Ran) -> None:
    assert ran_more.codes["too many"] == [5 * [Exit.USAGE]]
    error = ran_more.seen("too many", 0, 4)["error"]
    assert error.startswith("stage second: batch_size: a batch of 4 images cannot be shared by 5 processes")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_train_every_method_as_one_does(tmp_path: Path) -> None:
    command = [sys.executable, str(TOGETHER.with_name("methods_together.py")), str(tmp_path), *methods.names()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == {name: [[0], [0, 0]] for name in methods.names()}, done.stderr
    for name in methods.names():
        told = []
        for size in ("1", "2"):
            events = read_journal(tmp_path / name / size / "journal.jsonl")
            told.append([e["losses"] | {"score": e.get("score", 0)} for e in events if e["event"] == "epoch"])
        # Untrained networks of a few channels send the last bits far within two epochs.
        expected = [{key: pytest.approx(value, rel=0.01, abs=0.01) for key, value in each.items()} for each in told[0]]
        assert told[1] == expected, name
        assert told[0], name


# --- where a process stands -------------------------------------------------------------------------------------------

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "gpu[07-09,12],fat1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "6",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "2",
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (TORCHRUN, Place(3, 4, 1, "node1", 29500, "2")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place(0, 1, 0, "127.0.0.1", 29500)),
        (SLURM, Place(5, 6, 1, "gpu07", 15000 + 3456)),
        (
            {**SLURM, "SLURM_STEP_NODELIST": "gpu3", "MASTER_PORT": "777", "MASTER_ADDR": "10.0.0.1"},
            Place(5, 6, 1, "10.0.0.1", 777),
        ),
        ({**SLURM, **TORCHRUN}, Place(3, 4, 1, "node1", 29500, "2")),
        # A batch script, or a shell, in a job of several tasks.
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Place()),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Place()),
    ],
)
def test_torchrun_and_slurm_say_where_a_process_stands(environment: dict[str, str], place: Place) -> None:
    assert find_place(environment) == place


def test_alone_nothing_is_exchanged() -> None:
    team = Team()
    value = object()
    assert team.is_first
    assert [team.agree(), team.agree(True)] == [False, True]
    assert team.gather(value) == [value]
    assert team.first_makes(lambda: value) is value
    error = HistillError("it broke", code=Exit.INPUT)
    with pytest.raises(HistillError) as caught, team.together():
        raise error
    assert caught.value is error
    team.part()
    team.leave()


def test_only_what_torch_says_of_others_counts_as_their_loss() -> None:
    with pytest.raises(ZeroDivisionError), noticing_loss():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="shapes"), noticing_loss():
        raise RuntimeError("shapes do not match")
    with pytest.raises(UntoldError) as caught, noticing_loss():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]")
    assert caught.value.code == Exit.TEMPORARY
