"""A data set of made-up patches on disk: images, true masks, and the table with image labels. It is synthetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.card import DatasetCard
from histill.core.manifest import Sample, write_manifest
from histill.core.masks import label_png, rgb_png
from histill.core.storage import new_folder, write_inside
from histill.data.synthetic.patches import present, synthetic_patches
from histill.data.synthetic.scene import CLASSES, TUMOUR

WHITE = "white"
TISSUES = tuple(name for name in CLASSES.names if name != WHITE)
LESION, NORMAL = CLASSES.names[TUMOUR], "normal"
SPLIT_SLIDES = {"train": 12, "val": 4, "test": 24}
"""made-up slides, each with a look of its own, that a split's patches come from"""


@dataclass(frozen=True)
class Labelling:
    """What is said of a made-up patch.

    Attributes:
        card: what labels and masks mean.
        labels: truth uint8 [h, w], in the indices of `CLASSES` -> image labels; none of a patch that is left out.
    """

    card: DatasetCard
    labels: Callable[[NDArray[np.uint8]], tuple[str, ...]]


def write_patches(
    folder: Path,
    labelling: Labelling,
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

    Images and masks are the same bytes whatever is said of them, and masks always show every tissue: the card tells
    what that means.

    Args:
        folder: made whole, or not at all.
        labelling: `TISSUE` or `LESIONS`.
        train: patches to learn from, of which some may be left out.
        val: patches to choose epochs with.
        test: patches to score on.
        size: side in px.
        mpp: um/px.
        seed: of everything.
        progress: called with (patches done, patches in all).
    """
    counts = {"train": train, "val": val, "test": test}
    samples: list[Sample] = []
    done = 0
    with new_folder(folder) as making:
        for split, count in counts.items():
            patches = synthetic_patches(
                count, seed=_split_seed(seed, split), size=size, slides=SPLIT_SLIDES[split], mpp=mpp
            )
            for number, patch in enumerate(patches):
                done += 1
                if progress is not None:
                    progress(done, sum(counts.values()))
                labels = labelling.labels(patch.truth)
                if not labels:
                    continue
                name = f"{split}-{number:05d}"
                write_inside(making, f"images/{name}.png", rgb_png(patch.image))
                write_inside(making, f"masks/{name}.png", label_png(patch.truth, CLASSES))
                samples.append(
                    Sample(
                        id=name,
                        path=making / f"images/{name}.png",
                        labels=labels,
                        patient=f"{split}-{patch.slide}",
                        split=split,
                        mask=making / f"masks/{name}.png",
                        mpp=mpp,
                    )
                )
        write_manifest(making / "data.csv", samples, labelling.card)
    return folder / "data.csv"


def tissues_of(truth: NDArray[np.uint8]) -> tuple[str, ...]:
    """The tissues that cover at least 5 % of a patch; none of a patch that is all glass."""
    return tuple(label for label in present(truth) if label != WHITE)


def lesion_of(truth: NDArray[np.uint8]) -> tuple[str, ...]:
    """The lesion, where it covers at least 5 % of a patch; normal, where it covers none; between them neither."""
    if LESION in present(truth):
        return (LESION,)
    return () if (truth == TUMOUR).any() else (NORMAL,)


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


TISSUE = Labelling(dataset_card("histill synth tissue: made-up images with known truth"), tissues_of)
"""Image labels name the tissues; glass is none."""

LESIONS = Labelling(
    DatasetCard(
        classes=(LESION, NORMAL),
        background=NORMAL,
        mask_values={str(i): LESION if i == TUMOUR else NORMAL for i in range(len(CLASSES))},
        synthetic=True,
        source="histill synth lesions: made-up images with known truth",
        licence="CC0",
    ),
    lesion_of,
)
"""Image labels say whether there is tumour; all else, glass too, is normal."""


def _split_seed(seed: int, split: str) -> int:
    # Splits never share a patch or a slide, whatever their sizes.
    return 3 * seed + list(SPLIT_SLIDES).index(split)
