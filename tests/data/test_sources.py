"""Importers: the real data sets as they are, and small copies of their layout with every fault."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import read_manifest, write_manifest
from histill.data.images import check_files, image_size, read_mask
from histill.data.sources import glas, plain, wsss4luad
from histill.data.sources.listing import reader, sources


def write(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def picture(path: Path, width: int = 8, height: int = 6, value: int | None = None) -> None:
    """A black image, or a mask of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if value is None else (height, width)
    Image.fromarray(np.full(shape, value or 0, np.uint8)).save(path)


def failing(read: object, path: Path, code: Exit = Exit.USAGE, **options: object) -> str:
    with pytest.raises(HistillError) as caught:
        read(path, **options)  # type: ignore[operator]
    assert caught.value.code == code
    assert caught.value.mend
    return str(caught.value)


# --- which there are --------------------------------------------------------------------------------------------------


def test_importers_are_listed_without_being_imported() -> None:
    readers = [
        "bcss",
        "coco",
        "cohort",
        "components",
        "glas",
        "glas_official",
        "glomeruli_bupt",
        "hubmap",
        "labelme",
        "luad",
        "outlines",
        "plain",
        "pos_neg",
        "wsss4luad",
        "wsss4luad_official",
        "yolo",
    ]
    assert list(sources()) == readers
    assert all(line.endswith(".") for line in sources().values())
    code = "import sys; from histill.data.sources.listing import sources; sources()\n"
    code += (
        "print([name for name in sys.modules if name.endswith(('.glas', '.plain', '.wsss4luad')) or name == 'torch'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_an_importer_by_its_name() -> None:
    assert reader("glas") is glas.read
    with pytest.raises(HistillError, match="no importer 'glass'; did you mean 'glas'") as caught:
        reader("glass")
    assert caught.value.code == Exit.USAGE
    with pytest.raises(HistillError, match="no importer 'published'"):
        reader("published")


# --- the real data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "train", "test", "labels"),
    [
        ("wsss4luad", 651, 46, {"tumor": 428, "stroma": 556, "normal": 57}),
        ("glas", 2006, 56, {"gland": 1663, "stroma": 1807}),
    ],
)
def test_a_real_data_set(
    name: str, train: int, test: int, labels: dict[str, int], data_root: Path, tmp_path: Path
) -> None:
    imported = reader(name)(data_root / name)
    write_manifest(tmp_path / "data.csv", imported.samples, imported.card)
    manifest = read_manifest(tmp_path / "data.csv")
    assert Counter(sample.split for sample in manifest.samples) == {"train": train, "test": test}
    assert Counter(label for sample in manifest.of_split("train").samples for label in sample.labels) == labels
    assert all(sample.labels and sample.mask and sample.patient for sample in manifest.samples)
    assert len({sample.id for sample in manifest.samples}) == train + test
    assert manifest.card.licence
    assert manifest.card.source
    # The labels of a crop are those that its mask shows, as the data set says they were made.
    for sample in manifest.of_split("train").samples[::13]:
        mask = read_mask(sample, manifest.card, image_size(sample.path))
        assert mask.shape == (112, 112)
        tissue = mask[mask != IGNORE]
        shown = [label for i, label in enumerate(manifest.card.classes) if (tissue == i).mean() >= 0.05]
        assert list(sample.labels) == shown, sample.id
    assert check_files(manifest.choose(lambda sample: sample.split == "test")) == []


def test_glas_as_lesions(data_root: Path) -> None:
    imported = glas.read(data_root / "glas", lesions=True)
    counts = Counter((sample.split, sample.labels) for sample in imported.samples)
    assert counts == {("train", ("gland",)): 1453, ("train", ("stroma",)): 293, ("test", ("gland",)): 56}
    assert "260 crops between" in imported.notes[0]


def test_ids_are_readable(data_root: Path) -> None:
    first = wsss4luad.read(data_root / "wsss4luad").samples[1]
    assert first.id == "val_00_x056_y000"
    assert first.crop == Region(56, 0, 112, 112)
    assert first.patient == "val_00"
    assert first.mpp is None


def test_glas_shares_patients_and_says_so(data_root: Path, tmp_path: Path) -> None:
    imported = glas.read(data_root / "glas")
    assert {sample.mpp for sample in imported.samples} == {0.62005}
    write_manifest(tmp_path / "data.csv", imported.samples, imported.card)
    (warning,) = read_manifest(tmp_path / "data.csv").warnings
    assert "patients stand in more than one split" in warning


# --- made copies of the layouts ---------------------------------------------------------------------------------------

IMAGES = "path,split,image_labels,mask_path,width,height,sha256"


def make_luad(folder: Path, images: Sequence[str] = (), crops: Sequence[str] = ()) -> Path:
    """A small WSSS4LUAD: one train image of two crops, one without, one test image; more rows as given."""
    for name in ("images/train/val_0", "images/train/ex_1", "images/test/test_0"):
        picture(folder / f"{name}.png")
    for name in ("masks/train/val_0", "masks/test/test_0"):
        picture(folder / f"{name}.png", value=1)
    write(
        folder / "manifest.csv",
        IMAGES,
        "images/train/val_0.png,train,tumor|stroma,masks/train/val_0.png,8,6,x",
        "images/train/ex_1.png,train,tumor,,8,6,x",
        "images/test/test_0.png,test,stroma,masks/test/test_0.png,8,6,x",
        *images,
    )
    crop = "images/train/val_0.png"
    write(
        folder / "crops_train.csv",
        "path,x,y,w,h,image_labels",
        f"{crop},0,0,4,4,tumor",
        f"{crop},4,2,4,4,stroma",
        *crops,
    )
    return folder


def make_glas(folder: Path, images: Sequence[str] = (), crops: Sequence[str] = ()) -> Path:
    """A small GlaS: one train image of one crop, two test images."""
    for name in ("images/train/train_1", "images/test/testA_1", "images/test/testB_1"):
        picture(folder / f"{name}.png")
        picture(folder / f"{name.replace('images', 'masks')}.png", value=255)
    row = "images/{0}.png,{1},benign,masks/{0}.png,8,6,x,{2}"
    write(
        folder / "manifest.csv",
        f"{IMAGES},patient_id,gland_fraction",
        row.format("train/train_1", "train", "2,0.5"),
        row.format("test/testA_1", "test", "2,0.04"),
        row.format("test/testB_1", "test", "3,0.95"),
        *images,
    )
    write(
        folder / "crops_train.csv",
        "path,x,y,w,h,crop_label,labels,patient_id",
        "images/train/train_1.png,1,1,4,4,gland,gland,2",
        *crops,
    )
    return folder


def test_a_small_luad(tmp_path: Path) -> None:
    imported = wsss4luad.read(make_luad(tmp_path))
    assert [(s.id, s.crop, s.labels, s.patient, s.split) for s in imported.samples] == [
        ("val_0_x000_y000", Region(0, 0, 4, 4), ("tumor",), "val_0", "train"),
        ("val_0_x004_y002", Region(4, 2, 4, 4), ("stroma",), "val_0", "train"),
        ("test_0", None, ("stroma",), "test_0", "test"),
    ]
    assert imported.samples[0].mask == tmp_path / "masks/train/val_0.png"
    assert imported.card.exclude_white
    assert imported.card.mask_values["3"] == "ignore"
    assert imported.notes[-1] == "1 train images without crops are left out"


def test_a_small_glas(tmp_path: Path) -> None:
    imported = glas.read(make_glas(tmp_path))
    assert [(s.id, s.labels, s.patient, s.split) for s in imported.samples] == [
        ("train_1_x001_y001", ("gland",), "2", "train"),
        ("testA_1", ("stroma",), "2", "test"),
        ("testB_1", ("gland", "stroma"), "3", "test"),
    ]
    assert imported.card.split_source == "official"


def test_a_small_glas_of_lesions(tmp_path: Path) -> None:
    row = "images/train/train_1.png,{},2,4,4,{},stroma,2"
    imported = glas.read(
        make_glas(tmp_path, crops=[row.format(1, "no_gland"), row.format(2, "ambiguous")]), lesions=True
    )
    assert [(s.id, s.labels, s.split) for s in imported.samples] == [
        ("train_1_x001_y001", ("gland",), "train"),
        ("train_1_x001_y002", ("stroma",), "train"),
        ("testA_1", ("gland",), "test"),
        ("testB_1", ("gland",), "test"),
    ]
    classes = imported.card.as_classes()
    assert (classes.names[classes.lesion], classes.background) == ("gland", "stroma")
    assert "1 crops between are left out" in imported.notes[0]


def test_every_fault_of_a_folder_comes_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "images/test/small.png", 4, 4)
    picture(tmp_path / "images/test/unnamed.png")
    picture(tmp_path / "images/test/mask.png")
    picture(tmp_path / "masks/test/mask.png", 4, 4, 0)
    write(tmp_path / "images/test/torn.png", "not an image")
    make_luad(
        tmp_path,
        [
            "images/test/small.png,test,stroma,,8,6,x",  # 5
            "images/test/gone.png,test,stroma,masks/gone.png,8,6,x",  # 6
            "images/test/mask.png,test,lumen,masks/test/mask.png,8,6,x",  # 7
            "images/test/torn.png,kept,tumour,,8,6,x",  # 8
            "images/test/test_0.png,test,stroma,,8,6,x",  # 9
            "images/test/short.png,test",  # 10
        ],
        [
            "images/train/val_0.png,5,0,4,4,tumor",  # 4
            "images/train/val_0.png,a,0,4,4,tumor",  # 5
            "images/test/test_0.png,0,0,4,4,tumor",  # 6
            "images/train/unknown.png,0,0,4,4,tumor",  # 7
            "images/train/val_0.png,0,1,4,4,tumor|",  # 8
        ],
    )
    message = failing(wsss4luad.read, tmp_path)
    faults = (
        "manifest.csv line 10: 2 cells under 7 columns",
        "manifest.csv line 5: path images/test/small.png is 4 x 4, not 8 x 6",
        "manifest.csv line 6: path images/test/gone.png: there is no such file",
        "manifest.csv line 6: mask_path masks/gone.png: there is no such file",
        "manifest.csv line 7: mask_path masks/test/mask.png is 4 x 4, not 8 x 6",
        "manifest.csv line 8: the split 'kept' is not one of train, test",
        "manifest.csv line 8: path images/test/torn.png: not an image",
        "manifest.csv line 9: images/test/test_0.png stands already on line 4",
        "manifest.csv: images/test/unnamed.png is on disk, but in no row",
        "crops_train.csv line 4: x, y, w, h = 5, 0, 4, 4 leaves the image",
        "crops_train.csv line 5: x, y, w, h = a, 0, 4, 4 is not four whole numbers",
        "crops_train.csv line 6: images/test/test_0.png is in split test, not train",
        "crops_train.csv line 7: images/train/unknown.png is not in manifest.csv",
        "crops_train.csv line 8: image_labels: '' is not one of tumor, stroma, normal",
        "manifest.csv line 7: image_labels: 'lumen' is not one of tumor, stroma, normal",
    )
    for fault in faults:
        assert f"\n  {fault}" in message, fault
    assert f"{tmp_path}: {len(faults)} faults" in message


def test_faults_of_glas_alone(tmp_path: Path) -> None:
    picture(tmp_path / "images/test/a.png")
    make_glas(
        tmp_path,
        ["images/test/a.png,test,benign,,8,6,x,1,much"],
        [
            "images/train/train_1.png,0,0,4,4,ambiguous,gland|stroma,7",
            "images/train/train_1.png,0,1,4,4,glands,malignant,2",
        ],
    )
    message = failing(glas.read, tmp_path)
    assert f"{tmp_path}: 3 faults" in message
    assert "crops_train.csv line 3: patient 7, but its image is of 2" in message
    assert "crops_train.csv line 4: labels: 'malignant' is not one of gland, stroma" in message
    assert "manifest.csv line 5: gland_fraction: 'much' is not a number" in message
    message = failing(glas.read, tmp_path, lesions=True)
    assert f"{tmp_path}: 3 faults" in message
    assert "crops_train.csv line 4: crop_label: 'glands' is not one of gland, no_gland, ambiguous" in message


@pytest.mark.parametrize("read", [wsss4luad.read, glas.read])
def test_folders_that_are_something_else(read: object, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert "there is no readable manifest.csv" in failing(read, folder, Exit.INPUT)
    write(tmp_path / "manifest.csv", "file,label", "a,b")
    assert "there is no readable crops_train.csv" in failing(read, tmp_path, Exit.INPUT)
    write(tmp_path / "crops_train.csv", "")
    message = failing(read, tmp_path)
    assert (
        "manifest.csv line 1: there is no column path, split, image_labels, mask_path, width, height, sha256" in message
    )
    assert "crops_train.csv line 1: the table has no rows" in message


# --- a table of one's own ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
        picture(tmp_path / "masks" / name, value=255)
    return tmp_path / "mine.csv"


def test_a_table_of_ones_own(own: Path) -> None:
    write(
        own,
        "Slide_ID,File,Category,case,mask_path,colour,spacing,Split",
        "1,a.png,tumour,p1,masks/a.png,red,,train",
        "2,b.png,benign|tumour,p2,,blue,0.25,test",
    )
    imported = plain.read(own, mpp=0.5)
    assert imported.card == DatasetCard(classes=("benign", "tumour"))
    assert imported.notes == (
        "No classes were given; the labels name benign, tumour, in this order",
        "Columns left out: colour",
    )
    one, two = imported.samples
    assert (one.id, one.path, one.labels, one.patient, one.mpp) == ("1", own.parent / "a.png", ("tumour",), "p1", 0.5)
    assert (two.labels, two.split, two.mpp, two.mask) == (("benign", "tumour"), "test", 0.25, None)
    write_manifest(own.parent / "elsewhere" / "data.csv", imported.samples, imported.card)
    manifest = read_manifest(own.parent / "elsewhere" / "data.csv")
    assert [sample.path.resolve() for sample in manifest.samples] == [own.parent / "a.png", own.parent / "b.png"]


def test_classes_background_and_mask_values_as_given(own: Path) -> None:
    write(own, "id,path,label", "1,a.png,tumour")
    values = {"255": "tumour", "0": "normal"}
    imported = plain.read(own, classes=["tumour", "normal"], background="normal", mask_values=values)
    assert imported.card == DatasetCard(classes=("tumour", "normal"), background="normal", mask_values=values)
    assert imported.notes == ()


def test_width_and_height_are_a_crop_only_with_a_corner(own: Path) -> None:
    write(own, "id,path,width,height,labels", "1,a.png,8,6,x")
    imported = plain.read(own)
    assert imported.samples[0].crop is None
    assert imported.notes[-1] == "Columns left out: width, height"
    write(own, "id,path,x,y,width,height,labels", "1,a.png,1,2,3,4,x")
    assert plain.read(own).samples[0].crop == Region(1, 2, 3, 4)


def test_every_fault_of_ones_own_table_comes_at_once(own: Path) -> None:
    write(
        own,
        "id,path,label,patient,split,extra",
        "1,a.png,tumor,p,train,",
        "1,b.png,tumour,p,test,",
        "3,c.png,tumour",
        "4,c.png,tumour,,,",
    )
    message = failing(plain.read, own, classes=["tumour"])
    for fault in (
        "line 2: the label 'tumor' is not one of tumour; did you mean 'tumour'?",
        "line 3: the id '1' stands already on line 2",
        "line 3: patient 'p' stands in split test, but on line 2 in train",
        "line 4: 3 cells under 6 columns",
        "line 5: path: there is no file c.png",
    ):
        assert f"\n  {fault}" in message, fault
    assert "5 faults" in message


def test_tables_that_cannot_be_read_at_all(own: Path) -> None:
    assert "no readable table" in failing(plain.read, own, Exit.INPUT)
    write(own, "id,path", "1,a.png")
    assert "no label names a class" in failing(plain.read, own)
    assert "5000 um/px is not plausible" in failing(plain.read, own, classes=["a"], mpp=5000)
    assert "neither one of a nor ignore" in failing(plain.read, own, classes=["a"], mask_values={"1": "b"})
