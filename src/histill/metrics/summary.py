"""From the scores of single images to a report with intervals, and from two such lists to what beats what.

`pooled/...` measures come from one confusion matrix, summed over the set: each pixel counts alike. `per_image/...`
measures are means over images of each image's own measure: each image counts alike. The two are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Sample
from histill.core.report import Cell, Number, Report, Table
from histill.metrics import segmentation
from histill.metrics.bootstrap import DRAWS, Resampling, number, paired, resample

RULES = (
    "Pooled measures come from one confusion matrix over the set, per-image ones are means over images. "
    "Pixels marked as ignored count nowhere. A class that is neither in the truth nor in the prediction (of the set, "
    "of the image) has no value and is left out of means. HD95 is the larger of the two directions' 95th percentiles "
    "of the distance between outlines; the image's diagonal where only one of the two masks is empty."
)
INTERVALS = "Brackets: 95 % interval, {draws} bootstrap draws of patients."
LEAST_PATIENTS = 5
"""Of fewer no verdict is given: an interval from a handful of patients lies on one side of 0 by chance too often."""
TOO_FEW = "too few patients"
NO_INTERVAL = "There is no interval: the cases come from fewer than two patients"


@dataclass(frozen=True, eq=False)
class ImageScore:
    """How one prediction of one image did.

    Attributes:
        id: the sample's id.
        patient: whom the image comes from; the unit of the bootstrap.
        confusion: int64 [k, k] pixel counts, rows the truth; [k, k + 1] where pixels may have no prediction.
        hd95: float64 [k], pixels; see `segmentation.hd95`.
        mpp: um per pixel, or None where it is not known.
    """

    id: str
    patient: str
    confusion: NDArray[np.int64]
    hd95: NDArray[np.float64]
    mpp: float | None = None

    @property
    def quality(self) -> float:
        """The image's own mean IoU, by which images are ranked; nan if every pixel is ignored."""
        return float(segmentation.mean_iou(self.confusion))


def score_image(
    sample: Sample, truth: NDArray[np.uint8], predicted: NDArray[np.uint8], k: int, *, outlines: bool = True
) -> ImageScore:
    """Score one predicted label map against its truth.

    Args:
        sample: whose image it is; without a patient it is a patient of its own.
        truth: uint8 [h, w], classes 0 to k - 1 or IGNORE.
        predicted: uint8 [h, w], classes 0 to k - 1.
        k: number of classes.
        outlines: measure HD95 too, which takes most of the time; without it, HD95 is nan.

    Raises:
        HistillError: sizes, types or labels do not fit; it names the sample.
    """
    try:
        table = segmentation.confusion(truth, predicted, k)
        distance = segmentation.hd95(truth, predicted, k) if outlines else np.full(k, np.nan)
    except HistillError as error:
        subject = ", ".join(part for part in (sample.id, error.subject) if part)
        raise HistillError(error.what, code=error.code, subject=subject, mend=error.mend) from error
    return ImageScore(sample.id, sample.patient or sample.id, table, distance, sample.mpp)


def ranked(scores: Iterable[ImageScore]) -> list[ImageScore]:
    """Images from the worst to the best mean IoU; those without one are left out."""
    return sorted(
        (score for score in scores if not np.isnan(score.quality)), key=lambda score: (score.quality, score.id)
    )


def exemplars(scores: Iterable[ImageScore], count: int = 3) -> dict[str, list[ImageScore]]:
    """The `best`, `median` and `worst` images by mean IoU, up to `count` each and none of them twice."""
    order = ranked(scores)
    count = min(count, max(len(order) // 3, 1))
    middle = (len(order) - count) // 2
    chosen = {"best": order[::-1][:count], "median": order[middle : middle + count], "worst": order[:count]}
    if len(order) < 3:  # too few for three kinds
        chosen["median"], chosen["worst"] = [], chosen["worst"][: len(order) - 1]
    return chosen


def summarise(
    scores: Sequence[ImageScore],
    classes: Classes,
    *,
    title: str = "Segmentation",
    quarantined: int = 0,
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Report:
    """Everything there is to say about one prediction of a set of images.

    Args:
        scores: one per image.
        classes: of the masks, in label order.
        title: what was evaluated.
        quarantined: how many further images were put aside.
        warnings: to be repeated on top of the report, such as the manifest's.
        settings: to be repeated at its end.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        numbers `cases/...`, `pooled/{mIoU,FwIoU,ACC}`, `pooled/{IoU,Dice}/<class>`, `per_image/{mIoU,mDice}`,
        `per_image/{IoU,Dice,HD95 px,HD95 um}/<class>` (`HD95 um` only if some image's mpp is known), and their tables.

    Raises:
        HistillError: there is no score, an id comes twice, or the number of classes differs.
    """
    _check(scores, len(classes), "scores")
    resampling = resample([score.patient for score in scores], seed=seed, draws=draws)
    tables = np.stack([score.confusion for score in scores])  # [n, k, k]
    numbers = _counts(len(scores), quarantined, resampling.patients)
    numbers |= {
        name: number(replicates, len(scores)) for name, replicates in _pooled(tables, classes, resampling).items()
    }
    for name, values in _per_image(scores, classes).items():
        numbers[name] = number(resampling.means(values), int(np.count_nonzero(~np.isnan(values))))
    return Report(
        title=title,
        numbers=numbers,
        tables=_summary_tables(numbers, classes, draws if resampling.patients > 1 else 0),
        warnings=(*warnings, *_own_warnings(resampling, quarantined)),
        settings={**(settings or {}), "bootstrap": {"unit": "patient", "draws": draws, "seed": seed}},
    )


def compare(
    a: Sequence[Sequence[ImageScore]],
    b: Sequence[Sequence[ImageScore]],
    classes: Classes,
    *,
    names: tuple[str, str] = ("A", "B"),
    title: str = "",
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Report:
    """Paired differences A - B over the same images, pooled over seeds, and whether one beats the other.

    Over seeds: for `pooled/...` the confusion matrices of all seeds are summed, patient by patient; for `per_image/...`
    each image's value is the mean over the seeds. Where a class is absent from truth and from A but B predicts it, A
    gets the perfect value, so that B's fault counts (and the other way round); so A and B here may differ a little from
    their own reports.

    Args:
        a: A's scores, one list per seed, each over the same images.
        b: B's scores, as many seeds, the same images.
        classes: of the masks, in label order.
        names: what A and B are called.
        title: of the report; made from the names if empty.
        warnings: to be repeated on top of the report.
        settings: to be repeated at its end.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        numbers named as in `summarise`, with `difference/` before the name, such as `difference/pooled/mIoU`; a table
        of measure, A, B, difference and verdict.

    Raises:
        HistillError: images, patients, spacings or true pixel counts differ between the lists, or the numbers of seeds.
    """
    if not a or len(a) != len(b):
        raise HistillError(
            f"{len(a)} seeds of {names[0]} and {len(b)} of {names[1]}",
            code=Exit.USAGE,
            mend="Compare runs over the same seeds",
        )
    runs = [_matched(run, a[0], len(classes), name) for lists, name in ((a, names[0]), (b, names[1])) for run in lists]
    runs_a, runs_b = runs[: len(a)], runs[len(a) :]
    resampling = resample([score.patient for score in runs_a[0]], seed=seed, draws=draws)

    measures: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], int]] = {}
    pooled_a, pooled_b = (_pooled(_summed(runs), classes, resampling) for runs in (runs_a, runs_b))
    for name in pooled_a:
        measures[name] = (*_align_absent(pooled_a[name], pooled_b[name], perfect=1), len(a[0]))
    images_a, images_b = ([_per_image(run, classes) for run in runs] for runs in (runs_a, runs_b))
    for name in images_a[0]:
        of_a, of_b = _align_absent(
            np.stack([run[name] for run in images_a]),  # [s, n]
            np.stack([run[name] for run in images_b]),
            perfect=0 if "HD95" in name else 1,
        )
        of_a, of_b = (segmentation.mean_defined(values, axis=0) for values in (of_a, of_b))  # [n]
        measures[name] = (resampling.means(of_a), resampling.means(of_b), int(np.count_nonzero(~np.isnan(of_a))))

    numbers: dict[str, Number] = {}
    rows: list[tuple[Cell, ...]] = []
    for name, (of_a, of_b, n) in measures.items():
        better: Literal["higher", "lower"] = "lower" if "HD95" in name else "higher"
        difference = paired(of_a, of_b, n, names=names, better=better)
        numbers[f"difference/{name}"] = difference.number
        verdict = difference.verdict if resampling.patients >= LEAST_PATIENTS else TOO_FEW
        rows.append((name, number(of_a, n), number(of_b, n), difference.number, verdict, n))
    columns = ("measure", *names, "difference", "verdict", "images")
    over = f"{len(a)} seeds" if len(a) > 1 else "one seed"
    note = (
        f"The difference is {names[0]} - {names[1]}, paired over images and pooled over {over}. One beats the other if "
        f"the 95 % interval of the difference ({draws} bootstrap draws of patients) lies wholly on its side of 0, "
        f"and there are at least {LEAST_PATIENTS} patients. "
        "For HD95 less is better. No correction for the number of measures."
    )
    return Report(
        title=title or f"{names[0]} against {names[1]}",
        numbers=numbers,
        tables=(Table("Paired differences", columns, tuple(rows), note),),
        warnings=(*warnings, *_own_warnings(resampling, 0)),
        settings={**(settings or {}), "seeds": len(a), "bootstrap": {"unit": "patient", "draws": draws, "seed": seed}},
    )


_OVER_CLASSES: Mapping[str, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "mIoU": segmentation.mean_iou,
    "FwIoU": segmentation.frequency_weighted_iou,
    "ACC": segmentation.accuracy,
}
_BY_CLASS: Mapping[str, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "IoU": segmentation.class_iou,
    "Dice": segmentation.class_dice,
}


def _pooled(tables: NDArray[np.int64], classes: Classes, resampling: Resampling) -> dict[str, NDArray[np.float64]]:
    """Each pooled measure's replicates [1 + draws], from confusion counts [n, k, k]."""
    sums = resampling.sums(tables)  # [1 + draws, k, k]
    replicates = {f"pooled/{name}": measure(sums) for name, measure in _OVER_CLASSES.items()}
    for name, measure in _BY_CLASS.items():
        replicates |= _by_class(f"pooled/{name}", measure(sums), classes)
    return replicates


def _per_image(scores: Sequence[ImageScore], classes: Classes) -> dict[str, NDArray[np.float64]]:
    """Each image's own measures [n]; nan where it has none."""
    tables = np.stack([score.confusion for score in scores])  # [n, k, k]
    values = {"per_image/mIoU": segmentation.mean_iou(tables), "per_image/mDice": segmentation.mean_dice(tables)}
    for name, measure in _BY_CLASS.items():
        values |= _by_class(f"per_image/{name}", measure(tables), classes)
    pixels = np.stack([score.hd95 for score in scores])  # [n, k]
    values |= _by_class("per_image/HD95 px", pixels, classes)
    if any(score.mpp is not None for score in scores):
        spacing = np.array([np.nan if score.mpp is None else score.mpp for score in scores])
        values |= _by_class("per_image/HD95 um", pixels * spacing[:, None], classes)
    return values


def _by_class(name: str, values: NDArray[np.float64], classes: Classes) -> dict[str, NDArray[np.float64]]:
    return {f"{name}/{each}": values[..., c] for c, each in enumerate(classes.names)}


def _align_absent(
    a: NDArray[np.float64], b: NDArray[np.float64], perfect: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the perfect value where only the other one has any: there the other saw a class that is not there."""
    return np.where(np.isnan(a) & ~np.isnan(b), perfect, a), np.where(np.isnan(b) & ~np.isnan(a), perfect, b)


def _summed(runs: Sequence[Sequence[ImageScore]]) -> NDArray[np.int64]:
    """Confusion counts of each image, summed over the runs; int64 [n, k, k]."""
    summed: NDArray[np.int64] = np.stack([[score.confusion for score in run] for run in runs]).sum(0)
    return summed


def _matched(run: Sequence[ImageScore], first: Sequence[ImageScore], k: int, name: str) -> list[ImageScore]:
    """The run's scores in the order of the first run, after a check that they speak of the same images."""
    _check(run, k, name)
    by_id = {score.id: score for score in run}
    apart = sorted(by_id.keys() ^ {score.id for score in first})
    if apart:
        shown = ", ".join(apart[:5]) + (" ..." if len(apart) > 5 else "")
        raise HistillError(
            f"{len(apart)} images were not scored in every run: {shown}",
            code=Exit.INPUT,
            subject=name,
            mend="Compare predictions of the same images",
        )
    ordered = [by_id[score.id] for score in first]
    for score, other in zip(ordered, first, strict=True):
        same = score.patient == other.patient and score.mpp == other.mpp
        if not same or (score.confusion.sum(1) != other.confusion.sum(1)).any():
            raise HistillError(
                "patient, spacing or true mask differs between the runs",
                code=Exit.INPUT,
                subject=f"{name}, {score.id}",
                mend="Score both predictions against one table",
            )
    return ordered


def _check(scores: Sequence[ImageScore], k: int, name: str) -> None:
    if not scores:
        raise HistillError("no image was scored", code=Exit.INPUT, subject=name, mend="Give images with a true mask")
    for score in scores:
        if score.confusion.shape not in ((k, k), (k, k + 1)) or score.hd95.shape != (k,):
            raise HistillError(
                f"scored with {len(score.hd95)} classes, not {k}", code=Exit.INPUT, subject=f"{name}, {score.id}"
            )
    ids = [score.id for score in scores]
    if len(set(ids)) != len(ids):
        repeated = next(each for i, each in enumerate(ids) if each in ids[:i])
        raise HistillError("scored twice", code=Exit.INPUT, subject=f"{name}, {repeated}", mend="Score each image once")


def _counts(used: int, quarantined: int, patients: int) -> dict[str, Number]:
    counts = {"total": used + quarantined, "used": used, "quarantined": quarantined, "patients": patients}
    return {f"cases/{name}": Number(count, used + quarantined) for name, count in counts.items()}


def _own_warnings(resampling: Resampling, quarantined: int) -> list[str]:
    warnings = [NO_INTERVAL] if resampling.patients < 2 else []
    if 2 <= resampling.patients < 10:
        warnings.append(f"The intervals rest on {resampling.patients} patients: they are rough, and likely too narrow")
    if quarantined:
        warnings.append(f"{quarantined} images were put aside and stand in no number")
    return warnings


def _summary_tables(numbers: Mapping[str, Number], classes: Classes, draws: int) -> tuple[Table, ...]:
    brackets = INTERVALS.format(draws=draws) if draws else NO_INTERVAL + "."
    over_set = tuple((name, numbers[f"pooled/{name}"], numbers[f"pooled/{name}"].n) for name in _OVER_CLASSES)
    over_images = tuple(
        (name, numbers[f"per_image/{name}"], numbers[f"per_image/{name}"].n) for name in ("mIoU", "mDice")
    )
    distances = [name for name in ("HD95 px", "HD95 um") if f"per_image/{name}/{classes.names[0]}" in numbers]
    return (
        Table("Over the set (pooled)", ("measure", "value", "images"), over_set, brackets),
        _class_table("By class, over the set (pooled)", "pooled", ["IoU", "Dice"], numbers, classes, False),
        Table("Mean over images (per image)", ("measure", "value", "images"), over_images, brackets),
        _class_table(
            "By class, mean over images (per image)", "per_image", ["IoU", "Dice", *distances], numbers, classes, True
        ),
        Table("Cases", ("cases", "count"), tuple((name, numbers[f"cases/{name}"]) for name in _CASES), RULES),
    )


_CASES = ("total", "used", "quarantined", "patients")


def _class_table(
    title: str, kind: str, measures: list[str], numbers: Mapping[str, Number], classes: Classes, counted: bool
) -> Table:
    """One row per class; `counted` adds how many images hold it."""
    rows: list[tuple[Cell, ...]] = []
    for each in classes.names:
        cells = [numbers[f"{kind}/{measure}/{each}"] for measure in measures]
        rows.append((each, *cells, *([cells[0].n] if counted else [])))
    return Table(title, ("class", *measures, *(["images"] if counted else [])), tuple(rows))
