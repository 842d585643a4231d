"""Segment images or slides, find objects there, or classify bags, with a trained run; begun again, it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from histill.cli.console import Console, at_least, parse, share, spacing
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, read_manifest, table_error

if TYPE_CHECKING:
    from histill.engine.apply import Applied
    from histill.engine.bag_method import SlideClassifier
    from histill.engine.box_method import BoxMethod
    from histill.engine.run import Machine
    from histill.engine.tile_method import TileMethod
    from histill.engine.training import Trained


FLAT = (".png", ".jpg", ".jpeg", ".bmp")
SLIDES_ONLY = (
    *("mpp", "at", "tile", "overlap", "batch", "within", "without"),
    *("normalise", "no_outlines", "most_unreadable"),
)
"""Flags that say nothing of images."""
BOXES_ONLY = ("score", "coarse")
"""Flags that say nothing of masks."""
PIXELS_ONLY = ("kind", "probabilities", *SLIDES_ONLY, *BOXES_ONLY)
"""Flags that say nothing of bags."""


@dataclass
class Arguments:
    """Segment images or slides, find objects there, or classify bags, into a folder with a record for each.

    Of images: masks/<id>.png in the classes' colours. Of slides: masks/<id>.ome.tif and geojson/<id>.geojson, which
    open in QuPath, pictures/<id>.jpg, and the area of each class in mm2. Of objects: boxes/<id>.json, in the image's or
    level-0 pixels, pictures/<id>.jpg and counts; of slides also objects/<id>.csv, geojson/<id>.geojson, and counts per
    mm2 of tissue. Of bags: the classes' probabilities, and each tile's attention as attention/<id>.csv,
    geojson/<id>.geojson, and pictures/<id>.jpg. What cannot be read is put aside, and the rest goes on.
    """

    model: Positional[Annotated[Path, arg(metavar="RUN")]]
    """the run's folder"""
    inputs: Positional[Annotated[Path, arg(metavar="CSV-OR-FILES")]]
    """a table (.csv), a file, or a folder: of images or slides; of feature files, where the run is mil's"""
    to: Path
    """the folder to write"""
    kind: Annotated[Literal["auto", "images", "slides"], arg(name="as")] = "auto"
    """auto: slides where a file is one that OpenSlide knows or is named as one, else images; PNG, JPEG and BMP files
    beside slides are left out, which 'slides' takes for slides too"""
    split: Literal["train", "val", "test", "all"] = "all"
    """of a table: only its rows of this split"""
    probabilities: bool = False
    """also keep class probabilities: .npz of images, .ome.tif of slides"""
    mpp: float | None = None
    """slides: um per level-0 px of those whose table and file do not say it"""
    at: float | None = None
    """slides: um/px at which the network looks; left out, that of the images it learnt from"""
    tile: int = 0
    """slides: side of a tile in px; 0 for that of the images it learnt from"""
    overlap: str = "25%"
    """slides: of neighbouring tiles"""
    batch: int = 16
    """slides: tiles in one call of the network"""
    within: Path | None = None
    """slides: look only inside these regions: a GeoJSON file, or a folder with one for each slide"""
    without: Path | None = None
    """slides: leave these regions out"""
    normalise: Literal["none", "macenko", "reinhard"] = "none"
    """slides: stain normalisation, fitted to each slide"""
    no_outlines: bool = False
    """slides: write no GeoJSON"""
    most_unreadable: str = "1%"
    """slides: put a slide aside if more than this share of its tiles cannot be read; fewer are left out and counted"""
    score: float = 0.5
    """objects: boxes of at least this score are counted, drawn and listed; the files of boxes hold the others too"""
    coarse: bool = False
    """objects in images: they are as coarse as the network looks at them already, whatever their spacing"""
    slides: Path | None = None
    """bags: the folder of their slides, for pictures of attention"""
    max_quarantined: str = "5%"
    """unreadable files are put aside; if more than this share are, the run stops"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto takes bf16 where the hardware has it"""
    threads: int = 0
    """threads of one network call on a CPU; 0 for as many as there are cores"""


def run(given: list[str]) -> int:
    """Predict."""
    arguments = parse(Arguments, given, "predict")
    at_least(0, threads=arguments.threads, tile=arguments.tile)
    at_least(1, batch=arguments.batch)
    spacing(at=arguments.at, mpp=arguments.mpp)
    share(arguments.max_quarantined)

    from histill.engine.training import load
    from histill.methods import find

    trained = load(arguments.model, find)
    console = Console()
    if trained.method.card.task == "classify":
        return _bags(arguments, trained, console)
    _refuse(arguments, ("slides",), "it is for pictures of bags, and here are none", "give a run of mil")
    if trained.method.card.task == "summarize":
        raise HistillError(
            f"a run of {trained.method.card.name} chooses tiles",
            code=Exit.USAGE,
            subject=str(arguments.model),
            mend=f"Ask it so: histill summarize BAGS --run {arguments.model} --budget 64 --to DIR",
        )
    if trained.method.card.task == "detect":
        return _objects(arguments, trained, console)
    _refuse(arguments, BOXES_ONLY, "these say something of boxes, and here are masks", "give a run that finds objects")
    table, slides = _inputs(arguments, trained, console)
    machine = _machine(arguments)
    with console.showing():
        applied = (_slides if slides else _images)(arguments, trained, table, machine, console)
    print(f"masks: {arguments.to / 'masks'}")
    if slides:
        print(f"areas: {arguments.to / 'predictions.csv'}\nlook:  {arguments.to / 'pictures'}")
    return _end(arguments, applied, slides, any(sample.mask for sample in table.samples))


def _bags(arguments: Arguments, trained: Trained[SlideClassifier], console: Console) -> int:
    from histill.cli.summarize import bag_table
    from histill.engine.bag_predictions import predict_bags
    from histill.engine.slide_files import SlideFiles

    _refuse(arguments, PIXELS_ONLY, "these say something of pixels, and here are bags", "give a run that segments")
    table = bag_table(arguments.inputs)
    table = _of_split(table, arguments)
    with console.showing():
        applied = predict_bags(
            trained,
            table,
            arguments.to,
            machine=_machine(arguments),
            slides=SlideFiles(arguments.slides),
            most_quarantined=share(arguments.max_quarantined),
            listener=console.listen,
        )
    print(f"table: {arguments.to / 'predictions.csv'}\nlook:  {arguments.to / 'pictures'}")
    if any(sample.labels for sample in table.samples):
        print(f"next:  histill evaluate {arguments.to} {arguments.inputs} --to report")
    if applied.quarantined:
        print(f"{len(applied.quarantined)} of {applied.total} bags were put aside: see predictions.csv")
        return int(Exit.QUARANTINED)
    return int(Exit.DONE)


def _objects(arguments: Arguments, trained: Trained[BoxMethod], console: Console) -> int:
    from histill.core.config import resolve
    from histill.data.regions import Regions
    from histill.engine.box_images import BoxImageSettings, find_in_images
    from histill.engine.box_slides import BoxSlideSettings, find_on_slides

    _refuse(
        arguments, ("probabilities",), "objects have boxes, and no map of probabilities", "give a run that segments"
    )
    table, slides = _inputs(arguments, trained, console)
    most = share(arguments.max_quarantined)
    with console.showing():
        if slides:
            _refuse(arguments, ("coarse",), "slides are read at the spacing that is looked at", "give --at")
            applied = find_on_slides(
                trained,
                table,
                arguments.to,
                machine=_machine(arguments),
                settings=resolve(BoxSlideSettings, ("the flags", _tiling(arguments) | {"score": arguments.score})),
                within=Regions(arguments.within) if arguments.within else None,
                without=Regions(arguments.without) if arguments.without else None,
                most_quarantined=most,
                listener=console.listen,
            )
        else:
            applied = find_in_images(
                trained,
                table,
                arguments.to,
                machine=_machine(arguments),
                settings=resolve(
                    BoxImageSettings, ("the flags", {"score": arguments.score, "coarse": arguments.coarse})
                ),
                most_quarantined=most,
                listener=console.listen,
            )
    print(f"boxes: {arguments.to / 'boxes'}\ncounts: {arguments.to / 'predictions.csv'}")
    print(f"look:  {arguments.to / 'pictures'}")
    return _end(arguments, applied, slides, any(sample.boxes for sample in table.samples))


def _end(arguments: Arguments, applied: Applied, slides: bool, scorable: bool) -> int:
    """What is left to say, and the exit code."""
    if scorable:
        print(f"next:  histill evaluate {arguments.to} {arguments.inputs} --to report")
    if applied.empty:
        print(f"{len(applied.empty)} of {applied.total} slides hold no tissue: see predictions.csv")
    if applied.quarantined:
        kind = "slides" if slides else "images"
        print(f"{len(applied.quarantined)} of {applied.total} {kind} were put aside: see predictions.csv")
        return int(Exit.QUARANTINED)
    return int(Exit.DONE)


def _machine(arguments: Arguments) -> Machine:
    from histill.engine.run import Machine

    return Machine(accelerator=arguments.accelerator, precision=arguments.precision, threads=arguments.threads)


def _images(
    arguments: Arguments, trained: Trained[TileMethod], table: Manifest, machine: Machine, console: Console
) -> Applied:
    from histill.engine.images import apply_to_images

    return apply_to_images(
        trained,
        table,
        arguments.to,
        machine=machine,
        probabilities=arguments.probabilities,
        most_quarantined=share(arguments.max_quarantined),
        listener=console.listen,
    )


def _slides(
    arguments: Arguments, trained: Trained[TileMethod], table: Manifest, machine: Machine, console: Console
) -> Applied:
    from histill.core.config import resolve
    from histill.data.regions import Regions
    from histill.engine.slides import SlideSettings, apply_to_slides

    settings = _tiling(arguments) | {"probabilities": arguments.probabilities}
    return apply_to_slides(
        trained,
        table,
        arguments.to,
        machine=machine,
        settings=resolve(SlideSettings, ("the flags", settings)),
        within=Regions(arguments.within) if arguments.within else None,
        without=Regions(arguments.without) if arguments.without else None,
        most_quarantined=share(arguments.max_quarantined),
        listener=console.listen,
    )


def _tiling(arguments: Arguments) -> dict[str, Any]:
    """How slides are cut into tiles, as the flags say it."""
    return {
        "mpp": arguments.at,
        "level0_mpp": arguments.mpp,
        "tile": arguments.tile,
        "overlap": share(arguments.overlap),
        "batch_size": arguments.batch,
        "normalise": arguments.normalise,
        "outlines": not arguments.no_outlines,
        "most_unreadable": share(arguments.most_unreadable),
    }


def _inputs(arguments: Arguments, trained: Trained[Any], console: Console) -> tuple[Manifest, bool]:
    """The table, and whether its rows are slides."""
    if arguments.inputs.suffix.lower() == ".csv":
        table, slides = _rows(arguments)
    else:
        table, slides = _files(arguments, trained, console)
    if not slides:
        _refuse(arguments, SLIDES_ONLY, "these say something of slides, and here are images", "say --as slides")
    return table, slides


def _of_split(table: Manifest, arguments: Arguments) -> Manifest:
    chosen = table if arguments.split == "all" else table.of_split(arguments.split)
    if not chosen.samples:
        raise HistillError(
            f"no row is of split {arguments.split}",
            code=Exit.USAGE,
            subject=str(arguments.inputs),
            mend="Choose another --split",
        )
    return chosen


def _rows(arguments: Arguments) -> tuple[Manifest, bool]:
    table = _of_split(read_manifest(arguments.inputs), arguments)
    # Rows with a crop are patches, whatever file they are cut from.
    crops = [sample for sample in table.samples if sample.crop is not None]
    scanned = any(_scanned(sample.path) for sample in table.samples if sample.crop is None)
    slides = arguments.kind == "slides" or (arguments.kind == "auto" and scanned)
    if slides and crops:
        faults = [f"line {sample.line} ({sample.id}) is a crop" for sample in crops]
        raise table_error(table.path, faults, "Slides are segmented whole: leave x, y, w, h out, or say --as images")
    return table, slides


def _files(arguments: Arguments, trained: Trained[Any], console: Console) -> tuple[Manifest, bool]:
    from histill.data.sources.loose import loose_images, loose_slides
    from histill.slides.open import slide_paths

    path = arguments.inputs
    _refuse(arguments, ("split",), "rows of a table are of a split, files are not", "give a table")
    if path.is_dir() and arguments.to.resolve().is_relative_to(path.resolve()):
        raise HistillError(
            "lies in the folder of images: begun again, masks would be taken for images",
            code=Exit.USAGE,
            subject=str(arguments.to),
            mend="Give --to a folder beside it",
        )
    if arguments.kind == "slides":
        return loose_slides(path, trained.card), True
    found = slide_paths(path) if path.is_dir() else [path]
    if arguments.kind == "images" or not any(map(_scanned, found)):
        return loose_images(path, trained.card), False
    # What lies beside slides as PNG or JPEG is a label, an overview, a mask; a TIFF may be a slide that is cut off.
    table = loose_slides(path, trained.card)
    flat = [s for s in table.samples if s.path.suffix.lower() in FLAT and not _scanned(s.path)]
    if flat:
        console.line(
            f"note: {len(flat)} images beside the slides are left out, as {flat[0].path}; --as slides takes them"
        )
    return table.choose(lambda sample: sample not in flat), True


def _scanned(path: Path) -> bool:
    """Whether a file is a scanner's: by its content, or by a name that images do not have, as it may be torn."""
    from histill.data.sources.loose import SUFFIXES
    from histill.slides.open import SUFFIXES as SLIDE_SUFFIXES
    from histill.slides.open import is_slide

    return is_slide(path) or path.suffix.lower() in set(SLIDE_SUFFIXES) - set(SUFFIXES)


def _refuse(arguments: Arguments, names: Sequence[str], why: str, otherwise: str) -> None:
    """Refuse flags that would do nothing."""
    given = {field.name for field in fields(arguments) if getattr(arguments, field.name) != field.default}
    if idle := [f"--{name.replace('_', '-')}" for name in names if name in given]:
        raise HistillError(
            why, code=Exit.USAGE, subject=", ".join(idle), mend=f"Leave out what does nothing, or {otherwise}"
        )
