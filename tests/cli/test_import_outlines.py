"""histill import outlines: slides and what was drawn on them, from the command line to trained and scored."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import SMALL, Histill, failing_from, torn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from drawn import asap, flat_slide, open_here, qupath, rectangle

from histill.core.manifest import read_manifest
from histill.data.images import require_sound_files
from histill.data.sources import pairing

Fails = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two slides with tissues drawn on them; a third without."""
    for seed, name in enumerate("abc"):
        flat_slide(tmp_path / f"slides/{name}.png", seed=seed)
        if name != "c":
            drawn = [("Tumour", rectangle(120, 120, 200, 300)), ("Stroma", rectangle(320, 120, 300, 300))]
            qupath(tmp_path / f"drawn/{name}.geojson", *drawn)
    return tmp_path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slides are opened in this process, which is faster."""
    monkeypatch.setattr(pairing, "open_guarded", open_here)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def command(place: Path, *more: object, to: str = "out/data.csv") -> list[object]:
    return ["import", "outlines", place / "slides", "--outlines", place / "drawn", "--to", place / to, *more]


def test_from_outlines_to_a_report(histill: Histill, place: Path) -> None:
    flags = ("--mpp", "0.5", "--cut", "patches", "--at", "1", "--tile", "40", "--overlap", "50%", "--most", "12")
    said = histill(*command(place, *flags))
    assert said.code == 0, said
    table = place / "out/data.csv"
    assert said.out == f"{table}: 62 rows (62 without a split); classes Stroma, Tumour\n"
    assert "note: Slides without outlines, left out: 1 (c)" in said.err
    assert "note: Left out: " in said.err
    rows = read_manifest(table)
    require_sound_files(rows)
    assert {sample.labels for sample in rows.samples} == {("Stroma",), ("Tumour",), ("Stroma", "Tumour")}
    assert {sample.patient for sample in rows.samples} == {"a", "b"}
    assert histill("train", "mlps", "--train", table, "--run", place / "run", *SMALL).code == 0
    assert histill("predict", place / "run", table, "--to", place / "masks").code == 0
    assert histill("evaluate", place / "masks", table, "--to", place / "report").code == 0
    assert (place / "report/report.html").is_file()


def test_camelyon16_in_one_line(histill: Histill, place: Path, here: None) -> None:
    for name in ("a", "b"):
        (place / f"drawn/{name}.geojson").unlink()
    (place / "slides/a.png").rename(place / "slides/tumor_001.png")
    asap(place / "drawn/tumor_001.xml", ("_0", rectangle(150, 150, 250, 250)), ("_2", rectangle(200, 200, 64, 64)))
    normal = ("--background", "normal", "--without-outlines", "background", "--mpp", "0.5")
    said = histill(*command(place, *normal, "--cut", "patches", "--at", "1", "--tile", "32", "--split", "train"))
    assert said.code == 0, said
    assert said.out.endswith(" train); classes Tumor, normal\n")
    assert "taken for nothing but normal: 2 (b, c)" in said.err
    rows = read_manifest(place / "out/data.csv")
    assert rows.card.background == "normal"
    assert {sample.labels for sample in rows.samples if sample.patient in "bc"} == {("normal",)}
    assert {sample.labels for sample in rows.samples if sample.patient == "tumor_001"} == {("normal",), ("Tumor",)}


def test_slides_and_regions(histill: Histill, place: Path, here: None) -> None:
    said = histill(*command(place, "--mpp", "0.5", to="whole.csv"))
    assert said.code == 0, said
    assert read_manifest(place / "whole.csv").classes.names == ("Stroma", "Tumour")
    said = histill(*command(place, "--mpp", "0.5", "--rename", "Tumour=tumor, Stroma=ignore", to="whole.csv"))
    assert said.code == 0, said
    assert read_manifest(place / "whole.csv").classes.names == ("tumor",)
    said = histill(*command(place, "--mpp", "0.5", "--cut", "regions", "--classes", "Stroma,tumour", "--at", "2"))
    assert said.code == 0, said
    assert said.out.endswith("4 rows (4 without a split); classes Stroma, tumour\n")


def test_the_same_command_goes_on(histill: Histill, place: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = command(place, "--mpp", "0.5", "--cut", "regions")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing_from(3, os.replace))
        said = histill(*given)
    assert (said.code, "the disk is full" in said.err) == (7, True)
    assert torn(place) == []
    assert [path.name for path in (place / "out/data").glob("[!.]*")] == ["a"]
    assert histill(*given).code == 0
    assert len(read_manifest(place / "out/data.csv").samples) == 4


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (["--cut", "patches"], 4, "the file does not say how large a pixel is"),
        (["--mpp", "0"], 2, "no slide has 0 um/px"),
        (["--mpp", "0.5", "--classes", "Tumour"], 2, "outlines of class 'Stroma', which is not one of Tumour: 1"),
        (["--mpp", "0.5", "--classes", "Tumour,Tumour,Stroma"], 2, "class named twice: Tumour"),
        (["--rename", "Tumour"], 2, "--rename: 'Tumour' says nothing of a value"),
        (["--without-outlines", "background"], 2, "Name it: --background normal"),
        (["--cut", "patches", "--mpp", "0.5", "--tile", "0"], 2, "tile: input should be greater than 0"),
        (["--cut", "patches", "--mpp", "0.5", "--at", "nan"], 2, "at: "),
        (["--cut", "patches", "--mpp", "0.5", "--overlap", "1"], 2, "overlap: input should be less than 1"),
        (["--cut", "patches", "--mpp", "0.5", "--least", "much"], 2, "'much' is not a share"),
        (["--cut", "patches", "--mpp", "0.5", "--at", "4", "--tile", "512"], 2, "no patches were found"),
        (["--tile", "256"], 2, "outlines --tile: nothing to do with outlines cut into slides"),
        (
            ["--cut", "regions", "--overlap", "5%"],
            2,
            "outlines --overlap: nothing to do with outlines cut into regions",
        ),
        (
            ["--cut", "patches", "--largest", "99"],
            2,
            "outlines --largest: nothing to do with outlines cut into patches",
        ),
        (["--mask-values", "255=Tumour"], 2, "outlines --mask-values: nothing to do with outlines"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], code: int, part: str, fails: Fails, place: Path, here: None) -> None:
    fails(code, part, *command(place, *flags))
    assert not list((place / "out").glob("*.csv"))


@pytest.mark.parametrize("source", ["plain", "glas"])
def test_flags_of_outlines_are_no_others(source: str, fails: Fails, tmp_path: Path) -> None:
    given = ["import", source, tmp_path / "x.csv", "--to", tmp_path / "data.csv", "--cut", "patches", "--most", "3"]
    fails(2, f"{source} --cut, --most: for slides with outlines", *given)


def test_faults_come_in_one_report(fails: Fails, place: Path, here: None) -> None:
    (place / "drawn/a.geojson").write_bytes(b"")
    qupath(place / "drawn/d.geojson", ("Tumour", rectangle(0, 0, 9, 9)))
    parts = ["2 faults", "a.geojson", "d.geojson: no slide has this name"]
    fails(4, parts, *command(place, "--mpp", "0.5"))
    assert not (place / "out").exists()


def test_the_help_teaches(histill: Histill) -> None:
    said = histill("import", "--help")
    assert said.code == 0
    for part in ("  outlines ", "Camelyon16", "--without-outlines", "--rename", "regions", "patches"):
        assert part in said.out
