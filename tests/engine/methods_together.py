"""Trains every method as it is tested, by one process and by two; each process is a fork of this one.

Run as: python methods_together.py FOLDER METHOD... Leaves each run in FOLDER/METHOD/SIZE, and prints the exit codes as
JSON: {method: [those of one, those of two]}.
"""

import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

from tiny import MACHINE, table_for, tiny_config
from together import launch

from histill.core.manifest import Manifest
from histill.engine.training import train
from histill.methods import find


def work(name: str, folder: Path, table: Manifest, rank: int) -> None:
    kind = find(name)
    train(kind, table, None, folder=folder, config=tiny_config(kind, table), seed=0, machine=MACHINE)


def main(place: Path, names: list[str]) -> None:
    """Train each, by one and by two."""
    codes = {}
    for name in names:
        table = table_for(find(name), place / name / "table")
        codes[name] = [launch(size, partial(work, name, place / name / str(size), table)) for size in (1, 2)]
    print(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
