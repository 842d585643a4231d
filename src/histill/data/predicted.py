"""A folder of what was made of samples, as `engine.apply` writes it: an index, a record for each, masks or features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Sample
from histill.core.masks import LabelMap, read_indexed
from histill.core.record import OK, Record, faults, fingerprint, read_record
from histill.core.storage import file_hash, safe_name, write_json
from histill.slides.identity import fingerprint_slide

Kind = Literal["images", "slides", "bags"]

PREDICTIONS = "predictions"
INDEX = f"{PREDICTIONS}.json"


@dataclass(frozen=True)
class Predictions:
    """A folder of predictions, or of other things that were made of samples.

    Attributes:
        folder: where.
        kind: of what was predicted.
        method: that made them, or encoder.
        model: digest of the model.
        settings: hash of all that its masks depend on besides the images; a record of other settings does not count.
        classes: names, in the order of the masks' indices.
        about: what a report about them says: seed, and what chose the epoch.
        warnings: what every report about them repeats.
        name: of index and table. Others than predictions have their records in a folder of their own below `records`.
    """

    folder: Path
    kind: Kind
    method: str
    model: str
    settings: str
    classes: tuple[str, ...]
    about: dict[str, Any]
    warnings: tuple[str, ...]
    name: str = PREDICTIONS

    def write(self) -> None:
        """Write the index."""
        index = {name: value for name, value in vars(self).items() if name not in ("folder", "name")}
        write_json(
            self.folder / f"{self.name}.json", {**index, "classes": list(self.classes), "warnings": list(self.warnings)}
        )

    def record_path(self, sample: Sample) -> Path:
        """Where a sample's record stands."""
        records = self.folder / "records"
        return (records if self.name == PREDICTIONS else records / self.name) / f"{safe_name(sample.id)}.json"

    def record_of(self, sample: Sample) -> Record | None:
        """A sample's record; None if there is none of these settings."""
        record = read_record(self.record_path(sample))
        return record if record is not None and record.settings == self.settings else None

    def mask_of(self, sample: Sample) -> LabelMap | None:
        """The predicted label map of an image, uint8 [h, w]; None for one that was quarantined. Raises as `file_of`."""
        file = self.file_of(sample)
        return None if file is None else read_indexed(file)

    def file_of(self, sample: Sample) -> Path | None:
        """The file of the predicted label map; None for a sample that was quarantined, or is empty.

        Raises:
            HistillError: as `current_record`.
        """
        record = self.current_record(sample)
        return None if record is None else self.folder / next(n for n in record.outputs if n.startswith("masks/"))

    def current_record(self, sample: Sample) -> Record | None:
        """The record of a sample, if it still holds; None for one that was quarantined, or is empty.

        Raises:
            HistillError: input (4) if the sample was not predicted by this model, its file is no longer the one that
                was predicted, or what was written is not what stands there.
        """
        record = self.record_of(sample)
        if record is None:
            wrong = ["was not predicted by this model"]
        elif record.source != source_of(sample, self.kind):
            wrong = ["the file is another than the one that was predicted"]
        elif record.status != OK:
            return None
        else:
            wrong = faults(record, self.folder)
        if wrong:
            raise HistillError(
                "; ".join(wrong),
                code=Exit.INPUT,
                subject=f"{self.folder}: {sample.id}",
                mend="Run 'histill predict' again: it does what is missing",
            )
        return record


def open_predictions(folder: Path) -> Predictions:
    """Open a folder that `apply` wrote.

    Raises:
        HistillError: input (4) if it is none.
    """
    try:
        index = json.loads((folder / INDEX).read_bytes())
        index |= {"classes": tuple(index["classes"]), "warnings": tuple(index["warnings"])}
        return Predictions(folder, **index)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HistillError(
            "holds no predictions",
            code=Exit.INPUT,
            subject=str(folder),
            mend="Give the folder that 'histill predict --to' wrote",
        ) from error


def source_of(sample: Sample, kind: Kind) -> str:
    """A hash of what is predicted: an image's content and its crop, or a slide's content and the spacing given."""
    try:
        if kind == "slides":
            return fingerprint([fingerprint_slide(sample.path), sample.mpp])
        content = file_hash(sample.path)
    except (OSError, HistillError):
        content = None
    crop = sample.crop
    return fingerprint([content, [crop.x, crop.y, crop.w, crop.h] if crop else None])
