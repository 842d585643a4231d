"""Bags of features with a table of slides: CLAM, STAMP, slideflow, slide2vec, TRIDENT, BRACS, CAMELYON17."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histill.core.errors import Exit, HistillError
from histill.data.bag_batches import common_width
from histill.data.bags import find_bags
from histill.data.cohort import read_cohort
from histill.data.sources.published import Imported


def read(
    origin: Path,
    *,
    bags: Path | None = None,
    label: str = "",
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    patients: Path | None = None,
    splits: Path | None = None,
    official: bool = False,
    skip_missing: bool = False,
) -> Imported:
    """Read a table of slides and find the feature file of each; see `data.cohort.read_cohort`.

    Args:
        origin: the table.
        bags: the folder of the feature files.
        label: the column of labels, where it goes by none of the known names.
        classes: names in label order; left out, those that occur.
        rename: what labels stand for.
        patients: STAMP's slide table, which says whose each slide is.
        splits: CLAM's ``splits_<k>.csv``.
        official: a patient may stand in two splits, and every report says so.
        skip_missing: leave out slides without a feature file.

    Raises:
        HistillError: usage (2) if no bags are given, and as `read_cohort` and `common_width`.
    """
    if bags is None:
        raise HistillError(
            "no feature files are given", code=Exit.USAGE, subject="cohort", mend="Add --bags FOLDER with <slide>.h5"
        )
    table = read_cohort(
        origin,
        find_bags(bags),
        label=label,
        classes=classes,
        rename=rename,
        slides=patients,
        splits=splits,
        official=official,
        skip_missing=skip_missing,
    )
    width, encoder = common_width(table)
    told = f"{len(table.samples)} bags of {width} features a tile" + (f", made by {encoder}" if encoder else "")
    return Imported(table.samples, table.card, (*table.warnings, told), looked_into=True)
