"""A data set of made-up patches on disk: images, true masks, and the table with image labels. It is synthetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.manifest import Sample, write_manifest
from histill.core.masks import label_png, rgb_png
from histill.core.storage import new_folder, write_inside
from histill.data.synthetic.patches import present, synthetic_patches
from histill.data.synthetic.scene import CLASSES

WHITE = "white"
TISSUES = tuple(name for name in CLASSES.names if name != WHITE)
SPLIT_SLIDES = {"train": 12, "val": 4, "test": 24}
"""made-up slides, each with a look of its own, that a split's patches come from"""


def write_tissue(
    folder: Path,
    *,
    train: int,
    val: int,
    test: int,
    size: int = 224,
    mpp: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make a folder of patches with their truth, the splits from different made-up slides; returns its `data.csv`.

    Glass is no tissue: it stands in the masks, and means "ignore".

    Args:
        folder: made whole, or not at all.
        train: patches to learn from.
        val: patches to choose epochs with.
        test: patches to score on.
        size: side in px.
        mpp: um/px.
        seed: of everything.
        progress: called with (patches done, patches in all).
    """
    card = dataset_card("histill synth tissue: made-up images with known truth")
    counts = {"train": train, "val": val, "test": test}
    samples: list[Sample] = []
    with new_folder(folder) as making:
        for split, count in counts.items():
            patches = synthetic_patches(
                count, seed=_split_seed(seed, split), size=size, slides=SPLIT_SLIDES[split], mpp=mpp
            )
            for number, patch in enumerate(patches):
                name = f"{split}-{number:05d}"
                write_inside(making, f"images/{name}.png", rgb_png(patch.image))
                write_inside(making, f"masks/{name}.png", label_png(patch.truth, CLASSES))
                samples.append(
                    Sample(
                        id=name,
                        path=making / f"images/{name}.png",
                        labels=tuple(label for label in present(patch.truth) if label != WHITE),
                        patient=f"{split}-{patch.slide}",
                        split=split,
                        mask=making / f"masks/{name}.png",
                        mpp=mpp,
                    )
                )
                if progress is not None:
                    progress(len(samples), sum(counts.values()))
        write_manifest(making / "data.csv", [sample for sample in samples if sample.labels], card)
    return folder / "data.csv"


def dataset_card(source: str) -> DatasetCard:
    """What the masks of made-up tissue mean: glass is no tissue."""
    return DatasetCard(
        classes=TISSUES,
        colours=tuple(CLASSES.colours[CLASSES.index(name)] for name in TISSUES),
        mask_values={str(i): "ignore" if name == WHITE else name for i, name in enumerate(CLASSES.names)},
        synthetic=True,
        source=source,
        licence="CC0",
    )


def _split_seed(seed: int, split: str) -> int:
    # Splits never share a patch or a slide, whatever their sizes.
    return 3 * seed + list(SPLIT_SLIDES).index(split)
