"""Work on whole slides tile by tile: how one is opened, at which spacing it is looked at, and where its tiles lie."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid
from histill.core.journal import Journal
from histill.core.manifest import Sample
from histill.core.storage import write_bytes
from histill.data.regions import Regions
from histill.engine.apply import Made, Work
from histill.engine.stitching import LONGEST_READ, Unreadable, Wanted, read_tiles
from histill.formats.outlines import Outline
from histill.formats.raster import OutlineRaster
from histill.report.pictures import jpeg
from histill.report.tissue import tissue_picture
from histill.slides.base import RgbImage, Slide
from histill.slides.identity import snapshot, still
from histill.slides.stain import fit_normaliser
from histill.slides.tiling import lay_grid
from histill.slides.tissue import Tissue, TissueSettings, find_tissue
from histill.slides.worker import GuardedSlide, open_guarded

PICTURE = 1600
"""Longer side of a slide's pictures in px."""

COARSE, BLIND = 0.8, 0.125
"""Level-0 px per px that the network sees: with fewer, it looks at what the scanner did not, and then at nothing."""

MOST_AT_ONCE = 1 << 26
"""Pixels in one call of the network; more would take tens of GiB."""


class TileSettings(Strict):
    """How a slide is cut into tiles."""

    mpp: PositiveFloat | None = None
    """um/px at which the network looks; left out, that of the images it learnt from"""
    level0_mpp: PositiveFloat | None = None
    """um per level-0 px of slides of which neither their table nor their file says it"""
    tile: NonNegativeInt = 0
    """side of a tile in px; 0 for that of the images it learnt from"""
    overlap: Share = 0.25
    """of neighbouring tiles, as a share of their side"""
    least_tissue: Share = 0.02
    """tiles with a smaller share of tissue are left out"""
    batch_size: PositiveInt = 16
    """tiles in one call of the network"""
    normalise: Literal["none", "macenko", "reinhard"] = "none"
    """stain normalisation, fitted to each slide once"""
    most_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01
    """a slide of which a greater share of tiles cannot be read is put aside; fewer are left out and counted"""
    tissue: TissueSettings = TissueSettings()
    """how tissue is told from glass"""


@dataclass(frozen=True, eq=False)
class View:
    """A slide as it is looked at.

    Attributes:
        sample: its row of the table.
        slide: open.
        frame: its pixels at the spacing of the tiles.
        thumbnail: all of it.
        tissue: where there is some.
        grid: of the tiles.
        unreadable: of these; filled while they are read.
    """

    sample: Sample
    slide: GuardedSlide
    frame: Frame
    thumbnail: RgbImage
    tissue: Tissue
    grid: Grid
    unreadable: Unreadable


class TiledWork(Work):
    """What all work on a slide's tiles has in common; what is made of them, `write` says.

    Args:
        plan: see `TileSettings`.
        mpp: um/px at which tiles are looked at.
        side: of a tile in px.
        within: only tissue inside these regions is looked at; None for all of it.
        without: tissue inside these is left out.

    Raises:
        HistillError: usage (2) if a batch of tiles is more than a network takes at once.
    """

    kind: ClassVar[Literal["slides"]] = "slides"

    def __init__(
        self, plan: TileSettings, mpp: float, side: int, within: Regions | None = None, without: Regions | None = None
    ) -> None:
        self.mpp, self.side = mpp, side
        if side**2 * plan.batch_size > MOST_AT_ONCE:
            raise HistillError(
                f"{plan.batch_size} tiles of {side} px are more than the network takes at once",
                code=Exit.USAGE,
                subject="--tile",
                mend="Give smaller tiles, such as --tile 512, or fewer at a time (--batch)",
            )
        self.tiling, self.within, self.without = plan, within, without

    @property
    def settings(self) -> Any:
        """The plan, spacing and side as they come out, and which regions."""
        regions = {
            name: each.digest for name, each in (("within", self.within), ("without", self.without)) if each is not None
        }
        return {**self.tiling.model_dump(mode="json"), "mpp": self.mpp, "tile": self.side, **regions}

    @abstractmethod
    def write(self, view: View, folder: Path, journal: Journal) -> Made:
        """Make of a slide what is wanted: files, what they are, and why there are none where no tile holds tissue."""

    @abstractmethod
    def tiles_picture(self, sample: Sample) -> str:
        """Name of the picture of tissue and tiles."""

    def make(self, sample: Sample, folder: Path, journal: Journal) -> Made:
        """Find a slide's tissue and tiles, and write of them what is wanted; the file must be the same at the end."""
        before = snapshot(sample.path)
        with self._open(sample) as slide:
            frame, thumbnail = self._frame(slide, sample, journal), slide.thumbnail(PICTURE)
            tissue = find_tissue(slide, self.tiling.tissue)
            grid = self._grid(sample, frame, tissue)
            unreadable = Unreadable(most=int(self.tiling.most_unreadable * len(grid)))
            view = View(sample, slide, frame, thumbnail, tissue, grid, unreadable)
            picture = self.tiles_picture(sample)
            write_bytes(folder / picture, jpeg(tissue_picture(thumbnail, tissue, grid)))
            made = self.write(view, folder, journal)
        still(sample.path, before)
        area = tissue.share * np.prod(slide.size) * (slide.mpp / 1000) ** 2
        tiles = {"tiles": len(grid), "unreadable": len(unreadable.tiles), "mpp": frame.mpp}
        return replace(
            made,
            files=(*made.files, picture),
            columns={"tissue_mm2": round(float(area), 6), **made.columns, **tiles},
            details={**_details(view), **made.details, "unreadable": unreadable.tiles, "why": unreadable.why},
        )

    def _open(self, sample: Sample) -> GuardedSlide:
        slide = open_guarded(sample.path, sample.mpp)
        if slide.facts.spacing is not None or self.tiling.level0_mpp is None:
            return slide
        slide.close()
        return open_guarded(sample.path, self.tiling.level0_mpp)

    def _frame(self, slide: Slide, sample: Sample, journal: Journal) -> Frame:
        frame = slide.at(self.mpp)
        said = f"{slide.mpp:g} um/px, coarser than the {self.mpp:g} at which the network looks"
        if frame.scale < BLIND:
            raise HistillError(
                f"it has {said}, by so much that there is nothing to see",
                code=Exit.INPUT,
                subject=str(sample.path),
                mend="Leave it out, or look at a coarser spacing (--at)",
            )
        notes = [*slide.facts.notes, *([f"it has {said}"] if frame.scale < COARSE else [])]
        other = self.tiling.level0_mpp
        if sample.mpp is None and other is not None and abs(other / slide.mpp - 1) > 0.01:
            source = slide.facts.spacing.source if slide.facts.spacing else ""
            notes.append(f"{source} says {slide.mpp:g} um/px, which counts; to have it otherwise, give mpp in a table")
        for note in notes:
            journal.say("note", text=f"{sample.id}: {note}")
        return frame

    def _grid(self, sample: Sample, frame: Frame, tissue: Tissue) -> Grid:
        return lay_grid(
            frame,
            tissue,
            side=self.side,
            overlap=self.tiling.overlap,
            least_tissue=self.tiling.least_tissue,
            within=self.within.of(sample) if self.within else None,
            without=self.without.of(sample) if self.without else None,
        )

    def _wanted(self, view: View) -> Wanted:
        within = self.within.of(view.sample) if self.within else []
        without = self.without.of(view.sample) if self.without else []
        # What is drawn later covers what was drawn earlier.
        outlines = [Outline(area) for area in (*within, *without)]
        drawn = [1] * len(within) + [0] * len(without)
        raster = OutlineRaster(outlines, drawn, view.frame, beyond=int(self.within is None)) if outlines else None
        return Wanted(view.frame, view.tissue, raster)

    def _tiles(self, view: View, longest: int = LONGEST_READ) -> Iterator[tuple[int, RgbImage]]:
        """The tiles that can be read, by their numbers, in the colours that the plan wants."""
        tiles = read_tiles(view.slide, view.grid, view.unreadable, longest)
        if self.tiling.normalise == "none":
            return tiles
        normalise = fit_normaliser(self.tiling.normalise, view.slide, view.tissue)
        return ((number, normalise(image)) for number, image in tiles)

    def _why_none(self, tissue: Tissue) -> str:
        where = " inside the regions" if self.within or self.without else ""
        return tissue.why or f"no tile holds enough tissue{where}"


def looked_at(asked: float | None, learnt: float | None, coarser: int = 1) -> float:
    """um/px at which a network looks at slides: what is asked for, else that of the images it learnt from, in um/px.

    Args:
        asked: see `TileSettings.mpp`.
        learnt: of the images.
        coarser: how many times as coarse as these the network's are.

    Raises:
        HistillError: usage (2) if neither is known.
    """
    if asked is not None:
        return asked
    if learnt is not None:
        return learnt * coarser
    times = "" if coarser == 1 else f"{coarser} times "
    raise HistillError(
        "the run's images had no spacing, so nobody knows at which one it looks at a slide",
        code=Exit.USAGE,
        subject="--at",
        mend=f"Give {times}the spacing of the images it learnt from, in um/px: --at {0.5 * coarser:g}",
    )


def _details(view: View) -> dict[str, Any]:
    slide, (height, width) = view.slide, view.frame.shape
    assert slide.facts.spacing is not None
    return {
        "size": list(slide.size),
        "level0_mpp": slide.mpp,
        "mpp": view.frame.mpp,
        "spacing_source": slide.facts.spacing.source,
        "notes": list(slide.facts.notes),
        "map": [width, height],
        "tissue_share": round(view.tissue.share, 6),
        "lit": view.tissue.kind,
        "tiles": len(view.grid),
    }
