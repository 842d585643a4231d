"""A published data set as it lies on disk: `manifest.csv` names its images, `crops_train.csv` parts of them.

Reading is strict: every row and file is held against the others, and all faults come in one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.cells import read_cells
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.manifest import LABEL_SEPARATOR, Sample, table_error
from histill.data.images import image_size

IMAGE_TABLE, CROP_TABLE = "manifest.csv", "crops_train.csv"
IMAGE_COLUMNS = ("path", "split", "image_labels", "mask_path", "width", "height", "sha256")
CROP_COLUMNS = ("path", "x", "y", "w", "h")


@dataclass(frozen=True)
class Imported:
    """What an importer read, ready for `core.manifest.write_manifest`.

    Attributes:
        samples: the rows.
        card: what their labels and masks mean, where they come from.
        notes: what the user should know of this reading, one sentence each.
        looked_into: the rows' files are no images, and each has been opened.
    """

    samples: tuple[Sample, ...]
    card: DatasetCard
    notes: tuple[str, ...] = ()
    looked_into: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table: its cells by column, and where it stands for messages."""

    table: str
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


@dataclass(frozen=True)
class Crop:
    """A part of an image: its own row, its image's row, and where it lies."""

    row: Row
    image: Row
    region: Region


class PublishedFolder:
    """The checked tables of a data set's folder. Read `images` and `crops`, then `close`.

    Args:
        folder: where `manifest.csv`, `crops_train.csv` and the files they name are.
        image_columns: columns that this data set's manifest has beyond `IMAGE_COLUMNS`.
        crop_columns: the same for `CROP_COLUMNS`.

    Attributes:
        images: the rows of the manifest by path.
        crops: the parts of its train images.
        faults: what was found wrong so far.

    Raises:
        HistillError: input (4) if the folder or a table is not there.
    """

    def __init__(self, folder: Path, image_columns: Sequence[str], crop_columns: Sequence[str]) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.images: dict[str, Row] = {}
        for row in self._read(IMAGE_TABLE, (*IMAGE_COLUMNS, *image_columns)):
            if row["path"] in self.images:
                self.fault(row, f"{row['path']} stands already on line {self.images[row['path']].line}")
                continue
            self.images[row["path"]] = row
            self._check_image(row)
        self._check_count()
        self.crops = [
            crop for row in self._read(CROP_TABLE, (*CROP_COLUMNS, *crop_columns)) if (crop := self._crop(row))
        ]

    def fault(self, row: Row, what: str) -> None:
        """Note a fault of a row."""
        self.faults.append(f"{row.table} line {row.line}: {what}")

    def of_split(self, split: str) -> list[Row]:
        """The images of one split."""
        return [row for row in self.images.values() if row["split"] == split]

    def labels(self, row: Row, column: str, known: Sequence[str]) -> tuple[str, ...]:
        """The labels in a cell; one that is not known is a fault."""
        labels = tuple(row[column].split(LABEL_SEPARATOR))
        unknown = [label for label in labels if label not in known]
        if unknown:
            self.fault(row, f"{column}: '{', '.join(unknown)}' is not one of {', '.join(known)}")
        return labels

    def number(self, row: Row, column: str) -> float:
        """A cell as a number, 0 with a fault where it is none."""
        try:
            return float(row[column])
        except ValueError:
            self.fault(row, f"{column}: '{row[column]}' is not a number")
            return 0.0

    def file(self, row: Row, column: str) -> Path | None:
        """The file a cell names, or None where it is empty."""
        return self.folder / row[column] if row[column] else None

    def close(self) -> None:
        """Raise one usage error with every fault, if there are any."""
        if self.faults:
            raise table_error(self.folder, self.faults, "Get the data set again, or correct these lines")

    def _read(self, name: str, columns: Sequence[str]) -> list[Row]:
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise HistillError(
                f"there is no readable {name}",
                code=Exit.INPUT,
                subject=str(self.folder),
                mend="Name the data set's own folder",
            ) from error
        header, rows, faults = read_cells(data)
        self.faults += [f"{name} {fault}" for fault in faults]
        lacking = [column for column in columns if column not in header]
        if lacking:
            self.faults.append(f"{name} line 1: there is no column {', '.join(lacking)}")
            return []
        return [Row(name, line, dict(zip(header, cells, strict=True))) for line, cells in rows]

    def _check_image(self, row: Row) -> None:
        if row["split"] not in ("train", "test"):
            self.fault(row, f"the split '{row['split']}' is not one of train, test")
        for column in ("path", "mask_path"):
            file = self.file(row, column)
            if file is None:
                continue
            try:
                height, width = image_size(file)
            except HistillError as error:
                self.fault(row, f"{column} {row[column]}: {error.what}")
                continue
            if (row["width"], row["height"]) != (str(width), str(height)):
                self.fault(row, f"{column} {row[column]} is {width} x {height}, not {row['width']} x {row['height']}")

    def _check_count(self) -> None:
        lying = {file.relative_to(self.folder).as_posix() for file in (self.folder / "images").rglob("[!.]*.*")}
        for path in sorted(lying - set(self.images)):
            self.faults.append(f"{IMAGE_TABLE}: {path} is on disk, but in no row")

    def _crop(self, row: Row) -> Crop | None:
        image = self.images.get(row["path"])
        if image is None:
            self.fault(row, f"{row['path']} is not in {IMAGE_TABLE}")
            return None
        if image["split"] != "train":
            self.fault(row, f"{row['path']} is in split {image['split']}, not train")
        try:
            region = Region(*(int(row[side]) for side in "xywh"))
            inside = region.inside(int(image["width"]), int(image["height"]))
        except ValueError:
            self.fault(row, f"x, y, w, h = {', '.join(row[side] for side in 'xywh')} is not four whole numbers")
            return None
        if not inside:
            self.fault(row, f"x, y, w, h = {', '.join(row[side] for side in 'xywh')} leaves the image")
        return Crop(row, image, region)


def crop_id(path: str, region: Region) -> str:
    """A readable, unique id: the image's name and the crop's corner, such as ``val_00_x056_y000``."""
    return f"{Path(path).stem}_x{region.x:03d}_y{region.y:03d}"
