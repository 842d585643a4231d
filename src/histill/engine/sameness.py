"""What must be the same for a run to go on: its settings from one start to the next, and in all of its processes.

And what must not: the GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histill.core.errors import Exit, HistillError
from histill.core.record import fingerprint
from histill.core.storage import write_json
from histill.engine.team import Team


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Write a run's settings to its file; if it was begun with others, refuse and name the differences."""
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


def check_alike(team: Team, settings: dict[str, Any]) -> None:
    """Refuse processes that were given different settings or tables."""
    prints = team.gather({name: fingerprint(value) for name, value in settings.items()})
    differ = [name for name in settings if any(each.get(name) != prints[0].get(name) for each in prints)]
    if differ:
        raise HistillError(
            f"the processes do not have the same {', '.join(differ)}",
            code=Exit.USAGE,
            mend="Give all of them the same command, and the same files on every machine",
        )


def check_apart(team: Team, device: str) -> None:
    """Refuse processes that would compute on one and the same device: NCCL does, with words of its own."""
    devices = team.gather(device)
    shared = sorted({each for each in devices if devices.count(each) > 1})
    if shared:
        raise HistillError(
            f"{devices.count(shared[0])} processes share one GPU",
            code=Exit.USAGE,
            subject=shared[0],
            mend="Start as many processes as there are GPUs, and let each machine's see all of them or one each",
        )


def check_shares(whole: int, team: Team, subject: str) -> None:
    """Refuse a batch of so many images of which some process would have none."""
    if whole < team.size:
        raise HistillError(
            f"a batch of {whole} images cannot be shared by {team.size} processes",
            code=Exit.USAGE,
            subject=subject,
            mend="Raise it, or start fewer processes",
        )


def not_shared(path: Path) -> HistillError:
    """The error of a file that is not the same in every process."""
    return HistillError(
        "the processes do not see the same files here",
        code=Exit.STORAGE,
        subject=str(path),
        mend="Put the run's folder where all machines see it; if it is there, run the same command again",
    )


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in [*before, *(key for key in now if key not in before)]:
            found += _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
        return found
    return [] if before == now else [f"{where}: {before!r} then, {now!r} now"]
