"""Train a method on a table, and bring it back from its run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from histill.core.card import DatasetCard
from histill.core.config import Strict, resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.core.record import faults, fingerprint, read_record
from histill.core.seeds import derive
from histill.core.storage import file_hash, write_inside
from histill.engine.checkpoint import load_weights, weight_bytes
from histill.engine.method import Method
from histill.engine.optim import Schedule
from histill.engine.run import RECORD, Machine, meet, open_run
from histill.engine.sameness import check_shares
from histill.engine.select import selected_by
from histill.engine.team import Team
from histill.nets.weights import is_file

MODEL = "model"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
VALIDATION_SHARE = 0.15
LAYOUT = torch.channels_last
"""Of every weight, in training and after it: another one would change the last bits of what is computed."""


M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Trained(Generic[M]):
    """A trained method.

    Attributes:
        method: ready to predict.
        digest: of its weights and settings: what is predicted with it names it.
        card: what its classes are.
        seen: what it was to remember of the samples it learnt from; see `Method.look`.
        about: seed, and what chose the epoch: what a report says of it.
        warnings: what every report about it repeats.
    """

    method: M
    digest: str
    card: DatasetCard
    seen: dict[str, Any]
    about: dict[str, Any]
    warnings: tuple[str, ...]


def train(
    kind: type[Method],
    table: Manifest,
    val: Manifest | None,
    *,
    folder: Path,
    config: Strict,
    seed: int,
    machine: Machine,
    workers: int = 0,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a method in a run folder, or go on with it; returns the folder of the finished model.

    Args:
        kind: the method.
        table: rows of split train are learnt from (all rows, if none has a split), rows of split val choose between
            epochs. Rows of split test are never looked at.
        val: another table to choose with; without one, and without val rows, 15 % of the patients are cut off.
        folder: of the run.
        config: the method's.
        seed: of every random draw.
        machine: device, precision, threads.
        workers: processes that read images.
        listener: is told every event.

    Raises:
        HistillError: what ended it; where several processes train, in all of them.
    """
    _, team = meet(machine)
    with team.together():
        learn, choose = _split(table, val, kind, seed, cut=getattr(config, "select", "last") != "last")
        more = kind.more(config)
        if more:
            held_back = [*(choose.samples if choose else ()), *table.of_split("test").samples]
            _check_patients(more.samples, held_back, table.card, more.path, "chosen or scored by")
        _check_batches(config, len(learn.samples), team)
        seen = kind.look(config, learn)
    every = [*learn.samples, *(choose.samples if choose else ())]
    settings = {
        "method": kind.card.name,
        "config": config.model_dump(mode="json"),
        "classes": table.card.model_dump(mode="json"),
        "seed": seed,
        "table": table.digest,
        "val": val.digest if val else None,
        "start weights": _weight_files(config.model_dump(mode="json")),
        "seen": seen,
        "files": team.first_makes(lambda: _content([*every, *(more.samples if more else ())])),
        **({"more": more.digest} if more else {}),
    }
    with open_run(
        folder, settings=settings, seed=seed, machine=machine, journal_listener=listener, workers=workers
    ) as run:
        run.journal.say(
            "run",
            method=kind.card.name,
            samples=kind.samples,
            train=len(learn.samples),
            val=len(choose.samples) if choose else 0,
            **({"more": len(more.samples)} if more else {}),
            device=run.fabric.device.type,
            precision=str(run.fabric._precision.precision),
            **({"processes": team.size} if team.size > 1 else {}),
        )
        torch.manual_seed(derive(seed, "start"))
        method = kind.build(config, table.classes, seen)
        method.to(run.fabric.device).to(memory_format=LAYOUT)
        method.fit(learn, choose, run)
        method.eval()
        about = {"seed": seed, "epoch chosen by": selected_by(choose, getattr(config, "select", "last"))}
        warned = replace(table, warnings=tuple(dict.fromkeys((*table.warnings, *(more.warnings if more else ())))))
        describe = _model_card(method, warned, learn, choose, more, about)
        model = run.once(
            MODEL, lambda to: _write_model(to, method, config, warned, {"about": about, "seen": seen}, describe)
        )
        run.journal.say("done", model=MODEL)
    return model


def load(path: Path, find: Callable[[str], type[Method]]) -> Trained[Any]:
    """Load a finished model: a run's folder, or the model's own.

    Args:
        path: the folder.
        find: name -> method; only names it knows are loaded, nothing that a file names is imported.

    Raises:
        HistillError: input (4) if there is no finished model, or its files are not what was written.
    """
    folder = path / MODEL if (path / MODEL / CONFIG).is_file() else path
    try:
        description = json.loads((folder / CONFIG).read_bytes())
        name, values = str(description["method"]), description["config"]
        card = resolve(DatasetCard, (str(folder / CONFIG), description["data"]))
        seen = dict(description["seen"])
    except FileNotFoundError:
        raise HistillError(
            "there is no finished model here",
            code=Exit.INPUT,
            subject=str(path),
            mend="Give the folder of a run that 'histill train' has ended",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise HistillError(f"the model's {CONFIG} is damaged ({error})", code=Exit.INPUT, subject=str(folder)) from None
    _check_record(folder)
    kind = find(name)
    method = kind.build(resolve(kind.Config, (str(folder / CONFIG), values)), card.as_classes(), seen)
    load_weights(method.to(memory_format=LAYOUT), folder / WEIGHTS)
    method.eval()
    digest = fingerprint([file_hash(folder / WEIGHTS), description])
    return Trained(method, digest, card, seen, description["about"], tuple(description["warnings"]))


def _check_record(folder: Path) -> None:
    record = read_record(folder / RECORD)
    wrong = faults(record, folder) if record else []
    if wrong:
        raise HistillError(
            "; ".join(wrong), code=Exit.INPUT, subject=str(folder), mend="Run 'histill train' again: it is made anew"
        )


def _split(
    table: Manifest, val: Manifest | None, kind: type[Method], seed: int, *, cut: bool
) -> tuple[Manifest, Manifest | None]:
    learn = table.of_split("train") if any(sample.split for sample in table.samples) else table
    if not learn.samples:
        raise HistillError(
            "no row is of split train", code=Exit.USAGE, subject=str(table.path), mend="Mark the rows to learn from"
        )
    # Whatever table it comes from, a test row never chooses an epoch.
    choose = table.of_split("val") if val is None else val.choose(lambda sample: sample.split != "test")
    if val is not None and val.classes.names != table.classes.names:
        raise HistillError("its classes are not those of the training table", code=Exit.USAGE, subject=str(val.path))
    if val is not None:
        _check_apart(learn, choose, table.card)
    chosen: Manifest | None = choose
    if not choose.samples:
        learn, chosen = learn.split_off(VALIDATION_SHARE, seed) if cut else (learn, None)
    # The fence: a weakly supervised method cannot learn from a mask that it is never given.
    if kind.card.needs == "boxes":
        learn = replace(learn, samples=tuple(replace(sample, mask=None) for sample in learn.samples))
    elif kind.card.needs != "masks":
        learn = learn.without_truth()
    return learn, chosen


def _check_apart(learn: Manifest, choose: Manifest, card: DatasetCard) -> None:
    if not choose.samples:
        raise HistillError(
            "every row is of split test, and a test row never chooses an epoch",
            code=Exit.USAGE,
            subject=str(choose.path),
            mend="Give a table with validation rows",
        )
    _check_patients(choose.samples, learn.samples, card, choose.path, "learnt from")


def _check_patients(
    samples: Iterable[Sample], others: Iterable[Sample], card: DatasetCard, path: Path, what: str
) -> None:
    shared = sorted({sample.patient for sample in samples} & {sample.patient for sample in others})
    if shared and card.split_source != "official":
        raise HistillError(
            f"{len(shared)} patients are also {what}: {', '.join(shared[:5])}",
            code=Exit.USAGE,
            subject=str(path),
            mend="Take them out of one of the two tables",
        )


def _check_batches(config: Strict, images: int, team: Team, prefix: str = "") -> None:
    # Before the first stage, not hours later where the second one begins.
    for name, value in config:
        if isinstance(value, Schedule):
            check_shares(min(value.batch_size, images), team, f"{prefix}{name}.batch_size")
        elif isinstance(value, Strict):
            _check_batches(value, images, team, f"{prefix}{name}.")


def _content(samples: list[Sample]) -> str:
    # A table names its files; an image that is exchanged while a run rests must not be mixed with the old one.
    files = sorted({file for sample in samples for file in (sample.path, sample.mask, sample.boxes) if file})
    return fingerprint([file_hash(file) for file in files])


def _weight_files(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    # A path is not what was loaded from it.
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _weight_files(value, f"{prefix}{name}.")
        elif name == "weights" and is_file(value) and Path(value).is_file():
            found[f"{prefix}{name}"] = file_hash(Path(value))
    return found


def _write_model(
    folder: Path, method: Method, config: Strict, table: Manifest, facts: dict[str, Any], describe: str
) -> None:
    description = {
        "histill": version("histill"),
        "method": method.card.name,
        "task": method.card.task,
        "config": config.model_dump(mode="json"),
        "data": table.card.model_dump(mode="json"),
        **facts,
        "warnings": list(table.warnings),
    }
    write_inside(folder, WEIGHTS, weight_bytes(method))
    write_inside(folder, CONFIG, (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode())
    write_inside(folder, "README.md", describe.encode())


def _model_card(
    method: Method,
    table: Manifest,
    learn: Manifest,
    choose: Manifest | None,
    more: Manifest | None,
    about: dict[str, Any],
) -> str:
    card, data = method.card, table.card
    mpps = sorted({sample.mpp for sample in learn.samples if sample.mpp is not None})
    also = []
    if more:
        patients = len({sample.patient for sample in more.samples})
        also = [f"- And from {len(more.samples)} of {patients} patients, without {card.needs}."]
    lines = [
        f"# {card.name}: {card.title}",
        "",
        f"Paper: {card.paper}.",
        *(["", "Not the paper's, but ours:", *(f"- {each}" for each in card.ours)] if card.ours else []),
        "",
        "## Data",
        f"- Learnt from {len(learn.samples)} {method.samples} of {len({s.patient for s in learn.samples})} patients, "
        f"with {card.needs}.",
        *also,
        f"- Epochs chosen by {about['epoch chosen by']}, on {len(choose.samples)} {method.samples} of "
        f"{len({s.patient for s in choose.samples})} patients."
        if choose
        else "- The last epoch was kept.",
        f"- Classes: {', '.join(data.classes)}.",
        f"- Spacing: {', '.join(f'{mpp:g}' for mpp in mpps) + ' um/px' if mpps else 'not known'}.",
        f"- Source: {data.source or 'not stated'}",
        f"- Licence of the data: {data.licence or 'not stated'}",
        *(f"- Warning: {warning}" for warning in table.warnings),
        "",
        "## Use",
        "For research. Not a medical device; not validated for diagnosis.",
        f"Seed {about['seed']}; settings in config.json.",
        f"Figures: `histill predict` and `histill evaluate` on test {method.samples}.",
        "",
    ]
    return "\n".join(lines)
