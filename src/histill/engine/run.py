"""A run: a folder in which a method is trained, that goes on where it was stopped.

``run.train`` loads a finished stage instead of repeating it, and a half-finished one goes on from its last whole epoch,
or from the step at which it was told to end. ``run.once`` makes a folder under a temporary name and renames it when it
is whole. A run that was killed anywhere and started again ends in the same bytes as one that was not.

Where several processes train together (see `engine.team`), the first of them writes, and says what the others do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest
from histill.core.record import OK, Record, describe, faults, fingerprint, read_record
from histill.core.storage import lock, new_folder, remove, sweep, write_bytes
from histill.data.augment import Augmentation
from histill.data.tiles import Masks, Tiles
from histill.engine.checkpoint import State, load_weights, read_state, weight_bytes, write_state
from histill.engine.heap import keep_large_blocks
from histill.engine.loop import train_stage
from histill.engine.optim import Schedule
from histill.engine.sameness import check_alike, check_apart, check_same, check_shares, not_shared
from histill.engine.stage import Stage
from histill.engine.team import Team, find_place, join

RECORD = "record.json"
STATE = "state.pt"
WEIGHTS = "weights.safetensors"
JOURNAL = "journal.jsonl"
SEEN_AFTER = 120
"""Seconds after which every machine sees what one has written; NFS may take 60."""
LIBRARIES = (
    "histill",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "opencv-python-headless",
    "Pillow",
)
"""Their versions are part of a run's settings: each of them decides about pixels."""


class Machine(Strict):
    """What a run computes with. Numbers differ in their last bits between these, so they are part of its settings."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16: convolutions in bfloat16, losses and weights in float32; auto takes it where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""


def build_fabric(machine: Machine, gpu: int = 0) -> Fabric:
    """Device and precision for a machine's settings.

    Args:
        machine: its settings.
        gpu: which one, where it computes on a GPU.
    """
    accelerator = accelerator_of(machine)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if accelerator == "cpu":
        keep_large_blocks()
    precision: Literal["bf16-mixed", "32-true"] = "32-true"
    if machine.precision == "bf16" or (machine.precision == "auto" and _has_bf16(accelerator)):
        precision = "bf16-mixed"
    # Fabric announces its precision on standard error; ours is in the run's record.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric(
        accelerator=accelerator,
        devices=[gpu] if accelerator == "cuda" else 1,
        precision=precision,
        # It would look for Slurm, whose tasks are met in `engine.team`.
        plugins=[LightningEnvironment()],
    )


def meet(machine: Machine) -> tuple[Fabric, Team]:
    """Device and precision of this process in training, and the processes that it trains with.

    Raises:
        HistillError: usage (2) if there is no GPU, or none for this process; as `join`.
    """
    accelerator, gpu = accelerator_of(machine), 0
    if accelerator == "cuda":
        # A scheduler may let each process see one GPU alone.
        seen, local = torch.cuda.device_count(), find_place(os.environ).local
        gpu = local if seen > 1 else 0
        if gpu >= seen:
            raise HistillError(
                f"process {local + 1} of this machine has no GPU: there are {seen}",
                code=Exit.USAGE,
                mend="Start as many processes as there are GPUs",
            )
        torch.cuda.set_device(gpu)
    team = join(accelerator)
    if accelerator == "cuda":
        check_apart(team, f"{platform.node()} {torch.cuda.get_device_properties(gpu).uuid}")
    return build_fabric(machine, gpu), team


def accelerator_of(machine: Machine) -> Literal["cpu", "cuda"]:
    """What a machine computes with.

    Raises:
        HistillError: usage (2) if that is a GPU, and there is none.
    """
    there = torch.cuda.is_available()
    if machine.accelerator == "auto":
        return "cuda" if there else "cpu"
    if machine.accelerator == "cuda" and not there:
        raise HistillError(
            "there is no GPU that torch can use", code=Exit.USAGE, subject="accelerator", mend="Set it to auto or cpu"
        )
    return machine.accelerator


def computes(fabric: Fabric) -> dict[str, str | int]:
    """What the last bits of a result depend on besides settings and inputs: device, precision, threads, versions."""
    return {
        "accelerator": fabric.device.type,
        "precision": fabric._precision.precision,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        **{name: version(name) for name in LIBRARIES},
    }


def _has_bf16(accelerator: str) -> bool:
    on_gpu = accelerator == "cuda"
    supported: bool = torch.cuda.is_bf16_supported() if on_gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and (on_gpu or "bf16" in _cpu_flags())


def _cpu_flags() -> str:
    # Without native instructions oneDNN emulates bf16, which is slower than float32.
    with contextlib.suppress(OSError):
        return next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return ""


class Run:
    """A run's folder, its seed, and the two ways to work in it; see the module.

    Use `open_run`, which locks the folder and checks that its settings are the same.
    """

    def __init__(
        self, folder: Path, seed: int, journal: Journal, fabric: Fabric, workers: int = 0, team: Team | None = None
    ) -> None:
        self.folder, self.seed, self.journal, self.fabric, self.workers = folder, seed, journal, fabric, workers
        self.team = team or Team()
        self.turns = (0, 1)
        """which batches this process makes something of: from the first number on, every second-number-th"""
        self._settings = ""
        self._sources: dict[str, str] = {}

    def train(self, stage: Stage[Any]) -> float | None:
        """Train a stage, go on with it, or load it if it is finished; its network then holds the stage's weights.

        Returns:
            The score of the weights that were kept; None where the stage selects nothing.
        """
        folder = self.folder / "stages" / stage.name
        details = self._finished(folder)
        if details is not None:
            with self.team.together():
                load_weights(stage.learns, folder / WEIGHTS)
            stage.learns.to(self.fabric.device).eval()
            self.journal.say("stage loaded", stage=stage.name)
            scores = details["scores"]
        else:
            scores = self._train(stage, folder)
        if self.team.is_first:
            # A kill between the record and this line leaves the state behind; the next run takes it away.
            with self.team.together():
                remove(folder / STATE)
        self._note_source(folder, stage.name)
        return max((score for score in scores if score is not None), default=None)

    def _train(self, stage: Stage[Any], folder: Path) -> list[float | None]:
        with self.team.together():
            if self.team.size > 1:
                check_shares(stage.batches.whole, self.team, f"stage {stage.name}: batch_size")
            state = self._read_state(folder / STATE)
        processes = self._processes(state)
        self.journal.say(
            "stage",
            stage=stage.name,
            epochs=stage.schedule.epochs,
            samples=stage.batches.count,
            begins_at=0 if state is None else state["epoch"] + 1,
            **({"begins_after": state["done"], "of": len(stage.batches)} if state and state["done"] else {}),
        )
        if stage.start is not None:
            with self.team.together():
                stage.start()
        more = {"source": self._expected(), "processes": processes}
        scores = train_stage(
            stage,
            self.fabric,
            self.seed,
            state,
            lambda state: write_state(folder / STATE, {**state, **more}),
            self.journal,
            self.team,
        )
        with self.team.together():
            if self.team.is_first:
                write_bytes(folder / WEIGHTS, weight_bytes(stage.learns))
                details: dict[str, Any] = {"epochs": stage.schedule.epochs, "scores": scores}
                if processes != [1]:
                    details["processes"] = processes
                outputs = describe(folder, [WEIGHTS])
                Record(OK, self._settings, self._expected(), outputs, details).write(folder / RECORD)
        return scores

    def learn_from(
        self, table: Manifest, schedule: Schedule, augmentation: Augmentation, masks: Masks | None = None
    ) -> Tiles:
        """A table as a stage learns from it: shuffled, augmented, in the schedule's batches."""
        return Tiles(
            table, schedule.batch_size, masks=masks, augmentation=augmentation, shuffle=True, workers=self.workers
        )

    def once(self, name: str, make: Callable[[Path], None], *, shared: bool = False) -> Path:
        """Make a folder once: `make` fills a temporary one through `storage.write_inside`. Returns the final one.

        Args:
            name: of the folder, in the run's.
            make: fills it; of several processes the first does, while the others wait.
            shared: all processes do, each what `turns` gives it.
        """
        folder = self.folder / name
        if self._finished(folder) is None:
            with contextlib.ExitStack() as filling, self.team.together():
                place = ""
                if self.team.is_first:
                    remove(folder)
                    self.journal.say("making", what=name)
                    place = str(filling.enter_context(new_folder(folder)))
                temporary = Path(self.team.gather(place)[0])
                if shared:
                    self.turns = (self.team.rank, self.team.size)
                if shared or self.team.is_first:
                    make(temporary)
                self.turns = (0, 1)
                self.team.agree()
                if self.team.is_first:
                    names = [each.relative_to(temporary).as_posix() for each in _files(temporary)]
                    record = Record(OK, self._settings, self._expected(), describe(temporary, names))
                    record.write(temporary / RECORD)
        self._note_source(folder, name)
        return folder

    def provenance(self, stage: str) -> str:
        """The hash of a finished stage's record: what was made with its weights names it."""
        return self._sources[stage]

    def _expected(self) -> str:
        # A result follows from the settings and from every result before it.
        return fingerprint([self._settings, sorted(self._sources.items())])

    def _finished(self, folder: Path) -> dict[str, Any] | None:
        # The details of a finished result, as the first process finds it.
        return self.team.first_makes(lambda: self._details(folder))

    def _details(self, folder: Path) -> dict[str, Any] | None:
        record = read_record(folder / RECORD)
        if record is None or record.source != self._expected():
            return None
        wrong = faults(record, folder)
        if wrong:
            self.journal.say("made again", what=folder.name, why="; ".join(wrong[:3]))
            return None
        return record.details

    def _read_state(self, path: Path) -> State | None:
        state = read_state(path)
        if state is not None and state.get("source") != self._expected():
            state = None
        seen = self.team.gather(None if state is None else [state["epoch"], state["done"]])
        if seen.count(seen[0]) < len(seen):
            raise not_shared(path)
        return state

    def _processes(self, state: State | None) -> list[int]:
        # How many processes trained a stage, one after another; where it changed, the last bits did.
        before = [] if state is None else list(state["processes"])
        if before and before[-1] != self.team.size:
            began = f"{before[-1]} processes began this stage, {self.team.size} go on"
            self.journal.say("note", text=f"{began}: the last bits of numbers will differ")
        return before if before[-1:] == [self.team.size] else [*before, self.team.size]

    def _note_source(self, folder: Path, name: str) -> None:
        # Where a file system tells other machines late, a folder that the first has made is waited for.
        made = self.team.first_makes(lambda: _result_hash(folder))
        with self.team.together():
            waited = 0
            while self.team.size > 1 and _result_hash(folder) != made:
                if waited == SEEN_AFTER:
                    raise not_shared(folder)
                time.sleep(1)
                waited += 1
        self._sources[name] = made


@contextlib.contextmanager
def open_run(
    folder: Path,
    *,
    settings: dict[str, Any],
    seed: int,
    machine: Machine,
    journal_listener: Callable[[dict[str, Any]], None] | None = None,
    workers: int = 0,
) -> Iterator[Run]:
    """Open a run's folder, new or begun; locked while open.

    Args:
        folder: where; made if need be.
        settings: all that the result depends on: method, resolved config, seed, hashes of the tables.
        seed: of every random draw.
        machine: device, precision, threads.
        journal_listener: is told every event.
        workers: processes that read images; the result does not depend on it.

    Raises:
        HistillError: usage (2) naming the differences, if the folder was begun with other settings; busy (8) if another
            process works in it.
    """
    fabric, team = meet(machine)
    whole = {**settings, "computes": computes(fabric)}
    with contextlib.ExitStack() as held, team.together():
        check_alike(team, settings)
        if team.is_first:
            held.enter_context(lock(folder))
            sweep(folder)
            check_same(folder / "run.json", whole)
        journal = Journal(folder / JOURNAL, journal_listener) if team.is_first else Journal()
        run = Run(folder, seed, journal, fabric, workers, team)
        run._settings = team.gather(fingerprint(whole))[0]
        with _deterministic():
            yield run


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    # Same input, same bytes, on CPU and GPU alike; operations without a deterministic form only warn. With the mode
    # comes a NaN for every number of a new empty tensor: 1 % of a step, and what reads such a number is not silent.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _result_hash(folder: Path) -> str:
    record = read_record(folder / RECORD)
    return "" if record is None else fingerprint(record.outputs)
