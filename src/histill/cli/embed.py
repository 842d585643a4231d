"""Make bags of features of whole slides with a frozen encoder; begun again, it does what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse, share, spacing
from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest


@dataclass
class Arguments:
    """Turn slides into bags of features: tissue, tiles, one vector a tile; files as TRIDENT's, which MIL tools open.

    In DIR/20x_256px_0px_overlap:

    features_ENCODER/SLIDE.h5: features, and the places of their tiles

    features_ENCODER.csv: a row a slide, and why one was put aside

    pictures/SLIDE.jpg: tissue and tiles, to be looked at first

    patches/SLIDE_patches.h5: the places alone

    Encoders: uni_v1, uni_v2, virchow, virchow2, hoptimus0, gigapath, phikon; squeezenet1_0 to try things; and every
    name of timm, such as resnet50. Each sees tiles at its own size, with its own normalisation and pooling. Several
    encoders may write into one DIR, one after another.

    Weights come from the hub, which gives most of pathology's only to those who have accepted a licence there and
    logged in (hf auth login), or from a file: --weights pytorch_model.bin.
    """

    slides: Positional[Annotated[Path, arg(metavar="SLIDES")]]
    """a slide, a folder of slides, or a table (.csv) with the columns path or wsi and, where wanted, id and mpp"""
    encoder: str
    """its name"""
    to: Annotated[Path, arg(metavar="DIR")]
    """the folder to write"""
    weights: str = "hub"
    """hub for those that are published, a file (.safetensors, .bin, .pth, .npz), a tag of timm; none for random ones"""
    at: float = 0.5
    """um/px at which the encoder looks: 0.5 is 20x"""
    tile: int = 256
    """side of a tile in px at that spacing"""
    overlap: str = "0%"
    """of neighbouring tiles"""
    least_tissue: str = "10%"
    """tiles with less are left out"""
    mpp: float | None = None
    """um per level-0 px of slides whose table and file do not say it"""
    within: Path | None = None
    """embed only inside these regions: a GeoJSON file, or a folder with one for each slide"""
    without: Path | None = None
    """leave these regions out"""
    normalise: Literal["none", "macenko", "reinhard"] = "none"
    """stain normalisation, fitted to each slide"""
    batch: int | None = None
    """tiles in one call of the encoder; left out: 16 on a CPU, 64 on a GPU"""
    most_unreadable: str = "1%"
    """put a slide aside if more than this share of its tiles cannot be read; fewer are left out and counted"""
    max_quarantined: str = "5%"
    """slides that cannot be read are put aside; if more than this share are, the run stops"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto takes bf16 where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""


def run(given: list[str]) -> int:
    """Embed."""
    arguments = parse(Arguments, given, "embed")
    at_least(0, threads=arguments.threads)
    at_least(1, tile=arguments.tile, batch=1 if arguments.batch is None else arguments.batch)
    spacing(at=arguments.at, mpp=arguments.mpp)
    most_quarantined = share(arguments.max_quarantined)
    table = _slides(arguments)

    from histill.core.config import resolve
    from histill.data.regions import Regions
    from histill.engine.embed import EmbedSettings, embed_slides, grid_folder, suited_batch
    from histill.engine.run import Machine
    from histill.nets.embedders import build_embedder

    machine = Machine(accelerator=arguments.accelerator, precision=arguments.precision, threads=arguments.threads)
    settings = resolve(
        EmbedSettings,
        (
            "the flags",
            {
                "mpp": arguments.at,
                "level0_mpp": arguments.mpp,
                "tile": arguments.tile,
                "overlap": share(arguments.overlap),
                "least_tissue": share(arguments.least_tissue),
                "batch_size": suited_batch(machine) if arguments.batch is None else arguments.batch,
                "normalise": arguments.normalise,
                "most_unreadable": share(arguments.most_unreadable),
            },
        ),
    )
    within, without = (None if path is None else Regions(path) for path in (arguments.within, arguments.without))
    embedder = build_embedder(arguments.encoder, arguments.weights)
    console = Console()
    told = f", licence {embedder.licence}" if embedder.licence else ""
    console.line(f"{embedder.name}: weights {embedder.weights}{told}")
    if embedder.weights == "none":
        console.line("note: random weights are for trying things: such features say little")
    with console.showing():
        applied = embed_slides(
            embedder,
            table,
            arguments.to,
            machine=machine,
            settings=settings,
            within=within,
            without=without,
            most_quarantined=most_quarantined,
            listener=console.listen,
        )
    folder = arguments.to / grid_folder(settings)
    name = f"features_{embedder.name}"
    print(f"bags:  {folder / name}\ntable: {folder / name}.csv\nlook:  {folder / 'pictures'}")
    if applied.empty:
        print(f"{len(applied.empty)} of {applied.total} slides hold no tissue: see {name}.csv")
    if applied.quarantined:
        print(f"{len(applied.quarantined)} of {applied.total} slides were put aside: see {name}.csv")
        return int(Exit.QUARANTINED)
    return int(Exit.DONE)


def _slides(arguments: Arguments) -> Manifest:
    from histill.data.sources.loose import loose_slides

    path = arguments.slides
    if path.suffix.lower() == ".csv":
        return _listed(path)
    if path.is_dir() and arguments.to.resolve().is_relative_to(path.resolve()):
        raise HistillError(
            "lies in the folder of slides: begun again, pictures would be taken for slides",
            code=Exit.USAGE,
            subject=str(arguments.to),
            mend="Give --to a folder beside it",
        )
    return loose_slides(path, DatasetCard(classes=("slide",)))


def _listed(path: Path) -> Manifest:
    """A table of slides: its columns path, id and mpp, by any of the names that they have; others are left out."""
    from histill.core.cells import read_cells, write_cells
    from histill.core.manifest import COLUMN_OF, parse_rows, table_error
    from histill.core.record import fingerprint

    if not path.is_file():
        raise HistillError("there is no such table", code=Exit.INPUT, subject=str(path), mend="Check the path")
    data = path.read_bytes()
    header, rows, faults = read_cells(data)
    known = {COLUMN_OF.get(name.lower()): name for name in reversed(header)}
    if "path" in known and "id" not in known and not faults:
        # As TRIDENT has it: a slide's id is its file's stem.
        place = header.index(known["path"])
        data = write_cells(["id", *header], [[Path(cells[place]).stem, *cells] for _, cells in rows])
    read = {known.get(name) for name in ("id", "path", "mpp")}
    card = DatasetCard(classes=("slide",))
    samples, faults = parse_rows(data, path, card, leave_out=[name for name in header if name not in read])
    if faults:
        raise table_error(path, faults, "Correct these lines")
    return Manifest(tuple(samples), card, path, fingerprint([sample.id for sample in samples]))
