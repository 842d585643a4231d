"""What an earlier run has trained, taken over by another: a teacher that many students share."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from histill.core.errors import Exit, HistillError
from histill.core.record import faults, read_record
from histill.core.storage import file_hash, write_inside
from histill.engine.checkpoint import load_weights
from histill.engine.run import RECORD, WEIGHTS, Run


def stage_digest(folder: Path, stage: str) -> str:
    """The hash of the weights that a finished stage of a run has left.

    Args:
        folder: of the run.
        stage: its name.

    Raises:
        HistillError: input (4) if there is no such stage, it is not finished, or its files are not what was written.
    """
    place = folder / "stages" / stage
    record = read_record(place / RECORD)
    wrong = ["it has no such stage that is finished"] if record is None else faults(record, place)
    if wrong:
        mend = "Give the folder of a run that 'histill train' has ended"
        raise HistillError("; ".join(wrong), code=Exit.INPUT, subject=f"{folder}: {stage}", mend=mend)
    return file_hash(place / WEIGHTS)


def take_over(run: Run, name: str, folder: Path, stage: str, network: nn.Module, table: str) -> None:
    """Load what an earlier run's stage has learnt; the weights are kept in this run's folder too.

    Args:
        run: this one.
        name: of the folder for the weights, in this run's.
        folder: of the earlier run.
        stage: of it.
        network: gets the weights, in eval mode.
        table: digest of the table that this run learns from; where the other's was another, the journal says so.

    Raises:
        HistillError: as `stage_digest`; input (4) if the weights are those of another network.
    """
    stage_digest(folder, stage)
    theirs = folder / "stages" / stage / WEIGHTS
    made = run.once(name, lambda making: write_inside(making, WEIGHTS, theirs.read_bytes()))
    load_weights(network, made / WEIGHTS)
    network.to(run.fabric.device).eval()
    if json.loads((folder / "run.json").read_bytes()).get("table") != table:
        text = f"{folder} learnt from another table: see that it holds none of the images that this one is scored on"
        run.journal.say("note", text=text)
