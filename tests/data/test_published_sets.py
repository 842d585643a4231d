"""Data sets as their authors publish them: small copies of each layout, with the faults that public copies have."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.masks import LabelMap
from histill.data.images import check_files, image_size, read_mask
from histill.data.sources import bcss, glas_official, luad, pos_neg, wsss4luad_official
from histill.data.sources.listing import reader, sources
from histill.data.sources.published import Imported
from histill.data.sources.stems import label_in

BCSS_COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (153, 0, 255), (255, 255, 255)]
LUAD_COLOURS = [(205, 51, 51), (0, 255, 0), (65, 105, 225), (255, 165, 0), (255, 255, 255)]
WSSS_COLOURS = [(0, 64, 128), (64, 128, 0), (243, 152, 0), (255, 255, 255)]
ROI = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"
VALUES = np.array([[0, 1, 2, 4], [3, 3, 4, 4]], np.uint8)
"""A mask as BCSS and LUAD have it: 4 is left out."""

Colours = Sequence[tuple[int, int, int]]
Read = Callable[..., Imported]


def picture(path: Path, width: int = 4, height: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 120, 170)).save(path)
    return path


def indexed(path: Path, values: LabelMap, colours: Colours) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, "P")
    image.putpalette([part for colour in colours for part in colour])
    image.save(path)
    return path


def coloured(path: Path, values: LabelMap, colours: Colours) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(colours, np.uint8)[values]).save(path)
    return path


def grey(path: Path, values: LabelMap) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "out" / "data.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a data set lies."""
    return tmp_path / "set"


def table(imported: Imported, to: Path) -> Manifest:
    """The table that an import leaves, all of whose files are sound."""
    write_manifest(to, imported.samples, imported.card)
    found = read_manifest(to)
    assert check_files(found) == []
    return found


def true_mask(found: Manifest, identity: str) -> list[list[int]]:
    (sample,) = (each for each in found.samples if each.id == identity)
    return read_mask(sample, found.card, image_size(sample.path)).tolist()


def failing(read: Read, *arguments: object, code: Exit = Exit.USAGE, **options: object) -> str:
    with pytest.raises(HistillError) as caught:
        read(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.mend
    return str(caught.value)


def spelt(message: str, *faults: str) -> None:
    """Just these faults stand in a message."""
    for fault in faults:
        assert f"\n  {fault}" in message, (fault, message)
    assert message.count("\n  ") == len(faults), message


def test_they_are_listed() -> None:
    known = sources()
    for name in ("bcss", "glas_official", "luad", "pos_neg", "wsss4luad_official"):
        assert known[name].endswith(".")
        assert callable(reader(name))


# --- labels in names --------------------------------------------------------------------------------------------------

CLASSES = ("a", "b", "c", "d")
before = st.text(st.sampled_from("TCGA-_+.1[ ]0é"), max_size=12)


@given(
    before,
    st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    st.sampled_from(["", " ", ", ", ",", "_", " , "]),
    st.sampled_from(["", " "]),
)
def test_the_label_is_the_digits_in_the_last_brackets(before: str, present: list[bool], gap: str, margin: str) -> None:
    label = gap.join(str(int(each)) for each in present)
    name, labels = label_in(f"p{before}[{margin}{label}{margin}]", CLASSES)
    assert labels == tuple(each for each, there in zip(CLASSES, present, strict=True) if there)
    assert name == f"p{before}".strip(" -_")


@given(before, st.text(st.sampled_from("01 ,_-x2.[]"), max_size=9))
def test_a_label_is_read_whole_or_not_at_all(before: str, inside: str) -> None:
    try:
        name, labels = label_in(f"p{before}[{inside}]", CLASSES)
    except ValueError:
        return
    last = inside.rpartition("[")[2].partition("]")[0]
    assert [label in labels for label in CLASSES] == [digit == "1" for digit in last if digit in "01"]
    assert set(last) <= set("01 ,_")
    assert labels
    assert name


@pytest.mark.parametrize(
    ("stem", "part"),
    [
        ("12-3-4", "holds no label, such as [1 1 1 1]"),
        ("12-3-4-[1 0 0]", "[1 0 0] is not 4 digits"),
        ("12-3-4-[1 0 0 1 1]", "is not 4 digits"),
        ("12-3-4-[1 0 0 2]", "is not 4 digits"),
        ("12-3-4-[1. 0. 0. 1.]", "is not 4 digits"),
        ("12-3-4-[1 0 0 1][]", "[] is not 4 digits"),
        ("12-3-4-[0000]", "[0000] names no class"),
        ("12-3-4-[\N{ARABIC-INDIC DIGIT ONE} 0 0 1]", "is not 4 digits"),
        ("[1001]", "nothing but a label"),
        ("12-3-4-[1001", "holds no label"),
    ],
)
def test_names_without_a_label(stem: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        label_in(stem, CLASSES)


# --- BCSS-WSSS and LUAD-HistoSeg --------------------------------------------------------------------------------------


def make_bcss(folder: Path) -> Path:
    """A BCSS-WSSS of four images."""
    picture(folder / f"train/{ROI}+0[1101].png")
    picture(folder / f"train/{ROI}+101[0010].png")
    for split, name in (("val", "TCGA-EW-A1PB-DX1_xmin5_ymin2_MPP-0.2500+0"), ("test", "TCGA-D8-A27F-01Z+7")):
        picture(folder / split / "img" / f"{name}.png")
        indexed(folder / split / "mask" / f"{name}.png", VALUES, BCSS_COLOURS)
    (folder / "Readme.txt").write_text("what it is")
    return folder


def make_luad(folder: Path, train: str = "train") -> Path:
    """A LUAD-HistoSeg of five images, one patient in two splits."""
    for name in ("1031280-2300-27920-[1 0 0 1]", "387709-9-7-[0, 1, 0, 0]", "387709-9-8-[0_0_1_0]"):
        picture(folder / train / f"{name}.png")
    for split, name in (("val", "385277-44539-46781"), ("test", "387709-10004-55944")):
        picture(folder / split / "img" / f"{name}.png")
        indexed(folder / split / "mask" / f"{name}.png", VALUES, LUAD_COLOURS)
    return folder


def test_bcss(folder: Path, to: Path) -> None:
    imported = bcss.read(make_bcss(folder), to=to)
    assert [(each.id, each.labels, each.patient, each.split) for each in imported.samples] == [
        (f"{ROI}+0", ("TUM", "STR", "NEC"), "TCGA-A1-A0SK", "train"),
        (f"{ROI}+101", ("LYM",), "TCGA-A1-A0SK", "train"),
        ("TCGA-EW-A1PB-DX1_xmin5_ymin2_MPP-0.2500+0", ("TUM", "STR", "LYM", "NEC"), "TCGA-EW-A1PB", "val"),
        ("TCGA-D8-A27F-01Z+7", ("TUM", "STR", "LYM", "NEC"), "TCGA-D8-A27F", "test"),
    ]
    assert [each.mpp for each in imported.samples] == 4 * [None]
    assert imported.card.split_source == "patient"
    assert not imported.card.exclude_white
    assert "This copy holds 2 images of split train; published are 23,422" in imported.notes
    assert "This copy holds 1 images of split test; published are 4,986" in imported.notes
    # Masks that are as they should be stay where they are.
    assert imported.samples[2].mask == folder / "val/mask" / imported.samples[2].path.name
    found = table(imported, to)
    assert true_mask(found, "TCGA-D8-A27F-01Z+7") == [[0, 1, 2, IGNORE], [3, 3, IGNORE, IGNORE]]
    assert sorted(each.name for each in to.parent.iterdir()) == ["data.csv", "data.yaml"]


@pytest.mark.parametrize("train", ["train", "training", "Training", "train/train", "train/img"])
def test_luad(train: str, folder: Path, to: Path) -> None:
    imported = luad.read(make_luad(folder, train), to=to)
    assert [(each.id, each.labels, each.patient, each.split) for each in imported.samples] == [
        ("1031280-2300-27920", ("TE", "TAS"), "1031280", "train"),
        ("387709-9-7", ("NEC",), "387709", "train"),
        ("387709-9-8", ("LYM",), "387709", "train"),
        ("385277-44539-46781", ("TE", "NEC", "LYM", "TAS"), "385277", "val"),
        ("387709-10004-55944", ("TE", "NEC", "LYM", "TAS"), "387709", "test"),
    ]
    assert imported.card.exclude_white
    assert imported.card.split_source == "official"
    (warning,) = table(imported, to).warnings
    assert "1 patients stand in more than one split" in warning


def test_a_name_of_another_kind_is_its_own_patient(folder: Path, to: Path) -> None:
    make_luad(folder)
    picture(folder / "train/mine-[1001].png")
    assert {each.id: each.patient for each in luad.read(folder, to=to).samples}["mine"] == "mine"


def test_labels_of_val_and_test_are_what_their_masks_show(folder: Path, to: Path) -> None:
    make_bcss(folder)
    name = "TCGA-D8-A27F-01Z+7"
    indexed(folder / f"test/mask/{name}.png", np.array([[1, 4, 4, 4], [4, 4, 4, 1]], np.uint8), BCSS_COLOURS)
    assert bcss.read(folder, to=to).samples[-1].labels == ("STR",)


def test_every_fault_of_a_folder_comes_at_once(folder: Path, to: Path) -> None:
    make_luad(folder)
    picture(folder / "test/img/extra.png")  # one public copy has an image more than masks
    indexed(folder / "val/mask/lost.png", VALUES, LUAD_COLOURS)
    picture(folder / "train/1-2-3-[1 0 0].png")
    picture(folder / "train/1-2-4-[0 0 0 0].png")
    picture(folder / "train/1-2-5.png")
    picture(folder / "train/1031280-2300-27920-[1 1 0 1].png")  # one patch, two labels
    picture(folder / "train/385277-44539-46781-[1 0 0 0].png")  # in val too
    picture(folder / "val/img/385277-44539-46781.jpg")
    picture(folder / "train/.hidden.png")
    (folder / "train/Thumbs.db").write_bytes(b"x")
    (folder / "test/mask/387709-10004-55944.png").write_bytes(b"not an image")
    message = failing(luad.read, folder, to=to)
    spelt(
        message,
        "train/1-2-3-[1 0 0].png: the label [1 0 0] is not 4 digits of 0 and 1 (TE, NEC, LYM, TAS)",
        "train/1-2-4-[0 0 0 0].png: the label [0 0 0 0] names no class",
        "train/1-2-5.png: the name holds no label, such as [1 1 1 1]",
        "train/1031280-2300-27920-[1 1 0 1].png: 1031280-2300-27920-[1 0 0 1].png is this patch too",
        "val/img/385277-44539-46781.png: 385277-44539-46781.jpg has this name too",
        "val/mask/lost.png: no image has this name",
        "test/img/extra.png: has no mask",
        "val/img/385277-44539-46781.jpg: stands in train as 385277-44539-46781-[1 0 0 0].png",
        "test/mask/387709-10004-55944.png: not an image (PNG, JPEG, TIFF, BMP, WEBP)",
    )
    assert "an image that has none anywhere cannot be scored: take it out" in message
    assert not to.parent.exists()


def test_a_split_that_is_empty_or_twice_there(folder: Path, to: Path) -> None:
    make_luad(folder)
    picture(folder / "training/1-1-1-[1001].png")
    (folder / "test/img/387709-10004-55944.png").unlink()
    (folder / "test/mask/387709-10004-55944.png").unlink()
    for each in folder.rglob("val/*/*"):
        each.unlink()
    for each in ("val/img", "val/mask", "val"):
        (folder / each).rmdir()
    spelt(
        failing(luad.read, folder, to=to),
        "training: train is train as well",
        ".: there is no folder val",
        "test/img: holds no image",
    )


def test_a_folder_that_is_something_else(folder: Path, to: Path) -> None:
    for place in (folder, picture(folder / "LUAD-HistoSeg/a.png")):
        assert "there is no folder train, val or test in it" in failing(luad.read, place, to=to, code=Exit.INPUT)
    make_luad(folder / "LUAD-HistoSeg")
    near = failing(luad.read, folder, to=to, code=Exit.INPUT)
    assert near.endswith(f"Name the data set's own folder, {folder / 'LUAD-HistoSeg'}")


# --- what masks mean --------------------------------------------------------------------------------------------------

NAME = "TCGA-D8-A27F-01Z+7"
TRUE = [[0, 1, 2, IGNORE], [3, 3, IGNORE, IGNORE]]


def test_masks_of_colours_are_written_anew_as_indices(folder: Path, to: Path) -> None:
    make_bcss(folder)
    coloured(folder / f"test/mask/{NAME}.png", VALUES, BCSS_COLOURS)
    imported = bcss.read(folder, to=to)
    assert (
        f"1 masks show their classes by colour alone: written anew, into {to.parent / 'data/masks'}" in imported.notes
    )
    assert imported.samples[-1].mask == to.parent / f"data/masks/test/{NAME}.png"
    assert imported.samples[-1].labels == ("TUM", "STR", "LYM", "NEC")
    assert true_mask(table(imported, to), NAME) == TRUE
    # The new one is as the data set's own, colours and all.
    with Image.open(imported.samples[-1].mask) as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == VALUES.tolist()
        assert np.array(image.convert("RGB")).tolist() == np.array(BCSS_COLOURS)[VALUES].tolist()
    before = imported.samples[-1].mask.read_bytes()
    assert bcss.read(folder, to=to) == imported
    assert imported.samples[-1].mask.read_bytes() == before


def test_a_mask_whose_palette_is_in_another_order_means_its_colours(folder: Path, to: Path) -> None:
    make_bcss(folder)
    shifted = [BCSS_COLOURS[4], *BCSS_COLOURS[:4]]
    indexed(folder / f"test/mask/{NAME}.png", (VALUES + 1) % 5, shifted)
    imported = bcss.read(folder, to=to)
    assert imported.samples[-1].mask == to.parent / f"data/masks/test/{NAME}.png"
    assert true_mask(table(imported, to), NAME) == TRUE


def transparent(path: Path) -> None:
    colours = np.array(BCSS_COLOURS, np.uint8)[VALUES]
    Image.fromarray(np.dstack([colours, np.full(VALUES.shape, 9, np.uint8)])).save(path)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        # The codes of one public copy: 0 is black, and all others are one higher.
        (
            lambda path: indexed(path, (VALUES + 1) % 5, [(0, 0, 0), *BCSS_COLOURS[:3], (255, 255, 0)]),
            "5 pixels of colours that mean nothing, (0, 0, 0), (255, 255, 0)",
        ),
        # The right indices in the colours of the other data set: who knows which of the two is right?
        (lambda path: indexed(path, VALUES, LUAD_COLOURS), "4 pixels of colours that mean nothing, (255, 165, 0)"),
        (
            lambda path: grey(path, VALUES),
            "8 pixels of colours that mean nothing, (4, 4, 4), (3, 3, 3), (0, 0, 0) and 2",
        ),
        (lambda path: coloured(path, VALUES, [*BCSS_COLOURS[:4], (254, 255, 255)]), "3 pixels of colours"),
        (transparent, "a mask that is partly transparent"),
    ],
)
def test_masks_of_other_colours_are_refused(spoil: Callable[[Path], object], part: str, folder: Path, to: Path) -> None:
    make_bcss(folder)
    spoil(folder / f"test/mask/{NAME}.png")
    message = failing(bcss.read, folder, to=to)
    spelt(message, f"test/mask/{NAME}.png: {part}")
    if "colours" in part:
        assert message.endswith("say it: --mask-values 0=TUM,1=STR,2=LYM,3=NEC,4=ignore")
        assert "NEC (153, 0, 255), ignore (255, 255, 255)" in message


def test_the_user_may_say_what_values_mean(folder: Path, to: Path) -> None:
    make_bcss(folder)
    values = {"0": "ignore", "1": "TUM", "2": "STR", "3": "LYM", "4": "NEC"}
    for mask in folder.rglob("mask/*.png"):
        grey(mask, (VALUES + 1) % 5)
    found = table(bcss.read(folder, to=to, mask_values=values), to)
    assert found.card.mask_values == values
    assert true_mask(found, NAME) == TRUE
    coloured(folder / f"test/mask/{NAME}.png", VALUES, BCSS_COLOURS)
    grey(next(folder.glob("val/mask/*.png")), VALUES + 1)
    message = failing(bcss.read, folder, to=to, mask_values=values)
    assert "2 faults" in message
    assert f"test/mask/{NAME}.png: a mask of colours, not 8-bit indices" in message
    assert "the mask holds the value 5" in message
    assert "neither one of TUM, STR, LYM, NEC nor ignore" in failing(bcss.read, folder, to=to, mask_values={"0": "x"})


def test_nothing_is_written_into_the_data_set(folder: Path) -> None:
    make_bcss(folder)
    coloured(folder / f"test/mask/{NAME}.png", VALUES, BCSS_COLOURS)
    before = sorted(folder.rglob("*"))
    # Beside the folder, a table of its name would have its files in it.
    for to in (folder / "data.csv", folder / "test.csv", folder.with_suffix(".csv")):
        assert "would go into the folder that is read" in failing(bcss.read, folder, to=to)
    assert sorted(folder.rglob("*")) == before


# --- WSSS4LUAD --------------------------------------------------------------------------------------------------------

WSSS = np.array([[0, 1, 1, 3], [2, 2, 0, 0]], np.uint8)


def make_wsss(folder: Path, glass: LabelMap) -> Path:
    """A WSSS4LUAD of four images."""
    picture(folder / "1.training/436219-7159-48057-[1, 0, 1].png")
    picture(folder / "1.training/1.2.276.0.72-38208-17984-[0, 1, 0].png")
    for place in ("2.validation", "3.testing"):
        picture(folder / place / "img/00.png")
        indexed(folder / place / "mask/00.png", WSSS, WSSS_COLOURS)
        indexed(folder / place / "background-mask/00.png", glass, [(0, 0, 0), (255, 255, 255)])
    return folder


def test_wsss4luad(folder: Path, to: Path) -> None:
    imported = wsss4luad_official.read(make_wsss(folder, (WSSS == 3).astype(np.uint8)), to=to)
    assert [(each.id, each.labels, each.patient, each.split) for each in imported.samples] == [
        ("1.2.276.0.72-38208-17984", ("stroma",), "1.2.276.0.72", "train"),
        ("436219-7159-48057", ("tumor", "normal"), "436219", "train"),
        ("val_00", ("tumor", "stroma", "normal"), "val_00", "val"),
        ("test_00", ("tumor", "stroma", "normal"), "test_00", "test"),
    ]
    assert imported.samples[2].mask == folder / "2.validation/mask/00.png"
    assert imported.card.exclude_white
    assert true_mask(table(imported, to), "test_00") == [[0, 1, 1, IGNORE], [2, 2, 0, 0]]


def test_what_background_masks_mark_is_left_out(folder: Path, to: Path) -> None:
    make_wsss(folder, (WSSS == 3).astype(np.uint8))
    glass = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], np.uint8)
    indexed(folder / "3.testing/background-mask/00.png", glass, [(0, 0, 0), (255, 255, 255)])
    imported = wsss4luad_official.read(folder, to=to)
    assert imported.samples[-1].labels == ("tumor", "stroma")
    assert true_mask(table(imported, to), "test_00") == [[0, 1, 1, IGNORE], [IGNORE, IGNORE, 0, 0]]
    grey(folder / "3.testing/background-mask/00.png", np.zeros((3, 3), np.uint8))
    picture(folder / "2.validation/img/01.png")
    spelt(
        failing(wsss4luad_official.read, folder, to=to),
        "2.validation/img/01.png: has no mask",
        "2.validation/img/01.png: has no background mask",
        "3.testing/background-mask/00.png: is 3 x 3 px, its mask 4 x 2",
    )


def test_test_masks_may_have_been_kept_back(folder: Path, to: Path) -> None:
    make_wsss(folder, (WSSS == 3).astype(np.uint8))
    (folder / "3.testing/mask/00.png").unlink()
    imported = wsss4luad_official.read(folder, to=to)
    assert (imported.samples[-1].mask, imported.samples[-1].labels) == (None, ())
    assert "Split test of this copy has no masks: it cannot be scored" in imported.notes
    (folder / "2.validation/mask/00.png").unlink()
    spelt(failing(wsss4luad_official.read, folder, to=to), "2.validation/img/00.png: has no mask")


# --- GlaS -------------------------------------------------------------------------------------------------------------


def make_glas(folder: Path, train: str = "", test: str = "") -> Path:
    """A GlaS of three images, patient 2 in train and test."""
    numbers = np.zeros((130, 240), np.uint8)  # [h, w]
    numbers[:, :60] = 1
    numbers[:20, 100:110] = 2
    numbers[:, 117:] = 7
    for name, place in (("train_1", train), ("testA_1", test), ("testB_12", test)):
        picture(folder / place / f"{name}.bmp", 240, 130)
        grey(folder / place / f"{name}_anno.bmp", numbers if name != "testB_12" else numbers * 0)
    rows = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    rows += [f"{name}, {patient} , benign , adenomatous" for name, patient in (("train_1", 2), ("testA_1", 2))]
    (folder / "Grade.csv").write_text("\r\n".join([*rows, "testB_12,15, malignant, moderately differentiated", ""]))
    return folder


@pytest.mark.parametrize("places", [("", ""), ("train", "test")])
def test_glas(places: tuple[str, str], folder: Path, to: Path) -> None:
    imported = glas_official.read(make_glas(folder, *places))
    assert [(s.id, s.crop, s.labels, s.patient, s.split) for s in imported.samples] == [
        ("train_1_x000_y000", Region(0, 0, 112, 112), ("gland", "stroma"), "2", "train"),
        ("train_1_x112_y000", Region(112, 0, 112, 112), ("gland",), "2", "train"),
        ("testA_1", None, ("gland", "stroma"), "2", "test"),
        ("testB_12", None, ("stroma",), "15", "test"),
    ]
    assert {each.mpp for each in imported.samples} == {0.62005}
    assert imported.card.mask_values == {"0": "stroma", "1": "gland", "2": "gland", "7": "gland"}
    assert imported.card.split_source == "official"
    assert imported.notes[-1] == "This copy holds 1 images of testB; published are 20"
    found = table(imported, to)
    mask = np.array(true_mask(found, "testA_1"))
    assert mask.shape == (130, 240)
    assert (mask == 0).sum() == 130 * 60 + 200 + 130 * 123
    # A number that no mask held at the import means nothing.
    grey(folder / places[1] / "testA_1_anno.bmp", np.full((130, 240), 3, np.uint8))
    (fault,) = check_files(found)
    assert "the mask holds the value 3" in fault


def test_every_fault_of_glas_comes_at_once(folder: Path) -> None:
    make_glas(folder)
    picture(folder / "train_2.bmp", 240, 130)
    grey(folder / "train_3_anno.bmp", np.zeros((130, 240), np.uint8))
    picture(folder / "overlay.png")
    picture(folder / "test/testA_1.bmp")
    picture(folder / "testB_12_anno.bmp", 240, 130)
    grey(folder / "testA_1_anno.bmp", np.zeros((9, 9), np.uint8))
    with (folder / "Grade.csv").open("a") as file:
        file.write("train_1,3,benign,healthy\ntrain_9,3,benign,healthy\nshort,1\ntrain_2,,benign,healthy\n")
    spelt(
        failing(glas_official.read, folder),
        "overlay.png: is not named as an image or a mask of this data set",
        "test/testA_1.bmp: testA_1.bmp has this name too",
        "Grade.csv: line 7: 2 cells under 4 columns",
        "Grade.csv: line 5: train_1 stands in it twice",
        "Grade.csv: line 8: train_2 has no patient",
        "train_2.bmp: has no mask train_2_anno",
        "train_3_anno.bmp: has no image",
        "Grade.csv: names train_9, and there is no such image",
        "testA_1_anno.bmp: is 9 x 9 px, its image 240 x 130",
        "testB_12_anno.bmp: a mask of colours, not 8-bit indices",
    )


def test_glas_that_is_something_else(folder: Path) -> None:
    assert "there are no images train_1" in failing(glas_official.read, folder, code=Exit.INPUT)
    make_glas(folder)
    (folder / "Grade.csv").write_text("image;grade\na;b\n")
    message = failing(glas_official.read, folder)
    assert "Grade.csv: line 1: there are no columns name, patient ID" in message
    (folder / "Grade.csv").unlink()
    assert "there is no readable Grade.csv" in failing(glas_official.read, folder, code=Exit.INPUT)


# --- pos, neg, gt -----------------------------------------------------------------------------------------------------

LESION = np.array([[0, 255, 255, 0], [0, 0, 0, 0]], np.uint8)


def make_pos_neg(folder: Path) -> Path:
    """Two splits; truth for test alone; images of the same number in pos and neg."""
    picture(folder / "train/pos/tumor_001_5_7.png")
    picture(folder / "train/neg/normal_002_1_1.png")
    for stem in ("10", "9"):
        picture(folder / f"test/pos/{stem}.png")
    for stem in ("9", "zero"):
        picture(folder / f"test/neg/{stem}.jpg", 6, 3)
    grey(folder / "test/gt/9.png", LESION)
    grey(folder / "test/gt/10.png", (LESION > 0).astype(np.uint8)[::-1])
    return folder


def test_pos_neg(folder: Path, to: Path) -> None:
    imported = pos_neg.read(make_pos_neg(folder), to=to, mpp=0.5)
    nothing = to.parent / "data/masks/6x3-without-lesion.png"
    gt = folder / "test/gt"
    assert [(s.id, s.labels, s.patient, s.split, s.mask) for s in imported.samples] == [
        ("train_pos_tumor_001_5_7", ("lesion",), "tumor_001", "train", None),
        ("train_neg_normal_002_1_1", ("normal",), "normal_002", "train", None),
        ("test_pos_10", ("lesion",), "test_pos_10", "test", gt / "10.png"),
        ("test_pos_9", ("lesion",), "test_pos_9", "test", gt / "9.png"),
        ("test_neg_9", ("normal",), "test_neg_9", "test", nothing),
        ("test_neg_zero", ("normal",), "test_neg_zero", "test", nothing),
    ]
    assert {each.mpp for each in imported.samples} == {0.5}
    assert (imported.card.classes, imported.card.background) == (("lesion", "normal"), "normal")
    assert imported.notes[0].startswith("4 names do not say whose the image is")
    found = table(imported, to)
    assert true_mask(found, "test_pos_9") == [[1, 0, 0, 1], [1, 1, 1, 1]]
    assert true_mask(found, "test_pos_10") == [[1, 1, 1, 1], [1, 0, 0, 1]]
    assert true_mask(found, "test_neg_zero") == 3 * [6 * [1]]


def test_pos_neg_without_splits_and_of_other_names(folder: Path, to: Path) -> None:
    picture(folder / "pos/TCGA-A1-A0SK-01Z_4.png")
    picture(folder / "neg/b.png")
    grey(folder / "neg/c.png", np.zeros((2, 4), np.uint8))
    coloured(folder / "gt/TCGA-A1-A0SK-01Z_4.png", (LESION > 0).astype(np.uint8), [(0, 0, 0), (255, 255, 255)])
    grey(folder / "gt/c.png", np.zeros((2, 4), np.uint8))
    imported = pos_neg.read(folder, to=to, classes=["cancer"], background="rest")
    assert [(each.id, each.labels, each.patient, each.split) for each in imported.samples] == [
        ("pos_TCGA-A1-A0SK-01Z_4", ("cancer",), "TCGA-A1-A0SK", ""),
        ("neg_b", ("rest",), "neg_b", ""),
        ("neg_c", ("rest",), "neg_c", ""),
    ]
    assert imported.samples[2].mask == folder / "gt/c.png"
    found = table(imported, to)
    assert true_mask(found, "pos_TCGA-A1-A0SK-01Z_4") == [[1, 0, 0, 1], [1, 1, 1, 1]]
    assert true_mask(found, "neg_b") == 2 * [4 * [1]]


def test_every_fault_of_pos_neg_comes_at_once(folder: Path, to: Path) -> None:
    make_pos_neg(folder)
    picture(folder / "test/pos/8.png")
    picture(folder / "test/pos/9.jpg")
    grey(folder / "test/gt/lost.png", LESION)
    grey(folder / "test/gt/10.png", LESION * 0)
    grey(folder / "test/gt/zero.png", LESION)
    picture(folder / "test/pos/7.png")
    grey(folder / "test/gt/7.png", LESION // 2)
    (folder / "val").mkdir()
    spelt(
        failing(pos_neg.read, folder, to=to),
        "val: holds no image in pos or neg",
        "test/pos/9.png: 9.jpg has this name too",
        "test/pos/8.png: has no mask in gt",
        "test/gt/lost.png: no image has this name",
        "test/gt/10.png: shows no lesion, but its image is in pos",
        "test/gt/7.png: 2 pixels of colours that mean nothing, (127, 127, 127)",
        "test/gt/zero.png: shows a lesion, but its image is in neg",
    )


def test_pos_neg_that_cannot_be(folder: Path, to: Path) -> None:
    assert "there is no folder train" in failing(pos_neg.read, folder, to=to, code=Exit.INPUT)
    make_pos_neg(folder)
    assert "5000 um/px is not plausible" in failing(pos_neg.read, folder, to=to, mpp=5000)
    assert "2 are named: a, b" in failing(pos_neg.read, folder, to=to, classes=["a", "b"])
