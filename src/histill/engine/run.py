"""A run: a folder in which a method is trained, that goes on where it was stopped.

``run.train`` loads a finished stage instead of repeating it, and a half-finished one goes on from its last whole epoch.
``run.once`` makes a folder under a temporary name and renames it when it is whole. A run that was killed anywhere and
started again ends in the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest
from histill.core.record import OK, Record, describe, faults, fingerprint, read_record
from histill.core.storage import lock, new_folder, remove, sweep, write_bytes, write_json
from histill.data.augment import Augmentation
from histill.data.tiles import Masks, Tiles
from histill.engine.checkpoint import load_weights, read_state, weight_bytes, write_state
from histill.engine.loop import train_stage
from histill.engine.optim import Schedule
from histill.engine.stage import Stage

RECORD = "record.json"
STATE = "state.pt"
WEIGHTS = "weights.safetensors"
JOURNAL = "journal.jsonl"
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


def build_fabric(machine: Machine) -> Fabric:
    """Device and precision for a machine's settings."""
    accelerator = machine.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise HistillError(
            "there is no GPU that torch can use", code=Exit.USAGE, subject="accelerator", mend="Set it to auto or cpu"
        )
    if machine.threads:
        torch.set_num_threads(machine.threads)
    precision: Literal["bf16-mixed", "32-true"] = "32-true"
    if machine.precision == "bf16" or (machine.precision == "auto" and _has_bf16(accelerator)):
        precision = "bf16-mixed"
    # Fabric announces its precision on standard error; ours is in the run's record.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric(accelerator=accelerator, devices=1, precision=precision)


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

    def __init__(self, folder: Path, seed: int, journal: Journal, fabric: Fabric, workers: int = 0) -> None:
        self.folder, self.seed, self.journal, self.fabric, self.workers = folder, seed, journal, fabric, workers
        self._settings = ""
        self._sources: dict[str, str] = {}

    def train(self, stage: Stage) -> float | None:
        """Train a stage, go on with it, or load it if it is finished; its network then holds the stage's weights.

        Returns:
            The score of the weights that were kept; None where the stage selects nothing.
        """
        folder = self.folder / "stages" / stage.name
        record = self._finished(folder)
        if record is not None:
            load_weights(stage.learns, folder / WEIGHTS)
            stage.learns.to(self.fabric.device).eval()
            self.journal.say("stage loaded", stage=stage.name)
            scores = record.details["scores"]
        else:
            state = read_state(folder / STATE)
            if state is not None and state["settings"] != self._expected():
                state = None
            self.journal.say(
                "stage",
                stage=stage.name,
                epochs=stage.schedule.epochs,
                images=len(stage.batches.manifest.samples),
                begins_at=0 if state is None else state["epoch"] + 1,
            )
            if stage.start is not None:
                stage.start()
            expected = self._expected()
            scores = train_stage(
                stage,
                self.fabric,
                self.seed,
                state,
                lambda state: write_state(folder / STATE, {**state, "settings": expected}),
                self.journal,
            )
            write_bytes(folder / WEIGHTS, weight_bytes(stage.learns))
            details = {"epochs": stage.schedule.epochs, "scores": scores}
            Record(OK, self._settings, expected, describe(folder, [WEIGHTS]), details).write(folder / RECORD)
        # A kill between the record and this line leaves the state behind; the next run takes it away.
        remove(folder / STATE)
        self._sources[stage.name] = _result_hash(folder)
        return max((score for score in scores if score is not None), default=None)

    def learn_from(
        self, table: Manifest, schedule: Schedule, augmentation: Augmentation, masks: Masks | None = None
    ) -> Tiles:
        """A table as a stage learns from it: shuffled, augmented, in the schedule's batches."""
        return Tiles(
            table, schedule.batch_size, masks=masks, augmentation=augmentation, shuffle=True, workers=self.workers
        )

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make a folder once: `make` fills a temporary one through `storage.write_inside`. Returns the final one."""
        folder = self.folder / name
        if self._finished(folder) is None:
            remove(folder)
            self.journal.say("making", what=name)
            with new_folder(folder) as temporary:
                make(temporary)
                names = [
                    path.relative_to(temporary).as_posix() for path in sorted(temporary.rglob("*")) if path.is_file()
                ]
                record = Record(OK, self._settings, self._expected(), describe(temporary, names))
                record.write(temporary / RECORD)
        self._sources[name] = _result_hash(folder)
        return folder

    def provenance(self, stage: str) -> str:
        """The hash of a finished stage's record: what was made with its weights names it."""
        return self._sources[stage]

    def _expected(self) -> str:
        # A result follows from the settings and from every result before it.
        return fingerprint([self._settings, sorted(self._sources.items())])

    def _finished(self, folder: Path) -> Record | None:
        record = read_record(folder / RECORD)
        if record is None or record.source != self._expected():
            return None
        wrong = faults(record, folder)
        if wrong:
            self.journal.say("made again", what=folder.name, why="; ".join(wrong[:3]))
            return None
        return record


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
    fabric = build_fabric(machine)
    whole = {**settings, "computes": computes(fabric)}
    with lock(folder):
        sweep(folder)
        _check_same(folder / "run.json", whole)
        run = Run(folder, seed, Journal(folder / JOURNAL, journal_listener), fabric, workers)
        run._settings = fingerprint(whole)
        with _deterministic():
            yield run


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    # Same input, same bytes, on CPU and GPU alike; operations without a deterministic form only warn.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, settings)
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError:
        before = {}
    now = json.loads(json.dumps(settings))
    differences = _differences(before, now)
    if differences:
        raise HistillError(
            "this run was begun with other settings:\n  " + "\n  ".join(differences) + "\n",
            code=Exit.USAGE,
            subject=str(path.parent),
            mend="Give the same settings to go on, or another --run folder",
        )


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in [*before, *(key for key in now if key not in before)]:
            found += _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
        return found
    return [] if before == now else [f"{where}: {before!r} then, {now!r} now"]


def _result_hash(folder: Path) -> str:
    record = read_record(folder / RECORD)
    assert record is not None
    return fingerprint(record.outputs)
