"""Whole slides as bags of features: a frozen encoder over the tiles of their tissue, in folders as TRIDENT's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from histill.core.bags import Bag
from histill.core.config import Share
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.storage import remove, safe_name
from histill.data.regions import Regions
from histill.engine.apply import Applied, Listener, Made, Model, apply
from histill.engine.run import Machine, accelerator_of, build_fabric
from histill.engine.stitching import full_batches
from histill.engine.tiled import TiledWork, TileSettings, View
from histill.formats.trident import magnification_of, write_bag, write_patches
from histill.nets.embedders import Embedder
from histill.slides.base import RgbImage

PLAIN = re.compile(r"\w[\w .()+=@,-]{0,149}")
"""Ids that name files as they are, as other tools' feature files are named."""


class EmbedSettings(TileSettings):
    """How a slide is cut into tiles, and how many are embedded at once."""

    mpp: PositiveFloat = 0.5
    """um/px at which the encoder looks"""
    tile: PositiveInt = 256
    """side of a tile in px; encoders of a fixed size have it resized"""
    overlap: Share = 0.0
    """of neighbouring tiles, as a share of their side"""
    least_tissue: Share = 0.1
    """tiles with a smaller share of tissue are left out"""
    batch_size: PositiveInt = 16
    """tiles in one call of the encoder; see `suited_batch`"""


class EmbedWork(TiledWork):
    """Writes, for each slide, ``features_<encoder>/<slide>.h5``, ``patches/<slide>_patches.h5`` and a picture.

    The places and the picture do not depend on the encoder: another that looks at the same tiles writes the same.

    Args:
        embedder: the encoder.
        fabric: device and precision.
        settings: see `EmbedSettings`.
        within: only tissue inside these regions is embedded; None for all of it.
        without: tissue inside these is left out.
    """

    column = "features"

    def __init__(
        self,
        embedder: Embedder,
        fabric: Fabric,
        settings: EmbedSettings,
        within: Regions | None = None,
        without: Regions | None = None,
    ) -> None:
        super().__init__(settings, settings.mpp, settings.tile, within, without)
        self.embedder, self.fabric, self.plan = embedder.to(fabric.device), fabric, settings

    @property
    def name(self) -> str:
        """The folder of features, as TRIDENT calls it."""
        return features_folder(self.embedder.name)

    def may_write(self, sample: Sample) -> tuple[str, ...]:
        """The features; what other encoders share with this one stays, and is written anew."""
        return (f"{self.name}/{slide_name(sample.id)}.h5",)

    def tiles_picture(self, sample: Sample) -> str:
        """Of the tiles that are embedded."""
        return f"pictures/{slide_name(sample.id)}.jpg"

    def write(self, view: View, folder: Path, journal: Journal) -> Made:
        """Embed a slide."""
        (features,) = self.may_write(view.sample)
        places = f"patches/{slide_name(view.sample.id)}_patches.h5"
        if not len(view.grid):
            remove(folder / places)
            return Made((), empty=self._why_none(view.tissue))
        bag = self._bag(view, journal)
        write_bag(folder / features, bag)
        write_patches(folder / places, bag)
        width = {"width": bag.features.shape[1]}
        return Made((features, places), width, width)

    def _bag(self, view: View, journal: Journal) -> Bag:
        grid = view.grid
        found: NDArray[np.float32] | None = None
        kept: list[int] = []
        # Each by itself: a tile's features do not depend on which others are embedded.
        tiles = self._tiles(view, longest=0)
        for numbers, features in embed_tiles(tiles, self.embedder, self.fabric, self.side, self.plan.batch_size):
            if found is None:
                found = np.empty((len(grid), features.shape[1]), np.float32)
            found[len(kept) : len(kept) + len(numbers)] = features
            kept += numbers
            journal.show("tiles", done=len(kept), of=len(grid))
        if found is None:
            raise HistillError(
                f"none of its tiles can be read; the first: {view.unreadable.why}",
                code=Exit.INPUT,
                subject=str(view.sample.path),
                mend="Get the file again",
            )
        return Bag(
            slide=view.sample.id,
            features=found[: len(kept)],
            coords=grid.level0[kept],
            tile_side=max(1, round(grid.side * grid.frame.scale)),
            tile_px=grid.side,
            overlap=grid.side - grid.step,
            mpp=grid.frame.level0_mpp,
            encoder=self.embedder.name,
            slide_size=view.slide.size,
        )


@torch.inference_mode()
def embed_tiles(
    tiles: Iterable[tuple[int, RgbImage]], embedder: Embedder, fabric: Fabric, side: int, batch_size: int
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float32]]]:
    """Numbers of a few tiles and their features float32 [n, d], in the order of the tiles; see `full_batches`."""
    for numbers, images in full_batches(tiles, side, batch_size):
        pixels = torch.from_numpy(np.stack(images)).to(fabric.device)  # [b, side, side, 3], bytes: a quarter to send
        with fabric.autocast():
            features = embedder(pixels.permute(0, 3, 1, 2).float() / 255)[: len(numbers)]  # [n, d]
        yield numbers, features.float().cpu().numpy()


def embed_slides(
    embedder: Embedder,
    table: Manifest,
    folder: Path,
    *,
    machine: Machine,
    settings: EmbedSettings | None = None,
    within: Regions | None = None,
    without: Regions | None = None,
    most_quarantined: float = 0.05,
    listener: Listener | None = None,
) -> Applied:
    """Embed every slide of a table; see `apply` and `EmbedWork`.

    Args:
        embedder: the encoder, with its weights.
        table: the slides.
        folder: gets a folder for this way of laying tiles, see `grid_folder`, and in it one for this encoder.
        machine: device and precision.
        settings: see `EmbedSettings`.
        within: see `EmbedWork`.
        without: see `EmbedWork`.
        most_quarantined: see `apply`.
        listener: is told every event.
    """
    plan = settings or EmbedSettings()
    fabric = build_fabric(machine)
    random = embedder.weights == "none"
    model = Model(
        name=embedder.name,
        digest=embedder.digest,
        about={"weights": embedder.weights, "licence": embedder.licence or "not stated"},
        warnings=("The encoder's weights are random: its features say little",) if random else (),
    )
    work = EmbedWork(embedder, fabric, plan, within, without)
    where = folder / grid_folder(plan)
    return apply(work, model, table, where, fabric=fabric, most_quarantined=most_quarantined, listener=listener)


def suited_batch(machine: Machine) -> int:
    """How many tiles a machine's encoder is best given at a time.

    A CPU gains nothing by more; but a slide's last batch is filled up, and the larger it is, the more of it is idle.

    Raises:
        HistillError: usage (2) if there is no GPU for it.
    """
    return 64 if accelerator_of(machine) == "cuda" else 16


def grid_folder(settings: EmbedSettings) -> str:
    """The name that TRIDENT gives a way of laying tiles, such as ``20x_256px_0px_overlap``.

    A magnification stands for a range of spacings; beyond those that TRIDENT knows, the spacing stands there itself.
    """
    magnification = magnification_of(settings.mpp)
    at = f"{magnification}x" if magnification else f"{settings.mpp:g}mpp"
    overlap = settings.tile - max(1, round(settings.tile * (1 - settings.overlap)))
    return f"{at}_{settings.tile}px_{overlap}px_overlap"


def features_folder(encoder: str) -> str:
    """The name that TRIDENT gives the folder of an encoder's features."""
    return f"features_{safe_name(encoder)}"


def slide_name(identity: str) -> str:
    """The name of a slide's files: its id as it is, where that can be a file's name; other tools take it for the id."""
    safe = safe_name(identity)
    # What ends like a name with a hash gets one of its own, so that no two ids meet.
    return identity if PLAIN.fullmatch(identity) and not re.search("-[0-9a-fA-F]{10}$", identity) else safe
