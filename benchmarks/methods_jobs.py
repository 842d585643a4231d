"""What is run to compare the methods: data sets, methods, what is switched off in them; and how one run is made.

Seeds and settings stand in this file and in recipes/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

import histill as package
from histill.core.manifest import read_manifest
from histill.core.record import fingerprint
from histill.core.storage import file_hash, remove, write_bytes, write_json
from histill.data.predicted import open_predictions
from histill.engine.scoring import score_predictions
from histill.metrics.summary import ImageScore

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HISTILL_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
SEEDS = (0, 1, 2)
BASELINES = ("cam", "supervised")
METHODS = {"tissues": ("mlps", *BASELINES), "lesions": ("ikd_mil", "glmkd", *BASELINES)}
NETWORKS = {
    "mlps": ("segmenter", "classifier"),
    "cam": ("segmenter", "classifier"),
    "supervised": ("segmenter",),
    "ikd_mil": ("network",),
    "glmkd": ("classifier", "mil", "segmenter"),
}
"""The networks of each method that begin with `WEIGHTS`, where this machine has them."""

MADE_UP = {"train": 600, "val": 100, "test": 600, "size": 112, "mpp": 1.0, "seed": 2}
ON_WSSS4LUAD: dict[str, dict[str, Any]] = {
    # Attention over the same last share of stage 1 as in the recipe, down to the same floor.
    "mlps": {"classify.epochs": 8, "attention_warmup": 5, "drop_decay": 0.8},
    "cam": {"classify.epochs": 8},
}
ON_GLAS: dict[str, dict[str, Any]] = {
    "mlps": {"classify.epochs": 3, "segment.epochs": 2, "attention_warmup": 2},
    "cam": {"classify.epochs": 3, "segment.epochs": 2},
    "supervised": {"segment.epochs": 2},
    "ikd_mil": {"teach.epochs": 3, "distil.epochs": 2},
    "glmkd": {"classify.epochs": 3, "localise.epochs": 3, "segment.epochs": 2},
}
"""Of more images, fewer epochs."""
VGG16 = {"network.encoder": "vgg16_bn", "network.weights": "none", "network.taps": "[]"}
"""The paper's trunk, from nothing: its runs take longest."""


@dataclass(frozen=True)
class DataSet:
    """A table and what differs on it from the recipes."""

    name: str
    title: str
    task: Literal["tissues", "lesions"]
    make: list[str]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    ablated: bool = False
    """variants of single methods are run on it"""
    rare: str = ""
    """a class that hardly any test image shows: the mean IoU is given without it too"""


@dataclass(frozen=True)
class Variant:
    """A method with a part switched off or exchanged."""

    method: str
    name: str
    settings: dict[str, str]
    against: str = ""
    """the variant that it is held against; empty for the whole method"""
    always: bool = False
    """run with every seed on every data set; else with the first seed, on those that are ablated"""


VARIANTS = (
    Variant("mlps", "no attention", {"attention": "false"}),
    Variant("mlps", "one tap", {"tap_weights": "[1.0]"}),
    Variant("mlps", "no gate", {"gate": "0"}),
    Variant("mlps", "maps scaled together", {"map_scale": "together"}),
    Variant("mlps", "attention not normalised", {"normalise_attention": "false"}),
    Variant(
        "mlps",
        "attention as published",
        {"normalise_attention": "false", "attention_warmup": "3", "drop_decay": "0.985"},
    ),
    # The same seed gives the very teacher of the whole run.
    Variant("ikd_mil", "teacher alone", {"rounds": "0"}, always=True),
    Variant("ikd_mil", "no WCE", {"wce_weight": "0"}),
    Variant("ikd_mil", "no swap", {"roles": "promote"}),
    Variant("ikd_mil", "one round", {"rounds": "1"}),
    Variant("ikd_mil", "pooled teacher", {"teacher_form": "pooled"}),
    Variant("glmkd", "no mutual distillation", {"mutual": "0"}),
    Variant("glmkd", "no shape loss", {"shape": "0"}),
    Variant("glmkd", "one scale", {"grids": "[1.0]", "grid_weights": "[1.0]"}),
    Variant("ikd_mil", "VGG16", VGG16, against="VGG16 teacher alone"),
    Variant("ikd_mil", "VGG16 teacher alone", {**VGG16, "rounds": "0"}, against="teacher alone"),
)


@dataclass(frozen=True)
class Job:
    """One run: a method, or a variant of it, on a data set with a seed."""

    data: DataSet
    method: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        variant = f"-{self.variant.replace(' ', '-')}" if self.variant else ""
        return f"{self.data.name}-{self.method}{variant}-{self.seed}"


def data_sets() -> list[DataSet]:
    """The data sets that this machine has."""
    flags = [part for key, value in MADE_UP.items() for part in (f"--{key}", str(value))]
    tissue = DataSet("synthetic", "made-up tissue", "tissues", ["synth", "tissue", "DIR", *flags], ablated=True)
    lesions = DataSet("lesions", "made-up lesions", "lesions", ["synth", "lesions", "DIR", *flags], ablated=True)
    if not DATA.is_dir():
        return [tissue, lesions]
    read_luad = ["import", "wsss4luad", str(DATA / "wsss4luad"), "--to", "CSV"]
    read_glas = ["import", "glas", str(DATA / "glas")]
    return [
        tissue,
        DataSet("wsss4luad", "WSSS4LUAD crops", "tissues", read_luad, ON_WSSS4LUAD, rare="normal"),
        DataSet("glas", "GlaS crops", "tissues", [*read_glas, "--to", "CSV"], ON_GLAS),
        lesions,
        DataSet("glas-lesions", "GlaS lesions", "lesions", [*read_glas, "--lesions", "--to", "CSV"], ON_GLAS),
    ]


def variants_of(method: str, *, always: bool) -> list[Variant]:
    """Of a method, the variants that are always run, or the others."""
    return [variant for variant in VARIANTS if variant.method == method and variant.always == always]


def jobs(sets: list[DataSet]) -> list[Job]:
    """All runs: set by set, seed by seed, the methods; then what is switched off in them."""
    whole = [
        Job(data, method, seed, name)
        for data in sets
        for seed in SEEDS
        for method in METHODS[data.task]
        for name in ("", *(variant.name for variant in variants_of(method, always=True)))
    ]
    return whole + [
        Job(data, variant.method, SEEDS[0], variant.name)
        for data in sets
        if data.ablated
        for variant in VARIANTS
        if variant.method in METHODS[data.task] and not variant.always
    ]


def table_of(data: DataSet, out: Path) -> Path:
    """The data set's table, made if need be."""
    path = out / "data" / f"{data.name}-{fingerprint(data.make)[:8]}" / "data.csv"
    if not path.exists():
        places = {"DIR": str(path.parent), "CSV": str(path)}
        histill([places.get(part, part) for part in data.make])
    return path


def run(job: Job, table: Path, out: Path) -> None:
    """Train and predict, in processes of their own; both go on where they were stopped."""
    folder = out / "runs" / job.name
    train = training(job.method, folder, table, recipe_of(job), job.seed)
    run_once(folder, identity(job, table), [[*train, *flags_of(job)], prediction(folder, table)])


def training(method: str, folder: Path, table: Path, recipe: Path, seed: int) -> list[object]:
    """The command that trains a method in a run of a folder."""
    given = ["--train", table, "--recipe", recipe, "--run", folder / "run", "--seed", seed, "--threads", "1"]
    return ["train", method, *given]


def prediction(folder: Path, table: Path) -> list[object]:
    """The command that predicts the test images by the run in a folder."""
    return ["predict", folder / "run", table, "--split", "test", "--to", folder / "predictions", "--threads", "1"]


def run_once(folder: Path, of: str, commands: list[list[object]]) -> None:
    """histill's commands that fill a folder, which go on where they were stopped.

    Nothing is done where the folder says that it is finished, and what was begun as something else is removed.

    Args:
        folder: gets what the commands make, and what it is of.
        of: the identity of what is made.
        commands: words of each.
    """
    if noted(folder / "done.json") == of:
        return
    if noted(folder / "begun.json") != of:
        remove(folder)
        write_json(folder / "begun.json", {"of": of})
    began = time.monotonic()
    for command in commands:
        histill(command)
    write_json(folder / "done.json", {"of": of})
    print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)


def recipe_of(job: Job) -> Path:
    """The method's recipe."""
    return ROOT / "recipes" / f"{job.method}-cpu.yaml"


def flags_of(job: Job) -> list[str]:
    """What differs from the recipe."""
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    settings: dict[str, Any] = {"select": "labels"}
    settings |= {f"{network}.weights": weights for network in NETWORKS[job.method]}
    settings |= job.data.settings.get(job.method, {})
    for variant in VARIANTS:
        if (variant.method, variant.name) == (job.method, job.variant):
            settings |= variant.settings
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def identity(job: Job, table: Path) -> str:
    """A hash of what a run's result follows from: a run of another recipe, table or version is done again."""
    weights = file_hash(WEIGHTS) if WEIGHTS.exists() else "none"
    flags = [flag for flag in flags_of(job) if flag != str(WEIGHTS)]
    digest = read_manifest(table).digest
    return fingerprint([job.method, job.seed, flags, file_hash(recipe_of(job)), digest, weights, version("histill")])


def is_done(job: Job, table: Path, out: Path) -> bool:
    """Whether a run of just this kind is finished."""
    return noted(out / "runs" / job.name / "done.json") == identity(job, table)


def noted(path: Path) -> str | None:
    """The identity that a file notes, or None."""
    try:
        return str(json.loads(path.read_bytes())["of"])
    except OSError:
        return None


def histill(given: list[object]) -> None:
    """Run a verb; its output is shown only if it fails."""
    arguments = [str(each) for each in given]
    # Spinning threads of one job would take the other's core.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "histill", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"histill {' '.join(arguments)}\n{done.stdout}{done.stderr}")


def scores_of(job: Job, table: Path, out: Path) -> list[ImageScore] | None:
    """The scores of a finished run on the test images, else None; kept beside the run, as they take longer to make."""
    if not is_done(job, table, out):
        return None
    folder = out / "runs" / job.name
    path = folder / "scores.json"
    # Scores follow from the run and from how histill scores.
    of = fingerprint([identity(job, table), file_hash(folder / "predictions" / "predictions.csv"), _scoring()])
    if noted(path) != of:
        predictions = open_predictions(folder / "predictions")
        found = score_predictions(predictions, read_manifest(table).of_split("test")).scores
        write_bytes(path, json.dumps({"of": of, "scores": [_row(score) for score in found]}).encode())
    return [
        ImageScore(name, patient, np.array(confusion, np.int64), np.array(hd95, np.float64), mpp)
        for name, patient, confusion, hd95, mpp in json.loads(path.read_bytes())["scores"]
    ]


def _row(score: ImageScore) -> list[Any]:
    return [score.id, score.patient, score.confusion.tolist(), score.hd95.tolist(), score.mpp]


def _scoring() -> list[str]:
    source = Path(package.__file__).parent
    return [file_hash(source / name) for name in ("metrics/segmentation.py", "metrics/summary.py", "engine/scoring.py")]
