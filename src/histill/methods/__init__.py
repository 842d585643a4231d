"""The registry: a file in this folder is a method. Others come by the entry-point group `histill.methods`.

Listing names and titles imports no method, and so no torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histill.core.errors import Exit, HistillError

if TYPE_CHECKING:
    from histill.core.manifest import Manifest
    from histill.engine.method import Method
    from histill.engine.run import Machine
    from histill.engine.training import Trained

GROUP = "histill.methods"


def names() -> list[str]:
    """The names of all methods, in alphabetical order."""
    own = {path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__"}
    return sorted(own | {point.name for point in entry_points(group=GROUP)})


def about(name: str) -> str:
    """A method's own account: its file's docstring, read without importing it."""
    path = Path(__file__).parent / f"{_known(name)}.py"
    if not path.exists():
        return importlib.import_module(_entry_point(name)).__doc__ or ""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def find(name: str) -> type[Method]:
    """A method's class.

    Raises:
        HistillError: usage (2), with the nearest name, if there is no such method.
    """
    from histill.engine.method import Method

    _known(name)
    own = (Path(__file__).parent / f"{name}.py").exists()
    module = importlib.import_module(f"{__name__}.{name}" if own else _entry_point(name))
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Method) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise HistillError(f"holds {len(found)} methods, not one", code=Exit.USAGE, subject=module.__name__)
    return found[0]


def train(
    name: str,
    table: Manifest,
    folder: Path,
    *,
    val: Manifest | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    machine: Machine | None = None,
) -> Trained[Any]:
    """Train a method by name in a run folder, or go on with it, and load the finished model.

    Args:
        name: see `names`.
        table: see `engine.training.train`.
        folder: of the run.
        val: another table to choose epochs with.
        settings: what differs from the method's `Config`, nested as in a recipe.
        seed: of every random draw.
        machine: device, precision, threads.

    Raises:
        HistillError: as the command line does.
    """
    from histill.core.config import resolve
    from histill.engine.run import Machine
    from histill.engine.training import train as train_in

    kind = find(name)
    config = resolve(kind.Config, ("settings", settings or {}))
    train_in(kind, table, val, folder=folder, config=config, seed=seed, machine=machine or Machine())
    return load(folder)


def load(folder: Path) -> Trained[Any]:
    """Load a finished model from its run's folder; raises as `engine.training.load`."""
    from histill.engine.training import load as load_from

    return load_from(folder, find)


def _entry_point(name: str) -> str:
    return next(point.value for point in entry_points(group=GROUP) if point.name == name)


def _known(name: str) -> str:
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        raise HistillError(
            f"there is no method '{name}'", code=Exit.USAGE, subject="method", mend=f"{hint} Known: {', '.join(known)}"
        )
    return name
