"""The user's table: one CSV row a sample, and beside it a YAML card that names the classes.

``data.csv`` holds `COLUMNS`; ``data.yaml`` holds a `DatasetCard`. Every fault of a table comes in one error, each with
its line number.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from histill.core.card import DatasetCard
from histill.core.cells import NOT_UTF8, read_cells, write_cells
from histill.core.config import read_yaml, resolve, to_yaml
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import Classes
from histill.core.seeds import generator
from histill.core.storage import write_bytes

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("sample_id", "slide_id"),
    "path": ("image", "image_path", "file", "filename", "slide", "wsi"),
    "x": (),
    "y": (),
    "w": ("width",),
    "h": ("height",),
    "labels": ("label", "image_labels", "category"),
    "patient": ("patient_id", "case_id", "case"),
    "split": (),
    "mask": ("mask_path",),
    "boxes": (),
    "mpp": ("spacing", "spacing_at_level_0"),
}
"""Column names, each with the aliases that are understood (upper or lower case)."""

COLUMN_OF = {alias: name for name, aliases in COLUMNS.items() for alias in (name, *aliases)}
"""Our name for each column name that is understood."""

SPLITS = ("train", "val", "test")
LABEL_SEPARATOR = "|"
MOST_FAULTS = 40
"""So many faults are spelt out; the rest are counted."""


@dataclass(frozen=True)
class Sample:
    """One row: an image, or a crop of one, and what is known of it.

    Attributes:
        id: unique name.
        path: the image file.
        crop: the part of the image that is meant, or None for all of it.
        labels: names of the classes that are there; empty where nothing is known.
        patient: whom it came from; a crop's defaults to its parent image.
        split: train, val, test, or empty.
        mask: file of the true mask of the whole image (the crop applies to it too), or None.
        boxes: file of the true boxes, or None.
        mpp: spacing in um/px, or None: then everything works in this image's own pixels.
        line: its line in the table, for messages.
    """

    id: str
    path: Path
    crop: Region | None = None
    labels: tuple[str, ...] = ()
    patient: str = ""
    split: str = ""
    mask: Path | None = None
    boxes: Path | None = None
    mpp: float | None = None
    line: int = 0

    def without_truth(self) -> Sample:
        """The same sample as a weakly supervised method may see it: no mask, no boxes."""
        return replace(self, mask=None, boxes=None)


@dataclass(frozen=True)
class Manifest:
    """A validated table.

    Attributes:
        samples: the rows, in the table's order.
        card: what the table's numbers mean.
        path: the CSV.
        digest: sha256 over table and card.
        warnings: what every report of a run on this table repeats.
    """

    samples: tuple[Sample, ...]
    card: DatasetCard
    path: Path
    digest: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def classes(self) -> Classes:
        """The classes with their colours."""
        return self.card.as_classes()

    def of_split(self, split: str) -> Manifest:
        """The rows of one split."""
        return self.choose(lambda sample: sample.split == split)

    def choose(self, keep: Callable[[Sample], bool]) -> Manifest:
        """The rows for which `keep` holds."""
        return replace(self, samples=tuple(sample for sample in self.samples if keep(sample)))

    def without_truth(self) -> Manifest:
        """The same rows without masks and boxes."""
        return replace(self, samples=tuple(sample.without_truth() for sample in self.samples))

    def require(self, what: Literal["labels", "mask", "boxes"]) -> None:
        """Raise a usage error that names each row (by line) without labels, a mask, or a file of boxes."""
        lacking = [f"line {sample.line} ({sample.id})" for sample in self.samples if not getattr(sample, what)]
        if lacking:
            noun = {"labels": "label", "mask": "mask", "boxes": "file of boxes"}[what]
            raise table_error(self.path, [f"{row} has no {noun}" for row in lacking], "Fill these in or leave them out")

    def split_off(self, fraction: float, seed: int) -> tuple[Manifest, Manifest]:
        """Cut a share of the samples off, whole patients only: (the rest, the part cut off).

        Patients are drawn in a seeded order until the share is reached; each side keeps at least one patient, and a
        patient with more than half of all samples stays.
        """
        sizes = Counter(sample.patient for sample in self.samples)
        patients = sorted(sizes)
        if len(patients) < 2:
            raise HistillError(
                "a validation part cannot be cut off by patient: there is only one patient",
                code=Exit.USAGE,
                subject=str(self.path),
                mend="Give a validation table (--val), mark rows with split val, or set select to last",
            )
        order = [patients[i] for i in generator(seed, "split").permutation(len(patients))]
        off: set[str] = set()
        count = 0
        for patient in order[:-1]:
            if off and count >= fraction * len(self.samples):
                break
            if sizes[patient] > len(self.samples) / 2:
                continue
            off.add(patient)
            count += sizes[patient]
        if not off:
            off.add(min(patients, key=lambda patient: sizes[patient]))
        return self.choose(lambda sample: sample.patient not in off), self.choose(lambda s: s.patient in off)


def read_manifest(path: Path) -> Manifest:
    """Read and check a table and its card.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if table or card is not there.
    """
    card_path = path.with_suffix(".yaml")
    if not path.is_file():
        raise HistillError("there is no such table", code=Exit.INPUT, subject=str(path), mend="Check the path")
    if not card_path.is_file():
        raise HistillError(
            f"there is no {card_path.name} beside it to name the classes",
            code=Exit.USAGE,
            subject=str(path),
            mend=f"Make one with: histill import plain {path} --to NEW.csv --classes NAME,NAME",
        )
    card = resolve(DatasetCard, (str(card_path), read_yaml(card_path)))
    data = path.read_bytes()
    samples, faults = parse_rows(data, path, card)
    warnings: list[str] = []
    shared = patients_in_two_splits(samples)
    if shared and card.split_source == "official":
        warnings.append(
            f"{len(shared)} patients stand in more than one split, as the official split has it: "
            "results overstate how well the model does on new patients"
        )
    else:
        faults += shared
    if card.synthetic:
        warnings.append(
            "The images are made up (synthetic): figures say how methods compare, not how they do on tissue"
        )
    if faults:
        raise table_error(path, faults, "Correct these lines")
    digest = hashlib.sha256(data + b"\0" + card_path.read_bytes()).hexdigest()
    return Manifest(tuple(samples), card, path, digest, tuple(warnings))


def parse_rows(
    data: bytes, path: Path, card: DatasetCard, leave_out: Collection[str] = ()
) -> tuple[list[Sample], list[str]]:
    """The samples of a table's bytes and the faults found, each with its line; paths are relative to the table.

    Args:
        data: the CSV, in UTF-8.
        path: where it stands.
        card: names the classes.
        leave_out: header cells of columns that are not read.
    """
    header, rows, row_faults = read_cells(data)
    names, faults = _columns(header, leave_out)
    faults += row_faults
    if not {"id", "path"} <= set(names):
        return [], faults
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for line, cells in rows:
        row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
        sample, found = _sample(row, line, path.parent, card)
        faults += [f"line {line}: {fault}" for fault in found]
        if sample is None:
            continue
        first = seen.setdefault(sample.id.lower(), line)
        if first != line:
            # Files are named after ids, and some systems ignore case.
            faults.append(f"line {line}: the id '{sample.id}' stands already on line {first}, in whatever case")
        samples.append(sample)
    return samples, faults


def write_manifest(path: Path, samples: Iterable[Sample], card: DatasetCard) -> None:
    """Write a table and its card; paths are stored relative to the table, in the form of `core.cells`."""
    if path.suffix == ".yaml":
        raise HistillError(
            "this is the name of its card", code=Exit.USAGE, subject=str(path), mend="Name the table .csv"
        )
    rows = [
        (
            sample.id,
            _relative(sample.path, path.parent),
            *((sample.crop.x, sample.crop.y, sample.crop.w, sample.crop.h) if sample.crop else ("", "", "", "")),
            LABEL_SEPARATOR.join(sample.labels),
            sample.patient,
            sample.split,
            _relative(sample.mask, path.parent),
            _relative(sample.boxes, path.parent),
            "" if sample.mpp is None else repr(sample.mpp),
        )
        for sample in samples
    ]
    write_bytes(path.with_suffix(".yaml"), to_yaml(card.model_dump(mode="json", exclude_defaults=True)))
    write_bytes(path, write_cells(COLUMNS, rows))


def _columns(header: Sequence[str], leave_out: Collection[str]) -> tuple[list[str], list[str]]:
    """Our name of each column, empty where it is not read, and the header's faults."""
    names: list[str] = []
    faults: list[str] = []
    for cell in header:
        name = "" if cell in leave_out else COLUMN_OF.get(cell.lower())
        if name is None:
            faults.append(f"line 1: unknown column '{cell}'{_column_hint(cell)}")
        elif name and name in names:
            faults.append(f"line 1: column '{name}' stands twice")
        names.append(name or "")
    faults += [f"line 1: there is no column '{name}'" for name in ("id", "path") if name not in names]
    return names, faults


def _column_hint(cell: str) -> str:
    if NOT_UTF8 in cell:
        return "; save the table as UTF-8"
    if ";" in cell or "\t" in cell:
        return "; separate the cells by commas"
    near = difflib.get_close_matches(cell.lower(), COLUMN_OF, 1)
    return f"; did you mean '{near[0]}'?" if near else f" (known: {', '.join(COLUMNS)})"


def _sample(row: dict[str, str], line: int, folder: Path, card: DatasetCard) -> tuple[Sample | None, list[str]]:
    faults: list[str] = []
    if not row["id"]:
        faults.append("the id is empty")
    if not row["path"]:
        return None, [*faults, "the path is empty"]
    files: dict[str, Path | None] = {}
    for name in ("path", "mask", "boxes"):
        file = files[name] = folder / row[name] if row.get(name) else None
        # os.path answers where Path.is_file raises: a cell too long for a name.
        if file is not None and not os.path.isfile(file):
            faults.append(f"{name}: there is no file {row[name]}")
    labels = tuple(part.strip() for part in row.get("labels", "").split(LABEL_SEPARATOR) if part.strip())
    for label in labels:
        if label not in card.classes:
            near = difflib.get_close_matches(label, card.classes, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            faults.append(f"the label '{label}' is not one of {', '.join(card.classes)}{hint}")
    if len(set(labels)) != len(labels):
        faults.append("a label stands twice")
    split = row.get("split", "")
    if split and split not in SPLITS:
        faults.append(f"the split '{split}' is not one of {', '.join(SPLITS)}")
    crop, mpp = _crop(row, faults), _mpp(row.get("mpp", ""), faults)
    assert files["path"] is not None
    patient = row.get("patient") or Path(row["path"]).with_suffix("").as_posix()
    return Sample(
        row["id"], files["path"], crop, labels, patient, split, files["mask"], files["boxes"], mpp, line
    ), faults


def _crop(row: dict[str, str], faults: list[str]) -> Region | None:
    cells = [row.get(name, "") for name in "xywh"]
    if not any(cells):
        return None
    try:
        x, y, w, h = (int(cell) for cell in cells)
    except ValueError:
        faults.append(f"the crop x, y, w, h = {', '.join(cells)} is not four whole numbers")
        return None
    if x < 0 or y < 0 or w <= 0 or h <= 0:
        faults.append(f"the crop x, y, w, h = {x}, {y}, {w}, {h} is not a rectangle inside an image")
    return Region(x, y, w, h)


def _mpp(cell: str, faults: list[str]) -> float | None:
    if not cell:
        return None
    try:
        mpp = float(cell)
    except ValueError:
        mpp = float("nan")
    if not plausible_mpp(mpp):
        faults.append(f"the spacing '{cell}' is not a plausible number of um/px")
    return mpp


def plausible_mpp(mpp: float) -> bool:
    """Whether a spacing in um/px can be a light microscope's, from an oil lens to a slide's overview."""
    return 0.01 <= mpp <= 1000


def patients_in_two_splits(samples: Iterable[Sample]) -> list[str]:
    """One fault for each patient that stands in two splits, with both lines."""
    first: dict[str, Sample] = {}
    faults: dict[str, str] = {}
    for sample in samples:
        if not sample.split:
            continue
        other = first.setdefault(sample.patient, sample)
        if other.split != sample.split and sample.patient not in faults:
            faults[sample.patient] = (
                f"line {sample.line}: patient '{sample.patient}' stands in split {sample.split}, "
                f"but on line {other.line} in {other.split}"
            )
    return list(faults.values())


def table_error(path: Path, faults: Sequence[str], mend: str, code: Exit = Exit.USAGE) -> HistillError:
    """One error that spells out the first `MOST_FAULTS` faults of a table and counts the rest."""
    shown = list(faults[:MOST_FAULTS])
    if len(faults) > MOST_FAULTS:
        shown.append(f"and {len(faults) - MOST_FAULTS} more")
    count = f"{len(faults)} fault" + ("s" if len(faults) != 1 else "")
    return HistillError(f"{count}\n  " + "\n  ".join(shown) + "\n", code=code, subject=str(path), mend=mend)


def _relative(file: Path | None, folder: Path) -> str:
    if file is None:
        return ""
    # Links to folders are followed first: behind one, '..' leads elsewhere. A link to the file itself stays.
    return Path(os.path.relpath(file.parent.resolve() / file.name, folder.resolve())).as_posix()
