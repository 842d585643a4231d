"""histill evaluate on slides: every pixel counted once more, slowly; and what it refuses."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scanned import CLASSES, Pixels, tissue, write_predictions, write_table
from small import Histill, bomb, change_rows, torn

from histill.core.labels import IGNORE, Classes
from histill.core.manifest import read_manifest
from histill.core.masks import label_png
from histill.core.record import EMPTY
from histill.data.predicted import open_predictions
from histill.engine.slide_scoring import score_slides
from histill.formats.pyramid import new_labels

Fails = Callable[..., str]

WIDTH, HEIGHT, LEVEL0 = 210, 150, 0.25
"""of every slide: px, and um per px"""
SHAPE = (75, 105)
"""of the predicted maps, at 0.5 um/px"""
Box = tuple[float, float, float, float]


def blocks(shape: tuple[int, int], seed: int, values: Sequence[int] = (0, 1, 2, IGNORE)) -> Pixels:
    """A label map of patches of 7 px."""
    height, width = shape
    coarse = np.random.default_rng(seed).choice(np.array(values, np.uint8), (height // 7 + 1, width // 7 + 1))
    return coarse.repeat(7, 0).repeat(7, 1)[:height, :width]


def write_map(path: Path, labels: Pixels, mpp: float, classes: Sequence[str] = CLASSES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_labels(path, shape=labels.shape[:2], mpp=mpp, classes=Classes(tuple(classes))) as file:
        file.add(labels)
    return path


def a_table(folder: Path, masks: dict[str, Path], classes: Sequence[str] = CLASSES, **card: Any) -> Path:
    """Slides that are read for their bytes alone."""
    rows = []
    for name, mask in masks.items():
        path = folder / f"{name}.svs"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        rows.append({"id": name, "path": path, "mask": mask})
    return write_table(folder / "slides.csv", rows, classes, **card)


def predicted(folder: Path, table: Path, maps: dict[str, Pixels | str], **more: Any) -> Path:
    sizes = dict.fromkeys(maps, (WIDTH, HEIGHT))
    return write_predictions(folder, table, maps, sizes=sizes, level0=LEVEL0, **more)


def begin(predictions: Path, table: Path, *more: object) -> list[object]:
    return ["evaluate", predictions, table, "--to", predictions.parent / "report", "--images", "0", *more]


def report(predictions: Path) -> dict[str, Any]:
    return dict(json.loads((predictions.parent / "report" / "report.json").read_bytes()))


def slowly(
    truth: Callable[[float, float], int],
    found: Pixels,
    at: float = 0.5,
    mpp: float = 0.5,
    background: int | None = None,
) -> list[list[int]]:
    """Confusion counts, pixel by pixel: the truth at a place in level-0 px against the predicted map's pixel there."""
    k = len(CLASSES)
    counts = [[0] * (k + 1) for _ in range(k)]
    step = at / LEVEL0
    for row in range(int(np.ceil(HEIGHT / step - 1e-6))):
        for column in range(int(np.ceil(WIDTH / step - 1e-6))):
            x, y = (column + 0.5) * step, (row + 0.5) * step
            known = truth(x, y)
            if known == IGNORE:
                continue
            height, width = found.shape[:2]
            said = found[min(int(y * LEVEL0 / mpp), height - 1), min(int(x * LEVEL0 / mpp), width - 1)]
            if said == IGNORE:
                said = k if background is None else background
            counts[known][said] += 1
    return counts


def on_map(labels: Pixels, factor: float) -> Callable[[float, float], int]:
    height, width = labels.shape[:2]
    return lambda x, y: int(labels[min(int(y / factor), height - 1), min(int(x / factor), width - 1)])


def figures(tables: Sequence[Sequence[Sequence[int]]]) -> dict[str, float | None]:
    """IoU, Dice, mIoU, ACC over a set, from counts whose last column is what was not predicted."""
    counts = np.sum(np.array(tables), axis=0)
    found: dict[str, float | None] = {}
    ious = []
    for c, name in enumerate(CLASSES):
        agreed, true, said = counts[c, c], counts[c].sum(), counts[:, c].sum()
        there = bool(true + said)
        found[f"pooled/IoU/{name}"] = agreed / (true + said - agreed) if there else None
        found[f"pooled/Dice/{name}"] = 2 * agreed / (true + said) if there else None
        ious += [agreed / (true + said - agreed)] if there else []
    found["pooled/mIoU"] = float(np.mean(ious))
    found["pooled/ACC"] = float(np.trace(counts[:, :-1]) / counts.sum())
    return found


def check_figures(predictions: Path, tables: Sequence[Sequence[Sequence[int]]]) -> None:
    numbers = report(predictions)["numbers"]
    for name, value in figures(tables).items():
        expected = value if value is None else pytest.approx(value, rel=1e-5)
        assert numbers[name]["value"] == expected, name


def confusions(predictions: Path, table: Path, at: float | None = None) -> list[list[list[int]]]:
    scored = score_slides(open_predictions(predictions), read_manifest(table), at)
    return [score.confusion.tolist() for score in scored.scores]


# --- label maps as truth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, 0.25, 0.7, 2.0])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_counts_are_those_of_a_slow_version(factor: int, at: float | None, tmp_path: Path) -> None:
    truth = blocks((-(-HEIGHT // factor), -(-WIDTH // factor)), factor)
    found = blocks(SHAPE, 9)
    table = a_table(tmp_path / "in", {"s": write_map(tmp_path / "in" / "t.ome.tif", truth, LEVEL0 * factor)})
    folder = predicted(tmp_path / "out", table, {"s": found})
    assert confusions(folder, table, at) == [slowly(on_map(truth, factor), found, at or 0.5)]


def test_the_report_says_what_the_counts_say(histill: Histill, tmp_path: Path) -> None:
    truths = {name: blocks((HEIGHT, WIDTH), seed, (0, 1, IGNORE)) for seed, name in enumerate("ab")}
    masks = {name: write_map(tmp_path / "in" / f"{name}.tif", truth, LEVEL0) for name, truth in truths.items()}
    # Class fat is neither true nor predicted: it has no value, and no mean counts it.
    maps = {name: blocks(SHAPE, seed, (0, 1, 1, IGNORE)) for seed, name in enumerate("ab", 5)}
    table = a_table(tmp_path / "in", masks)
    folder = predicted(tmp_path / "out", table, dict(maps))
    for at in (0.5, 1.0):
        said = histill(*begin(folder, table, "--at", at))
        assert said.code == 0, said
        assert "2 slides (all)" in said.out
        check_figures(folder, [slowly(on_map(truths[name], 1), maps[name], at) for name in "ab"])
        found = report(folder)
        assert found["numbers"]["pooled/IoU/fat"]["value"] is None
        assert found["settings"]["um/px"] == f"{at:g}"
        assert "per_image/HD95 um/gland" in found["numbers"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "mIoU" in page
    assert torn(tmp_path / "report") == []


def test_truth_that_says_nothing_counts_nowhere_and_tissue_not_predicted_is_missed(tmp_path: Path) -> None:
    truth = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
    truth[:, 100:] = 1
    found = np.full(SHAPE, IGNORE, np.uint8)
    found[:30] = 1
    table = a_table(tmp_path / "in", {"s": write_map(tmp_path / "in" / "t.tif", truth, LEVEL0)})
    folder = predicted(tmp_path / "out", table, {"s": found})
    assert confusions(folder, table) == [[[0, 0, 0, 0], [0, 30 * 55, 0, 45 * 55], [0, 0, 0, 0]]]


def test_background_is_what_was_not_predicted(tmp_path: Path) -> None:
    truth, found = blocks((HEIGHT, WIDTH), 1, (0, 1, 2)), blocks(SHAPE, 2)
    mask = write_map(tmp_path / "in" / "t.tif", truth, LEVEL0)
    table = a_table(tmp_path / "in", {"s": mask}, background="fat")
    folder = predicted(tmp_path / "out", table, {"s": found})
    assert confusions(folder, table) == [slowly(on_map(truth, 1), found, background=2)]


def test_a_png_with_values_of_its_own(tmp_path: Path) -> None:
    truth, found = blocks((HEIGHT, WIDTH), 1, (0, 1)), blocks(SHAPE, 2)
    (tmp_path / "in").mkdir()
    Image.fromarray(truth * 255).save(tmp_path / "in" / "t.png")
    card = {"mask_values": {"0": "ignore", "255": "gland"}}
    table = a_table(tmp_path / "in", {"s": tmp_path / "in" / "t.png"}, **card)
    folder = predicted(tmp_path / "out", table, {"s": found})
    known = np.where(truth == 1, 1, IGNORE).astype(np.uint8)
    assert confusions(folder, table) == [slowly(on_map(known, 1), found)]


# --- outlines as truth ------------------------------------------------------------------------------------------------

DRAWN: list[tuple[str, Box, Box | None]] = [
    ("gland", (20, 20, 60, 44), (31, 27, 41.5, 33)),
    ("Stroma", (10, 8.25, 180, 130), None),
    ("fat", (100, 40, 101.5, 44), None),
    ("ignore", (120, 60, 160, 100), None),
]


def inside(box: Box, x: float, y: float) -> bool:
    return box[0] <= x < box[2] and box[1] <= y < box[3]


def on_outlines(beyond: int) -> Callable[[float, float], int]:
    """Of outlines that overlap the smaller counts."""
    order = sorted(DRAWN, key=lambda each: (each[1][2] - each[1][0]) * (each[1][3] - each[1][1]))

    def truth(x: float, y: float) -> int:
        for name, box, hole in order:
            if inside(box, x, y) and not (hole and inside(hole, x, y)):
                return IGNORE if name == "ignore" else CLASSES.index(name.lower())
        return beyond

    return truth


def ring(box: Box) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def as_geojson(path: Path) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[*ring(each), ring(each)[0]] for each in (box, hole) if each],
            },
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for name, box, hole in DRAWN
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def as_asap(path: Path) -> Path:
    """The hole is drawn as Camelyon16 draws it, and cut from all others."""

    def annotation(number: int, group: str, box: Box) -> str:
        points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring(box)))
        head = f'<Annotation Name="{number}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58">'
        return f"{head}<Coordinates>{points}</Coordinates></Annotation>"

    drawn = [(name, box) for name, box, _ in DRAWN] + [("Exclusion", hole) for _, _, hole in DRAWN if hole]
    shapes = "".join(annotation(number, *each) for number, each in enumerate(drawn))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{shapes}</Annotations>'
        "<AnnotationGroups/></ASAP_Annotations>"
    )
    return path


@pytest.mark.parametrize("at", [None, 0.25, 1.1])
@pytest.mark.parametrize("background", [None, "fat"])
def test_outlines_of_qupath(background: str | None, at: float | None, tmp_path: Path) -> None:
    found = blocks(SHAPE, 3)
    table = a_table(tmp_path / "in", {"s": as_geojson(tmp_path / "in" / "t.geojson")}, background=background)
    folder = predicted(tmp_path / "out", table, {"s": found})
    other = None if background is None else CLASSES.index(background)
    expected = slowly(on_outlines(IGNORE if other is None else other), found, at or 0.5, background=other)
    assert confusions(folder, table, at) == [expected]


def test_outlines_of_asap(histill: Histill, tmp_path: Path) -> None:
    found = blocks(SHAPE, 3)
    table = a_table(tmp_path / "in", {"s": as_asap(tmp_path / "in" / "t.xml")})
    folder = predicted(tmp_path / "out", table, {"s": found})
    _, outer, hole = DRAWN[0]
    assert hole is not None
    on_top = on_outlines(IGNORE)

    def truth(x: float, y: float) -> int:
        return IGNORE if inside(hole, x, y) else on_top(x, y)

    expected = slowly(truth, found)
    assert inside(outer, hole[0], hole[1])
    assert confusions(folder, table) == [expected]
    assert histill(*begin(folder, table)).code == 0
    check_figures(folder, [expected])


# --- slides that were not segmented -----------------------------------------------------------------------------------


def test_an_empty_slide_is_missed_and_said_and_one_put_aside_is_counted(histill: Histill, tmp_path: Path) -> None:
    truth, found = blocks((HEIGHT, WIDTH), 1, (0, 1, 2)), blocks(SHAPE, 2)
    mask = write_map(tmp_path / "in" / "t.tif", truth, LEVEL0)
    table = a_table(tmp_path / "in", dict.fromkeys("abc", mask))
    folder = predicted(tmp_path / "out", table, {"a": found, "b": EMPTY, "c": "it is torn"})
    said = histill(*begin(folder, table))
    assert said.code == 3
    nothing = np.full(SHAPE, IGNORE, np.uint8)
    check_figures(folder, [slowly(on_map(truth, 1), each) for each in (found, nothing)])
    found_report = report(folder)
    cases = {name: found_report["numbers"][f"cases/{name}"]["value"] for name in ("total", "used", "quarantined")}
    assert cases == {"total": 3, "used": 2, "quarantined": 1}
    assert any("no tissue was found on b" in each for each in found_report["warnings"])
    assert any("put aside" in each for each in found_report["warnings"])


def test_nothing_but_slides_that_were_put_aside(fails: Fails, tmp_path: Path) -> None:
    mask = write_map(tmp_path / "in" / "t.tif", blocks((HEIGHT, WIDTH), 1), LEVEL0)
    table = a_table(tmp_path / "in", {"a": mask})
    folder = predicted(tmp_path / "out", table, {"a": "it is torn"})
    fails(4, "no image was scored", *begin(folder, table))
    assert not (tmp_path / "report").exists()


def test_an_empty_slide_whose_truth_is_background_is_right(tmp_path: Path) -> None:
    mask = write_map(tmp_path / "in" / "t.tif", np.full((HEIGHT, WIDTH), 2, np.uint8), LEVEL0)
    table = a_table(tmp_path / "in", {"a": mask}, background="fat")
    folder = predicted(tmp_path / "out", table, {"a": EMPTY})
    assert confusions(folder, table) == [[[0] * 4, [0] * 4, [0, 0, SHAPE[0] * SHAPE[1], 0]]]


# --- another method ---------------------------------------------------------------------------------------------------


def test_against_another_method(histill: Histill, tmp_path: Path) -> None:
    truths = {name: blocks((HEIGHT, WIDTH), seed, (0, 1, 2)) for seed, name in enumerate("abc")}
    masks = {name: write_map(tmp_path / "in" / f"{name}.tif", truth, LEVEL0) for name, truth in truths.items()}
    table = a_table(tmp_path / "in", masks)
    good: dict[str, Pixels | str] = {name: truth[::2, ::2] for name, truth in truths.items()}
    folder = predicted(tmp_path / "out", table, good)
    worse: dict[str, Pixels | str] = {name: blocks(SHAPE, seed) for seed, name in enumerate("ab", 5)}
    other = predicted(tmp_path / "other", table, {**worse, "c": "it is torn"}, method="rival")
    said = histill(*begin(folder, table, "--against", other, "--at", "1"))
    assert said.code == 0, said
    numbers = report(folder)["numbers"]
    both = [figures([slowly(on_map(truths[n], 1), np.asarray(m), 1.0) for n, m in maps.items() if n != "c"])
            for maps in (good, worse)]  # fmt: skip
    for name in ("pooled/mIoU", "pooled/ACC", "pooled/Dice/gland"):
        mine, theirs = (each[name] for each in both)
        assert mine is not None
        assert theirs is not None
        assert numbers[f"difference/{name}"]["value"] == pytest.approx(mine - theirs, abs=1e-5)
    assert "shade against rival" in (tmp_path / "report" / "report.html").read_text()
    assert "1 slides were put aside by one of the two and are not compared" in report(folder)["warnings"]


def test_against_the_same_method_at_another_spacing(fails: Fails, histill: Histill, tmp_path: Path) -> None:
    truth = blocks((HEIGHT, WIDTH), 1)
    table = a_table(tmp_path / "in", {"s": write_map(tmp_path / "in" / "t.tif", truth, LEVEL0)})
    folder = predicted(tmp_path / "x" / "out", table, {"s": blocks(SHAPE, 2)})
    other = predicted(tmp_path / "y" / "out", table, {"s": truth}, mpp=0.25)
    fails(2, ["--against: ", "different spacings", "--at"], *begin(folder, table, "--against", other))
    assert not (folder.parent / "report").exists()
    assert histill(*begin(folder, table, "--against", other, "--at", "0.5")).code == 0
    # Neither method nor folder tells the two apart.
    assert f"{folder} against {other}" in (folder.parent / "report" / "report.html").read_text()


def test_against_predictions_of_images(fails: Fails, tmp_path: Path) -> None:
    table = a_table(tmp_path / "in", {"s": write_map(tmp_path / "in" / "t.tif", blocks((HEIGHT, WIDTH), 1), LEVEL0)})
    folder = predicted(tmp_path / "out", table, {"s": blocks(SHAPE, 2)})
    replace(open_predictions(folder), folder=tmp_path / "images", kind="images").write()
    message = "it holds images, the other slides"
    fails(2, [f"{tmp_path / 'images'}", message], *begin(folder, table, "--against", tmp_path / "images"))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of predictions of two slides and its table, to be spoilt."""
    masks = {name: write_map(tmp_path / "in" / f"{name}.tif", blocks((HEIGHT, WIDTH), 1), LEVEL0) for name in "ab"}
    table = a_table(tmp_path / "in", masks)
    return predicted(tmp_path / "out", table, dict.fromkeys("ab", blocks(SHAPE, 2))), table


@pytest.mark.parametrize("at", ["0", "-1", "nan", "inf", "1e-6", "1e6"])
def test_no_spacing(at: str, fails: Fails, scored: tuple[Path, Path]) -> None:
    fails(2, "--at", *begin(*scored, "--at", at))


def test_a_mask_of_another_shape(fails: Fails, scored: tuple[Path, Path]) -> None:
    write_map(scored[1].parent / "b.tif", blocks((WIDTH, HEIGHT), 1), LEVEL0)
    parts = ["b.tif", "150 x 210", "210 x 150", "not of one shape"]
    fails(4, parts, *begin(*scored))
    assert not (scored[0].parent / "report").exists()


def test_a_mask_of_other_classes(fails: Fails, scored: tuple[Path, Path]) -> None:
    write_map(scored[1].parent / "b.tif", blocks((HEIGHT, WIDTH), 1), LEVEL0, ("gland", "stroma", "fat"))
    fails(4, ["b.tif", "gland, stroma, fat", "mask_values"], *begin(*scored))


def test_a_mask_with_a_value_that_is_no_class(fails: Fails, scored: tuple[Path, Path]) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 3, np.uint8)).save(scored[1].parent / "b.png")
    change_rows(scored[1], lambda rows: rows[1].update(mask="b.png"))
    fails(4, ["b.png", "the value 3"], *begin(*scored))


def test_an_outline_of_an_unknown_class(fails: Fails, scored: tuple[Path, Path]) -> None:
    text = as_geojson(scored[1].parent / "b.geojson").read_text()
    (scored[1].parent / "b.geojson").write_text(text.replace('"fat"', '"bone"'))
    change_rows(scored[1], lambda rows: rows[1].update(mask="b.geojson"))
    fails(2, ["b.geojson", "'bone'", "stroma, gland, fat"], *begin(*scored))


@pytest.mark.parametrize("content", [b"", b"{", b"II*\0\0\0\0\0", b'{"type": "FeatureCollection", "features": [1]}'])
@pytest.mark.parametrize("name", ["b.tif", "b.png", "b.geojson", "b.xml"])
def test_a_torn_truth(name: str, content: bytes, fails: Fails, scored: tuple[Path, Path]) -> None:
    (scored[1].parent / name).write_bytes(content)
    change_rows(scored[1], lambda rows: rows[1].update(mask=name))
    fails(4, name, *begin(*scored))


def test_a_mask_that_is_a_bomb(fails: Fails, scored: tuple[Path, Path]) -> None:
    (scored[1].parent / "b.png").write_bytes(bomb())
    change_rows(scored[1], lambda rows: rows[1].update(mask="b.png"))
    fails(5, ["b.png", "bomb", "tiled TIFF"], *begin(*scored))


def test_rows_without_truth(fails: Fails, scored: tuple[Path, Path]) -> None:
    change_rows(scored[1], lambda rows: rows[1].update(mask=""))
    fails(2, ["line 3 (b) has no mask"], *begin(*scored))


def test_classes_of_another_table(fails: Fails, scored: tuple[Path, Path]) -> None:
    scored[1].with_suffix(".yaml").write_text("classes: [gland, stroma, fat]\n")
    fails(2, ["know stroma, gland, fat", "gland, stroma, fat"], *begin(*scored))


def test_another_slide_under_the_same_name(fails: Fails, scored: tuple[Path, Path]) -> None:
    (scored[1].parent / "b.svs").write_bytes(b"other")
    fails(4, ["b", "another than the one that was predicted"], *begin(*scored))


def test_a_map_that_is_not_what_was_written(fails: Fails, scored: tuple[Path, Path]) -> None:
    path = scored[0] / "masks" / "b.ome.tif"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    fails(4, ["b", "masks/b.ome.tif has changed", "again"], *begin(*scored))


def test_rows_that_were_not_predicted_are_left_out(histill: Histill, scored: tuple[Path, Path]) -> None:
    (scored[0] / "records" / "a.json").unlink()
    said = histill(*begin(*scored))
    assert said.code == 0
    assert "1 slides (all)" in said.out


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_slides_also_those_whose_spacing_only_predict_was_told(histill: Histill, tmp_path: Path) -> None:
    image = tissue(HEIGHT, WIDTH)
    (tmp_path / "in").mkdir()
    rows = []
    for name in "ab":
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.mask.png").write_bytes(label_png(blocks((HEIGHT, WIDTH), 1), Classes(CLASSES)))
        path, mask = tmp_path / "in" / f"{name}.png", tmp_path / "in" / f"{name}.mask.png"
        rows.append({"id": name, "path": path, "mask": mask})
    table = write_table(tmp_path / "in" / "slides.csv", rows)
    folder = predicted(tmp_path / "out", table, {"a": blocks(SHAPE, 2), "b": EMPTY})
    command = ["evaluate", folder, table, "--to", tmp_path / "report", "--images", "1"]
    assert histill(*command).code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<img") == 2
    assert page.count("data:image/") == 2
    assert "The best slides" in page
    assert "The worst slides" in page
    assert "of shade on this slide" in page
