"""From class maps and an image label to a label for each pixel, and where such masks are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample
from histill.core.masks import LabelMap, PseudoMask, grey_png, label_png, read_indexed
from histill.core.storage import safe_name, write_inside
from histill.pseudo.soft import SoftFolder, open_soft


def pseudo_mask(
    maps: NDArray[np.float32],
    labels: NDArray[np.float32],
    *,
    background: int | None = None,
    background_threshold: float = 0.25,
    provenance: Mapping[str, str] | None = None,
) -> PseudoMask:
    """The class of the greatest map among those that the image label names.

    Classes that the label does not name are out of the running (at minus infinity, not 0: 0 can win a tie). Where the
    data set has a background, it is whatever no named class reaches `background_threshold` at.

    Args:
        maps: float [k, h, w] in 0..1, one per class; the background's is not looked at.
        labels: 0 or 1, [k]; at least one.
        background: index of the background class, or None.
        background_threshold: see above.
        provenance: what the masks were made with.

    Returns:
        The mask; its confidence is the margin of the best over the second-best named class, or the best itself where
        it stands alone, and for background the threshold's distance, as a share of the threshold.
    """
    present = labels > 0
    if background is not None and present[background] and present.sum() == 1:
        # The label says that there is nothing but background.
        shape = maps.shape[1:]
        return PseudoMask(np.full(shape, background, np.uint8), np.ones(shape, np.float32), dict(provenance or {}))
    if background is not None:
        present[background] = False
    if not present.any():
        raise HistillError("an image without a label has no pseudo-mask", code=Exit.USAGE)
    running = np.where(present[:, None, None], maps, -np.inf)
    best = running.argmax(0).astype(np.uint8)  # [h, w]
    ordered = np.sort(running[present], axis=0)  # [named, h, w]
    confidence = ordered[-1] - ordered[-2] if len(ordered) > 1 else ordered[-1].copy()
    if background is not None:
        below = ordered[-1] < background_threshold
        best[below] = background
        confidence[below] = 1 - ordered[-1][below] / background_threshold
    return PseudoMask(best, confidence.astype(np.float32), dict(provenance or {}))


def check_informative(manifest: Manifest) -> None:
    """Refuse a training set on which every pseudo-mask would be constant.

    Where each image has one label and nothing is background, the best named class is the same at every pixel.
    """
    if manifest.classes.background is None and all(len(sample.labels) < 2 for sample in manifest.samples):
        raise HistillError(
            "every image has one label and no class is the background: pseudo-masks would be constant",
            code=Exit.USAGE,
            subject=str(manifest.path),
            mend="Label images with all the tissues they show, or name the background class in the table's card",
        )


def check_both_kinds(manifest: Manifest) -> None:
    """Refuse a training set that has not both: images with the lesion, and images without.

    Raises:
        HistillError: usage (2); also if the classes are not one and a background.
    """
    lesion = manifest.classes.names[manifest.classes.lesion]
    having = sum(lesion in sample.labels for sample in manifest.samples)
    if 0 < having < len(manifest.samples):
        return
    lack = "without" if having else "with"
    raise HistillError(
        f"there is no image {lack} {lesion} to learn from",
        code=Exit.USAGE,
        subject=str(manifest.path),
        mend=f"Add images {lack} {lesion}: what it looks like is learnt from the difference",
    )


class MaskFolder:
    """Pseudo-masks on disk: ``<tap>/<id>.png`` indexed in the classes' colours, ``<tap>/<id>.confidence.png`` grey."""

    def __init__(self, folder: Path, taps: Sequence[str]) -> None:
        self.folder, self.taps = folder, tuple(taps)

    def add(self, tap: str, sample: Sample, mask: PseudoMask, classes: Classes) -> None:
        """Write one mask; the folder is one that `Run.once` is making."""
        name = safe_name(sample.id)
        write_inside(self.folder, f"{tap}/{name}.png", label_png(mask.labels, classes))
        write_inside(self.folder, f"{tap}/{name}.confidence.png", grey_png(mask.confidence))

    def describe(self, provenance: Mapping[str, str]) -> None:
        """Write what the masks were made with."""
        text = json.dumps({"taps": list(self.taps), **provenance}, indent=2)
        write_inside(self.folder, "provenance.json", f"{text}\n".encode())

    def labels(self, tap: str, sample: Sample) -> LabelMap:
        """The label map of a sample at a tap, uint8 [h, w]."""
        return read_indexed(self.folder / tap / f"{safe_name(sample.id)}.png")

    def confidence(self, tap: str, sample: Sample) -> NDArray[np.float32]:
        """The confidence of a sample at a tap, float32 [h, w] in steps of 1/255."""
        steps = read_indexed(self.folder / tap / f"{safe_name(sample.id)}.confidence.png")
        return steps.astype(np.float32) / np.float32(255)

    def holds(self, sample: Sample) -> bool:
        """Whether there are masks of this sample."""
        return (self.folder / self.taps[-1] / f"{safe_name(sample.id)}.png").is_file()

    def read(self, sample: Sample, image: NDArray[np.uint8]) -> LabelMap:
        """All taps' label maps of a sample, uint8 [taps, h, w]: what `Tiles` takes as masks."""
        return np.stack([self.labels(tap, sample) for tap in self.taps])


PseudoMasks = MaskFolder | SoftFolder
"""Whatever a run's pseudo-masks were kept as: each has masks, `labels`, of its `taps`."""


def open_masks(folder: Path) -> PseudoMasks | None:
    """The pseudo-masks that a run left in a folder; None if there are none."""
    try:
        about = json.loads((folder / "provenance.json").read_bytes())
        return MaskFolder(folder, about["taps"]) if "taps" in about else open_soft(folder, about)
    except (OSError, ValueError, KeyError, TypeError):
        return None
