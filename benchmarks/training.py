"""How fast, and how true: training, loading, bf16 and the metrics, each beside the plain way or beside others.

    python benchmarks/training.py [--only steps loading precision metrics] [--threads 1] [--out DIR]

Run it with nothing beside, and with OMP_NUM_THREADS set to the same number of threads. What is compared takes turns
(A B A B ...); times are medians, on the clock and of the processor: where other work ran beside, the
processor's are the better ones. Each part replaces its own figures in results/training.json; training.md shows all.

The part `metrics` wants torchmetrics and surface-distance, which histill does not need:

    pip install --target DIR --no-deps torchmetrics lightning-utilities surface-distance absl-py
    PYTHONPATH=DIR python benchmarks/training.py --only metrics
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from training_metrics import metrics, timed
from training_page import page

from histill.core.manifest import Manifest, read_manifest
from histill.core.record import fingerprint
from histill.core.storage import file_hash, remove, write_bytes, write_json
from histill.data.augment import Augmentation
from histill.data.images import read_image, read_mask
from histill.data.tiles import TileBatch, Tiles, TrueMasks
from histill.engine.optim import Schedule, build_optimizer, set_rate
from histill.engine.run import Machine, build_fabric, open_run
from histill.engine.stage import Stage
from histill.engine.training import LAYOUT, load
from histill.losses.classification import multilabel_soft_margin
from histill.losses.segmentation import cross_entropy
from histill.methods import find
from histill.metrics.segmentation import confusion, mean_iou
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.segmenters import SegmenterSettings, build_segmenter

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT.parent / "shared" / "data" / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
PATCHES = {"train": 200, "val": 0, "test": 0, "size": 224}
SMALL_PATCHES = {"train": 240, "val": 60, "test": 200, "size": 112, "mpp": 1.0, "seed": 3}
WARM_UP = 1
ROUNDS = 2


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    out: Path
    threads: int
    steps: int

    @property
    def bf16(self) -> Machine:
        return Machine(accelerator="cpu", precision="bf16", threads=self.threads)


def steps(given: Given) -> dict[str, Any]:
    """A step of training, as histill takes it and in float32, contiguous, eager; same start, batches and schedule.

    Each contender has a process of its own, as histill changes how a process keeps its memory; they take turns.
    """
    found: dict[str, Any] = {}
    for name in NETWORKS:
        found[name] = {"batch": Schedule(epochs=1).batch_size, "steps": given.steps}
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, take in WAYS.items():
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
                    taken, losses = child.submit(take, name, given).result()
                times[way] += taken[WARM_UP:]
                # Every round begins at the same start.
                found[name][way] = {"loss": losses}
        for way, each in times.items():
            clock, processor = (statistics.median(column) for column in zip(*each, strict=True))
            images = found[name]["batch"] / clock
            found[name][way] |= {"seconds": clock, "processor": processor, "images/s": images}
    return found


def _classification_loss(network: nn.Module, batch: TileBatch) -> Tensor:
    return multilabel_soft_margin(network(batch.images), batch.labels)


def _segmentation_loss(network: nn.Module, batch: TileBatch) -> Tensor:
    return cross_entropy(network(batch.images), batch.masks[:, 0])


CLASSIFIER = ClassifierSettings(encoder="resnet18", weights="none", output_stride=32, dropout=0.0)
SEGMENTER = SegmenterSettings(encoder="resnet18", weights="none")
LIGHT = SegmenterSettings(encoder="squeezenet1_0", weights="none", channels=128, separable=True)
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Callable[[nn.Module, TileBatch], Tensor]]] = {
    "ResNet-18": (partial(build_classifier, CLASSIFIER), _classification_loss),
    "DeepLabV3+ on ResNet-18": (partial(build_segmenter, SEGMENTER), _segmentation_loss),
    "DeepLabV3+ of recipes/*-cpu.yaml": (partial(build_segmenter, LIGHT), _segmentation_loss),
}
Taken = tuple[list[tuple[float, float]], list[float]]
"""Seconds of each step, on the clock and of the processor; and its loss."""


def _begin(name: str, given: Given) -> tuple[Any, Manifest, list[TileBatch], Schedule]:
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    table, schedule = patches(given, PATCHES), Schedule(epochs=1)
    torch.manual_seed(0)
    network = NETWORKS[name][0](len(table.classes))
    batches = Tiles(table, schedule.batch_size, masks=TrueMasks(table.card), shuffle=True).epoch(0, seed=0)
    return network, table, [next(batches) for _ in range(3)], schedule


def _plain_steps(name: str, given: Given) -> Taken:
    network, _, in_memory, schedule = _begin(name, given)
    network.train()
    # As torch has it: histill's optimiser is told how to go over its weights.
    groups = build_optimizer(network, network.encoder, schedule).param_groups
    optimizer = SGD(
        [{"params": group["params"], "factor": group["factor"]} for group in groups],
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )

    def step(batch: TileBatch, number: int) -> Tensor:
        set_rate(optimizer, schedule, number, given.steps)
        optimizer.zero_grad(set_to_none=True)
        total = NETWORKS[name][1](network, batch)
        total.backward()
        optimizer.step()
        return total.detach()

    taken = [timed(partial(step, in_memory[i % len(in_memory)], i)) for i in range(given.steps)]
    return [each[1:] for each in taken], [round(float(each[0]), 4) for each in taken]


def _own_steps(name: str, given: Given) -> Taken:
    network, table, in_memory, schedule = _begin(name, given)
    losses: list[Tensor] = []

    def loss(batch: TileBatch) -> dict[str, Tensor]:
        total = NETWORKS[name][1](network, batch)
        losses.append(total.detach())
        return {"loss": total}

    turns, folder = Turns(table, in_memory, given.steps), given.out / "steps"
    remove(folder)
    network.to(memory_format=LAYOUT)
    with open_run(folder, settings={}, seed=0, machine=given.bf16) as run:
        run.train(Stage("steps", network, network.encoder, turns, loss, schedule))
    return turns.taken, [round(float(value), 4) for value in losses]


WAYS = {"plain": _plain_steps, "histill": _own_steps}


class Turns(Tiles):
    """Batches in memory as a stage's batches. What lies between two is a step of histill's loop, whole and unchanged.

    Attributes:
        taken: seconds of each step of the loop, on the clock and of the processor; of all but the last.
    """

    def __init__(self, table: Manifest, batches: list[TileBatch], steps: int) -> None:
        super().__init__(table, len(batches[0].ids), shuffle=True)
        self._batches, self._steps = batches, steps
        self.taken: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, seed: int, **place: Any) -> Iterator[TileBatch]:
        """The batches, again and again."""
        for number in range(self._steps):
            begin = time.perf_counter(), time.process_time()
            yield self._batches[number % len(self._batches)]
            self.taken.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))


def loading(given: Given) -> dict[str, Any]:
    """Batches alone: read, changed by every augmentation there is, and put together."""
    table = patches(given, PATCHES)
    all_of_it = Augmentation(turn=True, blur=1.0, stain=0.1, hed=0.1)
    found: dict[str, Any] = {}
    for name, changes in (("flips", Augmentation()), ("all augmentation", all_of_it)):
        for workers in (0, 2):
            tiles = Tiles(table, 20, masks=TrueMasks(table.card), augmentation=changes, shuffle=True, workers=workers)
            for epoch, what in enumerate(("first epoch", "second epoch")):
                _, clock, _ = timed(lambda tiles=tiles, epoch=epoch: [None for _ in tiles.epoch(epoch, seed=0)])
                images = len(tiles) * tiles.batch_size
                found[f"{name}, {workers} workers, {what}"] = {"images/s": images / clock}
    return found


def precision(given: Given) -> dict[str, Any]:
    """A segmenter trained here predicts test images in float32 and in bf16."""
    table = patches(given, SMALL_PATCHES)
    weights = str(WEIGHTS) if WEIGHTS.exists() else "none"
    recipe = ROOT / "recipes" / "supervised-cpu.yaml"
    flags = ["--segmenter.weights", weights, "--seed", "0", "--threads", str(given.threads)]
    what = fingerprint([table.digest, flags[1:], file_hash(recipe), version("histill")])
    folder = given.out / f"precision-{what[:8]}"
    histill("train", "supervised", "--train", table.path, "--recipe", recipe, "--run", folder, *flags)
    trained = load(folder, find)
    k = len(table.classes)
    machines = {name: Machine(accelerator="cpu", precision=name) for name in ("float32", "bf16")}
    fabrics = {name: build_fabric(machine) for name, machine in machines.items()}
    counts = {name: np.zeros((k, k), np.int64) for name in fabrics}
    times: dict[str, list[float]] = {name: [] for name in fabrics}
    agreeing = []
    for sample in table.of_split("test").samples:
        image = read_image(sample.path, sample.crop)
        truth = read_mask(sample, table.card, image.shape[:2])
        labels = {}
        for name, fabric in fabrics.items():
            with fabric.autocast():
                prediction, _, processor = timed(lambda image=image: trained.method.predict(image))
            times[name].append(processor)
            labels[name] = prediction.labels
            counts[name] += confusion(truth, prediction.labels, k)
        agreeing.append(float((labels["float32"] == labels["bf16"]).mean()))
    return {
        "images": len(agreeing),
        "agreeing pixels": statistics.mean(agreeing),
        "worst image": min(agreeing),
        "mIoU": {name: float(mean_iou(each)) for name, each in counts.items()},
        "seconds": {name: statistics.median(each) for name, each in times.items()},
    }


def patches(given: Given, settings: dict[str, Any]) -> Manifest:
    """Made-up patches, made if need be."""
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    path = given.out / f"patches-{fingerprint([flags, version('histill')])[:8]}" / "data.csv"
    if not path.exists():
        histill("synth", "tissue", path.parent, *flags)
    return read_manifest(path)


def histill(*arguments: str | Path) -> None:
    """Run a verb; its output is shown only if it fails."""
    command = [sys.executable, "-m", "histill", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


PARTS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "steps": steps,
    "loading": loading,
    "precision": precision,
    "metrics": lambda given: metrics(),
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9, help="of each contender")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "training")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    kept = RESULTS / "training.json"
    for name in given.only:
        before = os.getloadavg()[0]
        figures = PARTS[name](Given(given.out, given.threads, given.steps))
        found: dict[str, Any] = json.loads(kept.read_bytes()) if kept.exists() else {}
        found[name] = {"figures": figures, "machine": machine(given.threads, before)}
        write_json(kept, found)
        write_bytes(RESULTS / "training.md", page(found).encode())
        print(f"{name}: done", flush=True)


def machine(threads: int, load: float) -> dict[str, Any]:
    """What the figures were measured with; the load of the machine before and after tells what ran beside."""
    return {
        "threads": threads,
        "load before": round(load, 1),
        "load after": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "bf16 instructions": sorted(set(_flags()) & {"avx512_bf16", "amx_bf16"}),
        "machine": platform.machine(),
        **{name: version(name) for name in ("torch", "numpy", "opencv-python-headless")},
    }


def _flags() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    if path.exists():
        yield from next((line for line in path.read_text().splitlines() if line.startswith("flags")), "").split()


if __name__ == "__main__":
    main()
