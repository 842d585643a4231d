"""Trains every method once untouched, and once stopped again and again until it ends.

Run as: python wreck.py FOLDER STEP METHOD... Attempt i of a stopped run is killed, or finds the disk full, at its
(i * STEP)-th write, fsync or rename, so that each gets further than the last and they stop in different places. With a
STEP of 0 every operation is struck in turn, in a run of its own that is then gone on with. Prints JSON:
{method: {way: {"codes": [...], "torn": [...], "differs": [...]}}}.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from saboteur import KILLED, Saboteur
from tiny import MACHINE, table_for, tiny_config

from histill.core.errors import HistillError
from histill.core.manifest import Manifest
from histill.core.record import faults, read_record
from histill.core.storage import TEMPORARY_PREFIX
from histill.engine.checkpoint import read_state
from histill.engine.training import train
from histill.methods import find
from histill.nets.weights import read_weights

BUG = 1


def attempt(method: str, table: Manifest, folder: Path, saboteur: Saboteur | None) -> int:
    """Train in a child process; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = BUG
    try:
        kind = find(method)
        config = tiny_config(kind, table)
        if saboteur is not None:
            saboteur.install()
        train(kind, table, None, folder=folder, config=config, seed=3, machine=MACHINE)
        code = 0
    except HistillError as error:
        code = int(error.code)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file, but for the journal, which holds times, and the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def torn(folder: Path) -> list[str]:
    """The files under final names that are not whole."""
    found = []
    for path in folder.rglob("*"):
        if TEMPORARY_PREFIX in str(path.relative_to(folder)) or not path.is_file():
            continue
        whole = True
        if path.name == "record.json":
            record = read_record(path)
            whole = record is not None and not faults(record, path.parent)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".pt":
            whole = read_state(path) is not None
        elif path.suffix == ".safetensors":
            read_weights(path)
        if not whole:
            found.append(path.relative_to(folder).as_posix())
    return found


def differs(folder: Path, clean: dict[str, str]) -> list[str]:
    """The files that are not those of the untouched run."""
    found = tree(folder)
    return sorted(name for name in {*found, *clean} if found.get(name) != clean.get(name))


def stopped_again_and_again(
    method: str, way: str, step: int, table: Manifest, folder: Path, clean: dict[str, str]
) -> dict[str, list[object]]:
    codes: list[object] = []
    damage: list[object] = []
    while not codes or codes[-1] not in (0, BUG):
        codes.append(attempt(method, table, folder, Saboteur((len(codes) + 1) * step, way)))
        damage += torn(folder)
    return {"codes": codes, "torn": damage, "differs": list(differs(folder, clean))}


def stopped_everywhere(
    method: str, way: str, table: Manifest, folder: Path, clean: dict[str, str]
) -> dict[str, list[object]]:
    codes: list[object] = []
    damage: list[object] = []
    difference: list[object] = []
    while not codes or codes[-1] not in (0, BUG):
        codes.append(attempt(method, table, folder, Saboteur(len(codes) + 1, way)))
        damage += torn(folder)
        attempt(method, table, folder, None)
        difference += differs(folder, clean)
        shutil.rmtree(folder)
    return {"codes": codes, "torn": damage, "differs": difference}


def main(place: Path, step: int, methods: list[str]) -> None:
    """Wreck and mend every method; see the module."""
    results: dict[str, dict[str, dict[str, list[object]]]] = {}
    for method in methods:
        folder = place / method
        table = table_for(find(method), folder / "table")
        codes: list[object] = [attempt(method, table, folder / "clean", None)]
        clean = tree(folder / "clean")
        results[method] = {"clean": {"codes": codes, "torn": list(torn(folder / "clean")), "differs": []}}
        for way in ("killed", "full"):
            if step:
                result = stopped_again_and_again(method, way, step, table, folder / way, clean)
            else:
                result = stopped_everywhere(method, way, table, folder / way, clean)
            results[method][way] = result
    print(json.dumps({"killed": KILLED, "methods": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
