"""The MIL heads on bags that others have published figures of: musk1 and elephant, ten-fold; GlaS by its own split.

    python benchmarks/mil.py --out DIR

musk1 and elephant are the classic sets of multiple-instance learning (molecules, and images with an elephant); GlaS is
every image as 12 tiles in SqueezeNet features, benign against malignant. All lie below HISTILL_DATA. Settings are those
of recipes/mil-cpu.yaml for all, and were not looked for on these sets. A run that is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.config import read_yaml, resolve
from histill.core.manifest import Manifest, Sample, read_manifest, write_manifest
from histill.core.report import Cell, Report, Table
from histill.core.seeds import generator
from histill.core.storage import write_bytes
from histill.data.bags import read_bag
from histill.engine.run import Machine
from histill.engine.training import load, train
from histill.formats.trident import write_bag
from histill.methods import find
from histill.metrics.bootstrap import number, resample
from histill.metrics.classification import measures
from histill.report.markdown import to_markdown

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data")) / "mil_features"
RESULTS = ROOT / "benchmarks" / "results"
RECIPE = ROOT / "recipes" / "mil-cpu.yaml"
HEADS = ("mean", "max", "abmil", "gated_abmil", "dsmil", "transmil")
FOLDS, SEED = 10, 0
LITERATURE = {"musk1": 0.89, "elephant": 0.87}
"""About what is reported of attention, in accuracy (Ilse et al. 2018)."""
CARD = DatasetCard(classes=("negative", "positive"), background="negative")
GLAS_CARD = DatasetCard(classes=CARD.classes, background=CARD.background, split_source="official")
"""Its own split has patients in both parts, and every report says so."""


@dataclass(frozen=True, eq=False)
class Named:
    """A bag with its label and whom it is from."""

    id: str
    features: NDArray[np.float32]
    positive: bool
    patient: str = ""
    split: str = ""


def classic(name: str) -> Iterator[Named]:
    """The bags of a table without a header: label, bag, features."""
    rows: dict[str, list[list[float]]] = {}
    labels: dict[str, bool] = {}
    with (DATA / f"{name}.csv").open(newline="") as file:
        for cells in csv.reader(file):
            rows.setdefault(cells[1], []).append([float(cell) for cell in cells[2:]])
            labels[cells[1]] = float(cells[0]) > 0
    for bag, values in rows.items():
        yield Named(f"{name}-{bag.strip()}", np.array(values, np.float32), labels[bag])


def glas() -> Iterator[Named]:
    """The images of GlaS as bags of 12 tiles, malignant the positive ones."""
    with np.load(DATA / "glas_bags_squeezenet1_0.npz") as file:
        held = {name: file[name] for name in file.files}
    for i, name in enumerate(held["bag_name"].tolist()):
        features = held["features"][held["bag_index"] == i].astype(np.float32)
        yield Named(
            str(name), features, bool(held["bag_label"][i]), str(held["bag_patient"][i]), str(held["bag_split"][i])
        )


def table_of(name: str, out: Path) -> Manifest:
    """A set as feature files and their table, made once."""
    path = out / name / "data.csv"
    if not path.is_file():
        samples = []
        for bag in glas() if name == "glas" else classic(name):
            file = out / name / "bags" / f"{bag.id}.h5"
            write_bag(file, Bag(slide=bag.id, features=bag.features, coords=np.zeros((len(bag.features), 2), np.int64)))
            label = CARD.classes[bag.positive]
            samples.append(Sample(bag.id, file, labels=(label,), patient=bag.patient or bag.id, split=bag.split))
        write_manifest(path, samples, GLAS_CARD if name == "glas" else CARD)
    return read_manifest(path)


def folds(table: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Pairs of a part to learn from and a part to score on: the set's own, or ten folds with as many positives each."""
    if any(sample.split for sample in table.samples):
        yield table.of_split("train"), table.choose(lambda sample: sample.split != "train")
        return
    fold = {}
    for label in CARD.classes:
        ids = [sample.id for sample in table.samples if sample.labels == (label,)]
        for place, i in enumerate(generator(SEED, "folds", label).permutation(len(ids))):
            fold[ids[i]] = place % FOLDS
    for number_of in range(FOLDS):
        yield (
            table.choose(lambda sample, left=number_of: fold[sample.id] != left),
            table.choose(lambda sample, left=number_of: fold[sample.id] == left),
        )


def scores(name: str, head: str, out: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Truth, probabilities and patients of all bags that were scored on, each by the fold that had not seen it."""
    kind = find("mil")
    config = resolve(
        kind.Config, (RECIPE.name, read_yaml(RECIPE)), ("head", {"head": {"head": head}, "select": "last"})
    )
    truth, said, patients = [], [], []
    for part, (learn, test) in enumerate(folds(table_of(name, out))):
        folder = out / name / head / str(part)
        # Of a part of a table everything is learnt from, whatever its rows say.
        rows = tuple(replace(sample, split="") for sample in learn.samples)
        train(
            kind,
            replace(learn, samples=rows, digest=f"{learn.digest}-{part}"),
            None,
            folder=folder,
            config=config,
            seed=SEED,
            machine=Machine(accelerator="cpu", precision="float32", threads=1),
        )
        method = load(folder, find).method
        for sample in test.samples:
            said.append(method.predict(read_bag(sample.path)).probabilities)
            truth.append(CARD.classes.index(sample.labels[0]))
            patients.append(sample.patient)
    return np.array(truth), np.array(said, np.float64), patients


def report(out: Path) -> Report:
    """The tables."""
    numbers, tables = {}, []
    for name in ("musk1", "elephant", "glas"):
        rows: list[tuple[Cell, ...]] = []
        for head in HEADS:
            truth, said, patients = scores(name, head, out)
            found = measures(truth, said, resample(patients))
            cells = {measure: number(values, len(truth)) for measure, values in found.items()}
            numbers |= {f"{name}/{head}/{measure}": value for measure, value in cells.items()}
            rows.append((head, *(cells[each] for each in ("ACC", "AUC", "balanced accuracy", "macro F1"))))
            print(f"{name} {head}: accuracy {cells['ACC']}, AUC {cells['AUC']}", flush=True)
        said_by = f"Ilse et al. report an accuracy of {LITERATURE[name]:g} for attention." if name in LITERATURE else ""
        way = (
            "Ten folds, each scored by a head that had not seen it." if said_by else "Its own training and test images."
        )
        columns = ("head", "accuracy", "AUC", "balanced accuracy", "macro F1")
        tables.append(Table(f"{name}: {len(truth)} bags scored", columns, tuple(rows), f"{way} {said_by}".strip()))
    settings = {"recipe": read_yaml(RECIPE), "seed": SEED, "folds": FOLDS, "epoch": "the last"}
    warnings = table_of("glas", out).warnings
    return Report("MIL heads on known bags", numbers, tuple(tables), warnings, settings)


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    made = report(parser.parse_args().out)
    write_bytes(RESULTS / "mil.json", made.to_json().encode())
    write_bytes(RESULTS / "mil.md", to_markdown(made).encode())
    print(f"tables: {RESULTS / 'mil.md'}")


if __name__ == "__main__":
    main()
