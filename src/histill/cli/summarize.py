"""Choose the few tiles of each bag that stand in for its slide, by a trained run or by a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse, share
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest

if TYPE_CHECKING:
    from histill.engine.apply import Model
    from histill.engine.run import Machine
    from histill.engine.summaries import Budget, Choose

BY = Literal["run", "random", "cluster", "cluster-quota", "entropy", "location", "attention", "farthest"]


@dataclass
class Arguments:
    """Summarise bags of features into a folder: each summary is a bag of its own, which MIL tools read as a slide.

    Writes features_<encoder>/<slide>.h5 as TRIDENT has it, kept/<slide>.csv with the tiles' rows and places, the slide
    with its clusters coloured and the kept tiles lit, a sheet of these tiles, summaries.csv, and data.csv, a table of
    the summaries with the labels that the bags' table has.
    """

    bags: Positional[Annotated[Path, arg(metavar="BAGS")]]
    """a folder of feature files (TRIDENT, CLAM, STAMP, slideflow, slide2vec, WSISum), one file, or a table (.csv)"""
    to: Path
    """the folder to write"""
    budget: str = "64"
    """tiles to keep, or a share of each bag's such as 12.5%%; a smaller bag keeps all it has"""
    run: Path | None = None
    """the folder of a run of wsisum; with --by attention, of mil"""
    by: BY = "run"
    """run: by the run's own search. Without a run: random; cluster, the tile nearest to each of as many k-means
    centres; cluster-quota, at random from 50 clusters by their size; entropy; location; farthest. attention: what a
    run of mil looks at most"""
    slides: Path | None = None
    """the folder of the slides, for pictures: <slide>.svs and the like"""
    seed: int = 0
    """of every random draw"""
    max_quarantined: str = "5%"
    """bags that cannot be read are put aside; if more than this share are, the run stops"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto takes bf16 where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""


def run(given: list[str]) -> int:
    """Summarise."""
    arguments = parse(Arguments, given, "summarize")
    at_least(0, threads=arguments.threads)
    most = share(arguments.max_quarantined)
    budget = _budget(arguments.budget)
    _check_choice(arguments)

    from histill.data.bag_batches import common_encoder
    from histill.engine.run import Machine
    from histill.engine.slide_files import SlideFiles
    from histill.engine.summaries import SummaryWork, summarise_bags

    machine = Machine(accelerator=arguments.accelerator, precision=arguments.precision, threads=arguments.threads)
    console = Console()
    table = bag_table(arguments.bags)
    slides = SlideFiles(arguments.slides)
    encoder = common_encoder(table)
    choose, model = _choice(arguments, machine)
    work = SummaryWork(choose, arguments.by, budget, arguments.seed, encoder, slides)
    with console.showing():
        applied = summarise_bags(
            work, model, table, arguments.to, machine=machine, most_quarantined=most, listener=console.listen
        )
    print(f"summaries: {arguments.to / work.folder}\ntable: {arguments.to / 'summaries.csv'}")
    print(f"look:  {arguments.to / 'pictures'}")
    if any(sample.labels for sample in table.samples):
        print(f"next:  histill train mil --train {arguments.to / 'data.csv'} --run runs/mil")
    if applied.quarantined:
        print(f"{len(applied.quarantined)} of {applied.total} bags were put aside: see summaries.csv")
        return int(Exit.QUARANTINED)
    return int(Exit.DONE)


def bag_table(path: Path) -> Manifest:
    """A table of bags: a CSV, or all feature files of a folder, of which nothing more is known."""
    from histill.core.card import DatasetCard
    from histill.core.manifest import read_manifest
    from histill.data.sources.loose import loose_bags

    if path.suffix.lower() == ".csv":
        return read_manifest(path)
    return loose_bags(path, DatasetCard(classes=("slide",)))


def _check_choice(arguments: Arguments) -> None:
    if arguments.by in ("run", "attention") and arguments.run is None:
        needed = "wsisum" if arguments.by == "run" else "mil"
        raise HistillError(
            "no run to choose by",
            code=Exit.USAGE,
            subject="--run",
            mend=f"Give the folder of a run of {needed}, or choose without one: --by cluster",
        )
    if arguments.by not in ("run", "attention") and arguments.run is not None:
        raise HistillError(
            f"--by {arguments.by} asks no run", code=Exit.USAGE, subject="--run", mend="Leave one of the two out"
        )


def _choice(arguments: Arguments, machine: Machine) -> tuple[Choose, Model]:
    from histill.engine.apply import Model
    from histill.engine.summaries import by_attention, by_baseline, by_summariser
    from histill.selection.baselines import find

    if arguments.run is None:
        return by_baseline(find(arguments.by)), Model(arguments.by, arguments.by)

    from histill.engine.training import load
    from histill.methods import find as find_method

    trained = load(arguments.run, find_method)
    card, wanted = trained.method.card, "summarize" if arguments.by == "run" else "classify"
    if card.task != wanted:
        raise HistillError(
            f"a run of {card.name}, which is there to {card.task}",
            code=Exit.USAGE,
            subject=str(arguments.run),
            mend="Give a run of wsisum, or of mil with --by attention",
        )
    wrap = by_summariser if arguments.by == "run" else by_attention
    return wrap(trained, machine), Model.of(trained)


def _budget(text: str) -> Budget:
    from histill.engine.summaries import Budget

    try:
        if not text.endswith("%"):
            found = Budget(tiles=int(text))
            if found.tiles >= 1:
                return found
        elif 0 < float(text[:-1]) <= 100:
            return Budget(share=float(text[:-1]) / 100)
    except ValueError:
        pass
    raise HistillError(
        f"'{text}' is no budget", code=Exit.USAGE, subject="--budget", mend="Give a number of tiles, or a share: 12.5%"
    )
