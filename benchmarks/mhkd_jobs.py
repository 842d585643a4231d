"""What is run to see what distillation does for detection at low resolution: data sets, plans, and how a run is made.

Seeds and settings stand in this file and in recipes/mhkd-cpu.yaml.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
from methods_jobs import DATA, ROOT, SEEDS, WEIGHTS, histill, noted, prediction, run_once, training

from histill.core.boxes import boxes_json
from histill.core.config import read_yaml
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.record import fingerprint
from histill.core.storage import file_hash, new_folder, write_inside
from histill.data.images import read_image
from histill.data.pairs import boxes_of

RECIPE = ROOT / "recipes" / "mhkd-cpu.yaml"
MADE_UP = {"train": 24, "val": 24, "test": 200, "size": 512, "mpp": 2.0, "seed": 3}
"""Few tiles to learn from, as labs have; at 2 um/px each shows the field of 1,024 px at 1 um/px."""
FIELDS = {**MADE_UP, "train": 96, "val": 1, "test": 1, "seed": 4}
"""Tiles of other donors, whose boxes are not looked at."""
SMALLER = 4
"""The biopsies are looked at so many times smaller: the networks' cells see glomeruli of some 450 px badly."""
SETTINGS: dict[str, dict[str, object]] = {"kidneys": {}, "bupt": {"tile": 256, "teach.epochs": 64}}
"""what differs from the recipe: windows of a quarter cost the teacher a quarter of the time"""
REACH = {"kidneys": [16, 128, 256, 512], "bupt": [16, 64, 256, 512]}
"""of the teacher's levels, so that most glomeruli stand on level log2 r + 2, which the student's first level meets"""
RATIOS = {"kidneys": 4, "bupt": 8}
"""r of all plans and seeds"""
CURVE = {"kidneys": (2, 4, 8, 16), "bupt": (2, 4, 8)}
"""r of the curves, with the first seed"""
CHANGED: dict[str, dict[str, object]] = {
    # As many epochs as in the three steps.
    "no step 3, as long": {"alone": 0, "learn.epochs": 42},
    "nothing inherited": {"inherit": False},
    "low, 4 x as long": {"plan": "low", "learn.epochs": 48},
    # Of five times as many fields, about a fifth of the epochs: 1,020 batches for 1,008, 240 with a lesson for 288.
    "more fields": {"learn.epochs": 2, "alone": 6.5},
    "start, more fields": {"learn.epochs": 2, "alone": 6.5, "plan": "start"},
}
"""a plan, of which the whole method's is taken if none is named, with a part changed"""
ABLATED = ("no step 3, as long", "nothing inherited", "low, 4 x as long")
PLANS = ("features", "offline", "online", "together", *ABLATED)
ONE_SEED = {"kidneys": (*PLANS, "start, more fields"), "bupt": PLANS}
"""run with the first seed alone"""
ALL_SEEDS = {"kidneys": ("low", "start", "hybrid", "more fields"), "bupt": ("low", "start", "hybrid")}
"""students run with every seed"""
TITLES = {"kidneys": "made-up kidneys", "bupt": "renal biopsies (glomeruli_bupt)"}


@dataclass(frozen=True)
class Job:
    """One run: a plan on a data set at a resolution, with a seed. The teacher's has an r of 1."""

    data: str
    plan: str
    ratio: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.plan.replace(',', '').replace(' ', '-')}-r{self.ratio}-{self.seed}"

    @property
    def teacher(self) -> Job:
        """Whose teacher it takes."""
        return replace(self, plan="high", ratio=1)


def jobs(sets: list[str]) -> list[Job]:
    """All runs, in the order in which they are made: what is most wanted first, teachers before their students."""
    made = []
    for seed in SEEDS:
        for data in sets:
            made += [Job(data, "high", 1, seed), *(Job(data, plan, RATIOS[data], seed) for plan in ALL_SEEDS[data])]
    for data in sets:
        made += [Job(data, plan, RATIOS[data], SEEDS[0]) for plan in ONE_SEED[data]]
        made += [Job(data, plan, ratio, SEEDS[0]) for ratio in CURVE[data] for plan in ("low", "hybrid")]
    return list(dict.fromkeys(made))


def data_sets() -> list[str]:
    """The data sets that this machine has."""
    return [name for name in TITLES if name == "kidneys" or (DATA / "glomeruli_bupt").is_dir()]


def table_of(data: str, out: Path) -> Path:
    """A table, made if need be: a data set's, that of `fields`, or of `hubmap`."""
    folder = out / "data" / f"{data}-{fingerprint([MADE_UP, FIELDS, SMALLER, version('histill')])[:8]}"
    if folder.exists():
        return folder / "data.csv"
    if data == "hubmap":
        histill(["import", "hubmap", DATA / "hubmap_kidney_lowmag", "--mpp", "8", "--to", folder / "data.csv"])
    elif data in ("kidneys", "fields"):
        settings = MADE_UP if data == "kidneys" else FIELDS
        histill(["synth", "glomeruli", folder, *(f"--{key}={value}" for key, value in settings.items())])
    else:
        whole = folder.with_name(f"{folder.name}-whole") / "data.csv"
        histill(["import", "glomeruli_bupt", DATA / "glomeruli_bupt", "--to", whole])
        shrink(read_manifest(whole), folder)
        shutil.rmtree(whole.parent)
    return folder / "data.csv"


def shrink(table: Manifest, folder: Path) -> None:
    """The same images, `SMALLER` times smaller."""
    with new_folder(folder) as making:
        samples = []
        for sample in table.samples:
            image, boxes = read_image(sample.path, None), boxes_of(sample, table.classes)
            height, width = (side // SMALLER for side in image.shape[:2])
            cut = image[: height * SMALLER, : width * SMALLER]
            small = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
            picture, outline = f"images/{sample.id}.png", f"boxes/{sample.id}.json"
            write_inside(making, picture, cv2.imencode(".png", small[:, :, ::-1])[1].tobytes())
            smaller = replace(boxes, corners=boxes.corners / SMALLER).clipped(width, height)
            write_inside(making, outline, boxes_json(smaller, table.classes))
            samples.append(replace(sample, path=making / picture, boxes=making / outline))
        write_manifest(making / "data.csv", samples, table.card)


def run(job: Job, out: Path) -> None:
    """Train and predict, in processes of their own; both go on where they were stopped."""
    folder, table = out / "runs" / job.name, table_of(job.data, out)
    train = training("mhkd", folder, table, RECIPE, job.seed)
    flags = [*flags_of(job), *teacher_of(job, out), *fields_of(job, out)]
    run_once(folder, identity(job, out), [[*train, *flags], prediction(folder, table)])


def predict_hubmap(job: Job, out: Path) -> Path:
    """What a finished student finds in HuBMAP's tiles, which a coarse scanner made; done once."""
    folder = out / "runs" / job.name
    to = folder / "hubmap"
    histill(["predict", folder / "run", table_of("hubmap", out), "--coarse", "--to", to, "--threads", "1"])
    return to


def teacher_of(job: Job, out: Path) -> list[str]:
    """The flag that names the teacher of a student."""
    if job.plan in ("high", "low"):
        return []
    return ["--teacher_run", str(out / "runs" / job.teacher.name / "run")]


def fields_of(job: Job, out: Path) -> list[str]:
    """The flag that names the fields without boxes."""
    return ["--fields", str(table_of("fields", out))] if "more fields" in job.plan else []


def flags_of(job: Job) -> list[str]:
    """What differs from the recipe."""
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    settings: dict[str, object] = {"plan": "hybrid" if job.plan in CHANGED else job.plan}
    settings |= {"teacher.weights": weights, "student.weights": weights, "teacher.reach": REACH[job.data]}
    settings |= SETTINGS[job.data] | CHANGED.get(job.plan, {})
    settings |= {"ratio": job.ratio} if job.plan != "high" else {}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def identity(job: Job, out: Path) -> str:
    """A hash of what a run's result follows from: a run of another recipe, table or version is done again."""
    weights = file_hash(WEIGHTS) if WEIGHTS.exists() else "none"
    flags = [flag for flag in flags_of(job) if flag != str(WEIGHTS)]
    named = [job.data, "fields"] if fields_of(job, out) else [job.data]
    tables = [read_manifest(table_of(name, out)).digest for name in named]
    return fingerprint([job.name, flags, read_yaml(RECIPE), tables, weights, version("histill")])


def is_done(job: Job, out: Path) -> bool:
    """Whether a run of just this kind is finished."""
    return noted(out / "runs" / job.name / "done.json") == identity(job, out)
