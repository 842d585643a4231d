"""The smallest table and settings for the command line, and what its tests look at folders with."""

import csv
import errno
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from histill.cli.main import main
from histill.core.record import faults, read_record
from histill.core.storage import TEMPORARY_PREFIX

CLASSES = ("stroma", "gland", "fat")
PRESENT = [(0, 1), (1, 2), (0, 2), (0, 1, 2)]
SPLITS = 6 * ["train"] + 2 * ["val"] + 6 * ["test"]
SIZE = 40

EVERYWHERE = ("--threads", "1", "--accelerator", "cpu", "--precision", "float32")
NETS = (
    *("--classifier.encoder", "squeezenet1_0", "--classifier.weights", "none"),
    *("--segmenter.encoder", "squeezenet1_0", "--segmenter.weights", "none", "--segmenter.channels", "16"),
)
SMALL = (
    *(*EVERYWHERE, *NETS, "--patch_size", str(SIZE), "--attention_warmup", "0"),
    *("--classify.epochs", "1", "--classify.batch_size", "3", "--segment.epochs", "1", "--segment.batch_size", "3"),
)
SMALL_SUPERVISED = (
    *EVERYWHERE,
    *("--segmenter.encoder", "squeezenet1_0", "--segmenter.weights", "none", "--segmenter.channels", "16"),
    *("--segment.epochs", "1", "--segment.batch_size", "3"),
)


class Said(NamedTuple):
    """What a command line ended with."""

    code: int
    out: str
    err: str


Histill = Callable[..., Said]
"""What the fixture of this name is."""


def call(*arguments: object) -> int:
    """The command line, in this process."""
    return main([str(each) for each in arguments])


def write_table(folder: Path) -> Path:
    """Fourteen images of blocks, each class in a colour of its own, with masks and two images a patient."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    colours = np.array([(200, 120, 170), (90, 50, 130), (235, 225, 180)])
    lines = ["id,path,labels,patient,split,mask,mpp"]
    for i, split in enumerate(SPLITS):
        present = PRESENT[i % len(PRESENT)]
        blocks = random.permutation(np.resize(np.array(present, np.uint8), 16)).reshape(4, 4)
        mask = blocks.repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1)
        image = np.clip(colours[mask] + random.normal(0, 12, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"{i}.mask.png")
        labels = "|".join(CLASSES[k] for k in present)
        lines.append(f"s{i},{i}.png,{labels},p{i // 2},{split},{i}.mask.png,0.5")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")
    return folder / "data.csv"


def change_rows(table: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Change the rows of a table in place."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    change(rows)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file, but for the journal, which holds times, and the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def torn(folder: Path) -> list[str]:
    """What lies in a folder and is not whole: temporaries, records that do not hold, broken JSON."""
    found = []
    for path in sorted(folder.rglob("*")):
        whole = TEMPORARY_PREFIX not in path.name
        if path.suffix == ".json":
            json.loads(path.read_bytes())
            record = read_record(path)
            root = path.parents[1] if path.parent.name == "records" else path.parent
            whole = whole and (record is None or not faults(record, root))
        if not whole:
            found.append(path.relative_to(folder).as_posix())
    return found


def failing_from(nth: int, function: Callable[..., object], number: int = errno.ENOSPC) -> Callable[..., object]:
    """A function of the system that fails from its n-th call on."""
    calls = 0

    def fail(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **more)

    return fail
