"""Make data with known truth: made-up H&E patches with their masks and image labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse


@dataclass
class Arguments:
    """Make a folder with images, true masks, and data.csv. The images are synthetic and say so in every report."""

    kind: Positional[Literal["tissue"]]
    """tissue: tumour, stroma, lymphocytes, necrosis, glands, fat and glass"""
    to: Positional[Annotated[Path, arg(metavar="DIR")]]
    """the folder to make"""
    train: int = 400
    """patches to learn from"""
    val: int = 100
    """patches to choose epochs with"""
    test: int = 200
    """patches to score on"""
    size: int = 224
    """side of a patch in px"""
    mpp: float = 0.5
    """spacing in um/px"""
    seed: int = 0
    """of everything"""


def run(given: list[str]) -> int:
    """Make the data."""
    arguments = parse(Arguments, given, "synth")
    at_least(1, train=arguments.train, size=arguments.size)
    at_least(0, val=arguments.val, test=arguments.test)

    from histill.data.synthetic.dataset import write_tissue

    console = Console()
    with console.showing():
        table = write_tissue(
            arguments.to,
            train=arguments.train,
            val=arguments.val,
            test=arguments.test,
            size=arguments.size,
            mpp=arguments.mpp,
            seed=arguments.seed,
            progress=console.counter("drawing patches"),
        )
    print(f"table: {table}\nnext:  histill train mlps --train {table} --run runs/mlps")
    return 0
