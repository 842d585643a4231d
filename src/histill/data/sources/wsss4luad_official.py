"""WSSS4LUAD as published (Grand Challenge): patches labelled tumor, stroma, normal; masks for val and test.

Han et al., "WSSS4LUAD: Grand Challenge on Weakly-supervised Tissue Semantic Segmentation for Lung Adenocarcinoma",
arXiv:2204.06455. ``1.training/436219-7159-48057-[1, 0, 0].png``, and ``img``, ``mask``, ``background-mask`` in
``2.validation`` and ``3.testing``, where images are numbered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from histill.data.sources.patch_sets import PatchSet, read_patch_set
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet
from histill.data.sources.wsss4luad import CARD

WSSS4LUAD = PatchSet(
    card=CARD.model_copy(update={"colours": ((0, 64, 128), (64, 128, 0), (243, 152, 0))}),
    published={"train": 10_091, "val": 40, "test": 80},
    patient=re.compile(r"([0-9.]+)[-_][0-9]+[-_][0-9]+$"),
    notes=("Which slides val and test were cut from is not published: train, val and test may share some",),
    numbered=True,
    hidden=("test",),
)


def read(
    folder: Path, *, to: Path, mask_values: Mapping[str, str] | None = None, counters: Counters = quiet
) -> Imported:
    """Read the data set's folder; see `read_patch_set`. What background masks mark is left out of the masks."""
    return read_patch_set(WSSS4LUAD, folder, to, mask_values or {}, counters)
