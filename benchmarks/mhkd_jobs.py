"""What is run to see what distillation does for detection at low resolution: data sets, plans, and how a run is made.

Seeds and settings stand in this file and in recipes/mhkd-cpu.yaml.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2
from methods_jobs import DATA, ROOT, SEEDS, WEIGHTS, histill, noted, prediction, run_once

from histill.core.boxes import boxes_json
from histill.core.config import read_yaml
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.record import fingerprint
from histill.core.storage import file_hash, new_folder, write_inside
from histill.data.images import read_image
from histill.data.pairs import boxes_of

RECIPE = ROOT / "recipes" / "mhkd-cpu.yaml"
MADE_UP = {"train": 24, "val": 24, "test": 200, "size": 512, "mpp": 2.0, "seed": 2}
"""Few tiles to learn from, as labs have; at 2 um/px each shows the field of 1,024 px at 1 um/px."""
EPOCHS = {"kidneys": (30, 24), "bupt": (16, 12)}
"""of the teacher's step, and of each of the student's first two: of more images, fewer"""
REACH = {"kidneys": [16, 128, 256, 512], "bupt": [16, 64, 256, 512]}
"""of the teacher's levels, so that most glomeruli stand on level log2 r + 2, which the student's first level meets"""
RATIOS = {"kidneys": 4, "bupt": 8}
"""r of all plans and seeds"""
CURVE = {"kidneys": (2, 4, 8, 16), "bupt": (4, 8, 16)}
"""r of the curves, with the first seed"""
LESS: dict[str, dict[str, object]] = {
    "no step 3": {"alone": 0},
    "nothing inherited": {"inherit": False},
    "only inherited": {"plan": "features", "imitation": 0},
}
"""the whole method without a part; and the student's start without any lesson"""
ONE_SEED = ("features", "offline", "online", "together", *LESS)
"""run with the first seed alone"""
ALL_SEEDS = {"kidneys": ("low", "hybrid", "offline", "online"), "bupt": ("low", "hybrid")}
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
        return f"{self.data}-{self.plan.replace(' ', '-')}-r{self.ratio}-{self.seed}"

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
        made += [Job(data, plan, RATIOS[data], SEEDS[0]) for plan in ONE_SEED]
        made += [Job(data, plan, ratio, SEEDS[0]) for ratio in CURVE[data] for plan in ("low", "hybrid")]
    return list(dict.fromkeys(made))


def data_sets() -> list[str]:
    """The data sets that this machine has."""
    return [name for name in TITLES if name == "kidneys" or (DATA / "glomeruli_bupt").is_dir()]


def table_of(data: str, out: Path) -> Path:
    """The data set's table, made if need be."""
    folder = out / "data" / f"{data}-{fingerprint([MADE_UP, version('histill')])[:8]}"
    if data == "hubmap" and not folder.exists():
        histill(["import", "hubmap", DATA / "hubmap_kidney_lowmag", "--mpp", "8", "--to", folder / "data.csv"])
    elif data == "kidneys" and not folder.exists():
        histill(["synth", "glomeruli", folder, *(f"--{key}={value}" for key, value in MADE_UP.items())])
    elif data == "bupt" and not folder.exists():
        whole = folder.with_name(f"{folder.name}-whole") / "data.csv"
        histill(["import", "glomeruli_bupt", DATA / "glomeruli_bupt", "--to", whole])
        halve(read_manifest(whole), folder)
        shutil.rmtree(whole.parent)
    return folder / "data.csv"


def halve(table: Manifest, folder: Path) -> None:
    """The same images at half their size, so that glomeruli of about 450 px lie whole in tiles of 512 px."""
    with new_folder(folder) as making:
        samples = []
        for sample in table.samples:
            image, boxes = read_image(sample.path, None), boxes_of(sample, table.classes)
            height, width = (side // 2 * 2 for side in image.shape[:2])
            half = cv2.resize(image[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            picture, outline = f"images/{sample.id}.png", f"boxes/{sample.id}.json"
            write_inside(making, picture, cv2.imencode(".png", half[:, :, ::-1])[1].tobytes())
            smaller = replace(boxes, corners=boxes.corners / 2).clipped(width // 2, height // 2)
            write_inside(making, outline, boxes_json(smaller, table.classes))
            samples.append(replace(sample, path=making / picture, boxes=making / outline))
        write_manifest(making / "data.csv", samples, table.card)


def run(job: Job, table: Path, out: Path) -> None:
    """Train and predict, in processes of their own; both go on where they were stopped."""
    folder = out / "runs" / job.name
    given = ["--train", table, "--recipe", RECIPE, "--run", folder / "run", "--seed", job.seed, "--threads", "1"]
    train = ["train", "mhkd", *given, *flags_of(job), *teacher_of(job, out)]
    run_once(folder, identity(job, table), [train, prediction(folder, table)])


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


def flags_of(job: Job) -> list[str]:
    """What differs from the recipe."""
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    plan = "hybrid" if job.plan in LESS else job.plan
    settings: dict[str, object] = {"plan": plan, "teacher.weights": weights, "student.weights": weights}
    settings |= dict(zip(("teach.epochs", "learn.epochs"), EPOCHS[job.data], strict=True))
    settings["teacher.reach"] = REACH[job.data]
    settings |= LESS.get(job.plan, {})
    settings |= {"ratio": job.ratio} if job.plan != "high" else {}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def identity(job: Job, table: Path) -> str:
    """A hash of what a run's result follows from: a run of another recipe, table or version is done again."""
    weights = file_hash(WEIGHTS) if WEIGHTS.exists() else "none"
    flags = [flag for flag in flags_of(job) if flag != str(WEIGHTS)]
    return fingerprint([job.name, flags, read_yaml(RECIPE), read_manifest(table).digest, weights, version("histill")])


def is_done(job: Job, table: Path, out: Path) -> bool:
    """Whether a run of just this kind is finished."""
    return noted(out / "runs" / job.name / "done.json") == identity(job, table)
