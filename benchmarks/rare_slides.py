"""Made-up slides with a rare tissue as bags of features, and how much of it is in each tile; skips what is there.

    python benchmarks/rare_slides.py [--out DIR] [--count 60] [--side 6000] [--seed 1]

Of six slides three are to learn from, one to choose with, two to score on; on every other one of each split tumour
covers 1 to 3 % of the tissue, and on the rest there is none. The splits' slides are made of different cells, and each
slide has a look of its own. Features are those of SqueezeNet with ImageNet weights, which lie below HISTILL_DATA, of
tiles of 256 px at 0.5 um/px. Other benchmarks read all of it with `read_rare`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.cli.console import Console
from histill.core.bags import Bag, BagFacts
from histill.core.cells import read_cells, write_cells
from histill.core.manifest import SPLITS, Manifest, Sample, read_manifest, write_manifest
from histill.core.storage import remove, write_bytes, write_json
from histill.data.bags import find_bags, read_bag
from histill.data.synthetic.dataset import LESION, NORMAL
from histill.data.synthetic.rare import RARE, tumour_share
from histill.data.synthetic.scene import TUMOUR
from histill.data.synthetic.slides import write_slide
from histill.data.synthetic.stained import render_slide_bank
from histill.engine.embed import EmbedSettings, embed_slides, features_folder, grid_folder
from histill.engine.run import Machine
from histill.formats.maps import open_labels
from histill.nets.embedders import build_embedder

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
ENCODER = "squeezenet1_0"
SETTINGS = EmbedSettings(mpp=0.5, tile=256)
MPP = 0.5
DEAL = ("train", "test", "train", "val", "test", "train")
"""The split that each slide goes to, over and over."""

RARE_FROM = 0.5
"""The share of a tile from which on it is one of the rare tissue."""

SHARES = Path(grid_folder(SETTINGS)) / "tumour"
"""Below the folder of all: a table for each slide, a row for each tile of its bag."""


@dataclass(frozen=True, eq=False)
class RareBag:
    """A slide's tiles.

    Attributes:
        sample: the slide's row of the table: id, labels, split.
        bag: features float32 [n, 512] and places.
        share: of the rare tissue in each tile, float32 [n].
    """

    sample: Sample
    bag: Bag
    share: NDArray[np.float32]

    @property
    def rare(self) -> NDArray[np.bool_]:
        """The tiles of the rare tissue, bool [n]."""
        return self.share >= RARE_FROM


def make_slides(folder: Path, *, count: int, side: int, seed: int, workers: int = 1) -> Path:
    """The slides that are missing, each with its truth, and their table, whose path is returned.

    Args:
        folder: gets `slides`, `truth` and `slides.csv`.
        count: of slides.
        side: of each in px.
        seed: of everything; each split has one that follows from it.
        workers: threads that draw.
    """
    samples, bank, drawn = [], None, None
    dealt = [DEAL[number % len(DEAL)] for number in range(count)]
    for number in sorted(range(count), key=lambda number: SPLITS.index(dealt[number])):
        name, split = f"slide-{number:02d}", dealt[number]
        own = len(SPLITS) * seed + SPLITS.index(split)
        path, truth = folder / f"slides/{name}.tif", folder / f"truth/{name}.ome.tif"
        tumour = tumour_share(own, name, split, dealt[:number].count(split))
        if not (path.is_file() and truth.is_file()):
            remove(path)
            remove(truth)
            if drawn != own:
                bank, drawn = render_slide_bank(own), own
            write_slide(
                path,
                width=side,
                height=side,
                mpp=MPP,
                seed=own,
                name=name,
                tumour=tumour,
                truth=truth,
                bank=bank,
                workers=workers,
            )
            print(f"{name}: {split}, {tumour:.2%} tumour", flush=True)
        labels = (LESION if tumour else NORMAL,)
        samples.append(Sample(name, path, None, labels, name, split, truth, None, MPP))
    write_manifest(folder / "slides.csv", samples, RARE)
    return folder / "slides.csv"


def rare_tiles(bag: BagFacts, truth: Path, tissue: int = TUMOUR) -> NDArray[np.float32]:
    """The share of a tissue in each tile of a bag, float32 [n]; what of a tile lies beyond the slide holds none.

    The truth is read whole, a byte a pixel.

    Args:
        bag: with places and the side of its tiles in level-0 px.
        truth: label map as large as the slide's level 0.
        tissue: its class index there.
    """
    assert bag.coords is not None
    assert bag.tile_side is not None
    side = bag.tile_side
    with open_labels(truth) as labels:
        height, width = labels.shape
        is_tissue = labels.read(0, 0, width, height) == tissue
    shares = [np.count_nonzero(is_tissue[max(y, 0) : y + side, max(x, 0) : x + side]) / side**2 for x, y in bag.coords]
    return np.array(shares, np.float32)


def write_shares(folder: Path, table: Manifest) -> None:
    """The tables of tiles that are missing."""
    for slide, path in _bags(folder, table).items():
        to = folder / SHARES / f"{slide.id}.csv"
        if not to.is_file():
            assert slide.mask is not None
            bag = read_bag(path)
            assert bag.coords is not None
            shares = rare_tiles(bag, slide.mask)
            rows = [(x, y, f"{share:.4f}") for (x, y), share in zip(bag.coords.tolist(), shares, strict=True)]
            write_bytes(to, write_cells(("x", "y", LESION), rows))


def read_rare(folder: Path, split: str | None = None) -> Iterator[RareBag]:
    """The bags of a folder that `main` filled, in the order of its table.

    Args:
        folder: see above.
        split: only its slides; None for all.
    """
    table = read_manifest(folder / "slides.csv")
    for slide, path in _bags(folder, table if split is None else table.of_split(split)).items():
        _, rows, faults = read_cells((folder / SHARES / f"{slide.id}.csv").read_bytes())
        bag = read_bag(path)
        places = [(int(x), int(y)) for _, (x, y, _) in rows]
        assert bag.coords is not None
        if faults or places != [(x, y) for x, y in bag.coords.tolist()]:
            raise SystemExit(f"the shares of {slide.id} are not of its bag: remove {folder / SHARES}")
        yield RareBag(slide, bag, np.array([share for _, (_, _, share) in rows], np.float32))


def _bags(folder: Path, table: Manifest) -> dict[Sample, Path]:
    found = find_bags(folder / grid_folder(SETTINGS) / features_folder(ENCODER))
    return {sample: found[sample.id] for sample in table.samples}


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "rare")
    parser.add_argument("--count", type=int, default=60, help="slides")
    parser.add_argument("--side", type=int, default=6000, help="of a slide in px")
    parser.add_argument("--seed", type=int, default=1, help="of everything")
    given = parser.parse_args()
    asked = {"count": given.count, "side": given.side, "seed": given.seed}
    noted = given.out / "asked.json"
    if noted.is_file() and json.loads(noted.read_bytes()) != asked:
        raise SystemExit(f"{given.out} holds other slides: {noted.read_text()}Choose another --out")
    write_json(noted, asked)
    table = read_manifest(make_slides(given.out, **asked))
    embedder = build_embedder(ENCODER, str(WEIGHTS))
    console = Console()
    with console.showing():
        embed_slides(
            embedder,
            table.without_truth(),
            given.out,
            machine=Machine(accelerator="cpu", precision="float32", threads=1),
            settings=SETTINGS,
            most_quarantined=0,
            listener=console.listen,
        )
    write_shares(given.out, table)
    print(f"bags: {given.out / grid_folder(SETTINGS) / features_folder(ENCODER)}")


if __name__ == "__main__":
    main()
