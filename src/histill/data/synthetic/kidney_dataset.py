"""A data set of made-up kidney tiles on disk: images, boxes around the glomeruli, and the table. It is synthetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from histill.core.boxes import boxes_json
from histill.core.card import DatasetCard
from histill.core.manifest import Sample, write_manifest
from histill.core.seeds import derive
from histill.core.storage import new_folder, write_inside
from histill.data.synthetic.kidney import CLASSES, GLOMERULUS, kidney_tiles
from histill.data.synthetic.stain import jpeg

SPLIT_DONORS = {"train": 12, "val": 4, "test": 12}
"""made-up donors, each with a look of its own, that a split's tiles come from"""

CARD = DatasetCard(
    classes=CLASSES.names,
    synthetic=True,
    source="histill synth glomeruli: made-up images with known truth",
    licence="CC0",
)


def write_kidneys(
    folder: Path,
    *,
    train: int,
    val: int,
    test: int,
    size: int = 512,
    mpp: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make a folder of tiles with their boxes, the splits from different made-up donors; returns its `data.csv`.

    A tile without a glomerulus has a file of boxes that is an empty list, and no label.

    Args:
        folder: made whole, or not at all.
        train: tiles to learn from.
        val: tiles to choose epochs with.
        test: tiles to score on.
        size: side in px.
        mpp: um/px.
        seed: of everything.
        progress: called with (tiles done, tiles in all).

    Raises:
        HistillError: usage (2) as `kidney_tiles`; storage (7) as `core.storage.new_folder`.
    """
    counts = {"train": train, "val": val, "test": test}
    samples: list[Sample] = []
    with new_folder(folder) as making:
        for split, count in counts.items():
            # Splits never share a tile or a donor, whatever their sizes.
            tiles = kidney_tiles(
                count, seed=derive(seed, "kidneys", split), size=size, donors=SPLIT_DONORS[split], mpp=mpp
            )
            for number, tile in enumerate(tiles):
                name = f"{split}-{number:05d}"
                image, boxes = f"images/{name}.jpg", f"boxes/{name}.json"
                write_inside(making, image, jpeg(tile.image, tile.donor.look.quality))
                write_inside(making, boxes, boxes_json(tile.boxes, CLASSES))
                samples.append(
                    Sample(
                        id=name,
                        path=making / image,
                        labels=(GLOMERULUS,) if len(tile.boxes) else (),
                        patient=f"{split}-{tile.donor.name}",
                        split=split,
                        boxes=making / boxes,
                        mpp=mpp,
                    )
                )
                if progress is not None:
                    progress(len(samples), sum(counts.values()))
        write_manifest(making / "data.csv", samples, CARD)
    return folder / "data.csv"
