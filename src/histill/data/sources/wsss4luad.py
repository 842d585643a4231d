"""WSSS4LUAD: lung adenocarcinoma at 10x, image labels tumor, stroma, normal; true masks for the test images.

Han et al., "WSSS4LUAD: Grand Challenge on Weakly-supervised Tissue Semantic Segmentation for Lung Adenocarcinoma",
arXiv:2204.06455. Train rows are the 112-pixel crops of the official validation images; test rows are whole images.
"""

from __future__ import annotations

from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.manifest import Sample
from histill.data.sources.published import Imported, PublishedFolder, crop_id

CARD = DatasetCard(
    classes=("tumor", "stroma", "normal"),
    mask_values={"0": "tumor", "1": "stroma", "2": "normal", "3": "ignore"},
    exclude_white=True,
    source=(
        "WSSS4LUAD (Grand Challenge 2021). Cite: Han et al., WSSS4LUAD: Grand Challenge on Weakly-supervised Tissue "
        "Semantic Segmentation for Lung Adenocarcinoma, arXiv:2204.06455"
    ),
    licence="none stated by its authors: research use only, do not redistribute",
)
NOTES = (
    "Which slides the images were cut from is not published: train and test may share some",
    "Crop labels are derived from the masks (a class that covers 5 % of the tissue is named)",
)


def read(folder: Path) -> Imported:
    """Read the data set's folder.

    Args:
        folder: holds `manifest.csv`, `crops_train.csv`, images and masks.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if the tables are not there.
    """
    data = PublishedFolder(folder, (), ("image_labels",))
    samples = [
        Sample(
            id=crop_id(crop.row["path"], crop.region),
            path=folder / crop.row["path"],
            crop=crop.region,
            labels=data.labels(crop.row, "image_labels", CARD.classes),
            patient=Path(crop.row["path"]).stem,
            split="train",
            mask=data.file(crop.image, "mask_path"),
        )
        for crop in data.crops
    ]
    samples += [
        Sample(
            id=Path(row["path"]).stem,
            path=folder / row["path"],
            labels=data.labels(row, "image_labels", CARD.classes),
            patient=Path(row["path"]).stem,
            split="test",
            mask=data.file(row, "mask_path"),
        )
        for row in data.of_split("test")
    ]
    data.close()
    uncut = len(data.of_split("train")) - len({crop.row["path"] for crop in data.crops})
    left_out = (f"{uncut} train images without crops are left out",) if uncut else ()
    return Imported(tuple(samples), CARD, NOTES + left_out)
