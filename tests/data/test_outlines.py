"""Slides and outlines as a table: paired, checked, whole or cut; against masks drawn slowly, pixel by pixel."""

import errno
import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from drawn import asap, flat_slide, open_here, qupath, rectangle

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, read_manifest, write_manifest
from histill.core.storage import TEMPORARY_PREFIX
from histill.data.images import MaskCache, read_image, require_sound_files
from histill.data.sources import outlines, pairing, pieces
from histill.data.sources.outlines import patient
from histill.data.sources.pairing import paired
from histill.data.sources.pieces import Cutting, named
from histill.data.sources.published import Imported
from histill.data.tiles import TrueMasks
from histill.data.truth import open_truth
from histill.slides.base import Slide
from histill.slides.tissue import Tissue, find_tissue

PATCHES = Cutting(form="patches", at=1.0, tile=32)
REGIONS = Cutting(form="regions", at=1.0)
MPP = 0.5


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Slides are opened in this process; the list says which, each time."""
    paths = []

    def open_slide(path: Path, mpp: float | None = None) -> object:
        paths.append(path)
        return open_here(path, mpp)

    monkeypatch.setattr(pairing, "open_guarded", open_slide)
    # Hundreds of small files, whose names and bytes are looked at, and not what a power cut leaves of them.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(pieces, "find_tissue", tissue_of)
    return paths


FOUND: dict[bytes, Tissue] = {}


def tissue_of(slide: Slide) -> Tissue:
    """As `find_tissue`, once for each slide."""
    data = slide.path.read_bytes()
    if data not in FOUND:
        FOUND[data] = find_tissue(slide)
    return FOUND[data]


@pytest.fixture
def camelyon(tmp_path: Path) -> Path:
    """A tumour slide with a hole in the tumour, a slide outlined in part, and a normal one without XML."""
    for seed, name in enumerate(("tumor_001", "tumor_002", "normal_001")):
        flat_slide(tmp_path / f"slides/{name}.png", seed=seed)
    tumour, hole = rectangle(150, 150, 250, 250), rectangle(200, 200, 64, 64)
    asap(tmp_path / "xml/tumor_001.xml", ("_0", tumour), ("_2", hole))
    asap(tmp_path / "xml/tumor_002.xml", ("Tumor", rectangle(420, 300, 60, 60)))
    return tmp_path


@pytest.fixture
def tissues(tmp_path: Path) -> Path:
    """One slide with three tissues outlined, one inside another, side by side, and a place that does not count."""
    flat_slide(tmp_path / "slides/a.png")
    qupath(
        tmp_path / "drawn/a.geojson",
        ("Tumour", rectangle(120, 120, 200, 300)),
        ("Gland", rectangle(160, 160, 90, 90)),
        ("Stroma", rectangle(320, 120, 161, 300)),
        ("Ignore*", rectangle(400, 300, 40, 40)),
    )
    return tmp_path


def importing(folder: Path, drawn: str = "xml", to: str = "out/data.csv", **options: object) -> Imported:
    given = {"mpp": MPP, "to": folder / to, "outlines": folder / drawn, **options}
    return outlines.read(folder / "slides", **given)  # type: ignore[arg-type]


def table_of(folder: Path, drawn: str = "xml", to: str = "out/data.csv", **options: object) -> Manifest:
    """The table as it comes back from disk."""
    imported = importing(folder, drawn, to, **options)
    write_manifest(folder / to, imported.samples, imported.card)
    return read_manifest(folder / to)


def failing(code: Exit, parts: str | list[str], *arguments: object, **options: object) -> HistillError:
    with pytest.raises(HistillError) as caught:
        importing(*arguments, **options)  # type: ignore[arg-type]
    assert caught.value.code == code, caught.value
    assert caught.value.mend
    for part in [parts] if isinstance(parts, str) else parts:
        assert part in str(caught.value)
    return caught.value


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


# --- slides -----------------------------------------------------------------------------------------------------------


def test_slides_with_what_is_drawn_on_them(camelyon: Path) -> None:
    table = table_of(camelyon)
    assert [(s.id, s.labels, s.patient, s.mpp) for s in table.samples] == [
        ("normal_001", (), "normal_001", MPP),
        ("tumor_001", ("Tumor",), "tumor_001", MPP),
        ("tumor_002", ("Tumor",), "tumor_002", MPP),
    ]
    assert table.samples[0].mask is None
    assert table.samples[1].mask is not None
    assert table.samples[1].mask.resolve() == camelyon / "xml/tumor_001.xml"
    assert sorted(path.name for path in (camelyon / "out").iterdir()) == ["data.csv", "data.yaml"]


def test_slides_without_xml_are_normal_in_camelyon16(camelyon: Path) -> None:
    imported = importing(camelyon, background="normal", without_outlines="background", split="test")
    assert imported.card.classes == ("Tumor", "normal")
    assert imported.card.background == "normal"
    assert [sample.labels for sample in imported.samples] == [("normal",), ("Tumor",), ("Tumor",)]
    assert {sample.split for sample in imported.samples} == {"test"}
    assert "Slides without outlines, taken for nothing but normal: 1 (normal_001)" in imported.notes
    # A normal slide has a truth to be scored against: nothing but background.
    for sample in imported.samples:
        assert sample.mask is not None
        with open_truth(sample.mask, imported.card, (800, 600)) as truth, open_here(sample.path, MPP) as slide:
            labels = truth.band(slide.at(1.0), 0, 300)
        tumour = {"normal_001": 0, "tumor_001": 125**2 - 32**2, "tumor_002": 30**2}[sample.id]
        assert np.bincount(labels.ravel(), minlength=2).tolist() == [tumour, 400 * 300 - tumour]


def test_slides_without_outlines_can_be_left_out(camelyon: Path) -> None:
    imported = importing(camelyon, without_outlines="skip")
    assert [sample.id for sample in imported.samples] == ["tumor_001", "tumor_002"]
    assert "Slides without outlines, left out: 1 (normal_001)" in imported.notes


def test_an_empty_collection_says_that_there_is_nothing_if_slides_may(camelyon: Path) -> None:
    qupath(camelyon / "xml/normal_001.geojson")
    failing(Exit.INPUT, ["normal_001.geojson: holds no outline"], camelyon)
    imported = importing(camelyon, background="normal", without_outlines="background")
    assert imported.samples[0].labels == ("normal",)
    # What holds only what cannot be used says nothing.
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 5]}, "properties": {}}
    (camelyon / "xml/normal_001.geojson").write_text(json.dumps(point))
    options = {"background": "normal", "without_outlines": "background"}
    failing(Exit.INPUT, "normal_001.geojson: holds no outline; 1 Point left out", camelyon, **options)


def test_outlines_are_renamed(tissues: Path) -> None:
    options = {"rename": {"GLAND": "epithelium", "tumour": "epithelium", "Stroma": "ignore"}}
    table = table_of(tissues, "drawn", **options)
    assert table.classes.names == ("epithelium",)
    (sample,) = table.samples
    assert sample.labels == ("epithelium",)
    assert sample.mask is not None
    assert sample.mask.resolve() == tissues / "out/data/outlines/a.geojson"
    with open_truth(sample.mask, table.card, (800, 600)) as truth, open_here(sample.path, MPP) as slide:
        labels = truth.band(slide.at(MPP), 0, 600)
    assert (labels == 0).sum() == (labels[120:420, 120:320] == 0).sum() == 200 * 300
    before = sample.mask.read_bytes()
    importing(tissues, "drawn", **options)
    assert sample.mask.read_bytes() == before


def test_outlines_without_a_class_can_be_given_one(tissues: Path) -> None:
    qupath(tissues / "drawn/a.geojson", (None, rectangle(120, 120, 200, 200)))
    failing(Exit.USAGE, ["outlines without a class: 1", "--rename none=NAME"], tissues, "drawn", classes=("tumour",))
    assert importing(tissues, "drawn", rename={"None": "tumour"}).samples[0].labels == ("tumour",)


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "background", "names"),
    [
        ((), None, ("Gland", "Stroma", "Tumour")),
        ((), "glass", ("Gland", "Stroma", "Tumour", "glass")),
        ((), "stroma", ("Gland", "stroma", "Tumour")),
        (("tumour", "stroma", "gland", "fat"), None, ("tumour", "stroma", "gland", "fat")),
        (("Tumour", "Stroma", "Gland"), "rest", ("Tumour", "Stroma", "Gland", "rest")),
    ],
)
def test_class_names(given: tuple[str, ...], background: str | None, names: tuple[str, ...], tissues: Path) -> None:
    imported = importing(tissues, "drawn", classes=given, background=background)
    assert imported.card.classes == names
    (sample,) = imported.samples
    # Labels are in label order; upper and lower case of the outlines do not matter; the background is not named.
    expected = [name for name in names if name.lower() in ("tumour", "gland", "stroma") and name != background]
    assert sample.labels == tuple(expected)


def test_names_that_differ_in_case_only_are_one_class(tissues: Path) -> None:
    flat_slide(tissues / "slides/b.png")
    qupath(tissues / "drawn/b.geojson", ("tumour", rectangle(120, 120, 200, 200)), ("GLAND", rectangle(1, 1, 9, 9)))
    imported = importing(tissues, "drawn")
    assert imported.card.classes == ("GLAND", "Stroma", "Tumour")
    assert imported.samples[1].labels == ("GLAND", "Tumour")


# --- which belong together --------------------------------------------------------------------------------------------


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_slides_and_outlines_are_paired_by_stem(tmp_path: Path) -> None:
    make(tmp_path, "s/a.svs", "s/deep/B.tif", "s/c d.png", "s/e.e.ndpi", "s/f.svs", "s/.hidden/g.svs")
    make(tmp_path, "o/a.geojson", "o/b.XML", "o/more/c d.geojson.gz", "o/e.e.ndpi.json", "o/.f.xml", "o/notes.txt")
    pairs, faults = paired(tmp_path / "s", tmp_path / "o")
    assert not faults
    found = {pair.id: pair.outlines and pair.outlines.relative_to(tmp_path / "o").as_posix() for pair in pairs}
    assert found == {"a": "a.geojson", "B": "b.XML", "c d": "more/c d.geojson.gz", "e.e": "e.e.ndpi.json", "f": None}


def test_one_slide_and_one_file_belong_together(tmp_path: Path) -> None:
    make(tmp_path, "s/a.svs", "o/other.xml", "o/a.xml", "s/a.json")
    assert paired(tmp_path / "s/a.svs", tmp_path / "o/other.xml")[0][0].outlines == tmp_path / "o/other.xml"
    # Of a folder the file of this name; what belongs to other slides is no fault.
    pairs, faults = paired(tmp_path / "s/a.svs", tmp_path / "o")
    assert [pair.outlines for pair in pairs] == [tmp_path / "o/a.xml"]
    assert not faults
    assert paired(tmp_path / "s/a.svs", tmp_path / "s")[0][0].outlines == tmp_path / "s/a.json"


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["s/a.svs", "o/b.xml"], "o/b.xml: no slide has this name"),
        (["s/1/a.svs", "s/2/A.tif", "o/a.xml"], "s/2/A.tif: another slide has this name: "),
        (["s/a.svs", "o/a.xml", "o/a.geojson"], "o/a.xml: its slide has other outlines: "),
        (["s/a.tif", "s/a_mask.tif", "o/a.xml"], "s/a_mask.tif: looks like a mask of a.tif"),
    ],
)
def test_what_does_not_fit_together(names: list[str], fault: str, tmp_path: Path) -> None:
    make(tmp_path, *names)
    _, faults = paired(tmp_path / "s", tmp_path / "o")
    assert [fault in str(each) for each in faults] == [True]
    assert faults[0].mend


def test_outlines_may_lie_beside_the_slides(tissues: Path) -> None:
    shutil.copy(tissues / "drawn/a.geojson", tissues / "slides/a.geojson")
    for slides in (tissues / "slides", tissues / "slides/a.png"):
        imported = outlines.read(slides, to=tissues / "out/data.csv", mpp=MPP)
        assert [sample.mask for sample in imported.samples] == [tissues / "slides/a.geojson"]


def test_packed_outlines(tissues: Path) -> None:
    data = (tissues / "drawn/a.geojson").read_bytes()
    (tissues / "drawn/a.geojson").unlink()
    (tissues / "drawn/a.geojson.gz").write_bytes(gzip.compress(data))
    assert importing(tissues, "drawn").samples[0].labels == ("Gland", "Stroma", "Tumour")


@pytest.mark.parametrize(
    ("slide", "who"),
    [
        ("TCGA-CR-7395-01A-01-TS1.2f1a", "TCGA-CR-7395"),
        ("TCGA-CR-7395", "TCGA-CR-7395"),
        ("TCGA-CR-73951", "TCGA-CR-73951"),
        ("patient_017_node_2", "patient_017"),
        ("patient_017", "patient_017"),
        ("tumor_001", "tumor_001"),
    ],
)
def test_whose_a_slide_is(slide: str, who: str) -> None:
    assert patient(slide) == who


def test_patients_that_names_tell_are_noted(tissues: Path) -> None:
    flat_slide(tissues / "slides/TCGA-CR-7395-01A.png")
    notes = importing(tissues, "drawn").notes
    assert "Slides whose patients follow from their names, as TCGA has them: 1" in notes


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_all_faults_come_in_one_report(camelyon: Path) -> None:
    (camelyon / "xml/tumor_001.xml").write_text("<ASAP_Annotations><Annotations>")
    asap(camelyon / "xml/nobody.xml", ("Tumor", rectangle(0, 0, 9, 9)))
    asap(camelyon / "xml/tumor_002.xml", ("necrosis", rectangle(0, 0, 9, 9)), ("Tumor", rectangle(900, 700, 9, 9)))
    (camelyon / "slides/normal_001.png").write_bytes(b"no image")
    parts = [
        "5 faults",
        "nobody.xml: no slide has this name",
        "tumor_001.xml, line 1: no valid XML",
        "tumor_002.xml: of 2 outlines, wholly outside the slide of 800 x 600 px: 1 (Annotation 1)",
        "tumor_002.xml: outlines of class 'necrosis', which is not one of Tumor: 1",
        "normal_001.png: ",
    ]
    failing(Exit.INPUT, parts, camelyon, classes=("Tumor",))
    assert not (camelyon / "out").exists()


def test_entities_are_refused(camelyon: Path) -> None:
    path = camelyon / "xml/tumor_001.xml"
    text = path.read_text().replace("?>", '?><!DOCTYPE a [<!ENTITY b "bb">]>', 1)
    path.write_text(text)
    failing(Exit.UNSAFE, "tumor_001.xml, line 1: a document type", camelyon)


@pytest.mark.parametrize("content", ["", "{", '{"type": "FeatureCollection", "features": []}'])
def test_files_that_hold_no_outline(content: str, tissues: Path) -> None:
    (tissues / "drawn/a.geojson").write_text(content)
    failing(Exit.INPUT, "a.geojson", tissues, "drawn")


def test_where_nothing_is(tissues: Path) -> None:
    (tissues / "empty").mkdir()
    failing(Exit.INPUT, "empty: there are no outlines here", tissues, "empty")
    failing(Exit.INPUT, "nowhere: there is no such file or folder", tissues, "nowhere")
    shutil.rmtree(tissues / "slides")
    (tissues / "slides").mkdir()
    failing(Exit.INPUT, "slides: there is no slide here", tissues, "drawn")


def test_a_slide_without_spacing(tissues: Path) -> None:
    imported = importing(tissues, "drawn", mpp=None)
    assert imported.samples[0].mpp is None
    assert "Slides that do not say how large a pixel is, and will need --mpp: 1 (a)" in imported.notes
    failing(
        Exit.INPUT,
        ["a.png: the file does not say how large a pixel is", "--mpp"],
        tissues,
        "drawn",
        mpp=None,
        cutting=PATCHES,
    )
    failing(Exit.USAGE, "no slide has 100 um/px", tissues, "drawn", mpp=100.0)


def test_the_files_own_spacing_counts(tissues: Path) -> None:
    image = np.array(Image.open(tissues / "slides/a.png"))
    (tissues / "slides/a.png").unlink()
    options = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tissues / "slides/a.tif", image, tile=(256, 256), photometric="rgb", **options)
    imported = importing(tissues, "drawn", mpp=2.0)
    assert imported.samples[0].mpp is None
    cut = importing(tissues, "drawn", mpp=2.0, cutting=REGIONS)
    # 0.25 um/px as the file says: 200 x 300 px are 50 x 75 um.
    assert read_image(cut.samples[0].path).shape == (75, 50, 3)


def test_outlines_that_reach_beyond_the_slide_are_cut_off(tissues: Path) -> None:
    qupath(tissues / "drawn/a.geojson", ("Tumour", rectangle(700, 500, 900, 900)))
    imported = importing(tissues, "drawn", cutting=REGIONS)
    assert "Outlines that reach beyond their slide, and are cut off at its edge: 1" in imported.notes
    assert read_image(imported.samples[0].path).shape == (50, 50, 3)


@pytest.mark.parametrize("to", ["slides/data.csv", "drawn/more/data.csv", "slides.csv"])
def test_nothing_is_written_to_where_slides_are_looked_for(to: str, tissues: Path) -> None:
    failing(Exit.USAGE, "would write into the folder that is read", tissues, "drawn", to, cutting=PATCHES)
    failing(Exit.USAGE, "would write into the folder that is read", tissues, "drawn", to, rename={"Gland": "Tumour"})
    assert importing(tissues, "drawn", to).samples


def test_background_has_to_have_a_name(camelyon: Path) -> None:
    failing(Exit.USAGE, "--without-outlines: slides without outlines are", camelyon, without_outlines="background")


# --- patches ----------------------------------------------------------------------------------------------------------


def truth_of(folder: Path) -> np.ndarray:
    """The tissues' true map at 1 um/px, which is every second px of the slide: class indices of Gland, Stroma, Tumour."""  # noqa: E501
    labels = np.full((600, 800), IGNORE, np.uint8)
    labels[120:420, 120:320], labels[120:420, 320:481], labels[160:250, 160:250] = 2, 1, 0
    labels[300:340, 400:440] = IGNORE
    return labels[1::2, 1::2]


@pytest.mark.parametrize(("overlap", "least", "known"), [(0.0, 0.05, 0.75), (0.5, 0.3, 1.0), (0.25, 0.0, 0.1)])
def test_patches_are_what_the_truth_says(overlap: float, least: float, known: float, tissues: Path) -> None:
    cutting = Cutting(form="patches", at=1.0, tile=32, overlap=overlap, least=least, known=known)
    table = table_of(tissues, "drawn", cutting=cutting)
    require_sound_files(table)
    truth, names = truth_of(tissues), ("Gland", "Stroma", "Tumour")
    step = round(32 * (1 - overlap))
    expected = {}
    for y in range(0, 300, step):
        for x in range(0, 400, step):
            seen = truth[y : y + 32, x : x + 32]
            shares = [(seen == k).sum() / 32**2 for k in range(3)]
            labels = tuple(name for name, share in zip(names, shares, strict=True) if share >= least and share > 0)
            if sum(shares) >= known and labels:
                expected[f"a_x{2 * x}_y{2 * y}"] = labels, seen
    assert len(expected) > 10
    assert {sample.id: sample.labels for sample in table.samples} == {name: part[0] for name, part in expected.items()}
    masks, images = MaskCache(table.card), TrueMasks(table.card)
    with open_here(tissues / "slides/a.png", MPP) as slide:
        for sample in table.samples[::7]:
            seen = expected[sample.id][1]
            padded = np.full((32, 32), IGNORE, np.uint8)
            padded[: seen.shape[0], : seen.shape[1]] = seen
            image = read_image(sample.path)
            x, y = (int(part[1:]) for part in sample.id.split("_")[1:])
            np.testing.assert_array_equal(image, slide.read(Region(x, y, 64, 64), 1.0))
            np.testing.assert_array_equal(masks.read(sample), padded)
            np.testing.assert_array_equal(images(sample, image)[0], padded)
            assert (sample.mpp, sample.patient, sample.split) == (1.0, "a", "")


def test_patches_with_a_background(camelyon: Path) -> None:
    options = {"background": "normal", "without_outlines": "background", "cutting": PATCHES}
    imported = importing(camelyon, **options)
    by_slide = {
        name: [sample.labels for sample in imported.samples if sample.patient == name]
        for name in ("normal_001", "tumor_001", "tumor_002")
    }
    # 300 x 200 um of tissue have 12 x 8 patches that hold a tenth of it or more.
    assert by_slide["normal_001"] == [("normal",)] * len(by_slide["normal_001"])
    assert 60 <= len(by_slide["normal_001"]) <= 96
    assert set(by_slide["tumor_001"]) == {("normal",), ("Tumor",)}
    # A patch with less than 5 % of tumour is neither: those at the tumour's lower and right edges, x and y 192..199.
    assert by_slide["tumor_002"].count(("Tumor",)) == 4
    for sample in imported.samples:
        assert sample.mask is not None
        labels = np.array(Image.open(sample.mask))
        share = (labels == 0).mean()
        assert (sample.labels == ("Tumor",)) == (share >= 0.05)
        assert (sample.labels == ("normal",)) == (share == 0)
        assert set(np.unique(labels)) <= {0, 1, IGNORE}


def test_a_little_of_a_class_is_neither_it_nor_background(camelyon: Path) -> None:
    asap(camelyon / "xml/tumor_002.xml", ("Tumor", rectangle(320, 320, 8, 8)))
    imported = importing(camelyon, background="normal", cutting=PATCHES)
    assert "Left out: 1 patches with less of a class than --least" in imported.notes
    assert "tumor_002_x320_y320" not in {sample.id for sample in imported.samples}
    assert "tumor_002_x320_y256" in {sample.id for sample in imported.samples}


def test_labels_of_shares() -> None:
    card = {"classes": ["a", "b", "rest"], "background": "rest"}
    classes = outlines.resolve(outlines.DatasetCard, ("card", card)).as_classes()

    def labels(*shares: float, least: float = 0.05, own: int | None = None) -> tuple[str, ...]:
        return named(np.array(shares), classes, least, own)

    assert labels(0.5, 0.1, 0.4) == ("a", "b")
    assert labels(0.5, 0.01, 0.4) == ("a",)
    assert labels(0, 0, 0.9) == ("rest",)
    assert labels(0.01, 0, 0.9) == ()
    assert labels(0, 0, 0) == ()
    assert labels(0.01, 0.2, 0.5, own=0) == ("a", "b")
    assert labels(0, 0.0, 0.5, least=0) == ("rest",)
    assert labels(0.2, 0, 0.5, own=2) == ("a",)


def test_at_most_so_many_of_a_kind(camelyon: Path) -> None:
    options = {"background": "normal", "without_outlines": "background"}
    all_of_them = importing(camelyon, to="all/data.csv", cutting=PATCHES, **options).samples
    few = [
        importing(camelyon, to=f"{name}/data.csv", cutting=PATCHES.model_copy(update={"most": 3}), **options)
        for name in ("few", "again")
    ]
    for slide in ("normal_001", "tumor_001", "tumor_002"):
        for labels in (("normal",), ("Tumor",)):
            kept = [s.id for s in few[0].samples if (s.patient, s.labels) == (slide, labels)]
            assert len(kept) == min(3, sum((s.patient, s.labels) == (slide, labels) for s in all_of_them))
    assert [s.id for s in few[0].samples] == [s.id for s in few[1].samples]
    assert {s.id for s in few[0].samples} < {s.id for s in all_of_them}
    left_out = len(all_of_them) - len(few[0].samples)
    assert f"Left out: {left_out} patches beyond --most" in few[0].notes
    # Not the first ones, but any.
    assert [s.id for s in few[0].samples] != [s.id for s in all_of_them][: len(few[0].samples)]


def test_no_patch_at_all(tissues: Path) -> None:
    parts = ["no patches were found", "patches of which too little is known (--known)", "--background"]
    failing(Exit.USAGE, parts, tissues, "drawn", cutting=Cutting(form="patches", at=1.0, tile=224))
    # A slide without any is noted beside one that has some.
    flat_slide(tissues / "slides/b.png")
    qupath(tissues / "drawn/b.geojson", ("Tumour", rectangle(10, 10, 9, 9)))
    imported = importing(tissues, "drawn", to="again/data.csv", cutting=PATCHES)
    assert "Slides that gave no patches: 1 (b)" in imported.notes


def test_what_labels_never_name_is_noted(tissues: Path) -> None:
    imported = importing(tissues, "drawn", classes=("fat", "Tumour", "Gland", "Stroma"), cutting=PATCHES)
    assert "No label names fat" in imported.notes


# --- regions ----------------------------------------------------------------------------------------------------------


def test_regions_are_the_outlines_boxes(tissues: Path) -> None:
    table = table_of(tissues, "drawn", cutting=REGIONS)
    require_sound_files(table)
    truth = truth_of(tissues)
    # Of the Tumour's 30,000 px the Gland has 2,025: 6.75 %. Stroma's box is cut at whole px: 320 to 481 are 160 to 241.
    expected = {
        "a_r1": (("Gland", "Tumour"), (60, 60, 100, 150)),
        "a_r2": (("Gland",), (80, 80, 45, 45)),
        "a_r3": (("Stroma",), (160, 60, 81, 150)),
    }
    assert {sample.id: sample.labels for sample in table.samples} == {name: part[0] for name, part in expected.items()}
    masks = MaskCache(table.card)
    for sample in table.samples:
        x, y, w, h = expected[sample.id][1]
        assert read_image(sample.path).shape == (h, w, 3)
        np.testing.assert_array_equal(masks.read(sample), truth[y : y + h, x : x + w])
        assert sample.mpp == 1.0


def test_large_regions_are_cut_and_tiny_ones_left_out(tissues: Path) -> None:
    qupath(
        tissues / "drawn/a.geojson",
        ("Tumour", [(100, 100), (500, 100), (100, 400)]),
        ("Gland", rectangle(600, 450, 28, 60)),
    )
    cutting = Cutting(form="regions", at=1.0, largest=64)
    imported = importing(tissues, "drawn", cutting=cutting)
    assert "Left out: 1 regions of less than 16 px a side" in imported.notes
    # The triangle's box is 200 x 150 um: 4 x 3 parts of 50 x 50; beyond its long side there is nothing.
    named = [sample.id for sample in imported.samples]
    assert named[:5] == [f"a_r1_x{x}_y{y}" for x, y in ((100, 100), (200, 100), (300, 100), (400, 100), (100, 200))]
    assert "a_r1_x400_y300" not in named
    assert {read_image(sample.path).shape for sample in imported.samples} == {(50, 50, 3)}
    assert any("with little or nothing of their own class" in note for note in imported.notes)


def test_a_region_is_named_after_its_own_class_however_thin_it_is(tissues: Path) -> None:
    thin = [(100, 100), (104, 100), (404, 400), (400, 400)]
    qupath(tissues / "drawn/a.geojson", ("Gland", thin), ("Stroma", rectangle(300, 100, 100, 100)))
    imported = importing(tissues, "drawn", cutting=REGIONS)
    assert [sample.labels for sample in imported.samples] == [("Gland", "Stroma"), ("Stroma",)]


def test_regions_of_one_class(camelyon: Path) -> None:
    imported = importing(camelyon, cutting=REGIONS)
    assert [sample.id for sample in imported.samples] == ["tumor_001_r1", "tumor_002_r1"]
    assert "Every label is Tumor; --background NAME adds what no outline covers" in imported.notes
    assert "Slides without outlines, left out: 1 (normal_001)" in imported.notes


def test_enlarged_slides_are_noted(tissues: Path) -> None:
    imported = importing(tissues, "drawn", cutting=Cutting(form="regions", at=0.25))
    assert "Slides that are coarser than 0.25 um/px, and were enlarged: 1 (a)" in imported.notes
    assert read_image(imported.samples[1].path).shape == (180, 180, 3)


# --- killed, run again, damaged ---------------------------------------------------------------------------------------


@pytest.fixture
def whole(camelyon: Path) -> Callable[[str], dict[str, bytes]]:
    """Cut the tumours of Camelyon into patches somewhere, and say what lies there."""

    def cut(to: str, **changes: object) -> dict[str, bytes]:
        options = {"cutting": PATCHES.model_copy(update={"tile": 24}), **changes}
        table_of(camelyon, to=f"{to}/data.csv", **options)
        return files(camelyon / to)

    return cut


def test_the_same_bytes_wherever_and_again(
    whole: Callable[[str], dict[str, bytes]], opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = whole("one")
    assert first == whole("two")
    # What is there is not cut again.
    monkeypatch.setattr(pieces, "rgb_png", None)
    assert whole("one") == first


class Killed(BaseException):
    """The end of a process, as far as one process can tell."""


def killing(nth: int, patch: pytest.MonkeyPatch) -> None:
    """Die at the n-th rename, and leave what lies there, as kill -9 does."""
    calls = 0
    real = os.replace

    def replace(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            raise Killed
        real(source, target)

    patch.setattr(os, "replace", replace)


def test_killed_anywhere_and_run_again(
    whole: Callable[[str], dict[str, bytes]], camelyon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = whole("clean")
    for nth in range(1, 20):
        with monkeypatch.context() as patch:
            killing(nth, patch)
            try:
                whole("killed")
            except Killed:
                ended = False
            else:
                ended = True
        kept = files(camelyon / "killed")
        assert ended or any(TEMPORARY_PREFIX in name for name in kept)
        assert all(clean[name] == data for name, data in kept.items() if TEMPORARY_PREFIX not in name)
        again = whole("killed")
        assert not [name for name in again if TEMPORARY_PREFIX in name and name.startswith("data/")]
        assert {name: data for name, data in again.items() if TEMPORARY_PREFIX not in name} == clean
        if ended:
            break
        shutil.rmtree(camelyon / "killed")
    assert nth > 4
    assert ended


def test_a_full_disk(whole: Callable[[str], dict[str, bytes]], camelyon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = whole("clean")

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(HistillError) as caught:
            whole("full")
    assert caught.value.code == Exit.STORAGE
    assert files(camelyon / "full") == {}
    assert whole("full") == clean


def test_another_cut_is_not_written_over(whole: Callable[..., dict[str, bytes]], camelyon: Path) -> None:
    before = whole("one")
    with pytest.raises(HistillError, match="2 faults") as caught:
        whole("one", cutting=PATCHES)
    assert caught.value.code == Exit.USAGE
    assert "tumor_001: cut otherwise, from other files, or damaged" in str(caught.value)
    assert "remove these folders" in caught.value.mend
    asap(camelyon / "xml/tumor_002.xml", ("Tumor", rectangle(420, 300, 70, 70)))
    with pytest.raises(HistillError, match="tumor_002: cut otherwise"):
        whole("one")
    assert files(camelyon / "one") == before
    shutil.rmtree(camelyon / "one/data/tumor_002")
    assert whole("one") != before


def test_what_no_table_names_is_cut_anew(whole: Callable[..., dict[str, bytes]], camelyon: Path) -> None:
    clean = whole("clean")
    # A first try that found nothing, and so wrote no table.
    with pytest.raises(HistillError, match="no patches were found"):
        whole("one", cutting=Cutting(form="patches", at=1.0, tile=224))
    assert (camelyon / "one/data/tumor_001/record.json").is_file()
    assert whole("one") == clean


def test_a_folder_of_the_users_is_left_alone(whole: Callable[..., dict[str, bytes]], camelyon: Path) -> None:
    own = camelyon / "one/data/tumor_001/own.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(HistillError, match="tumor_001: no import made this") as caught:
        whole("one")
    assert caught.value.code == Exit.USAGE
    assert own.read_text() == "mine"


def test_a_damaged_piece_is_seen(whole: Callable[[str], dict[str, bytes]], camelyon: Path) -> None:
    before = whole("one")
    path = next((camelyon / "one/data/tumor_001/masks").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(HistillError, match="tumor_001: cut otherwise, from other files, or damaged"):
        whole("one")
    shutil.rmtree(camelyon / "one/data/tumor_001")
    assert whole("one") == before


def failing_slide(name: str, read_many: Callable[..., Iterator[object]]) -> Callable[..., object]:
    """Opens slides in this process; one of them gives what `read_many` makes of its answers."""

    def open_slide(path: Path, mpp: float | None = None) -> object:
        slide = open_here(path, mpp)
        if path.stem == name:
            answers = slide.read_many  # type: ignore[attr-defined]
            slide.read_many = lambda requests: read_many(answers(requests))  # type: ignore[attr-defined]
        return slide

    return open_slide


def test_a_slide_that_cannot_be_read_does_not_stop_the_others(
    whole: Callable[[str], dict[str, bytes]], camelyon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = whole("clean")

    def broken(answers: Iterator[object]) -> Iterator[object]:
        yield next(answers)
        raise HistillError("twice its reader died", code=Exit.INPUT, subject="tumor_001.png", mend="Copy it again")

    with monkeypatch.context() as patch:
        patch.setattr(pairing, "open_guarded", failing_slide("tumor_001", broken))
        with pytest.raises(HistillError, match=r"tumor_001.png: twice its reader died") as caught:
            whole("one")
    assert caught.value.code == Exit.INPUT
    assert sorted(path.name for path in (camelyon / "one/data").glob("[!.]*")) == ["tumor_002"]
    assert not (camelyon / "one/data.csv").exists()
    assert whole("one") == clean


@pytest.mark.parametrize("share", [0.005, 0.5])
def test_pieces_that_cannot_be_read(share: float, camelyon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def holed(answers: Iterator[object]) -> Iterator[object]:
        every = round(1 / share)
        for number, answer in enumerate(answers):
            error = HistillError("a tile is damaged", code=Exit.INPUT, subject="x", mend="y")
            yield error if number % every == every // 2 else answer

    monkeypatch.setattr(pairing, "open_guarded", failing_slide("tumor_001", holed))
    options = {"cutting": Cutting(form="patches", at=0.5, tile=16)}
    if share > 0.01:
        failing(Exit.INPUT, ["pieces cannot be read; the first: a tile is damaged"], camelyon, **options)
        return
    imported = importing(camelyon, **options)
    (note,) = [note for note in imported.notes if "cannot be read" in note]
    count = int(note.split()[2])
    assert count >= 1
    ids = [sample.id for sample in imported.samples if sample.patient == "tumor_001"]
    assert len(list((camelyon / "out/data/tumor_001/images").iterdir())) == len(ids)


def test_a_slide_that_changes_while_it_is_cut(camelyon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(answers: Iterator[object]) -> Iterator[object]:
        yield from answers
        path = camelyon / "slides/tumor_001.png"
        path.write_bytes(path.read_bytes() + b"more")

    monkeypatch.setattr(pairing, "open_guarded", failing_slide("tumor_001", touched))
    failing(Exit.INPUT, "tumor_001.png: the file changed while it was read", camelyon, cutting=PATCHES)
    assert not (camelyon / "out/data/tumor_001").exists()


def test_names_that_are_no_file_names(tissues: Path) -> None:
    (tissues / "slides/a.png").rename(tissues / "slides/-Ä b..png")
    (tissues / "drawn/a.geojson").rename(tissues / "drawn/-Ä b..geojson")
    table = table_of(tissues, "drawn", cutting=PATCHES)
    assert table.samples[0].id.startswith("-Ä b._x")
    require_sound_files(table)
    assert all(name.isascii() for name in files(tissues / "out/data"))
