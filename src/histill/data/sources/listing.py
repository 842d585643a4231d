"""Which importers there are: the modules of this folder that define `read`. Listing them imports none of them."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from histill.core.errors import Exit, HistillError
from histill.data.sources.published import Imported


def sources() -> dict[str, str]:
    """The first docstring line of each importer, by its name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "read" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def reader(name: str) -> Callable[..., Imported]:
    """The `read` function of an importer.

    Raises:
        HistillError: usage (2) if there is no importer of this name.
    """
    known = sources()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise HistillError(
            f"there is no importer '{name}'{hint}", code=Exit.USAGE, mend=f"Choose one of: {', '.join(known)}"
        )
    return cast(Callable[..., Imported], import_module(f"histill.data.sources.{name}").read)
