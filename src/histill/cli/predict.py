"""Segment new images with a trained run; begun again, it does what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse, share
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from histill.engine.training import Trained


@dataclass
class Arguments:
    """Segment images. Writes masks/<id>.png in the classes' colours, a record for each, and predictions.csv."""

    model: Positional[Annotated[Path, arg(metavar="RUN")]]
    """the run's folder"""
    images: Positional[Annotated[Path, arg(metavar="CSV-OR-IMAGES")]]
    """a table (.csv), an image, or a folder of images"""
    to: Path
    """the folder to write"""
    split: Literal["train", "val", "test", "all"] = "all"
    """of a table: only its rows of this split"""
    probabilities: bool = False
    """also keep class probabilities, as .npz"""
    max_quarantined: str = "5%"
    """unreadable images are put aside; if more than this share are, the run stops"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto takes bf16 where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""


def run(given: list[str]) -> int:
    """Predict."""
    arguments = parse(Arguments, given, "predict")
    at_least(0, threads=arguments.threads)
    most = share(arguments.max_quarantined)

    from histill.engine.apply import apply
    from histill.engine.run import Machine
    from histill.engine.training import load
    from histill.methods import find

    trained = load(arguments.model, find)
    table = _table(arguments, trained)
    machine = Machine(accelerator=arguments.accelerator, precision=arguments.precision, threads=arguments.threads)
    console = Console()
    with console.showing():
        applied = apply(
            trained,
            table,
            arguments.to,
            machine=machine,
            probabilities=arguments.probabilities,
            most_quarantined=most,
            listener=console.listen,
        )
    print(f"masks: {arguments.to / 'masks'}")
    if any(sample.mask for sample in table.samples):
        print(f"next:  histill evaluate {arguments.to} {arguments.images} --to report")
    if applied.quarantined:
        print(f"{len(applied.quarantined)} of {applied.total} images were put aside: see predictions.csv")
        return int(Exit.QUARANTINED)
    return int(Exit.DONE)


def _table(arguments: Arguments, trained: Trained) -> Manifest:
    from histill.data.sources.loose import loose_images

    if arguments.images.suffix.lower() != ".csv":
        if arguments.to.resolve().is_relative_to(arguments.images.resolve()):
            raise HistillError(
                "lies in the folder of images: begun again, masks would be taken for images",
                code=Exit.USAGE,
                subject=str(arguments.to),
                mend="Give --to a folder beside it",
            )
        return loose_images(arguments.images, trained.card)
    table = read_manifest(arguments.images)
    if arguments.split != "all":
        table = table.of_split(arguments.split)
    if not table.samples:
        raise HistillError(
            f"no row is of split {arguments.split}",
            code=Exit.USAGE,
            subject=str(arguments.images),
            mend="Choose another --split",
        )
    return table
