"""What a slide costs at each resolution: its bytes, and the seconds of one prediction; and the plot of AP beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from methods_jobs import SEEDS
from mhkd_jobs import CURVE, Job

from histill.cli.main import main as histill
from histill.core.geometry import Region
from histill.core.report import Number
from histill.core.storage import remove, write_json
from histill.data.synthetic.kidney_slide import write_kidney_slide
from histill.formats.pyramid import new_slide
from histill.slides.base import Slide
from histill.slides.degrade import Scanner, degrade
from histill.slides.open import open_slide

SIDE, MPP, BAND, ROUNDS = 4096, 1.0, 512, 3


def measure_costs(out: Path, to: Path) -> None:
    """Predict a made-up slide as a scanner of each resolution would have made it, by the runs in `out`."""
    folder = out / "costs"
    whole = folder / "r1.tif"
    if not whole.exists():
        write_kidney_slide(whole, folder / "boxes.json", side=SIDE, mpp=MPP, seed=5)
    found = {}
    for ratio in (1, *CURVE["kidneys"]):
        slide = folder / f"r{ratio}.tif"
        if ratio > 1 and not slide.exists():
            with open_slide(whole) as opened:
                write_coarse(opened, slide, ratio)
        run = out / "runs" / Job("kidneys", "high" if ratio == 1 else "low", ratio, SEEDS[0]).name / "run"
        seconds = []
        for _ in range(ROUNDS + 1):
            remove(folder / "found")
            began = time.perf_counter()
            code = histill(["predict", str(run), str(slide), "--to", str(folder / "found"), "--threads", "1"])
            seconds.append(time.perf_counter() - began)
            if code:
                raise SystemExit(f"histill predict ended with {code}")
        # The first warms up.
        found[str(ratio)] = {"bytes": slide.stat().st_size, "seconds": float(np.median(seconds[1:]))}
    write_json(to, {"side": SIDE, "mpp": MPP, "slide": found})


def write_coarse(slide: Slide, path: Path, ratio: int) -> None:
    """The slide as a cheap scanner sees it, with a pyramid."""
    width, height = slide.size
    seen = degrade(
        slide.read_as(Region(0, 0, width, height), width, height), ratio, Scanner(), np.random.default_rng(0)
    )
    with new_slide(path, shape=seen.shape[:2], mpp=slide.mpp * ratio, quality=75, description="made up") as made:
        for top in range(0, len(seen), BAND):
            made.add(seen[top : top + BAND])


def curve_plot(lines: Mapping[str, Mapping[int, Number]]) -> bytes:
    """AP against r, with intervals, as a PNG."""
    figure = Figure((6, 4), layout="constrained")
    axis = figure.subplots()
    for plan, numbers in lines.items():
        if plan == "high":
            axis.axhline(numbers[1].value, color="grey", ls="--", label="teacher, at high resolution")
            continue
        x = np.array(sorted(numbers)) * (1.03 if plan == "hybrid" else 0.97)
        values = [numbers[ratio] for ratio in sorted(numbers)]
        spread = [[each.value - (each.low or 0) for each in values], [(each.high or 0) - each.value for each in values]]
        label = "with distillation" if plan == "hybrid" else "alone"
        axis.errorbar(x, [each.value for each in values], spread, marker="o", capsize=3, label=label)
    axis.set(xscale="log", xlabel="r: times as coarse", ylabel="AP.5:.95", ylim=(0, 1))
    ratios = sorted({ratio for numbers in lines.values() for ratio in numbers} - {1})
    axis.set_xticks(ratios, [str(ratio) for ratio in ratios])
    axis.set_xticks([], minor=True)
    axis.legend()
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
