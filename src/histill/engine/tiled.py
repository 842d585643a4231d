"""Work on whole slides tile by tile: how one is opened, at which spacing it is looked at, and where its tiles lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid
from histill.core.journal import Journal
from histill.core.manifest import Sample
from histill.data.regions import Regions
from histill.engine.apply import Work
from histill.engine.stitching import LONGEST_READ, Unreadable, Wanted, read_tiles
from histill.formats.outlines import Outline
from histill.formats.raster import OutlineRaster
from histill.slides.base import RgbImage, Slide
from histill.slides.stain import fit_normaliser
from histill.slides.tiling import lay_grid
from histill.slides.tissue import Tissue, TissueSettings
from histill.slides.worker import GuardedSlide, open_guarded

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


class TiledWork(Work):
    """What all work on a slide's tiles has in common.

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

    def _wanted(self, sample: Sample, frame: Frame, tissue: Tissue) -> Wanted:
        within = self.within.of(sample) if self.within else []
        without = self.without.of(sample) if self.without else []
        # What is drawn later covers what was drawn earlier.
        outlines = [Outline(area) for area in (*within, *without)]
        drawn = [1] * len(within) + [0] * len(without)
        raster = OutlineRaster(outlines, drawn, frame, beyond=int(self.within is None)) if outlines else None
        return Wanted(frame, tissue, raster)

    def _details(self, slide: Slide, frame: Frame, tissue: Tissue, grid: Grid) -> dict[str, Any]:
        height, width = frame.shape
        assert slide.facts.spacing is not None
        return {
            "size": list(slide.size),
            "level0_mpp": slide.mpp,
            "mpp": frame.mpp,
            "spacing_source": slide.facts.spacing.source,
            "notes": list(slide.facts.notes),
            "map": [width, height],
            "tissue_share": round(tissue.share, 6),
            "lit": tissue.kind,
            "tiles": len(grid),
        }

    def _tiles(
        self, slide: GuardedSlide, tissue: Tissue, grid: Grid, unreadable: Unreadable, longest: int = LONGEST_READ
    ) -> Iterator[tuple[int, RgbImage]]:
        """The tiles that can be read, by their numbers, in the colours that the plan wants."""
        tiles = read_tiles(slide, grid, unreadable, longest)
        if self.tiling.normalise == "none":
            return tiles
        normalise = fit_normaliser(self.tiling.normalise, slide, tissue)
        return ((number, normalise(image)) for number, image in tiles)

    def _unreadable(self, grid: Grid) -> Unreadable:
        return Unreadable(most=int(self.tiling.most_unreadable * len(grid)))

    def _why_none(self, tissue: Tissue) -> str:
        where = " inside the regions" if self.within or self.without else ""
        return tissue.why or f"no tile holds enough tissue{where}"

    def _shared_columns(self, slide: Slide, tissue: Tissue) -> dict[str, float | int]:
        """Of the table of outcomes."""
        area = tissue.share * np.prod(slide.size) * (slide.mpp / 1000) ** 2
        return {"tissue_mm2": round(float(area), 6)}

    def _tile_columns(self, grid: Grid, unreadable: Unreadable) -> dict[str, float | int]:
        return {"tiles": len(grid), "unreadable": len(unreadable.tiles), "mpp": grid.frame.mpp}
