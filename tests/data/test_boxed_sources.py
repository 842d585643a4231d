"""Importers of boxes: what each file means, and one report of all that is wrong with it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from histill.core.boxes import Boxes, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.manifest import read_manifest, write_manifest
from histill.data.sources import coco, components, glomeruli_bupt, hubmap, labelme, yolo
from histill.data.sources.published import Imported

Change = Callable[[dict[str, Any]], object]


def picture(path: Path, w: int = 60, h: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (w, h), (200, 100, 150)).save(path)
    return path


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def boxes(imported: Imported) -> dict[str, list[list[Any]]]:
    """Class and corners of each box, by the row's id."""
    classes = imported.card.as_classes()
    found = {}
    for sample in imported.samples:
        assert sample.boxes is not None
        read = read_boxes(sample.boxes, classes)
        rows = zip(read.classes.tolist(), read.corners.tolist(), strict=True)
        found[sample.id] = [[classes.names[index], *corners] for index, corners in rows]
        assert set(sample.labels) == {row[0] for row in found[sample.id]}
    return found


def fails(read: Callable[[], object], *messages: str, code: Exit = Exit.USAGE) -> str:
    with pytest.raises(HistillError) as caught:
        read()
    for message in messages:
        assert message in str(caught.value), f"{message!r} not in {caught.value}"
    assert caught.value.code == code
    return str(caught.value)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "out" / "data.csv"


# ---- COCO


def coco_value() -> dict[str, Any]:
    return {
        "info": {"mpp": 0.5},
        "categories": [{"id": 7, "name": "gn"}, {"id": 3, "name": "gs"}],
        "images": [
            {"id": 1, "file_name": "a.png", "width": 60, "height": 40, "case": "p1"},
            {"id": 2, "file_name": "b.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5.5, 20, 10], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 7, "segmentation": [[1, 2, 11, 2, 6, 9], [4, 1, 5, 1, 5, 3]]},
            {"id": 3, "image_id": 1, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
    }


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    picture(tmp_path / "in" / "images" / "a.png")
    picture(tmp_path / "in" / "b.png")
    return written(tmp_path / "in" / "annotations" / "train.json", coco_value())


def changed(path: Path, change: Change) -> Path:
    value = json.loads(path.read_text())
    change(value)
    return written(path, value)


def test_coco(origin: Path, to: Path) -> None:
    imported = coco.read(origin, to=to)
    assert boxes(imported) == {"a": [["gs", 10, 5.5, 30, 15.5], ["gn", 1, 1, 11, 9]], "b": []}
    assert imported.card.classes == ("gn", "gs")
    assert [(sample.patient, sample.split, sample.mpp) for sample in imported.samples] == [
        ("p1", "train", 0.5),
        ("b", "train", 0.5),
    ]
    assert "1 annotations of crowds were left out" in imported.notes
    assert any("1 images hold none" in note for note in imported.notes)
    write_manifest(to, imported.samples, imported.card)
    assert len(read_manifest(to).samples) == 2


def test_coco_classes_renamed_and_left_out(origin: Path, to: Path) -> None:
    imported = coco.read(origin, to=to, rename={"GN": "glomerulus", "gs": "ignore"}, mpp=0.25)
    assert boxes(imported)["a"] == [["glomerulus", 1, 1, 11, 9]]
    assert imported.card.classes == ("glomerulus",)
    assert "1 boxes were left out, as --rename says" in imported.notes
    fails(lambda: coco.read(origin, to=to, classes=("gs",)), "annotations[1]: the category 'gn' is not known", "gs")


def test_coco_folders_hold_a_file_for_each_split(origin: Path, to: Path) -> None:
    picture(origin.parents[1] / "c.png")
    value = coco_value() | {"images": [{"id": 1, "file_name": "c.png"}], "annotations": []}
    written(origin.with_name("instances_val2017.json"), value)
    imported = coco.read(origin.parents[1], to=to)
    assert {sample.id: sample.split for sample in imported.samples} == {"a": "train", "b": "train", "c": "val"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["images"][1].update(file_name="none.png"), "annotations/train.json: images[1]: "),
        (lambda v: v["images"][1].update(id=1), "images[1]: the id 1 stands twice"),
        (lambda v: v["images"][1].update(file_name="a.png"), "images[1]: a.png is told of twice"),
        (lambda v: v["images"][0].update(width=61), "images[0]: a.png is 60 x 40 px, not 61 x 40"),
        (lambda v: v["images"][0].pop("file_name"), "images[0]: it lacks file_name"),
        (lambda v: v["categories"].append(5), "categories[2]: it lacks id, name"),
        (lambda v: v["categories"][1].update(id=7), "categories[1]: the id 7 stands twice"),
        (lambda v: v["annotations"][0].update(image_id=9), "annotations[0]: there is no image 9"),
        (lambda v: v["annotations"][0].update(category_id=9), "annotations[0]: there is no category 9"),
        (lambda v: v["annotations"][0].update(bbox=[60, 0, 5, 5]), "lies outside the image of 60 x 40 px"),
        (lambda v: v["annotations"][0].update(bbox=[-9, 0, 5, 5]), "annotations[0]: the box"),
        (lambda v: v["annotations"][0].update(bbox=[5, 5, 0, 5]), "has no area"),
        (lambda v: v["annotations"][0].update(bbox=[5, 5, 5, -1]), "has no area"),
        (lambda v: v["annotations"][0].update(bbox=[5, 5, 5, float("nan")]), "not a box of four finite numbers"),
        (lambda v: v["annotations"][0].update(bbox=[5, 5, 5]), "not a box of four finite numbers"),
        (lambda v: v["annotations"][0].update(bbox="5 5 5 5"), "not a box of four finite numbers"),
        (lambda v: v["annotations"][1].pop("segmentation"), "annotations[1]: [None] is not a box"),
        (lambda v: v["annotations"][1].update(segmentation=[[1, None]]), "annotations[1]: [] is not a box"),
        (lambda v: v["info"].update(mpp=-3), "-3 um/px is not plausible"),
    ],
)
def test_coco_faults_name_their_entry(change: Change, message: str, origin: Path, to: Path) -> None:
    fails(lambda: coco.read(changed(origin, change), to=to), message, "train.json")
    assert not to.parent.exists(), "nothing is written of what is wrong"


def test_all_faults_stand_in_one_report(origin: Path, to: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["annotations"][0]["bbox"] = [5, 5, 0, 0]
        value["annotations"][1]["category_id"] = 99
        value["images"][1]["file_name"] = "none.png"

    fails(
        lambda: coco.read(changed(origin, change), to=to), "3 faults", "images[1]", "annotations[0]", "annotations[1]"
    )


def test_a_box_that_reaches_beyond_is_cut_off_and_counted(origin: Path, to: Path) -> None:
    changed(origin, lambda value: value["annotations"][0].update(bbox=[50, -5, 20, 15]))
    imported = coco.read(origin, to=to)
    assert boxes(imported)["a"][0] == ["gs", 50, 0, 60, 10]
    assert "1 boxes reached beyond their images and were cut off there" in imported.notes


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', "{", "\x00"])
def test_what_is_no_coco_file(text: str, origin: Path, to: Path) -> None:
    fails(lambda: coco.read(written(origin, text), to=to), "train.json", code=Exit.INPUT)
    fails(lambda: coco.read(origin.with_name("none.json"), to=to), "none.json", code=Exit.INPUT)
    fails(lambda: coco.read(origin.parents[1] / "images", to=to), "there is no JSON here", code=Exit.INPUT)


def test_nothing_is_written_into_the_folder_that_is_read(origin: Path) -> None:
    fails(lambda: coco.read(origin, to=origin.parents[1] / "data.csv"), "the folder that is read", "--to")


def test_a_patient_in_two_splits_is_told(origin: Path, to: Path) -> None:
    changed(origin, lambda value: value["images"].pop())
    picture(origin.parents[1] / "c.png")
    value = coco_value() | {"images": [{"id": 1, "file_name": "c.png", "case": "p1"}], "annotations": []}
    written(origin.with_name("test.json"), value)
    assert coco.read(origin.parents[1], to=to).card.split_source == "official"


def test_equal_stems_get_longer_ids(origin: Path, to: Path) -> None:
    picture(origin.parents[1] / "x" / "A.png")
    changed(origin, lambda value: value["images"].append({"id": 5, "file_name": "x/A.png"}))
    assert [sample.id for sample in coco.read(origin, to=to).samples] == ["images/a.png", "b", "x/A.png"]


# ---- LabelMe


def shape(points: Any, kind: str | None = "polygon", label: str = "gn") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def labelme_file(folder: Path, *shapes: Any, name: str = "a", image: str | None = None, **more: Any) -> Path:
    value = {"imagePath": image or f"{name}.png", "shapes": list(shapes), **more}
    return written(folder / f"{name}.json", value)


def test_labelme(tmp_path: Path, to: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "train" / "a.png")
    picture(folder / "images" / "b.png")
    labelme_file(
        folder / "train",
        shape([[1, 2], [9, 2.5], [4, 8]], None),
        shape([[20, 30], [10, 5]], "rectangle", "gs"),
        shape([[30, 20], [33, 24]], "circle"),
        imageWidth=60,
        imageHeight=40,
    )
    labelme_file(folder / "labels", name="b", image="..\\images\\b.png")
    imported = labelme.read(folder, to=to)
    assert boxes(imported) == {
        "a": [["gn", 1, 2, 9, 8], ["gs", 10, 5, 20, 30], ["gn", 25, 15, 35, 25]],
        "b": [],
    }
    assert {sample.id: sample.split for sample in imported.samples} == {"a": "train", "b": ""}
    assert labelme.read(folder, to=to, split="test").samples[0].split == "test"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape([[1, 2], [3, 4]], "line")], "shapes[0]: a line has no box"),
        ([shape([[1, 2]])], "shapes[0]: [] is not a box"),
        ([shape([[1, 2], [3, None]])], "not a box"),
        ([shape([[1, 2], [1, 9]])], "has no area"),
        (
            [shape([[1, 2], [3, 4]]), shape([[70, 2], [90, 4]])],
            "shapes[1]: the box [70.0, 2.0, 90.0, 4.0] lies outside",
        ),
        ([{"label": "gn"}], "shapes[0]: it lacks a label or points"),
        ([3], "shapes[0]: it lacks"),
    ],
)
def test_labelme_faults(shapes: Iterable[Any], message: str, tmp_path: Path, to: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    labelme_file(tmp_path / "in", *shapes)
    fails(lambda: labelme.read(tmp_path / "in", to=to), "a.json: shapes[", message)


def test_labelme_files(tmp_path: Path, to: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    fails(lambda: labelme.read(folder, to=to), "there is no JSON here", code=Exit.INPUT)
    labelme_file(folder)
    fails(lambda: labelme.read(folder, to=to), "a.json: imagePath", "there is no such file")
    picture(folder / "a.png")
    fails(lambda: labelme.read(folder, to=to), "nothing names a class", "--classes")
    assert boxes(labelme.read(folder, to=to, classes=("glomerulus",))) == {"a": []}
    labelme_file(folder, imageWidth=10, imageHeight=10)
    fails(lambda: labelme.read(folder, to=to), "a.png is 60 x 40 px, not 10 x 10")
    written(folder / "b.json", "[]")
    written(folder / "c.json", "{")
    fails(lambda: labelme.read(folder, to=to), "b.json: not a LabelMe file", "c.json: not valid JSON")


# ---- YOLO


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for split, name in (("train", "a"), ("valid", "b")):
        picture(folder / "images" / split / f"{name}.png")
    written(folder / "labels" / "train" / "a.txt", "1 0.5 0.5 0.5 0.25\n\n0 0.1 0.1 0.2 0.1 0.2 0.5\n")
    written(folder / "data.yaml", "names:\n  0: gn\n  1: gs\n")
    return folder


def test_yolo(yolo_folder: Path, to: Path) -> None:
    imported = yolo.read(yolo_folder, to=to)
    assert boxes(imported)["b"] == []
    assert boxes(imported)["a"][0] == ["gs", 15, 15, 45, 25]
    assert boxes(imported)["a"][1][1:] == pytest.approx([6, 4, 12, 20])
    assert {sample.id: sample.split for sample in imported.samples} == {"a": "train", "b": "val"}


def test_yolo_folders_of_splits_and_names(yolo_folder: Path, tmp_path: Path, to: Path) -> None:
    (yolo_folder / "data.yaml").unlink()
    fails(lambda: yolo.read(yolo_folder, to=to), "nothing names the classes")
    assert yolo.read(yolo_folder, to=to, classes=("one", "two")).card.classes == ("one", "two")
    written(yolo_folder / "labels" / "classes.txt", "gn\ngs\n")
    assert yolo.read(yolo_folder, to=to).card.classes == ("gn", "gs")
    other = tmp_path / "other"
    for kind in ("images", "labels"):
        (other / "test").mkdir(parents=True, exist_ok=True)
        (yolo_folder / kind / "train").rename(other / "test" / kind)
    assert [sample.split for sample in yolo.read(other, to=to, classes=("one", "two")).samples] == ["test"]
    fails(lambda: yolo.read(other / "test" / "images", to=to), "no folders images and labels", code=Exit.INPUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.5\n", "line 1: 3 numbers behind the class"),
        ("0 0.5 0.5 0.5 0.5 0.9\n", "line 1: 5 numbers behind the class"),
        ("0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n", "line 2: there is no class 2 (known: 0 to 1)"),
        ("-1 0.5 0.5 0.5 0.5\n", "there is no class -1"),
        ("gn 0.5 0.5 0.5 0.5\n", "is not a class and numbers"),
        ("0 0.5 nan 0.5 0.5\n", "not a box of four finite numbers"),
        ("0 0.5 0.5 0 0.5\n", "has no area"),
        ("0 1.5 0.5 0.5 0.5\n", "lies outside the image"),
        ("0 30 20 10 10\n", "lies outside the image"),
    ],
)
def test_yolo_faults(text: str, message: str, yolo_folder: Path, to: Path) -> None:
    written(yolo_folder / "labels" / "train" / "a.txt", text)
    fails(lambda: yolo.read(yolo_folder, to=to), "labels/train/a.txt: line", message)


def test_yolo_labels_without_an_image(yolo_folder: Path, to: Path) -> None:
    written(yolo_folder / "labels" / "train" / "z.txt", "")
    written(yolo_folder / "labels" / "train" / "a.txt", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    fails(lambda: yolo.read(yolo_folder, to=to), "labels/train/z.txt: no image has this name", "a.txt: ")
    written(yolo_folder / "data.yaml", "names: {0: gn, 2: gs}\n")
    fails(lambda: yolo.read(yolo_folder, to=to), "data.yaml", "names is neither")


# ---- masks


def mask_file(path: Path, values: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def drawn_mask(value: int = 255) -> NDArray[np.uint8]:
    mask = np.zeros((40, 60), np.uint8)
    mask[2:8, 1:11] = value
    mask[8:12, 11:15] = value  # by a corner
    mask[20:24, 30:40] = value
    mask[35:37, 2:5] = value  # a speck of 6 px
    return mask


def test_components(tmp_path: Path, to: Path) -> None:
    folder = tmp_path / "in"
    for name, mask in (("train/a", drawn_mask()), ("b", drawn_mask(1)), ("c", drawn_mask(0))):
        picture(folder / "images" / f"{name}.jpg")
        mask_file(folder / "masks" / f"{name}.png", mask)
    imported = components.read(folder, to=to, classes=("glomerulus",))
    two = [["glomerulus", 1, 2, 15, 12], ["glomerulus", 30, 20, 40, 24]]
    assert boxes(imported) == {"a": two, "b": two, "c": []}
    assert "2 parts with a box of less than 9 px were left out as specks" in imported.notes
    assert [sample.split for sample in imported.samples] == ["", "", "train"]
    renamed = components.read(folder, to=to, mask_values={"255": "gs", "1": "ignore"})
    assert [row[0] for row in boxes(renamed)["a"]] == ["gs", "gs"]
    assert boxes(renamed)["b"] == []


def test_components_faults(tmp_path: Path, to: Path) -> None:
    folder = tmp_path / "in"
    fails(lambda: components.read(folder, to=to, classes=("g",)), "no folders images and masks", code=Exit.INPUT)
    for name in "abc":
        picture(folder / "images" / f"{name}.png")
    mask_file(folder / "masks" / "a.png", drawn_mask(9))
    mask_file(folder / "masks" / "b.png", drawn_mask()[:30])
    mask_file(folder / "masks" / "z.png", drawn_mask())
    fails(
        lambda: components.read(folder, to=to, classes=("g",)),
        "masks/a.png: the value 9 means nothing",
        "masks/b.png: 60 x 30 px, its image 60 x 40",
        "images/c.png: has no mask",
        "masks/z.png: no image has this name",
    )
    fails(lambda: components.read(folder, to=to), "is not named", "--classes")
    fails(lambda: components.read(folder, to=to, mask_values={"300": "g"}), "'300' is not a value")


# ---- the data sets at hand


def corners(imported: Imported) -> dict[str, list[list[float]]]:
    return {name: sorted(row[1:] for row in rows) for name, rows in boxes(imported).items()}


def test_glomeruli_of_bupt_are_the_same_from_every_file(data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "glomeruli_bupt"
    one = glomeruli_bupt.read(folder, to=tmp_path / "one.csv")
    assert [len([s for s in one.samples if s.split == split]) for split in ("train", "test")] == [48, 26]
    assert one.card.split_source == "patient", "no case stands in two splits"
    assert one.card.classes == ("glomerulus",)
    told = corners(one)
    assert sum(len(rows) for rows in told.values()) == 114
    rename = dict.fromkeys(("gn", "gs", "gl", "gm"), "glomerulus")
    for name, other in (
        ("coco", coco.read(folder, to=tmp_path / "coco.csv", rename=rename)),
        ("labelme", labelme.read(folder / "labels_labelme", to=tmp_path / "labelme.csv", rename=rename)),
    ):
        assert corners(other) == told, name
    # The YOLO files round to six digits.
    view = tmp_path / "yolo"
    view.mkdir()
    (view / "images").symlink_to(folder / "images")
    (view / "labels").symlink_to(folder / "labels_yolo")
    seen = corners(yolo.read(view, to=tmp_path / "seen.csv", classes=("glomerulus",)))
    assert seen.keys() == told.keys()
    for name, rows in told.items():
        np.testing.assert_allclose(np.reshape(seen[name], (-1, 4)), np.reshape(rows, (-1, 4)), atol=0.01)


def test_hubmap_tiles_are_their_coco_boxes(data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "hubmap_kidney_lowmag"
    tiles = hubmap.read(folder, to=tmp_path / "tiles.csv")
    assert corners(tiles) == corners(coco.read(folder / "coco.json", to=tmp_path / "coco.csv"))
    assert sum(len(rows) for rows in corners(tiles).values()) == 27
    assert {(sample.patient, sample.split, sample.mpp) for sample in tiles.samples} == {("2f6ecfcdf", "test", 8.0)}


def test_a_torn_manifest(data_root: Path, tmp_path: Path, to: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    fails(lambda: glomeruli_bupt.read(folder, to=to), "no readable manifest.csv", code=Exit.INPUT)
    fails(lambda: hubmap.read(folder, to=to), "neither train.csv nor manifest.csv", code=Exit.INPUT)
    written(folder / "manifest.csv", "path,split\n")
    fails(lambda: glomeruli_bupt.read(folder, to=to), "there is no column mask_path, n_boxes, case_id")
    picture(folder / "a.png")
    mask_file(folder / "m.png", drawn_mask(1))
    written(folder / "manifest.csv", "path,split,mask_path,n_boxes,slide\na.png,test,m.png,5,s\nb.png,test,m.png,1,s\n")
    fails(lambda: hubmap.read(folder, to=to), "line 2: the mask has 2 boxes, not 5", "line 3: ", "b.png")


# ---- HuBMAP's slides


def runs_of(mask: NDArray[np.uint8]) -> str:
    """Run lengths the slow way: pixel after pixel down each column, from 1."""
    flat, found = mask.T.ravel().tolist(), []
    start = None
    for i, value in enumerate([*flat, 0]):
        if value and start is None:
            start = i
        elif not value and start is not None:
            found += [start + 1, i - start]
            start = None
    return " ".join(map(str, found))


@pytest.fixture
def kidneys(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("aaa", "bbb", "ccc"):
        picture(folder / "train" / f"{name}.tiff")
    mask = drawn_mask(1)
    square = [[[3, 4], [13, 4], [13, 20], [3, 20], [3, 4]]]
    feature = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "Polygon", "coordinates": square},
        "properties": {"classification": {"name": "glomerulus", "colorRGB": -3140401}, "isLocked": True},
    }
    written(folder / "train" / "aaa.json", [feature])
    written(folder / "train.csv", f"id,encoding\naaa,{runs_of(mask)}\nbbb,{runs_of(mask)}\nccc,\n")
    written(folder / hubmap.INFORMATION, "image_file,patient_number\naaa.tiff,68138\nbbb.tiff,68138\n")
    return folder


def test_hubmap_slides(kidneys: Path, to: Path) -> None:
    imported = hubmap.read(kidneys, to=to, mpp=0.5)
    two = [["glomerulus", 1, 2, 15, 12], ["glomerulus", 30, 20, 40, 24]]
    assert boxes(imported) == {"aaa": [["glomerulus", 3, 4, 13, 20]], "bbb": two, "ccc": []}
    assert [sample.patient for sample in imported.samples] == ["68138", "68138", "ccc"]
    assert {sample.mpp for sample in imported.samples} == {0.5}
    assert imported.looked_into
    assert any("2 slides have no polygons" in note for note in imported.notes)
    assert any("1 parts" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("1 2 3", "3 numbers are not pairs"),
        ("1 x", "not whole numbers"),
        ("0 5", "reaches beyond the 60 x 40 px"),
        ("2399 3", "reaches beyond the 60 x 40 px"),
        ("5 0", "pair 1: a length below 1"),
        ("5 3 7 2", "pair 2 begins before the pair in front of it ends"),
        ("99999999999999999999999 1", "not whole numbers"),
    ],
)
def test_hubmap_runs_that_cannot_be(encoding: str, message: str, kidneys: Path, to: Path) -> None:
    written(kidneys / "train.csv", f"id,encoding\nbbb,{encoding}\n")
    fails(lambda: hubmap.read(kidneys, to=to), "train.csv: line 2: the run lengths", message)


def test_hubmap_faults(kidneys: Path, to: Path) -> None:
    written(kidneys / "train" / "aaa.json", "{")
    written(kidneys / "train.csv", "id,encoding\naaa,\nddd,1 2\n")
    written(kidneys / hubmap.INFORMATION, "image_file\naaa.tiff\n")
    fails(
        lambda: hubmap.read(kidneys, to=to), "train/aaa.json", "line 3: ddd.tiff", "lacks image_file or patient_number"
    )
    written(kidneys / "train.csv", "slide,rle\n")
    fails(lambda: hubmap.read(kidneys, to=to), "line 1: its columns are not id,encoding", code=Exit.INPUT)


def test_boxes_survive_the_table(kidneys: Path, to: Path) -> None:
    imported = hubmap.read(kidneys, to=to, split="test")
    write_manifest(to, imported.samples, imported.card)
    table = read_manifest(to)
    table.require("boxes")
    assert table.samples[0].boxes is not None
    assert isinstance(read_boxes(table.samples[0].boxes, table.classes, (60, 40)), Boxes)
