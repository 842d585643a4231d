"""Average precision against faster-coco-eval and against the definition spelt out; FROC and bootstrap against loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.boxes import Boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.metrics.bootstrap import paired, resample
from histill.metrics.detection import (
    AREAS,
    IOUS,
    Matches,
    at_score,
    average_precision,
    detection_numbers,
    match,
    measures,
    overlaps,
    sensitivity_at,
)

Pair = tuple[Boxes, Boxes]


def random_pairs(seed: int, images: int = 8, k: int = 2, most: int = 12, *, crowded: bool = False) -> list[Pair]:
    """True and found boxes on a coarse grid, so that overlaps tie, with scores in tenths, so that they tie too."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        n = int(random.integers(0, most))
        corner = random.integers(0, 4 if crowded else 60, (n, 2)) * 4
        side = random.integers(1, 40, (n, 2)) * 4
        true = Boxes(
            np.concatenate([corner, corner + side], 1).astype(np.float32), random.integers(0, k, n).astype(np.int64)
        )
        near = np.repeat(true.corners, random.integers(0, 4, n), 0)
        near = near + random.integers(-3, 4, near.shape).astype(np.float32) * random.integers(0, 4)
        far = random.integers(0, 50, (int(random.integers(0, 6)), 4)) * 4
        far = np.concatenate([far[:, :2], far[:, :2] + 4 + far[:, 2:]], 1)
        corners = np.concatenate([near, far]).astype(np.float32)
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        scores = random.integers(0, 11, len(corners)) / 10
        pairs.append((true, Boxes.of(corners.tolist(), random.integers(0, k, len(corners)).tolist(), scores.tolist())))
    return pairs


def matched(pairs: list[Pair], k: int = 2, **options: Any) -> list[Matches]:
    return [match(true, found, k, **options) for true, found in pairs]


def alone(cases: list[Matches]) -> np.ndarray:
    return average_precision(cases, resample([str(i) for i in range(len(cases))], draws=0))[0]


def spelt_out(pairs: list[Pair], c: int, iou: float, low: float, high: float, most: int = 100) -> float:
    """COCO's evaluation of one class, threshold and range, box by box."""

    def area(box: np.ndarray) -> float:
        return float((box[2] - box[0]) * (box[3] - box[1]))

    def overlap(one: np.ndarray, other: np.ndarray) -> float:
        w = min(one[2], other[2]) - max(one[0], other[0])
        h = min(one[3], other[3]) - max(one[1], other[1])
        shared = max(w, 0.0) * max(h, 0.0)
        return float(shared / (area(one) + area(other) - shared))

    finds: list[tuple[float, bool]] = []
    total = 0
    for true, found in pairs:
        boxes = [box.astype(float) for box in true.corners[true.classes == c]]
        counting = [low <= area(box) <= high for box in boxes]
        total += sum(counting)
        taken: set[int] = set()
        own = [(float(found.scores[i]), i) for i in np.flatnonzero(found.classes == c)]
        for score, i in sorted(own, key=lambda each: -each[0])[:most]:
            box, best = found.corners[i].astype(float), None
            for wanted in (True, False):
                for j, other in enumerate(boxes):
                    if best is None or counting[best] == wanted:
                        value = overlap(box, other)
                        free = j not in taken and counting[j] == wanted and value >= iou
                        if free and (best is None or value >= overlap(box, boxes[best])):
                            best = j
                if best is not None:
                    break
            if best is not None:
                taken.add(best)
            if (best is None and low <= area(box) <= high) or (best is not None and counting[best]):
                finds.append((score, best is not None))
    if not total:
        return float("nan")
    finds.sort(key=lambda each: -each[0])
    curve, hits = [], 0
    for place, (_, good) in enumerate(finds, 1):
        hits += good
        curve.append((hits / total, hits / place))
    reached = [max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(reached))


def from_the_library(pairs: list[Pair], k: int) -> np.ndarray:
    """AP [a, t, k] of faster-coco-eval; nan where there is none."""
    api = pytest.importorskip("faster_coco_eval")
    images, truths, finds = [], [], []
    for i, (true, found) in enumerate(pairs, 1):
        images.append({"id": i, "width": 4096, "height": 4096})
        for boxes, into in ((true, truths), (found, finds)):
            for j, (x0, y0, x1, y1) in enumerate(boxes.corners.astype(float).tolist()):
                box = [x0, y0, x1 - x0, y1 - y0]
                entry = {"image_id": i, "category_id": int(boxes.classes[j]) + 1, "bbox": box, "id": len(into) + 1}
                entry |= {"area": box[2] * box[3], "iscrowd": 0}
                if boxes.scores is not None:
                    entry["score"] = float(boxes.scores[j])
                into.append(entry)
    categories = [{"id": c + 1, "name": str(c)} for c in range(k)]
    gt = api.COCO({"images": images, "annotations": truths, "categories": categories})
    evaluation = api.COCOeval_faster(gt, gt.loadRes(finds), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1].mean(1)  # [t, k, a]
    return np.where(precision > -1, precision, np.nan).transpose(2, 0, 1)


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_faster_coco_evals(seed: int, crowded: bool) -> None:
    pairs = random_pairs(seed, images=12, k=3, crowded=crowded)
    nothing = Boxes.of([], [], [])
    pairs += [(pairs[0][0], nothing), (Boxes.of([], []), pairs[1][1]), (Boxes.of([], []), nothing)]
    np.testing.assert_allclose(alone(matched(pairs, 3)), from_the_library(pairs, 3), rtol=0, atol=1e-12)


def test_average_precision_of_more_boxes_than_count_is_faster_coco_evals() -> None:
    random = np.random.default_rng(0)
    corner = random.integers(0, 300, (240, 2))
    boxes = np.concatenate([corner, corner + random.integers(4, 60, (240, 2))], 1)
    true = Boxes.of(boxes[:60].tolist(), [0] * 60)
    found = Boxes.of((boxes[::-1] + 1).tolist(), [0] * 240, random.random(240).tolist())
    pairs = [(true, found), (Boxes.of([], []), found.take(range(40)))]
    ours = alone(matched(pairs, 1))
    np.testing.assert_allclose(ours, from_the_library(pairs, 1), rtol=0, atol=1e-12)
    assert alone(matched(pairs, 1, most=None))[0, 0, 0] > ours[0, 0, 0] > 0


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_the_definition_spelt_out(seed: int) -> None:
    pairs = random_pairs(seed + 20, images=5, crowded=seed % 2 == 0)
    found = alone(matched(pairs))
    assert np.nanmin(found) < np.nanmax(found)
    for i, (low, high) in enumerate(AREAS.values()):
        for j in (0, 5, 9):
            for c in range(2):
                assert found[i, j, c] == pytest.approx(spelt_out(pairs, c, IOUS[j], low, high), abs=1e-12, nan_ok=True)


def test_small_cases_by_hand() -> None:
    box = [0.0, 0, 40, 40]
    true, none = Boxes.of([box], [0]), Boxes.of([], [], [])
    perfect = alone(matched([(true, Boxes.of([box], [0], [0.3]))], 1))
    np.testing.assert_array_equal(perfect[:3, :, 0], [[1] * 10, [np.nan] * 10, [1] * 10])
    assert (alone(matched([(true, none)], 1))[0] == 0).all()
    assert np.isnan(alone(matched([(Boxes.of([], []), Boxes.of([box], [0], [0.5]))], 1))).all()
    # A higher false box before it: precision 1/2 at every recall; of equal scores the earlier one counts first.
    both = Boxes.of([[60, 60, 90, 90], box], [0, 0], [0.9, 0.3])
    assert alone(matched([(true, both)], 1))[0, 0, 0] == pytest.approx(0.5)
    # 36 of 40 columns: IoU .9, right at thresholds .5 to .9 and wrong at .95.
    near = Boxes.of([[0, 0, 36, 40]], [0], [0.5])
    assert alone(matched([(true, near)], 1))[0, :, 0].tolist() == [1] * 9 + [0]
    assert overlaps(true.corners, near.corners).tolist() == [[0.9]]
    # Another class's box is of no use.
    assert alone(matched([(true, Boxes.of([box], [1], [0.5]))]))[0, 0, 0] == 0


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_it_keeps_its_laws(seed: int) -> None:
    pairs = random_pairs(seed, images=3)
    found = alone(matched(pairs))
    defined = ~np.isnan(found)
    assert ((found[defined] >= 0) & (found[defined] <= 1)).all()
    # Only the order of scores matters.
    squeezed = [(t, Boxes(f.corners, f.classes, (f.scores / 2 + 0.25).astype(np.float32))) for t, f in pairs]
    np.testing.assert_array_equal(alone(matched(squeezed)), found)
    # What is found exactly, with the highest score, is worth 1.
    own = [(t, Boxes(t.corners, t.classes, np.ones(len(t), np.float32))) for t, _ in pairs]
    values = alone(matched(own))
    assert (values[~np.isnan(values)] == 1).all()


def distinct_scores(pairs: list[Pair]) -> list[Pair]:
    """Ties between images would stand in another order where an image is repeated."""
    random, total = np.random.default_rng(1), sum(len(found) for _, found in pairs)
    scores, start, changed = random.permutation(total).astype(np.float32) / total, 0, []
    for true, found in pairs:
        changed.append((true, Boxes(found.corners, found.classes, scores[start : start + len(found)])))
        start += len(found)
    return changed


def test_every_draw_is_the_measure_of_the_images_drawn() -> None:
    pairs, patients = distinct_scores(random_pairs(3, images=9)), list("aabbbcdde")
    cases = matched(pairs)
    resampling = resample(patients, seed=4, draws=30)
    extents = np.random.default_rng(0).uniform(0.5, 2, 9)
    found = average_precision(cases, resampling)
    froc = sensitivity_at(cases, resampling, (0.5, 1, 3), extents=extents)
    points = at_score(cases, resampling, 0.4)
    for draw in range(31):
        times = resampling.weights[draw, resampling.patient].astype(int)
        chosen = [i for i in range(9) for _ in range(times[i])]
        drawn = [cases[i] for i in chosen]
        one = resample(["x"] * len(drawn), draws=0)
        np.testing.assert_allclose(found[draw], alone(drawn), atol=1e-12)
        np.testing.assert_allclose(
            froc[draw], sensitivity_at(drawn, one, (0.5, 1, 3), extents=extents[chosen])[0], atol=1e-12
        )
        for name, values in at_score(drawn, one, 0.4).items():
            np.testing.assert_allclose(points[name][draw], values[0], atol=1e-12)
    assert np.nanstd(found[1:, 0, 0, 0]) > 0


@pytest.mark.parametrize("seed", range(5))
def test_froc_is_the_best_of_all_scores_tried(seed: int) -> None:
    pairs = random_pairs(seed + 40, images=6)
    cases = matched(pairs, most=None)
    rates, extents = (0.2, 1.0, 3.0), np.array([1.0, 2, 0.5, 1, 1, 1])
    found = sensitivity_at(cases, resample(list("abcdef"), draws=0), rates, extents=extents)[0]
    for c in range(2):
        total = sum(np.count_nonzero(true.classes == c) for true, _ in pairs)
        for r, rate in enumerate(rates):
            best = 0.0
            for score in {float(s) for _, boxes in pairs for s in boxes.scores}:
                shown = [boxes.take(boxes.scores >= np.float32(score)) for _, boxes in pairs]
                again = matched([(true, boxes) for (true, _), boxes in zip(pairs, shown, strict=True)], most=None)
                wrong = sum(int(case.wrong[0, 0, case.classes == c].sum()) for case in again)
                right = sum(int(case.right[0, 0, case.classes == c].sum()) for case in again)
                if wrong / extents.sum() <= rate:
                    best = max(best, right / total)
            assert found[r, c] == pytest.approx(best)
    assert (np.diff(found, axis=0) >= 0).all()


def test_precision_and_recall_at_a_score() -> None:
    true = Boxes.of([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0, 0, 0])
    found = Boxes.of([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]], [0, 0, 0], [0.9, 0.5, 0.4])
    one = resample(["a"], draws=0)
    points = at_score(matched([(true, found)]), one, 0.5)
    assert points["precision"][0].tolist() == pytest.approx([1 / 2, np.nan], nan_ok=True)
    assert points["recall"][0].tolist() == pytest.approx([1 / 3, np.nan], nan_ok=True)
    assert points["F1"][0].tolist() == pytest.approx([2 / 5, np.nan], nan_ok=True)
    assert at_score(matched([(true, found)]), one, 0.4)["recall"][0, 0] == pytest.approx(2 / 3)


def test_numbers_have_names_intervals_and_can_be_paired() -> None:
    classes = Classes(("glomerulus", "sclerotic"))
    pairs, patients = random_pairs(5, images=10), [str(i // 2) for i in range(10)]
    cases = matched(pairs)
    numbers = detection_numbers(cases, patients, classes, draws=200)
    expected = {"AP", "AP50", "AP75", "AP small", "AP medium", "AP large"}
    assert set(numbers) == expected | {f"{kind}/{name}" for kind in ("AP", "AP50", "AP75") for name in classes.names}
    by_class = alone(cases)
    assert numbers["AP"].value == pytest.approx(np.nanmean(by_class[0]))
    assert numbers["AP75/sclerotic"].value == pytest.approx(by_class[0, 5, 1])
    assert numbers["AP small"].value == pytest.approx(np.nanmean(np.nanmean(by_class[1], 0)))
    assert numbers["AP50"].low is not None
    assert numbers["AP50"].low < numbers["AP50"].value < numbers["AP50"].high
    resampling = resample(patients, draws=200)
    perfect = matched([(t, Boxes(t.corners, t.classes, np.ones(len(t), np.float32))) for t, _ in pairs])
    a, b = (measures(average_precision(each, resampling), classes)["AP"] for each in (perfect, cases))
    assert paired(a, b, 10).verdict == "A beats B"


def test_faults_are_named() -> None:
    true = Boxes.of([[0, 0, 1, 1]], [0])
    with pytest.raises(HistillError, match="no scores") as caught:
        match(true, true, 1)
    assert caught.value.code == Exit.INPUT
    with pytest.raises(HistillError, match="class 3 is none of the 2"):
        match(true, Boxes.of([[0, 0, 1, 1]], [3], [0.5]), 2)
    with pytest.raises(HistillError, match="0 images for the patients of 1"):
        average_precision([], resample(["a"]))
