"""Renal biopsy snapshots of BUPT and Peking University: Masson, PAS, PASM; boxes around glomeruli of any kind.

Jiang et al., American Journal of Pathology 191(8):1431-1441 (2021). Its labels gn, gs, gl and gm (normal, sclerosed,
other lesions, undocumented) become one class. The split is by case; nobody knows the magnification.
"""

from __future__ import annotations

from pathlib import Path

from histill.core.cells import read_cells
from histill.core.errors import Exit, HistillError
from histill.core.manifest import table_error
from histill.data.sources import labelme
from histill.data.sources.boxed import BoxedImages
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet

GLOMERULUS = "glomerulus"
KINDS = ("gn", "gs", "gl", "gm")
COLUMNS = ("path", "split", "mask_path", "n_boxes", "case_id")


def read(folder: Path, *, to: Path, counters: Counters = quiet) -> Imported:
    """Read the folder: `manifest.csv`, images, and their LabelMe files.

    Raises:
        HistillError: usage (2) with every fault; input (4) if there is no manifest; storage (7).
    """
    rows = read_table(folder, COLUMNS)
    found = BoxedImages(folder, to, classes=(GLOMERULUS,), rename=dict.fromkeys(KINDS, GLOMERULUS))
    count = counters("reading shapes")
    for done, (line, row) in enumerate(rows, 1):
        image, file, table = folder / row["path"], folder / row["mask_path"], folder / "manifest.csv"
        value = labelme.read_shapes(file, found)
        if value is not None:
            labelme.take(value, file, image, found, patient=row["case_id"], split=row["split"])
            if str(len(value["shapes"])) != row["n_boxes"]:
                what = f"line {line}: {len(value['shapes'])} shapes, not {row['n_boxes']}"
                found.faults.add(table, what, "Get the data set again")
        count(done, len(rows))
    return found.close(
        source=(
            "github bupt-ai-cz/Glomeruli-Instance-Segmentation. Cite: Jiang et al., A Deep Learning-Based Approach for "
            "Glomeruli Instance Segmentation from Multistained Renal Biopsy Pathologic Images, American Journal of "
            "Pathology 191(8):1431-1441 (2021)"
        ),
        licence="none stated for the images: internal research and evaluation only, do not redistribute",
        notes=("Its four kinds of glomeruli are one class here", "Its images have no spacing: 10x to 40x occur"),
    )


def read_table(folder: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a folder's `manifest.csv`, each with its line.

    Raises:
        HistillError: input (4) if it is not there; usage (2) if it is torn, or lacks a column.
    """
    path = folder / "manifest.csv"
    try:
        header, rows, faults = read_cells(path.read_bytes())
    except OSError as error:
        what = "there is no readable manifest.csv"
        raise HistillError(what, code=Exit.INPUT, subject=str(folder), mend="Name the data set's own folder") from error
    lacking = [column for column in columns if column not in header]
    if lacking or faults:
        faults = [*faults, *([f"line 1: there is no column {', '.join(lacking)}"] if lacking else [])]
        raise table_error(path, faults, "Get the data set again")
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows]
