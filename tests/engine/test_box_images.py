"""Images seen as coarse as a method looks at them: boxes come back in the images' own pixels."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finder import CARD, Finder, spots, trained
from PIL import Image

from histill.core.boxes import read_boxes
from histill.core.geometry import Region
from histill.core.journal import read_journal
from histill.core.manifest import Manifest, Sample
from histill.engine.apply import Applied
from histill.engine.box_images import BoxImageSettings, find_in_images
from histill.engine.run import Machine
from histill.slides.degrade import Scanner

MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)
PLACES = [(8, 12, 24, 32), (40, 48, 64, 56)]


def table(folder: Path, *images: np.ndarray, mpp: float | None = 0.5) -> Manifest:
    samples = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
        samples.append(Sample(f"image {i}", folder / f"{i}.png", patient=f"p{i}", mpp=mpp))
    return Manifest(tuple(samples), CARD, folder / "t.csv", "digest")


def find(table: Manifest, folder: Path, *, model: Any = None, **settings: Any) -> Applied:
    return find_in_images(model or trained(), table, folder, machine=MACHINE, settings=BoxImageSettings(**settings))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def found(folder: Path, number: int = 0) -> list[list[float]]:
    name = rows(folder)[number]["boxes"]
    return sorted(read_boxes(folder / name, CARD.as_classes()).corners.tolist())


def test_boxes_are_in_the_images_own_pixels(tmp_path: Path) -> None:
    model = trained()
    find(table(tmp_path, spots(80, 100, PLACES)), tmp_path / "out", model=model)
    assert model.method.seen == [(1, 3, 20, 25)]
    assert found(tmp_path / "out") == [list(place) for place in PLACES]
    row = rows(tmp_path / "out")[0]
    assert (row["status"], row["spot_count"], row["blot_count"]) == ("ok", "2", "0")
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1


@pytest.mark.parametrize(
    ("mpp", "learnt", "coarse", "times"),
    [
        *[
            (0.5, 0.5, False, 4),
            (1.0, 0.5, False, 2),
            (2.0, 0.5, False, 1),
            (8.0, 0.5, False, 1),
            (0.25, 0.5, False, 8),
        ],
        *[(None, 0.5, False, 4), (0.5, None, False, 4), (0.5, 0.5, True, 1)],
    ],
)
def test_an_image_is_made_as_coarse_as_the_spacings_say(
    tmp_path: Path, mpp: float | None, learnt: float | None, coarse: bool, times: int
) -> None:
    model = trained(mpp=learnt)
    find(table(tmp_path, spots(64, 64, PLACES[:1]), mpp=mpp), tmp_path / "out", model=model, coarse=coarse)
    assert model.method.seen == [(1, 3, 64 // times, 64 // times)]


def test_a_spacing_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    find(table(tmp_path, spots(64, 64, []), mpp=0.8), tmp_path / "out")
    texts = [each["text"] for each in read_journal(tmp_path / "out/journal.jsonl") if each["event"] == "note"]
    assert texts == ["image 0: it is seen at 1.6 um/px, and the method learnt at 2"]


def test_sides_that_the_ratio_does_not_divide_and_crops(tmp_path: Path) -> None:
    made = table(tmp_path, spots(61, 62, [(44, 40, 62, 61)]))
    cut = replace(made.samples[0], id="crop", crop=Region(40, 36, 22, 25))
    model = trained()
    find(replace(made, samples=(*made.samples, cut)), tmp_path / "out", model=model)
    assert model.method.seen == [(1, 3, 16, 16), (1, 3, 7, 6)]
    # What is seen of the last row and column of a coarse pixel is white in part; no box reaches beyond the image.
    assert found(tmp_path / "out") == [[44, 40, 60, 60]]
    assert found(tmp_path / "out", 1) == [[4, 4, 20, 24]]


def test_an_image_without_anything_is_one_with_an_empty_list(tmp_path: Path) -> None:
    find(table(tmp_path, spots(64, 64, [])), tmp_path / "out")
    assert found(tmp_path / "out") == []
    assert rows(tmp_path / "out")[0]["status"] == "ok"
    assert rows(tmp_path / "out")[0]["spot_count"] == "0"


def test_only_boxes_of_the_score_are_counted_and_all_are_kept(tmp_path: Path) -> None:
    image = spots(64, 64, [(8, 8, 16, 24)], grey=20)
    image[40:56, 40:48] = 70
    find(table(tmp_path, image), tmp_path / "out", score=0.8)
    row = rows(tmp_path / "out")[0]
    assert (row["spot_count"], row["blot_count"]) == ("1", "0")
    assert len(found(tmp_path / "out")) == 2


def test_the_scanners_noise_follows_from_the_image_and_begun_again_nothing_is_done(tmp_path: Path) -> None:
    made = table(tmp_path, spots(64, 64, PLACES[:1]), spots(64, 64, PLACES[:1]))
    noisy = Scanner(noise=40, quality=0, blur=0)
    for folder, order in (("a", made.samples), ("b", made.samples[::-1])):
        find(replace(made, samples=order), tmp_path / folder, model=trained(scanner=noisy))
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a/boxes").iterdir()}
    assert len(files) == 2
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    model = trained(scanner=noisy)
    assert find(made, tmp_path / "a", model=model).reused == 2
    assert model.method.seen == []


def test_an_image_that_cannot_be_read_is_put_aside(tmp_path: Path) -> None:
    made = table(tmp_path, spots(64, 64, PLACES[:1]), spots(64, 64, PLACES[:1]))
    made.samples[0].path.write_bytes(b"no image")
    applied = find(made, tmp_path / "out")
    assert list(applied.quarantined) == ["image 0"]
    assert [row["status"] for row in rows(tmp_path / "out")] == ["quarantined", "ok"]


def test_the_finder_finds_nothing_on_glass() -> None:
    assert len(Finder().predict(spots(16, 16, []))) == 0
