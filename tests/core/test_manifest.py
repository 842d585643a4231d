"""The user's table: every fault in one error, and a round trip without loss."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.manifest import COLUMNS, MOST_FAULTS, Manifest, Sample, read_manifest, write_manifest

CARD = "classes: [gland, stroma]\n"
HEADER = "id,path,x,y,w,h,labels,patient,split,mask,boxes,mpp\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "mask.png"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, table: str | bytes, card: str = CARD) -> Path:
    path = folder / "data.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    path.with_suffix(".yaml").write_text(card)
    return path


def failing(path: Path, code: Exit = Exit.USAGE) -> str:
    with pytest.raises(HistillError) as caught:
        read_manifest(path)
    assert caught.value.code == code
    return str(caught.value)


# --- what a table says ------------------------------------------------------------------------------------------------


def test_a_whole_table(folder: Path) -> None:
    table = HEADER + (
        "one,a.png,1,2,3,4,gland|stroma,p1,train,mask.png,b.png,0.5\n"
        "two,./a.png,,,,,,,,,,\n"
        "three,b.png,,,,, stroma ,p2,val,,,1e0\n"
    )
    manifest = read_manifest(write(folder, table))
    one, two, three = manifest.samples
    assert one == Sample(
        "one",
        folder / "a.png",
        Region(1, 2, 3, 4),
        ("gland", "stroma"),
        "p1",
        "train",
        folder / "mask.png",
        folder / "b.png",
        0.5,
        2,
    )
    assert two == Sample("two", folder / "a.png", patient="a", line=3)
    assert (three.labels, three.mpp, three.line) == (("stroma",), 1.0, 4)
    assert manifest.classes.names == ("gland", "stroma")
    assert manifest.warnings == ()


def test_a_crop_belongs_to_the_patient_of_its_image(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "a.png").touch()
    table = "id,path,x,y,w,h\n1,deep/a.png,0,0,1,1\n2,deep/a.png,1,1,1,1\n3,a.png,0,0,1,1\n"
    assert [sample.patient for sample in read_manifest(write(folder, table)).samples] == ["deep/a", "deep/a", "a"]


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_aliases_in_any_case(name: str, folder: Path) -> None:
    cells = {"id": "one", "path": "a.png", "x": "0", "y": "0", "w": "1", "h": "1", "labels": "gland"}
    cells |= {"patient": "p", "split": "test", "mask": "mask.png", "boxes": "b.png", "mpp": "0.5"}
    plain = read_manifest(write(folder, f"{','.join(cells)}\n{','.join(cells.values())}\n"))
    for alias in COLUMNS[name]:
        header = [alias.upper() if column == name else f" {column}" for column in cells]
        aliased = read_manifest(write(folder, f"{','.join(header)}\n{','.join(cells.values())}\n"))
        assert aliased.samples == plain.samples


def test_the_digest_is_of_table_and_card(folder: Path) -> None:
    table = "id,path\n1,a.png\n"
    digests = {
        read_manifest(write(folder, text, card)).digest
        for text, card in ((table, CARD), (table, CARD), (table + "2,b.png\n", CARD), (table, CARD + "licence: none\n"))
    }
    assert len(digests) == 3


# --- faults -----------------------------------------------------------------------------------------------------------


def test_every_fault_in_one_report_with_its_line(folder: Path) -> None:
    rows = [
        b"one,a.png,,,,,glnd,,train,,,",  # 2: label
        b"one,a.png,,,,,gland,,train,,,",  # 3: id twice
        b"two,a.png,,,,,gland,,test,,,",  # 4: patient in two splits
        b"three,b.png,,,,",  # 5: ragged
        b"four,b.png,,,,,gl\xe4nd,,,,,",  # 6: not UTF-8
        b"five,none.png,,,,,gland,,,none.png,none.csv,",  # 7: files that are not there
        b"six,b.png,0,0,x,1,,,,,,",  # 8: crop of no numbers
        b"seven,b.png,0,0,0,1,,,,,,",  # 9: crop of nothing
        b"eight,b.png,5,,,,,,,,,",  # 10: half a crop
        b"nine,b.png,,,,,,,,,,1e9",  # 11: spacings
        b"ten,b.png,,,,,,,,,,nan",
        b"eleven,b.png,,,,,,,,,,thin",
        b"twelve,b.png,,,,,gland|gland,,training,,,",  # 14: label twice, split
        b",b.png,,,,,,,,,,",  # 15: no id
        b"thirteen,,,,,,,,,,,",  # 16: no path
    ]
    path = write(folder, HEADER.encode().replace(b"mpp", b"mpp,colour") + b",\n".join(rows) + b",\n")
    message = failing(path)
    assert message.startswith(f"{path}: 19 faults\n")
    for fault in (
        "line 1: unknown column 'colour'",
        "line 2: the label 'glnd' is not one of gland, stroma; did you mean 'gland'?",
        "line 3: the id 'one' stands already on line 2, in whatever case",
        "line 4: patient 'a' stands in split test, but on line 2 in train",
        "line 5: 7 cells under 13 columns",
        "line 6: not UTF-8",
        "line 7: path: there is no file none.png",
        "line 7: mask: there is no file none.png",
        "line 7: boxes: there is no file none.csv",
        "line 8: the crop x, y, w, h = 0, 0, x, 1 is not four whole numbers",
        "line 9: the crop x, y, w, h = 0, 0, 0, 1 is not a rectangle",
        "line 10: the crop x, y, w, h = 5, , ,  is not four whole numbers",
        "line 11: the spacing '1e9' is not a plausible number",
        "line 12: the spacing 'nan' is not a plausible number",
        "line 13: the spacing 'thin' is not a plausible number",
        "line 14: a label stands twice",
        "line 14: the split 'training' is not one of train, val, test",
        "line 15: the id is empty",
        "line 16: the path is empty",
    ):
        assert f"\n  {fault}" in message, fault


def test_an_official_split_that_shares_patients_is_a_warning(folder: Path) -> None:
    path = write(folder, "id,path,split\n1,a.png,train\n2,a.png,test\n3,b.png,test\n")
    assert "line 3: patient 'a' stands in split test" in failing(path)
    path.with_suffix(".yaml").write_text(CARD + "split_source: official\n")
    (warning,) = read_manifest(path).warnings
    assert warning.startswith("1 patients stand in more than one split")


def test_made_up_images_are_a_warning(folder: Path) -> None:
    (warning,) = read_manifest(write(folder, "id,path\n1,a.png\n", CARD + "synthetic: true\n")).warnings
    assert "synthetic" in warning


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("id,pth", "line 1: unknown column 'pth'; did you mean 'path'?"),
        ("id,path,label,labels", "line 1: column 'labels' stands twice"),
        ("path", "line 1: there is no column 'id'"),
        ("id;path", "line 1: unknown column 'id;path'; separate the cells by commas"),
    ],
)
def test_faulty_headers(header: str, fault: str, folder: Path) -> None:
    assert fault in failing(write(folder, f"{header}\n{','.join(['a.png'] * len(header.split(',')))}\n"))


def test_tables_of_nothing_and_of_binary(folder: Path) -> None:
    for table in (b"", b"id,path\n"):
        assert "the table has no rows" in failing(write(folder, table))
    for table in (
        b"\x89PNG\r\n\x1a\n\0\0",
        "id,path\n1,a.png\n".encode("utf-16"),
        b"id,path\n1,\0\n",
        b'id,path\n"1,a',
    ):
        assert "line " in failing(write(folder, table))


def test_a_cell_too_long_for_a_name(folder: Path) -> None:
    assert "line 2: path: there is no file aaa" in failing(write(folder, f"id,path\n1,{'a' * 5000}\n"))


def test_many_faults_are_counted(folder: Path) -> None:
    message = failing(write(folder, "id,path\n" + "1,none.png\n" * 100))
    assert message.count("\n  line") == MOST_FAULTS
    assert "199 faults\n" in message
    assert f"and {199 - MOST_FAULTS} more" in message


def test_table_or_card_that_are_not_there(folder: Path) -> None:
    assert "there is no such table" in failing(folder / "data.csv", Exit.INPUT)
    path = write(folder, "id,path\n1,a.png\n")
    path.with_suffix(".yaml").unlink()
    assert "no data.yaml beside it" in failing(path)


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        ("clases: [a]", "there is no setting 'clases'; did you mean 'classes'?"),
        ("{}", "classes: field required"),
        ("classes: []", "no class is named"),
        ("classes: [a, a]", "class named twice: a"),
        ("classes: [a]\nbackground: b", "background 'b' is not one of the classes"),
        ("classes: [a]\ncolours: [[1, 2]]", "colours.0"),
        ("classes: [a]\ncolours: [[1, 2, 300]]", "RGB triples of 0 to 255"),
        ('classes: [a]\nmask_values: {"1": b}', "'b' is neither one of a nor ignore"),
        ('classes: [a]\nmask_values: {"256": a}', "'256' is not a pixel value"),
        ('classes: [a]\nmask_values: {"-1": a}', "'-1' is not a pixel value"),
        ("classes: [a]\nsplit_source: mine", "split_source: input should be 'patient' or 'official'"),
    ],
)
def test_faulty_cards(card: str, fault: str, folder: Path) -> None:
    assert fault in failing(write(folder, "id,path\n1,a.png\n", card))


# --- there and back ---------------------------------------------------------------------------------------------------

# YAML takes the last three for the ends of lines.
text = st.characters(codec="utf-8", exclude_characters="\0\ufffd\x85\u2028\u2029")
words = st.text(text, min_size=1, max_size=6).map(str.strip)
names = (words | st.sampled_from(["=cmd()", "'=a", "@x", "-1", "+1", '"', "a,b", "ä\nö", "a\rb"])).filter(bool)
cards = st.builds(
    DatasetCard,
    classes=st.just(("gland", "=stroma", "1e3")),
    background=st.sampled_from([None, "gland"]),
    mask_values=st.sampled_from([{}, {"255": "gland", "0": "ignore"}]),
    exclude_white=st.booleans(),
    source=words,
    licence=words,
)


@st.composite
def samples(draw: st.DrawFn, folder: Path) -> list[Sample]:
    side, length = st.integers(0, 99), st.integers(1, 99)
    return [
        Sample(
            id=identity,
            path=folder / draw(st.sampled_from(["a.png", "b.png"])),
            crop=draw(st.none() | st.builds(Region, side, side, length, length)),
            labels=draw(st.lists(st.sampled_from(["gland", "=stroma", "1e3"]), unique=True).map(tuple)),
            patient=draw(names),
            split=draw(st.sampled_from(["", "train"])),
            mask=draw(st.sampled_from([None, folder / "mask.png"])),
            boxes=draw(st.sampled_from([None, folder / "b.png"])),
            mpp=draw(st.none() | st.floats(0.01, 1000)),
            line=0,
        )
        for identity in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    for name in ("a.png", "b.png", "mask.png"):
        (folder / name).touch()
    return folder


@settings(max_examples=30)
@given(st.data(), cards)
def test_a_table_is_read_as_it_was_written(shared: Path, data: Any, card: DatasetCard) -> None:
    written = data.draw(samples(shared))
    write_manifest(shared / "table.csv", written, card)
    manifest = read_manifest(shared / "table.csv")
    assert manifest.card == card
    # The line is where the row ends; everything else is as before.
    assert [Sample(**{**vars(sample), "line": 0}) for sample in manifest.samples] == written
    for line in (shared / "table.csv").read_text().splitlines():
        assert not line.startswith(("=", "+", "-", "@"))


def test_paths_are_relative_to_the_table_even_behind_a_link(folder: Path) -> None:
    (folder / "far" / "away").mkdir(parents=True)
    (folder / "near").symlink_to(folder / "far" / "away")
    (folder / "near" / "c.png").symlink_to(folder / "b.png")
    samples = [Sample("1", folder / "a.png"), Sample("2", folder / "near" / "c.png")]
    write_manifest(folder / "near" / "t.csv", samples, DatasetCard(classes=("a",)))
    text = (folder / "near" / "t.csv").read_text()
    assert "\n1,../../a.png," in text
    assert "\n2,c.png," in text
    one, two = read_manifest(folder / "near" / "t.csv").samples
    assert one.path.samefile(folder / "a.png")
    assert two.path.samefile(folder / "b.png")


def test_a_table_does_not_take_its_cards_name(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match=r"Name the table \.csv"):
        write_manifest(tmp_path / "data.yaml", [], DatasetCard(classes=("a",)))
    assert list(tmp_path.iterdir()) == []


# --- parts of a table -------------------------------------------------------------------------------------------------


def table_of(patients: list[str]) -> Manifest:
    rows = tuple(Sample(f"{i}", Path("a.png"), patient=patient, line=i + 2) for i, patient in enumerate(patients))
    return Manifest(rows, DatasetCard(classes=("a",)), Path("data.csv"), "digest")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.floats(0, 1), st.integers(0, 9))
def test_splitting_off_keeps_patients_whole(patients: list[str], fraction: float, seed: int) -> None:
    manifest = table_of(patients)
    if len(set(patients)) == 1:
        with pytest.raises(HistillError, match="only one patient"):
            manifest.split_off(fraction, seed)
        return
    rest, off = manifest.split_off(fraction, seed)
    assert Counter(rest.samples) + Counter(off.samples) == Counter(manifest.samples)
    kept, cut = ({sample.patient for sample in part.samples} for part in (rest, off))
    assert kept
    assert cut
    assert not kept & cut
    # No more is cut off than the share and the last patient drawn, unless only one patient is left. A patient with more
    # than half of all samples stays, unless there is no other way.
    sizes = Counter(patients)
    assert len(off.samples) < fraction * len(patients) + max(sizes.values()) or len(cut) == 1
    giant = {patient for patient, size in sizes.items() if size > len(patients) / 2}
    assert not giant & cut
    assert len(off.samples) >= fraction * len(patients) or len(kept - giant) <= 1
    assert manifest.split_off(fraction, seed) == (rest, off)


def test_splitting_off_does_not_depend_on_the_order_of_rows() -> None:
    patients = [f"{i % 9}" for i in range(40)]
    _, one = table_of(patients).split_off(0.3, 1)
    _, other = table_of(patients[::-1]).split_off(0.3, 1)
    assert {sample.patient for sample in one.samples} == {sample.patient for sample in other.samples}
    _, drawn_otherwise = table_of(patients).split_off(0.3, 2)
    assert drawn_otherwise != one


def test_rows_of_a_split_without_truth(folder: Path) -> None:
    manifest = read_manifest(write(folder, "id,path,split,mask,boxes\n1,a.png,train,mask.png,b.png\n2,b.png,test,,\n"))
    part = manifest.of_split("train").without_truth()
    assert [(sample.id, sample.mask, sample.boxes) for sample in part.samples] == [("1", None, None)]
    assert part.digest == manifest.digest


def test_rows_that_lack_what_a_method_needs_are_named(folder: Path) -> None:
    manifest = read_manifest(write(folder, "id,path,labels,mask\n1,a.png,gland,\n2,b.png,,mask.png\n"))
    with pytest.raises(HistillError, match=r"1 fault\n  line 3 \(2\) has no label\n"):
        manifest.require("labels")
    with pytest.raises(HistillError, match=r"line 2 \(1\) has no mask"):
        manifest.require("mask")
    with pytest.raises(HistillError, match="has no file of boxes"):
        manifest.require("boxes")
    manifest.choose(lambda sample: sample.id == "1").require("labels")
