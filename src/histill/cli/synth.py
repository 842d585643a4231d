"""Make data with known truth: made-up H&E patches or whole slides with their masks, kidney tiles with their boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse


@dataclass
class Arguments:
    """Make a folder with images, their truth, and a table. The images are synthetic and say so in every report."""

    kind: Positional[Literal["tissue", "lesions", "glomeruli", "slides"]]
    """tissue: patches of tumour, stroma, lymphocytes, necrosis, glands, fat and glass; lesions: the same patches,
    labelled with or without tumour (those with less than 5 % of it are left out); glomeruli: kidney tiles (PAS,
    Masson) with boxes; slides: pyramidal TIFFs"""
    to: Positional[Annotated[Path, arg(metavar="DIR")]]
    """the folder to make"""
    train: int = 400
    """tissue, lesions, glomeruli: images to learn from"""
    val: int = 100
    """tissue, lesions, glomeruli: images to choose epochs with"""
    test: int = 200
    """tissue, lesions, glomeruli: images to score on"""
    size: int | None = None
    """tissue, lesions, glomeruli: side of an image in px; left out: 224, and 512 of glomeruli"""
    count: int = 5
    """slides: how many; 3 of 5 are to learn from, one to choose with, one to score on"""
    width: int = 8000
    """slides: in px"""
    height: int = 6000
    """slides: in px"""
    marks: bool = False
    """slides: some are marked with a pen, some are dirty"""
    rare: bool = False
    """slides: tumour covers 1 to 3 % of the tissue on every other one, none on the rest; the table says which has it"""
    mpp: float | None = None
    """spacing in um/px; left out: 0.5, and 1 of glomeruli"""
    seed: int = 0
    """of everything"""


NEXT = {"tissue": "mlps", "lesions": "ikd_mil", "glomeruli": "mhkd"}
"""A method that learns from each kind of images."""


def run(given: list[str]) -> int:
    """Make the data."""
    arguments = parse(Arguments, given, "synth")
    return _slides(arguments) if arguments.kind == "slides" else _images(arguments)


def _images(arguments: Arguments) -> int:
    kidney = arguments.kind == "glomeruli"
    size = (512 if kidney else 224) if arguments.size is None else arguments.size
    mpp = _mpp(arguments)
    at_least(1, train=arguments.train, size=size)
    at_least(0, val=arguments.val, test=arguments.test)

    from histill.data.synthetic.dataset import LESIONS, TISSUE, write_patches
    from histill.data.synthetic.kidney_dataset import write_kidneys

    write: Callable[..., Path] = write_kidneys
    if not kidney:
        write = partial(write_patches, labelling=LESIONS if arguments.kind == "lesions" else TISSUE)
    console = Console()
    with console.showing():
        table = write(
            arguments.to,
            train=arguments.train,
            val=arguments.val,
            test=arguments.test,
            size=size,
            mpp=mpp,
            seed=arguments.seed,
            progress=console.counter("drawing images"),
        )
    method = NEXT[arguments.kind]
    print(f"table: {table}\nnext:  histill train {method} --train {table} --run runs/{method}")
    return 0


def _mpp(arguments: Arguments) -> float:
    if arguments.mpp is None:
        return 1.0 if arguments.kind == "glomeruli" else 0.5
    return arguments.mpp


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
            mpp=_mpp(arguments),
            seed=arguments.seed,
            marks=arguments.marks,
            rare=arguments.rare,
            progress=console.counter("drawing slides"),
        )
    print(f"table: {table}\nnext:  histill slide info {arguments.to / 'slides'}")
    print(f"       histill predict RUN {table} --to masks")
    return 0
