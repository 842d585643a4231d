"""HuBMAP "Hacking the Kidney": PAS slides with train.csv and polygons; or tiles of them with masks and a manifest.csv.

Slides: boxes come from ``train/<id>.json`` where it is there, as touching glomeruli are apart in it; else from the run
lengths in train.csv, where those that touch are one box. Patients come from HuBMAP-20-dataset_information.csv; without
it a slide is a patient. Tiles: boxes around the parts of masks (`components`), patients are slides.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histill.core.cells import read_cells
from histill.core.errors import Exit, HistillError
from histill.data.sources.boxed import BoxedImage, BoxedImages
from histill.data.sources.components import SPECK, read_mask, speck_note
from histill.data.sources.glomeruli_bupt import GLOMERULUS, read_table
from histill.data.sources.published import Imported
from histill.data.sources.runs import boxes_of_runs, read_runs
from histill.data.sources.stems import Counters, quiet
from histill.data.truth import read_outlines
from histill.slides.worker import open_guarded

INFORMATION = "HuBMAP-20-dataset_information.csv"
TILE_COLUMNS = ("path", "split", "mask_path", "n_boxes", "slide")
TILE_MPP = 8.0
"""Tiles are made at 1/16 of slides of some 0.5 um/px."""

SOURCE = "HuBMAP - Hacking the Kidney (Kaggle, 2020 to 2021), HuBMAP Consortium"
LICENCE = "HuBMAP Consortium; look up its terms before you use it"


def read(folder: Path, *, to: Path, split: str = "", mpp: float | None = None, counters: Counters = quiet) -> Imported:
    """Read the folder of the slides, or of the tiles.

    Args:
        folder: holds train.csv and train, or manifest.csv, images and masks.
        to: the table to come.
        split: of the slides; tiles have their own.
        mpp: um/px of slides that do not say it, and of tiles.
        counters: shows how far a step has come.

    Raises:
        HistillError: usage (2) with every fault, its file and line; input (4) if the folder is neither; storage (7).
    """
    if (folder / "train.csv").is_file():
        return _read_slides(folder, BoxedImages(folder, to, classes=(GLOMERULUS,), split=split, mpp=mpp), counters)
    if not (folder / "manifest.csv").is_file():
        what = "there is neither train.csv nor manifest.csv in it"
        raise HistillError(what, code=Exit.INPUT, subject=str(folder), mend="Name the data set's own folder")
    found = BoxedImages(folder, to, classes=(GLOMERULUS,), mpp=TILE_MPP if mpp is None else mpp)
    return _read_tiles(folder, found, counters)


def _read_tiles(folder: Path, found: BoxedImages, counters: Counters) -> Imported:
    rows = read_table(folder, TILE_COLUMNS)
    table, count, specks = folder / "manifest.csv", counters("reading masks"), 0
    for done, (line, row) in enumerate(rows, 1):
        image = found.image(folder / row["path"], table, f"line {line}", patient=row["slide"], split=row["split"])
        if image is not None:
            specks += read_mask(folder / row["mask_path"], image, {1: GLOMERULUS}, found)
            if str(len(image.found)) != row["n_boxes"]:
                what = f"line {line}: the mask has {len(image.found)} boxes, not {row['n_boxes']}"
                found.faults.add(table, what, "Get the data set again")
        count(done, len(rows))
    notes = ["Glomeruli that touch are one box", *speck_note(specks)]
    return found.close(source=f"{SOURCE}, tiles of github bobbqe/Glomeruli_segmentation", licence=LICENCE, notes=notes)


def _read_slides(folder: Path, found: BoxedImages, counters: Counters) -> Imported:
    table = folder / "train.csv"
    header, *lines = table.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if header.strip() != "id,encoding":
        what = "line 1: its columns are not id,encoding"
        raise HistillError(what, code=Exit.INPUT, subject=str(table), mend="Get the data set again")
    patients = _patients(folder, found)
    count, runs_alone, specks = counters("reading slides"), 0, 0
    for done, line in enumerate(lines, 1):
        # Run lengths fill megabytes: more than a reader of CSV takes for a cell.
        name, _, encoding = line.partition(",")
        image = _slide(folder / "train" / f"{name}.tiff", table, done + 1, patients.get(name, ""), found)
        drawn = folder / "train" / f"{name}.json"
        if image is not None and drawn.is_file():
            _take_outlines(drawn, image, found)
        elif image is not None:
            runs_alone += 1
            specks += _take_runs(encoding.strip().strip('"'), image, table, done + 1, found)
        count(done, len(lines))
    notes = speck_note(specks)
    if runs_alone:
        notes.append(f"{runs_alone} slides have no polygons: glomeruli that touch are one box there")
    return replace(found.close(source=SOURCE, licence=LICENCE, notes=notes), looked_into=True)


def _slide(path: Path, table: Path, line: int, patient: str, found: BoxedImages) -> BoxedImage | None:
    try:
        with open_guarded(path) as slide:
            spacing = slide.facts.spacing
            return found.image(
                path,
                table,
                f"line {line}",
                size=slide.size,
                patient=patient or path.stem,
                mpp=None if spacing is None else spacing.mpp,
            )
    except HistillError as error:
        found.faults.add(table, f"line {line}: {path.name}: {error.what}", error.mend)
        return None


def _take_outlines(path: Path, image: BoxedImage, found: BoxedImages) -> None:
    try:
        outlines = read_outlines(path)
    except HistillError as error:
        found.faults.add_error(path, error)
        return
    for i, outline in enumerate(outlines, 1):
        found.box(image, outline.class_name or GLOMERULUS, outline.area.bounds, path, f"feature {i}")


def _take_runs(encoding: str, image: BoxedImage, table: Path, line: int, found: BoxedImages) -> int:
    """Take in the boxes of run lengths; returns how many specks were left out."""
    width, height = image.size
    try:
        runs = read_runs(encoding, width, height)
    except ValueError as error:
        found.faults.add(table, f"line {line}: the run lengths: {error}", "Get the data set again")
        return 0
    boxes, _ = boxes_of_runs(runs, height)
    large = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) >= SPECK
    for i, corners in enumerate(boxes[large].tolist(), 1):
        found.box(image, GLOMERULUS, corners, table, f"line {line}, part {i}")
    return int((~large).sum())


def _patients(folder: Path, found: BoxedImages) -> dict[str, str]:
    """Whom each slide comes from, by its id; nothing where no file says so."""
    path = folder / INFORMATION
    if not path.is_file():
        return {}
    header, rows, faults = read_cells(path.read_bytes())
    if faults or not {"image_file", "patient_number"} <= set(header):
        found.faults.add(path, "; ".join(faults) or "it lacks image_file or patient_number", "Get the data set again")
        return {}
    image, patient = header.index("image_file"), header.index("patient_number")
    return {Path(cells[image]).stem: cells[patient] for _, cells in rows}
