"""Epochs of a detector are chosen by the average precision of validation images, seen as the detector sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finder import CARD, Finder, spots
from PIL import Image

from histill.core.boxes import Boxes, write_boxes
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.engine.run import Machine, Run, build_fabric
from histill.engine.select_boxes import box_selection
from histill.metrics.detection import detection_numbers, match
from histill.slides.degrade import PLAIN, degrade

PLACES = [(8, 12, 24, 32), (40, 48, 64, 56)]


class Detector(Finder):
    """A finder in the place of a network."""


def table(folder: Path) -> Manifest:
    """Five images; in one is nothing, in one the box is a little off, in one it is far off."""
    truths = [PLACES, [], PLACES[:1], [(8, 12, 26, 36)], [(4, 4, 12, 12)]]
    shown = [PLACES, [], PLACES, PLACES[:1], PLACES[:1]]
    samples = []
    for i, (true, seen) in enumerate(zip(truths, shown, strict=True)):
        Image.fromarray(spots(64, 64, seen)).save(folder / f"{i}.png")
        write_boxes(folder / f"{i}.json", Boxes.of(true, [0] * len(true)), CARD.as_classes())
        samples.append(Sample(f"s{i}", folder / f"{i}.png", boxes=folder / f"{i}.json", line=i + 2))
    return Manifest(tuple(samples), CARD, folder / "t.csv", "")


def run(folder: Path) -> Run:
    return Run(folder, 0, Journal(), build_fabric(Machine(accelerator="cpu", precision="float32", threads=1)))


@pytest.mark.parametrize("high", [False, True])
def test_the_score_is_ap(tmp_path: Path, high: bool) -> None:
    made, detector = table(tmp_path), Detector()
    network: Any = detector
    score = box_selection(network, made, "boxes", run(tmp_path), ratio=4, scanner=PLAIN, high=high)
    assert score is not None
    times, cases = (1 if high else 4), []
    for i in range(5):
        image = np.array(Image.open(tmp_path / f"{i}.png"))
        image = image if high else degrade(image, 4, PLAIN, np.random.default_rng(0))
        true = Boxes.of([[8, 12, 24, 32], [40, 48, 64, 56]][: (2, 0, 1, 0, 0)[i]], [0] * (2, 0, 1, 0, 0)[i])
        true = true if i < 3 else Boxes.of([[(8, 12, 26, 36), (4, 4, 12, 12)][i - 3]], [0])
        cases.append(match(true.scaled(1 / times), detector.predict(image), 2))
    expected = detection_numbers(cases, [str(i) for i in range(5)], CARD.as_classes(), draws=2)["AP"].value
    assert 0.2 < expected < 0.95
    assert score() == pytest.approx(expected)
    assert score() == score()
    side = 64 // times
    assert {shape[1:] for shape in detector.seen if len(shape) == 4 and shape[0] > 1} == {(3, side, side)}


def test_the_last_epoch_needs_no_score(tmp_path: Path) -> None:
    network: Any = Detector()
    assert box_selection(network, table(tmp_path), "last", run(tmp_path), ratio=4, scanner=PLAIN) is None
    assert box_selection(network, None, "boxes", run(tmp_path), ratio=4, scanner=PLAIN) is None


def test_rows_without_boxes_are_named(tmp_path: Path) -> None:
    made = table(tmp_path)
    bare = Manifest((*made.samples[:2], Sample("bare", tmp_path / "0.png", line=4)), CARD, made.path, "")
    network: Any = Detector()
    with pytest.raises(HistillError, match=r"line 4 \(bare\) has no file of boxes") as caught:
        box_selection(network, bare, "boxes", run(tmp_path), ratio=4, scanner=PLAIN)
    assert caught.value.code == Exit.USAGE


def test_a_detector_that_finds_nothing_scores_nothing(tmp_path: Path) -> None:
    class Blind(Detector):
        def detect(self, images: torch.Tensor) -> Any:
            return super().detect(torch.ones_like(images))

    network: Any = Blind()
    score = box_selection(network, table(tmp_path), "boxes", run(tmp_path), ratio=4, scanner=PLAIN)
    assert score is not None
    assert score() == 0
