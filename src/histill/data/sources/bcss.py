"""BCSS-WSSS as published: breast, patches labelled tumour, stroma, lymphocytes, necrosis; masks for val and test.

Han et al., Medical Image Analysis 80:102487 (2022); cut from BCSS, Amgad et al., Bioinformatics 35:3461-3467 (2019).
Names such as ``TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+101[1100].png`` hold the patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from histill.core.card import DatasetCard
from histill.data.sources.patch_sets import PatchSet, read_patch_set
from histill.data.sources.published import Imported
from histill.data.sources.stems import TCGA, Counters, quiet

BCSS = PatchSet(
    card=DatasetCard(
        classes=("TUM", "STR", "LYM", "NEC"),
        colours=((255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255)),
        mask_values={"0": "TUM", "1": "STR", "2": "LYM", "3": "NEC", "4": "ignore"},
        source=(
            "BCSS-WSSS. Cite: Han et al., Multi-layer pseudo-supervision for histopathology tissue semantic "
            "segmentation using patch-level classification labels, Medical Image Analysis 80:102487 (2022); Amgad et "
            "al., Structured crowdsourcing enables convolutional segmentation of histology images, Bioinformatics "
            "35:3461-3467 (2019)"
        ),
        licence="none stated by its authors; BCSS, which it was cut from, is CC0 1.0",
    ),
    published={"train": 23_422, "val": 3_418, "test": 4_986},
    patient=TCGA,
    notes=(
        "How large a pixel is stays open: names give it for the images that patches were cut from, and whether patches "
        "were scaled is not published",
    ),
)


def read(
    folder: Path, *, to: Path, mask_values: Mapping[str, str] | None = None, counters: Counters = quiet
) -> Imported:
    """Read the data set's folder; see `read_patch_set`."""
    return read_patch_set(BCSS, folder, to, mask_values or {}, counters)
