"""A cohort: a table of slides with labels and patients, held against the bags that there are, as a `Manifest`.

The tables are those of other tools as they lie there: CLAM (`case_id, slide_id, label`; ``splits_<k>.csv``), STAMP (a
clinical table with `PATIENT`, a slide table with `PATIENT, FILENAME`), slideflow and PathBench (`slide, patient,
category`), slide2vec, BRACS, CAMELYON17. Further columns are left out. All faults come in one error with their lines.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.cells import NOT_UTF8, read_cells
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import (
    LABEL_SEPARATOR,
    SPLITS,
    Manifest,
    Sample,
    patients_in_two_splits,
    plausible_mpp,
    table_error,
)
from histill.data.bags import SUFFIXES
from histill.data.sources.stems import SPLIT_FOLDERS, TCGA
from histill.slides.open import SUFFIXES as SLIDE_SUFFIXES

COLUMNS: dict[str, tuple[str, ...]] = {
    "slide": ("slide_id", "slide", "sample_id", "filename", "wsi", "wsi filename", "image_path", "id", "path"),
    "patient": ("case_id", "patient", "patient_id", "patient id", "case"),
    "label": ("label", "labels", "category", "wsi label"),
    "split": ("split", "set"),
    "mpp": ("mpp", "spacing", "spacing_at_level_0"),
}
"""What a column is for, and the names it goes by in whatever case; of two that are there, the first counts."""

BRACS_GROUPS = {"N": "BT", "PB": "BT", "UDH": "BT", "FEA": "AT", "ADH": "AT", "DCIS": "MT", "IC": "MT"}
"""The seven types of BRACS to its three groups: benign, atypical, malignant. For `rename`."""

CAMELYON17 = re.compile(r"(patient_[0-9]+)_node_[0-9]+")
_UNKNOWN = ("", "nan")
_SEVERAL = "results overstate how well the model does on new patients"


def read_cohort(
    table: Path,
    bags: Mapping[str, Path],
    *,
    label: str = "",
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    slides: Path | None = None,
    splits: Path | None = None,
    official: bool = False,
    skip_missing: bool = False,
) -> Manifest:
    """Read a table of slides, one sample a bag. `core.manifest.write_manifest` keeps what it gives.

    Args:
        table: a CSV in UTF-8 with a header; with `slides`, of patients.
        bags: the feature files by slide id, as `data.bags.find_bags` gives them.
        label: the column of labels, where it goes by none of the known names.
        classes: class names in label order; left out, those that occur, in order.
        rename: what labels stand for, such as `BRACS_GROUPS`.
        slides: STAMP's slide table, which says whose each slide is.
        splits: CLAM's ``splits_<k>.csv``; it counts more than a column.
        official: a patient may stand in two splits, and every report says so.
        skip_missing: leave out slides without a feature file, and count them; otherwise each is a fault.

    Returns:
        A manifest whose samples have a bag as their path. Its warnings say what was left out.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if a table is not there.
    """
    reader = _Cohort(table, bags, dict(rename or {}), skip_missing)
    reader.read(label, slides)
    if splits is not None:
        reader.split(splits)
    names = reader.classes(classes)
    shared = patients_in_two_splits(reader.samples)
    if shared and official:
        reader.notes.append(f"{len(shared)} patients stand in more than one split, as was asked for: {_SEVERAL}")
    else:
        reader.faults += shared
    if reader.faults:
        mend = "Correct these lines"
        if reader.without_bag and not skip_missing:
            mend += ", extract the missing features, or have such slides skipped (skip_missing)"
        raise table_error(table, reader.faults, mend)
    source = "official" if official else "patient"
    card = resolve(DatasetCard, ("classes", {"classes": list(names), "split_source": source}))
    return Manifest(
        tuple(reader.samples), card, table, _digest(reader, card, table, slides, splits), tuple(reader.notes)
    )


def read_splits(path: Path) -> dict[str, tuple[str, int]]:
    """CLAM's ``splits_<k>.csv``: the split of each slide and its line. Columns may be of different lengths.

    Raises:
        HistillError: usage (2) with every fault and its line; input (4) if it is not there.
    """
    reader = csv.reader(io.StringIO(_bytes(path).decode("utf-8-sig", "replace"), newline=""))
    faults: list[str] = []
    found: dict[str, tuple[str, int]] = {}
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        columns = {place: name for place, name in enumerate(header) if name in SPLITS}
        if not columns or len(set(columns.values())) != len(columns):
            faults.append(f"line 1: the columns are {', '.join(header) or 'none'}, not train, val, test")
        for cells in reader:
            # Shorter columns end in empty cells, or where others just go on.
            named = [(split, _slide_id(cells[place])) for place, split in columns.items() if place < len(cells)]
            for split, slide in named:
                first = found.setdefault(slide, (split, reader.line_num)) if slide not in _UNKNOWN else None
                if NOT_UTF8 in slide:
                    faults.append(f"line {reader.line_num}: not UTF-8; save the table as UTF-8")
                elif slide in ("True", "False"):
                    raise table_error(path, ["line 2: it says True and False"], "Give splits_<k>.csv, not its _bool")
                elif first is not None and first != (split, reader.line_num):
                    what = f"slide '{slide}' stands in {split}, but on line {first[1]} already in {first[0]}"
                    faults.append(f"line {reader.line_num}: {what}")
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")
    if faults:
        raise table_error(path, faults, "Keep each slide once")
    return found


@dataclass(frozen=True)
class _Row:
    """A line by what its columns are for; `where` it stands, for messages."""

    where: str
    line: int
    cells: dict[str, str]

    def __getitem__(self, role: str) -> str:
        return self.cells.get(role, "")


class _Cohort:
    """One pass over the tables; every fault is kept for one report."""

    def __init__(self, table: Path, bags: Mapping[str, Path], rename: dict[str, str], skip_missing: bool) -> None:
        self.table, self.rename, self.skip_missing = table, rename, skip_missing
        self.bags = {slide.lower(): (slide, path) for slide, path in bags.items()}
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.named: dict[str, str] = {}
        self.without_bag: dict[str, str] = {}
        self.labelled = False

    def read(self, label: str, slides: Path | None) -> None:
        """The rows of the table, or of its slide table."""
        rows, roles = self._rows(self.table, ("patient",) if slides else ("slide",), label)
        self.labelled = "label" in roles
        if slides is None:
            for row in rows:
                self._add(row)
        else:
            self._add_slides(rows, slides)
        if self.skip_missing and self.without_bag:
            what = "slides have no feature file and are left out"
            self.notes.append(f"{len(self.without_bag)} {what}: {_some(list(self.without_bag))}")
        else:
            self.faults += [
                f"{where}: no feature file for the slide '{slide}'" for slide, where in self.without_bag.items()
            ]
        unused = len(self.bags.keys() - self.named.keys())
        if unused:
            self.notes.append(f"{unused} feature files are of no slide in the table")

    def split(self, path: Path) -> None:
        """Set the samples' splits as a file of CLAM's has them."""
        if any(sample.split for sample in self.samples):
            self.notes.append(f"The table's own splits are left for those of {path.name}")
        splits = {slide.lower(): (slide, *where) for slide, where in read_splits(path).items()}
        for key, (slide, split, line) in splits.items():
            if key not in self.named:
                self.faults.append(f"{path.name} line {line}: slide '{slide}' of {split} is not in the table")
        without = [sample.id for sample in self.samples if sample.id.lower() not in splits]
        if without:
            self.notes.append(f"{len(without)} slides are in none of the splits: {_some(without)}")
        self.samples = [replace(sample, split=splits.get(sample.id.lower(), ("", ""))[1]) for sample in self.samples]

    def classes(self, given: Sequence[str]) -> tuple[str, ...]:
        """The classes that are given, or those that occur; labels of none of them are faults."""
        found = {label for sample in self.samples for label in sample.labels}
        # 10 after 9 where labels are numbers.
        order = sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
        classes = tuple(given or order)
        if not self.samples and not self.faults:
            self.faults.append("line 1: no slide has a feature file")
        elif not classes and not self.faults:
            what = "no slide has a label" if self.labelled else "there is no column of labels; name it, or the classes"
            self.faults.append(f"line 1: {what}")
        for sample in self.samples:
            for label in sample.labels:
                if label not in classes:
                    near = difflib.get_close_matches(label, classes, 1)
                    hint = f"; did you mean '{near[0]}'?" if near else ""
                    self.faults.append(
                        f"line {sample.line}: the label '{label}' is not one of {', '.join(classes)}{hint}"
                    )
        return classes

    def _rows(self, path: Path, needs: Sequence[str], label: str = "") -> tuple[list[_Row], set[str]]:
        """A table's rows, and the roles for which it has columns."""
        header, rows, faults = read_cells(_bytes(path))
        where = "" if path == self.table else f"{path.name} "
        lower = [cell.lower() for cell in header]
        roles: dict[str, int] = {}
        for role, names in COLUMNS.items():
            known = [lower.index(name) for name in names if name in lower]
            roles |= {role: known[0]} if known else {}
        if {"patient", "stage"} <= set(lower) and "slide" in needs and "slide" not in roles:
            # CAMELYON17 calls a slide's file "patient", and its label "stage".
            roles |= {"slide": roles.pop("patient"), "label": lower.index("stage")}
        if label:
            exact = [place for place, cell in enumerate(header) if label in (cell, cell.lower())]
            if exact:
                roles["label"] = exact[0]
            else:
                faults.append(f"line 1: there is no column '{label}', but {', '.join(header)}")
        for role in needs:
            if role not in roles:
                faults.append(f"line 1: no column names the {role} ({', '.join(COLUMNS[role])})")
        self.faults += [where + fault for fault in faults]
        if not set(needs) <= set(roles):
            return [], set()
        made = [
            _Row(f"{where}line {line}", line, {role: cells[place] for role, place in roles.items()})
            for line, cells in rows
        ]
        return made, set(roles)

    def _add_slides(self, patients: list[_Row], slides: Path) -> None:
        by_patient: dict[str, _Row] = {}
        for row in patients:
            first = by_patient.setdefault(row["patient"], row)
            if first is not row:
                self.faults.append(f"{row.where}: patient '{row['patient']}' stands already on {first.where}")
        rows, _ = self._rows(slides, ("slide", "patient"))
        strangers = [row["slide"] for row in rows if row["patient"] not in by_patient]
        if strangers:
            what = f"slides in {slides.name} are of patients who are not in the table, and are left out"
            self.notes.append(f"{len(strangers)} {what}: {_some(strangers)}")
        for row in rows:
            whose = by_patient.get(row["patient"])
            if whose is not None:
                # Labels and splits stand on the patient's line.
                self._add(_Row(row.where, whose.line, {**row.cells, **whose.cells, "slide": row["slide"]}))
        without = by_patient.keys() - {row["patient"] for row in rows}
        if without:
            self.notes.append(f"{len(without)} patients have no slide: {_some(sorted(without))}")

    def _add(self, row: _Row) -> None:
        if row["slide"].lower().endswith(".zip"):
            # CAMELYON17's rows of patients.
            self._note_once("Rows of whole patients (.zip) are left out")
            return
        slide = self._slide(row["slide"])
        first = self.named.setdefault(slide.lower(), row.where)
        if not slide or first != row.where:
            what = f"slide '{slide}' stands already on {first}" if slide else "no slide is named"
            self.faults.append(f"{row.where}: {what}")
            return
        parts = (part.strip() for part in row["label"].split(LABEL_SEPARATOR))
        labels = tuple(self.rename.get(part, part) for part in parts if part.lower() not in _UNKNOWN)
        split, mpp = self._split(row), self._mpp(row)
        if slide.lower() not in self.bags:
            self.without_bag[slide] = row.where
            return
        name, path = self.bags[slide.lower()]
        patient = row["patient"] or self._patient(name)
        self.samples.append(Sample(name, path, labels=labels, patient=patient, split=split, mpp=mpp, line=row.line))

    def _slide(self, cell: str) -> str:
        """The id that a cell means: it may be a file's name, with or without its folder and its suffix."""
        name = re.split(r"[\\/]", cell)[-1].strip()
        return name if name.lower() in self.bags else _slide_id(cell)

    def _patient(self, slide: str) -> str:
        for pattern in (CAMELYON17, TCGA):
            if found := pattern.match(slide):
                return found[1]
        self._note_once("Where neither the table nor the name says whose a slide is, it counts as a patient of its own")
        return slide

    def _split(self, row: _Row) -> str:
        cell = row["split"].lower()
        split = next((split for split, names in SPLIT_FOLDERS.items() if cell in names), "")
        if not split and cell not in _UNKNOWN:
            self.faults.append(f"{row.where}: the split '{row['split']}' is not one of {', '.join(SPLITS)}")
        return split

    def _mpp(self, row: _Row) -> float | None:
        if row["mpp"].lower() in _UNKNOWN:
            return None
        try:
            mpp = float(row["mpp"])
        except ValueError:
            mpp = float("nan")
        if not plausible_mpp(mpp):
            self.faults.append(f"{row.where}: the spacing '{row['mpp']}' is not a plausible number of um/px")
        return mpp

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _slide_id(cell: str) -> str:
    """The stem of a file's name, of which only suffixes of slides and features are taken off: ids may hold dots."""
    name = re.split(r"[\\/]", cell)[-1].strip()
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in (*SLIDE_SUFFIXES, *SUFFIXES) else name


def _digest(reader: _Cohort, card: DatasetCard, *tables: Path | None) -> str:
    """A hash of all that the manifest follows from, but not of where it lies."""
    content = hashlib.sha256(repr((card.model_dump(), sorted(reader.rename.items()))).encode())
    for table in tables:
        content.update(b"\0" if table is None else hashlib.sha256(table.read_bytes()).digest())
    for sample in reader.samples:
        content.update(f"{sample.id}\0{sample.path.name}\0".encode(errors="surrogatepass"))
    return content.hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _bytes(path: Path) -> bytes:
    if path.suffix.lower() in (".xlsx", ".xls"):
        mend = "Save the sheet of slides as CSV in UTF-8"
        raise HistillError("a spreadsheet, not a CSV", code=Exit.USAGE, subject=str(path), mend=mend)
    try:
        return path.read_bytes()
    except OSError as error:
        what = "there is no readable table"
        raise HistillError(what, code=Exit.INPUT, subject=str(path), mend="Check the path") from error
