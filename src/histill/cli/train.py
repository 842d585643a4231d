"""Train a method on a table of labelled images; begun again, it goes on where it stopped.

On several GPUs or machines it is started once for each, by torchrun or Slurm's srun; see docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel
from tyro.conf import Positional, arg

from histill import methods
from histill.cli.console import Console, at_least, is_help, parse_known
from histill.core.card import DatasetCard
from histill.core.config import parse_value, read_yaml, resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from histill.engine.method import Method


@dataclass
class Arguments:
    """Train a method. Settings of the method: histill train METHOD --help, given as --any.setting VALUE."""

    method: Positional[Annotated[str, arg(metavar="METHOD")]]
    """which; see histill methods"""
    train: Path
    """the table: rows of split train are learnt from (all, if none has a split), rows of split val choose epochs; where
    no labels are needed, a folder of feature files will do"""
    run: Path
    """the run's folder: new, or one to go on with"""
    val: Path | None = None
    """another table to choose epochs with; without one and without val rows, 15 %% of the patients are cut off"""
    recipe: Path | None = None
    """a YAML file of settings that differ from the method's defaults"""
    seed: int = 0
    """of every random draw"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto takes bf16 where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""
    workers: int = 0
    """processes that read images; the result is the same bytes"""


def run(given: list[str]) -> int:
    """Train."""
    if is_help(given) and given and not given[0].startswith("-"):
        print(f"{methods.about(given[0])}\n\nsettings:\n{settings_help(methods.find(given[0]).Config)}\n")
    arguments, rest = parse_known(Arguments, given, "train")
    at_least(0, threads=arguments.threads, workers=arguments.workers)
    flags = settings_of(rest)
    kind = methods.find(arguments.method)
    recipe = {} if arguments.recipe is None else read_yaml(arguments.recipe)
    config = resolve(kind.Config, (str(arguments.recipe), recipe), ("flags", flags))

    from histill.data.bag_batches import require_sound_bags
    from histill.data.images import require_sound_files
    from histill.engine.run import Machine, meet
    from histill.engine.team import TeamError
    from histill.engine.training import train

    machine = Machine(accelerator=arguments.accelerator, precision=arguments.precision, threads=arguments.threads)
    _, team = meet(machine)
    console = Console(silent=not team.is_first)

    try:
        with console.showing(), team.together():
            table = _table(arguments.train, kind)
            val = _table(arguments.val, kind) if arguments.val else None
            require = require_sound_bags if kind.samples == "bags" else require_sound_files
            for each in (table, val, kind.more(config)):
                if each is not None and team.is_first:
                    seen = each.choose(lambda sample: sample.split != "test")
                    require(seen, console.counter(f"opening {kind.samples}"))
            for warning in table.warnings:
                console.line(f"warning: {warning}")
            model = train(
                kind,
                table,
                val,
                folder=arguments.run,
                config=config,
                seed=arguments.seed,
                machine=machine,
                workers=arguments.workers,
                listener=console.listen,
            )
        team.leave()
    except TeamError as error:
        if team.is_first:
            raise
        # The first says it for all.
        raise SystemExit(int(error.code)) from None
    if team.is_first:
        print(f"model: {model}\nnext:  {_next(kind, arguments)}")
    return 0


def _table(path: Path, kind: type[Method]) -> Manifest:
    if kind.card.needs == "bags" and path.suffix.lower() != ".csv":
        from histill.data.sources.loose import loose_bags

        return loose_bags(path, DatasetCard(classes=("slide",)))
    return read_manifest(path)


def _next(kind: type[Method], arguments: Arguments) -> str:
    if kind.card.task == "summarize":
        return f"histill summarize {arguments.train} --run {arguments.run} --budget 64 --to summaries"
    return f"histill predict {arguments.run} {arguments.train} --split test --to predictions"


def settings_of(flags: list[str]) -> dict[str, Any]:
    """``--a.b VALUE`` or ``--a.b=VALUE`` as nested settings; values are read as YAML, so lists and booleans work.

    Raises:
        HistillError: usage (2) if a flag has no value, or one that is none.
    """
    settings: dict[str, Any] = {}
    left = list(flags)
    while left:
        flag = left.pop(0)
        name, equals, text = flag.removeprefix("--").partition("=")
        alone = not equals and (not left or left[0].startswith("--"))
        if not flag.startswith("--") or not name or alone:
            raise HistillError(f"'{flag}' is not a setting with a value", code=Exit.USAGE, mend="Write --setting VALUE")
        text = text if equals else left.pop(0)
        *path, last = name.replace("-", "_").split(".")
        place = settings
        try:
            for step in path:
                place = place.setdefault(step, {})
            place[last] = parse_value(text, flag)
        except (AttributeError, TypeError):
            raise HistillError(
                f"'{flag}' is one of a group that another flag gives a single value",
                code=Exit.USAGE,
                mend="Leave one of the two out",
            ) from None
    return settings


def settings_help(model: type[BaseModel], default: BaseModel | None = None, prefix: str = "") -> str:
    """A line for each setting: its flag, its default, and its docstring."""
    lines = []
    for name, field in model.model_fields.items():
        value = field.default if default is None else getattr(default, name)
        if isinstance(value, BaseModel):
            lines.append(f"  --{prefix}{name}.*: {field.description}")
            lines.append(settings_help(type(value), value, f"{prefix}{name}."))
        else:
            lines.append(f"  --{prefix}{name} ({value!r})\n      {field.description}")
    return "\n".join(lines)
