"""`histill train` started by torchrun, and as Slurm would start it; told to end as a scheduler does it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small import SMALL, torn, tree

from histill.core.journal import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOLERANCE = 1e-3
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS")


def command(made: Path, run: Path, *more: object) -> list[str]:
    given = ["train", "mlps", "--train", made / "table/data.csv", "--run", run, *SMALL, *more]
    return [str(each) for each in given]


def environment(**more: object) -> dict[str, str]:
    free = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    return {**free, **{name: str(value) for name, value in more.items()}}


def torchrun(*more: str, **how: Any) -> subprocess.Popen[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return start_process([*start, "-m", "histill", "--", *more], environment(), **how)


def start_process(given: list[str], environment: dict[str, str], **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, **how
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def epochs(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_journal(run / "journal.jsonl") if event["event"] == "epoch"]


def test_torchrun(made: Path, tmp_path: Path) -> None:
    process = torchrun(*command(made, tmp_path / "run"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    # One of them speaks.
    for part in ("2 processes", "stage classify: 1 epochs", "segment epoch 1"):
        assert err.count(part) == 1, err
    assert out.count("model: ") == 1
    for name in ("Traceback", "Warning"):
        assert name not in err
    assert torn(tmp_path) == []
    assert set(tree(tmp_path / "run")) == set(tree(made / "run"))
    for found, alone in zip(epochs(tmp_path / "run"), epochs(made / "run"), strict=True):
        assert found["losses"] == pytest.approx(alone["losses"], abs=TOLERANCE)
        assert found.get("score", 0) == pytest.approx(alone.get("score", 0), abs=TOLERANCE)


def test_an_error_is_said_once(made: Path, tmp_path: Path) -> None:
    process = torchrun(*command(made, tmp_path / "run", "--segment.batch_size", "1"))
    _, err = process.communicate()
    # torchrun has one code for all failures, and tells that of each process.
    assert process.returncode == 1
    assert err.count("histill: segment.batch_size: a batch of 1 images cannot be shared by 2 processes") == 1, err
    assert "exitcode  : 2" in err
    assert not (tmp_path / "run").exists()


def test_a_process_is_killed_and_torchrun_starts_all_again(made: Path, tmp_path: Path) -> None:
    more = ("--classify.epochs", "25", "--segment.epochs", "2")
    process = torchrun(*command(made, tmp_path / "clean", *more))
    _, err = process.communicate()
    assert process.returncode == 0, err
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    given = [*start, "--max-restarts", "1", "-m", "histill", "--", *command(made, tmp_path / "run", *more)]
    process = start_process(given, environment())
    wait_for_epochs(tmp_path / "run", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert tree(tmp_path / "run") == tree(tmp_path / "clean")


def wait_for_epochs(run: Path, count: int) -> None:
    for _ in range(1200):
        if (run / "journal.jsonl").exists() and len(epochs(run)) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("it does not begin")


def test_tasks_of_slurm(made: Path, tmp_path: Path) -> None:
    # As far as its variables go: the processes meet where they say.
    slurm = {
        "SLURM_JOB_ID": 7,
        "SLURM_JOB_NAME": "job",
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NUM_TASKS": 2,
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": free_port(),
    }
    processes = [
        start_process(
            [sys.executable, "-m", "histill", *command(made, tmp_path / "run")],
            environment(**slurm, SLURM_PROCID=rank, SLURM_LOCALID=rank),
        )
        for rank in range(2)
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[1] == ("", "")
    details = json.loads((tmp_path / "run/stages/classify/record.json").read_bytes())["details"]
    assert details["processes"] == [2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scheduler_tells_the_whole_group_to_end(workers: int, made: Path, tmp_path: Path) -> None:
    more = ("--classify.epochs", "30", "--classify.batch_size", "2", "--workers", str(workers))
    histill = [sys.executable, "-m", "histill"]
    given = [*histill, *command(made, tmp_path / "run", *more)]
    codes = []
    for count in (1, 4, 7):
        process = start_process(given, environment())
        wait_for_epochs(tmp_path / "run", count)
        # Not only who trains, also those that read for it.
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate()
        assert "Traceback" not in err
        assert "told to end" in err
        codes.append(process.returncode)
    assert codes == [143, 143, 143]
    events = read_journal(tmp_path / "run/journal.jsonl")
    begins = [(event["begins_at"], event.get("begins_after", 0)) for event in events if event["event"] == "stage"]
    assert begins == sorted(begins)
    for last in (given, [*histill, *command(made, tmp_path / "clean", *more)]):
        process = start_process(last, environment())
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert torn(tmp_path) == []
    assert tree(tmp_path / "run") == tree(tmp_path / "clean")
