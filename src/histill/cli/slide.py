"""What is in a slide's file: its facts, a picture of it and of its tissue, tiles of it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from histill.cli.console import Console, at_least, parse, share, spacing
from histill.core.errors import Exit, HistillError
from histill.core.storage import write_bytes

if TYPE_CHECKING:
    from histill.core.geometry import Grid
    from histill.slides.base import Slide
    from histill.slides.tissue import Tissue


GREY = (128, 128, 128)


@dataclass
class Info:
    """Say what files are: kind, size, levels, spacing and where it comes from, and what is odd about them."""

    paths: Positional[Annotated[list[Path], arg(metavar="PATH")]]
    """slides, or folders of slides"""
    mpp: float | None = None
    """um per level-0 px, where the file does not say it"""
    properties: bool = False
    """also all that the file says of itself"""
    as_json: Annotated[bool, arg(name="json")] = False
    """one JSON object a slide and line"""


@dataclass
class Thumbnail:
    """Write a picture of a slide."""

    path: Positional[Annotated[Path, arg(metavar="PATH")]]
    """the slide"""
    to: Path
    """the picture, .png or .jpg"""
    longest: int = 1600
    """its longer side in px"""
    tissue: bool = False
    """draw what is taken for tissue, and what was left out: pen marks, dust"""
    mpp: float | None = None
    """um per level-0 px, where the file does not say it"""


@dataclass
class Tiles:
    """Lay tiles over a slide's tissue: tiles.csv, tiles.geojson for QuPath, a picture, and the tiles themselves."""

    path: Positional[Annotated[Path, arg(metavar="PATH")]]
    """the slide"""
    to: Path
    """the folder to write"""
    at: float = 0.5
    """um/px of the tiles"""
    tile: int = 256
    """their side in px"""
    overlap: str = "0%"
    """of neighbouring tiles"""
    least_tissue: str = "10%"
    """tiles with less are left out; 0% keeps all"""
    within: Path | None = None
    """GeoJSON: only tissue inside these regions"""
    without: Path | None = None
    """GeoJSON: leave these regions out"""
    images: bool = False
    """also write each tile as images/<x>_<y>.png, level-0 px of its corner"""
    mpp: float | None = None
    """um per level-0 px, where the file does not say it"""


@dataclass
class Arguments:
    """Look into slides: info, thumbnail, tiles."""

    what: OmitSubcommandPrefixes[
        Annotated[Info, subcommand("info")]
        | Annotated[Thumbnail, subcommand("thumbnail")]
        | Annotated[Tiles, subcommand("tiles")]
    ] = field()


def run(given: list[str]) -> int:
    """Look into slides."""
    what = parse(Arguments, given, "slide").what
    if isinstance(what, Info):
        return _info(what)
    return _thumbnail(what) if isinstance(what, Thumbnail) else _tiles(what)


def _info(arguments: Info) -> int:
    from histill.slides.open import slide_paths
    from histill.slides.worker import open_guarded

    spacing(mpp=arguments.mpp)
    failed = 0
    paths = [path for given in arguments.paths for path in (slide_paths(given) if given.is_dir() else [given])]
    if not paths:
        raise HistillError(
            "there is no slide here",
            code=Exit.INPUT if arguments.paths else Exit.USAGE,
            subject=", ".join(map(str, arguments.paths)),
            mend="Name slides, or folders of slides",
        )
    for path in paths:
        try:
            with open_guarded(path, arguments.mpp) as slide:
                facts = _facts(slide, properties=arguments.properties)
        except HistillError as error:
            failed += 1
            if len(paths) == 1:
                raise
            facts = {"path": str(path), "error": str(error)}
        print(json.dumps(facts, ensure_ascii=False) if arguments.as_json else _text(facts))
    if failed:
        print(f"{failed} of {len(paths)} cannot be opened", file=sys.stderr)
    return int(Exit.QUARANTINED if failed else Exit.DONE)


def _facts(slide: Slide, *, properties: bool) -> dict[str, Any]:
    width, height = slide.size
    spacing = slide.facts.spacing
    return {
        "path": str(slide.path),
        "kind": slide.facts.vendor,
        "size": [width, height],
        "levels": [[level.width, level.height, round(level.downsample, 4)] for level in slide.facts.levels],
        "mpp": spacing.mpp if spacing else None,
        "spacing": spacing.source if spacing else "not known: give --mpp",
        "mm": [round(side * spacing.mpp / 1000, 3) for side in slide.size] if spacing else None,
        "notes": list(slide.facts.notes),
        **({"properties": slide.facts.properties} if properties else {}),
    }


def _text(facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"{facts['error']}\n"
    width, height = facts["size"]
    extent = f", {facts['mm'][0]:g} x {facts['mm'][1]:g} mm" if facts["mm"] else ""
    lines = [
        facts["path"],
        f"  kind     {facts['kind']}",
        f"  size     {width} x {height} px{extent}",
        f"  spacing  {facts['mpp']:g} um/px ({facts['spacing']})" if facts["mpp"] else f"  spacing  {facts['spacing']}",
        *(
            f"  {'levels' if i == 0 else '':<8} {w} x {h}, 1 : {down:g}"
            for i, (w, h, down) in enumerate(facts["levels"])
        ),
        *(f"  note     {note}" for note in facts["notes"]),
        *(f"  {name} = {value}" for name, value in facts.get("properties", {}).items()),
    ]
    return "\n".join(lines) + "\n"


def _thumbnail(arguments: Thumbnail) -> int:
    at_least(1, longest=arguments.longest)
    spacing(mpp=arguments.mpp)
    from histill.report.pictures import jpeg, png
    from histill.report.tissue import tissue_picture
    from histill.slides.tissue import find_tissue
    from histill.slides.worker import open_guarded

    encode = {".png": png, ".jpg": jpeg, ".jpeg": jpeg}.get(arguments.to.suffix.lower())
    if encode is None:
        raise HistillError(
            "a picture's name ends in .png or .jpg", code=Exit.USAGE, subject=str(arguments.to), mend="Rename it"
        )
    with open_guarded(arguments.path, arguments.mpp) as slide:
        picture = slide.thumbnail(arguments.longest)
        if arguments.tissue:
            tissue = find_tissue(slide)
            picture = tissue_picture(picture, tissue)
            print(f"tissue: {tissue.share:.1%} of the slide" + (f" ({tissue.why})" if tissue.why else ""))
    write_bytes(arguments.to, encode(picture))
    print(f"picture: {arguments.to}")
    return int(Exit.DONE)


def _tiles(arguments: Tiles) -> int:
    at_least(1, tile=arguments.tile)
    spacing(at=arguments.at, mpp=arguments.mpp)
    from shapely import box

    from histill.core.cells import write_cells
    from histill.core.manifest import Sample
    from histill.data.regions import Regions
    from histill.formats.features import outline_feature, write_features
    from histill.formats.outlines import Outline
    from histill.report.pictures import jpeg, png
    from histill.report.tissue import tissue_picture
    from histill.slides.tiling import lay_grid
    from histill.slides.tissue import find_tissue
    from histill.slides.worker import open_guarded

    sample = Sample(arguments.path.stem, arguments.path)
    filters = {
        name: Regions(path).of(sample) if path else None
        for name, path in (("within", arguments.within), ("without", arguments.without))
    }
    console = Console()
    with open_guarded(arguments.path, arguments.mpp) as slide, console.showing():
        tissue = find_tissue(slide)
        grid = lay_grid(
            slide.at(arguments.at),
            tissue,
            side=arguments.tile,
            overlap=share(arguments.overlap),
            least_tissue=share(arguments.least_tissue),
            **filters,
        )
        regions = [grid.region(i) for i in range(len(grid))]
        rows = [(r.x, r.y, r.w, r.h, arguments.tile, arguments.at) for r in regions]
        write_bytes(arguments.to / "tiles.csv", write_cells(["x", "y", "w", "h", "px", "mpp"], rows))
        boxes = (Outline(box(r.x, r.y, r.x + r.w, r.y + r.h), object_type="tile") for r in regions)
        features = (outline_feature(each, GREY) for each in boxes)
        write_features(arguments.to / "tiles.geojson", features, slide=sample.id)
        write_bytes(arguments.to / "tissue.jpg", jpeg(tissue_picture(slide.thumbnail(1600), tissue, grid)))
        if arguments.images:
            _write_images(arguments, slide, grid, png, console)
    why = _why_none(tissue, grid)
    print(f"{len(grid)} tiles of {arguments.tile * arguments.at:g} um{why}: {arguments.to / 'tiles.csv'}")
    return int(Exit.DONE)


def _why_none(tissue: Tissue, grid: Grid) -> str:
    return "" if len(grid) else f" ({tissue.why or 'no tile holds enough tissue'})"


def _write_images(arguments: Tiles, slide: Any, grid: Grid, encode: Any, console: Console) -> None:
    count = console.counter("writing tiles")
    side = arguments.tile
    regions = [grid.region(i) for i in range(len(grid))]
    for done, (region, image) in enumerate(
        zip(regions, slide.read_many((region, side, side) for region in regions), strict=True), 1
    ):
        if isinstance(image, HistillError):
            raise image
        write_bytes(arguments.to / "images" / f"{region.x}_{region.y}.png", encode(image))
        count(done, len(grid))
