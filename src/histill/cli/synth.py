"""Make data with known truth: made-up H&E patches or whole slides, with their masks and image labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse


@dataclass
class Arguments:
    """Make a folder with images, true masks, and a table. The images are synthetic and say so in every report."""

    kind: Positional[Literal["tissue", "lesions", "slides"]]
    """tissue: patches of tumour, stroma, lymphocytes, necrosis, glands, fat and glass; lesions: the same patches,
    labelled with or without tumour (those with less than 5 % of it are left out); slides: pyramidal TIFFs"""
    to: Positional[Annotated[Path, arg(metavar="DIR")]]
    """the folder to make"""
    train: int = 400
    """tissue, lesions: patches to learn from"""
    val: int = 100
    """tissue, lesions: patches to choose epochs with"""
    test: int = 200
    """tissue, lesions: patches to score on"""
    size: int = 224
    """tissue, lesions: side of a patch in px"""
    count: int = 5
    """slides: how many; 3 of 5 are to learn from, one to choose with, one to score on"""
    width: int = 8000
    """slides: in px"""
    height: int = 6000
    """slides: in px"""
    marks: bool = False
    """slides: some are marked with a pen, some are dirty"""
    mpp: float = 0.5
    """spacing in um/px"""
    seed: int = 0
    """of everything"""


def run(given: list[str]) -> int:
    """Make the data."""
    arguments = parse(Arguments, given, "synth")
    return _slides(arguments) if arguments.kind == "slides" else _patches(arguments)


def _patches(arguments: Arguments) -> int:
    at_least(1, train=arguments.train, size=arguments.size)
    at_least(0, val=arguments.val, test=arguments.test)

    from histill.data.synthetic.dataset import LESIONS, TISSUE, write_patches

    labelling, method = (LESIONS, "ikd_mil") if arguments.kind == "lesions" else (TISSUE, "mlps")
    console = Console()
    with console.showing():
        table = write_patches(
            arguments.to,
            labelling,
            train=arguments.train,
            val=arguments.val,
            test=arguments.test,
            size=arguments.size,
            mpp=arguments.mpp,
            seed=arguments.seed,
            progress=console.counter("drawing patches"),
        )
    print(f"table: {table}\nnext:  histill train {method} --train {table} --run runs/{method}")
    return 0


def _slides(arguments: Arguments) -> int:
    at_least(1, count=arguments.count, width=arguments.width, height=arguments.height)

    from histill.data.synthetic.slides import write_slides

    console = Console()
    with console.showing():
        table = write_slides(
            arguments.to,
            count=arguments.count,
            width=arguments.width,
            height=arguments.height,
            mpp=arguments.mpp,
            seed=arguments.seed,
            marks=arguments.marks,
            progress=console.counter("drawing slides"),
        )
    print(f"table: {table}\nnext:  histill slide info {arguments.to / 'slides'}")
    print(f"       histill predict RUN {table} --to masks")
    return 0
