"""The page of what benchmarks/training.py has measured."""

from __future__ import annotations

from typing import Any

from histill.core.report import Cell, Report, Table
from histill.report.markdown import to_markdown


def page(found: dict[str, Any]) -> str:
    """Markdown of all parts that have been measured, as they stand in training.json."""
    tables: list[Table] = []
    for name, (_, make) in PARTS.items():
        if name in found:
            tables += make(found[name]["figures"], found)
    machines = {name: part["machine"] for name, part in found.items()}
    busy = [name for name in machines if _is_busy(found, name)]
    warnings = [f"Other work ran on the machine while this was measured: {', '.join(busy)}"] if busy else []
    said = "\n".join(say(found) for name, (say, _) in PARTS.items() if name in found)
    report = to_markdown(Report("Speed of training and metrics", {}, tuple(tables), tuple(warnings), machines))
    title, rest = report.split("\n", 1)
    return f"{title}\n\n{said}\n{rest}"


def _is_busy(found: dict[str, Any], part: str) -> bool:
    machine = found[part]["machine"]
    # What was measured just before has its own share in the load.
    return bool(machine["load before"] > machine["threads"] + 0.5)


def _say_steps(found: dict[str, Any]) -> str:
    measure = "processor" if _is_busy(found, "steps") else "seconds"
    ratios = {
        name: each["plain"][measure] / each["histill"][measure] for name, each in found["steps"]["figures"].items()
    }
    listed = ", ".join(f"{_times(ratio)} ({name})" for name, ratio in ratios.items())
    of = "time of the processor" if measure == "processor" else "time"
    return f"- Training as fast as plain float32, {of}: {listed}; the aim is 2.2 x."


def _say_loading(found: dict[str, Any]) -> str:
    figures = found["loading"]["figures"]
    slowest = min(each["images/s"] for each in figures.values())
    fastest = _fastest(found)
    beside = "" if fastest is None else f", the fastest of these networks learns from {fastest:.0f}"
    return f"- The loader makes {slowest:.0f} images/s where it is slowest{beside}."


def _say_precision(found: dict[str, Any]) -> str:
    figures = found["precision"]["figures"]
    points = 100 * abs(figures["mIoU"]["bf16"] - figures["mIoU"]["float32"])
    return (
        f"- Predictions in bf16 and in float32 agree in {100 * figures['agreeing pixels']:.2f} % of pixels "
        f"(aim: 99.5 %), their mIoU within {points:.2f} points (aim: 0.3)."
    )


def _say_metrics(found: dict[str, Any]) -> str:
    times = found["metrics"]["figures"]["confusion"]["seconds"]
    ratios = {name.removeprefix("torchmetrics, "): each / times["histill"] for name, each in times.items()}
    counted = ", ".join(f"{_times(ratio)} ({name})" for name, ratio in ratios.items() if name != "histill")
    outlines = [
        _times(each["seconds"]["surface-distance"] / each["seconds"]["histill"])
        for each in found["metrics"]["figures"]["outlines"]
    ]
    return (
        f"- The confusion matrix as fast as torchmetrics: {counted}; the aim is 100 x.\n"
        f"- HD95 as fast as surface-distance, by image: {', '.join(outlines)}; the aim is 7 x."
    )


def _fastest(found: dict[str, Any]) -> float | None:
    steps = found.get("steps", {}).get("figures", {})
    return max((float(each["histill"]["images/s"]) for each in steps.values()), default=None)


def _steps(figures: dict[str, Any], found: dict[str, Any]) -> list[Table]:
    rows: list[tuple[Cell, ...]] = []
    for name, each in figures.items():
        plain, own = each["plain"], each["histill"]
        rows.append(
            (
                name,
                f"{plain['seconds']:.2f}",
                f"{own['seconds']:.2f}",
                _times(plain["seconds"] / own["seconds"]),
                _times(plain["processor"] / own["processor"]),
                f"{own['images/s']:.1f}",
                f"{_late(plain):.3f}",
                f"{_late(own):.3f}",
            )
        )
    batch, steps = next((each["batch"], each["steps"]) for each in figures.values())
    columns = (
        "network",
        "plain s/step",
        "histill s/step",
        "ratio",
        "ratio, processor",
        "histill images/s",
        "plain loss",
        "histill loss",
    )
    note = (
        f"224 px, batches of {batch}, SGD. Plain: float32, contiguous, eager, torch's own SGD. histill: its own loop, "
        f"channels last, bf16 autocast. Losses: mean of steps {steps - 2} to {steps} from the same start on the same "
        "batches; dropout, where there is any, draws differently."
    )
    return [Table("A step of training", columns, tuple(rows), note)]


def _late(contender: dict[str, Any]) -> float:
    return float(sum(contender["loss"][-3:]) / 3)


def _loading(figures: dict[str, Any], found: dict[str, Any]) -> list[Table]:
    fastest = _fastest(found)
    rows = []
    for name, each in figures.items():
        share = "" if fastest is None else f"{100 / (1 + each['images/s'] / fastest):.1f} %"
        rows.append((name, f"{each['images/s']:.0f}", share))
    note = (
        "Patches of 224 px with their masks, in batches of 20. The share is the loader's of an epoch's time beside the "
        "fastest network above, if nothing overlaps; with workers it does."
    )
    return [Table("Loading alone", ("what", "images/s", "share of training"), tuple(rows), note)]


def _precision(figures: dict[str, Any], found: dict[str, Any]) -> list[Table]:
    in_float, in_bf16 = (figures["mIoU"][name] for name in ("float32", "bf16"))
    rows = (
        ("pixels that agree", f"{100 * figures['agreeing pixels']:.2f} %"),
        ("the worst image", f"{100 * figures['worst image']:.2f} %"),
        ("mIoU in float32", f"{in_float:.4f}"),
        ("mIoU in bf16", f"{in_bf16:.4f}"),
        ("difference in points", f"{100 * abs(in_bf16 - in_float):.2f}"),
        ("time of bf16 for one in float32", f"{figures['seconds']['bf16'] / figures['seconds']['float32']:.2f}"),
    )
    note = f"One segmenter, its weights the same, on {figures['images']} test images; both in channels last."
    return [Table("bf16 against float32 in inference", ("measure", "value"), rows, note)]


def _metrics(figures: dict[str, Any], found: dict[str, Any]) -> list[Table]:
    counts = figures["confusion"]
    own = counts["seconds"]["histill"]
    pixels = counts["side"] ** 2
    rows = tuple(
        (name, f"{each:.3f}", f"{1e9 * each / pixels:.2f}", "" if name == "histill" else _times(each / own))
        for name, each in counts["seconds"].items()
    )
    equal = "the same" if counts["equal"] else "NOT the same"
    note = (
        f"{counts['side']} x {counts['side']} px, {counts['classes']} classes, regions about 100 px wide. All tables "
        f"are {equal}; IoU differs by {counts['largest difference of IoU']:.0e} at most (torchmetrics: float32)."
    )
    by_map = figures["confusion by map"]
    others = tuple((name, f"{1e9 * each:.2f}") for name, each in by_map.items())
    outlines = tuple(
        (
            f"{each['side']} px, regions of {each['width']}",
            *(f"{1e3 * each['seconds'][name]:.1f}" for name in ("histill", "surface-distance", "obvious")),
            _times(each["seconds"]["surface-distance"] / each["seconds"]["histill"]),
            f"{each['largest difference from the obvious']:.0e}",
            f"{each['median difference from surface-distance']:.1f}",
        )
        for each in figures["outlines"]
    )
    outline_note = (
        "Milliseconds for all 5 classes. The obvious way is the definition in scipy: erosion, distance maps, "
        "percentiles. surface-distance lays outlines between pixels and weighs them by length, so its values differ."
    )
    columns = ("image", "histill", "surface-distance", "obvious", "ratio", "off the obvious", "off surface-distance px")
    return [
        Table("Confusion matrix", ("what", "s", "ns a pixel", "ratio"), rows, note),
        Table("Confusion matrix by map", ("map", "ns a pixel"), others, "histill alone."),
        Table("HD95", columns, outlines, outline_note),
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


PARTS = {
    "steps": (_say_steps, _steps),
    "loading": (_say_loading, _loading),
    "precision": (_say_precision, _precision),
    "metrics": (_say_metrics, _metrics),
}
"""Of each part: what it says in a sentence, and its tables."""
