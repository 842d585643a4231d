"""Say what this machine has, and what histill will make of it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from histill.cli.console import parse

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "lightning-fabric",
    "numpy",
    "Pillow",
    "openslide-python",
    "openslide-bin",
    "tifffile",
)
LEAST_FREE = 2 << 30


@dataclass
class Arguments:
    """Say what this machine has, and what histill will make of it. Ends with 1 if something is missing."""


def run(given: list[str]) -> int:
    """Look."""
    parse(Arguments, given, "doctor")
    troubles = []
    system = f"{platform.system()} {platform.machine()}"
    print(f"{'histill':<27} {version('histill')}, Python {platform.python_version()}, {system}")
    for name in LIBRARIES:
        try:
            print(f"{name:<27} {version(name)}")
        except PackageNotFoundError:
            troubles.append(f"{name} is not installed: pip install histill")

    from histill.engine.run import Machine, build_fabric
    from histill.slides.limits import limits_supported

    fabric = build_fabric(Machine())
    print(f"{'device':<27} {fabric.device.type}, {fabric._precision.precision}, {os.cpu_count()} cores")
    free = shutil.disk_usage(Path.cwd()).free
    print(f"{'disk':<27} {free / (1 << 30):.0f} GiB free here")
    if free < LEAST_FREE:
        troubles.append("less than 2 GiB are free here: runs may end with a full disk (and go on when there is space)")
    if not hasattr(os, "O_DIRECTORY"):
        troubles.append("this system can neither sync nor lock folders: see to it that one histill works in a folder")
    unlimited = limits_supported()
    if unlimited is not None:
        troubles.append(unlimited)
    for trouble in troubles:
        print(f"trouble: {trouble}", file=sys.stderr)
    print("all well" if not troubles else f"{len(troubles)} troubles")
    return 1 if troubles else 0
