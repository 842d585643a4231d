"""GlaS: colon glands at 20x (MICCAI 2015), image labels gland, stroma (--lesions: gland or none); true masks for all.

Sirinukunwattana et al., Medical Image Analysis 35:489-502 (2017); Sirinukunwattana, Snead and Rajpoot, IEEE
Transactions on Medical Imaging 2015, doi:10.1109/TMI.2015.2433900. Train rows are 112-pixel crops; test rows are whole
images of the official test set, whose patients stand in the train set too. As lesions, glands are what is looked for:
a crop is labelled gland or, where there is none, stroma, the background.
"""

from __future__ import annotations

from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.manifest import Sample
from histill.data.sources.published import Imported, PublishedFolder, Row, crop_id

MPP = 0.62005
"""um/px of the scanner (Zeiss MIRAX MIDI, 20x)"""

LEAST_SHARE = 0.05
"""a class that covers so much of an image is named in its labels"""

CARD = DatasetCard(
    classes=("gland", "stroma"),
    mask_values={"255": "gland", "0": "stroma"},
    split_source="official",
    source=(
        "GlaS / Warwick-QU (MICCAI 2015 gland segmentation challenge). Cite: Sirinukunwattana et al., "
        "Gland segmentation in colon histology images: the GlaS challenge contest, Medical Image Analysis 35:489-502 "
        "(2017); Sirinukunwattana, Snead, Rajpoot, A stochastic polygons model for glandular structures in colon "
        "histology images, IEEE Transactions on Medical Imaging (2015), doi:10.1109/TMI.2015.2433900"
    ),
    licence="research purposes only, no commercial use, cite; do not redistribute",
)
NOTES = (
    "Labels are derived from the masks: gland where it covers at least 5 %, stroma where gland covers at most 95 %",
    "Train images are JPEG copies (quality 95) of the published ones; test images are the published ones",
)

LESIONS = CARD.model_copy(update={"background": "stroma"})
LESION_LABELS = {"gland": ("gland",), "no_gland": ("stroma",), "ambiguous": ()}
"""What the table's 0/1 column says: gland where it covers at least 25 %, none where at most 1 %, nothing between."""


def read(folder: Path, *, lesions: bool = False) -> Imported:
    """Read the data set's folder.

    Args:
        folder: holds `manifest.csv`, `crops_train.csv`, images and masks.
        lesions: label crops with or without glands, for methods of lesion labels; those with few are left out.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if the tables are not there.
    """
    column = "crop_label" if lesions else "labels"
    data = PublishedFolder(folder, ("patient_id", "gland_fraction"), (column, "patient_id"))
    samples = []
    unsure = 0
    for crop in data.crops:
        if crop.row["patient_id"] != crop.image["patient_id"]:
            data.fault(crop.row, f"patient {crop.row['patient_id']}, but its image is of {crop.image['patient_id']}")
        labels = _lesion(data, crop.row) if lesions else data.labels(crop.row, column, CARD.classes)
        if not labels:
            unsure += 1
            continue
        samples.append(
            Sample(
                id=crop_id(crop.row["path"], crop.region),
                path=folder / crop.row["path"],
                crop=crop.region,
                labels=labels,
                patient=crop.row["patient_id"],
                split="train",
                mask=data.file(crop.image, "mask_path"),
                mpp=MPP,
            )
        )
    samples += [
        Sample(
            id=Path(row["path"]).stem,
            path=folder / row["path"],
            labels=_labels(data, row, lesions),
            patient=row["patient_id"],
            split="test",
            mask=data.file(row, "mask_path"),
            mpp=MPP,
        )
        for row in data.of_split("test")
    ]
    data.close()
    if not lesions:
        return Imported(tuple(samples), CARD, NOTES)
    labelled = (
        "Labels are derived from the masks: gland where it covers at least 25 %, stroma where gland covers at most 1 %;"
        f" {unsure} crops between are left out"
    )
    return Imported(tuple(samples), LESIONS, (labelled, NOTES[1]))


def _lesion(data: PublishedFolder, row: Row) -> tuple[str, ...]:
    if row["crop_label"] not in LESION_LABELS:
        data.fault(row, f"crop_label: '{row['crop_label']}' is not one of {', '.join(LESION_LABELS)}")
    return LESION_LABELS.get(row["crop_label"], ())


def _labels(data: PublishedFolder, row: Row, lesions: bool) -> tuple[str, ...]:
    share = data.number(row, "gland_fraction")
    if lesions:
        return ("gland",) if share > 0 else ("stroma",)
    return tuple(name for name, part in (("gland", share), ("stroma", 1 - share)) if part >= LEAST_SHARE)
