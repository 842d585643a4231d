"""histill synth: the same seed, the same bytes; never over what is there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small import Histill, failing_from, tree

from histill.core.manifest import read_manifest
from histill.data.synthetic import patches, slides
from histill.data.synthetic.stained import render_slide_bank

Fails = Callable[..., str]
FEW = ("--train", "2", "--val", "0", "--test", "1", "--size", "32", "--mpp", "2")


def test_the_same_seed_gives_the_same_bytes(histill: Histill, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        said = histill("synth", "tissue", tmp_path / name, *FEW, "--seed", seed)
        assert said.code == 0
        assert f"table: {tmp_path / name / 'data.csv'}" in said.out
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")
    table = read_manifest(tmp_path / "a" / "data.csv")
    assert [sample.split for sample in table.samples] == ["train", "train", "test"]
    assert table.card.synthetic
    assert "made up" in table.warnings[0]


def test_lesions(histill: Histill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = patches.render_bank(0, 2.0)
    monkeypatch.setattr(patches, "render_bank", lambda seed, mpp: bank)
    said = histill("synth", "lesions", tmp_path / "new", *FEW, "--seed", 5)
    assert said.code == 0
    assert "next:  histill train ikd_mil --train" in said.out
    table = read_manifest(tmp_path / "new" / "data.csv")
    assert table.card.background == "normal"
    assert {label for sample in table.samples for label in sample.labels} <= {"tumour", "normal"}


def test_glomeruli(histill: Histill, tmp_path: Path) -> None:
    said = histill("synth", "glomeruli", tmp_path / "new", "--train", "3", "--val", "1", "--test", "1", "--size", "128")
    assert said.code == 0
    assert "next:  histill train mhkd --train" in said.out
    table = read_manifest(tmp_path / "new" / "data.csv")
    assert table.classes.names == ("glomerulus",)
    assert {sample.mpp for sample in table.samples} == {1.0}
    assert all(sample.boxes is not None and sample.mask is None for sample in table.samples)


def test_slides_with_rare_tumour(histill: Histill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = render_slide_bank(0, 2.0)
    monkeypatch.setattr(slides, "_bank", lambda seed: bank)
    size = ("--count", "2", "--width", "300", "--height", "250", "--mpp", "2")
    said = histill("synth", "slides", tmp_path / "new", *size, "--rare")
    assert said.code == 0
    assert f"table: {tmp_path / 'new' / 'slides.csv'}" in said.out
    assert [sample.labels for sample in read_manifest(tmp_path / "new" / "slides.csv").samples] == [
        ("tumour",),
        ("normal",),
    ]


def test_a_folder_that_is_there_stays_as_it_is(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.csv").write_text("mine")
    fails(7, [str(tmp_path / "mine"), "exists already", "new name"], "synth", "tissue", tmp_path / "mine", *FEW)
    assert (tmp_path / "mine" / "data.csv").read_text() == "mine"


@pytest.mark.parametrize("nth", [1, 5])
def test_a_full_disk_leaves_nothing(nth: int, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing_from(nth, os.fsync))
    fails(7, "the disk is full", "synth", "tissue", tmp_path / "new", *FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_spacing_that_tissue_is_not_made_at(fails: Fails, tmp_path: Path) -> None:
    fails(2, ["mpp", "0.2 to 2"], "synth", "tissue", tmp_path / "new", *FEW[:-1], "0")
    assert list(tmp_path.iterdir()) == []
