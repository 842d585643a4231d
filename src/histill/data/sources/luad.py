"""LUAD-HistoSeg as published: lung, patches labelled tumour, necrosis, lymphocytes, stroma; masks for val and test.

Han et al., Medical Image Analysis 80:102487 (2022). Names such as ``1031280-2300-27920-[1 0 0 1].png`` begin with the
patient's number, and go on with the patch's corner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from histill.core.card import DatasetCard
from histill.data.sources.patch_sets import PatchSet, read_patch_set
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet

LUAD = PatchSet(
    card=DatasetCard(
        classes=("TE", "NEC", "LYM", "TAS"),
        colours=((205, 51, 51), (0, 255, 0), (65, 105, 225), (255, 165, 0)),
        mask_values={"0": "TE", "1": "NEC", "2": "LYM", "3": "TAS", "4": "ignore"},
        exclude_white=True,
        source=(
            "LUAD-HistoSeg. Cite: Han et al., Multi-layer pseudo-supervision for histopathology tissue semantic "
            "segmentation using patch-level classification labels, Medical Image Analysis 80:102487 (2022)"
        ),
        licence="none stated by its authors: research use only, do not redistribute",
    ),
    published={"train": 16_678, "val": 300, "test": 307},
    patient=re.compile(r"([0-9]+)[-_][0-9]+[-_][0-9]+$"),
    notes=("How large a pixel is stays open: 10x is all that is published",),
)


def read(
    folder: Path, *, to: Path, mask_values: Mapping[str, str] | None = None, counters: Counters = quiet
) -> Imported:
    """Read the data set's folder; see `read_patch_set`."""
    return read_patch_set(LUAD, folder, to, mask_values or {}, counters)
