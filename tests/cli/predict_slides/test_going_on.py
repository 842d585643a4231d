"""histill predict on whole slides: what changes or dies on the way, and going on."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from findings import Fails, begin, look, map_of, rows, same_bytes
from scanned import Shade, shades
from small import Histill, failing_from, torn, tree

from histill import methods
from histill.core.labels import IGNORE
from histill.core.storage import lock
from histill.data.tiles import TileBatch
from histill.engine import tiled
from histill.slides.base import Slide
from histill.slides.tissue import Tissue

# --- slides that change, readers that die -----------------------------------------------------------------------------


def test_slides_that_change_while_they_are_read(
    histill: Histill, model: Path, slides: Path, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After tissue was looked for and before the tiles are read; UPPER is left alone."""
    ways = ("exchanged", "gone", "longer", "same size", "shorter")
    (tmp_path / "in").mkdir()
    for name in (*ways, "UPPER"):
        shutil.copy(slides / "UPPER.TIF", tmp_path / "in" / f"{name}.tif")
    found = tiled.find_tissue

    def meddle(slide: Slide, *more: Any) -> Tissue:
        path, data = slide.path, slide.path.read_bytes()
        if path.stem == "gone":
            path.unlink()
        elif path.stem == "exchanged":
            path.with_name("other").write_bytes(data)
            path.with_name("other").replace(path)
        elif path.stem in ways:
            path.write_bytes(
                {"l": data + b"\0", "sh": data[: len(data) // 2], "sa": data[::-1]}[path.stem[:2].removesuffix("o")]
            )
        return found(slide, *more)

    monkeypatch.setattr(tiled, "find_tissue", meddle)
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out", "--max-quarantined", "100%"))
    assert said.code == 3, said
    everything = rows(tmp_path / "out")
    assert len(everything) == 6
    for way in ways:
        assert everything[way]["status"] == "quarantined"
        # Where pixels are gone, that is what is met first.
        assert any(part in everything[way]["message"] for part in ("changed while it was read", "cannot be decoded"))
        left = [
            path for folder in ("masks", "geojson", "pictures") for path in (tmp_path / "out" / folder).glob(f"{way}*")
        ]
        assert left == []
    assert "changed while it was read" in everything["longer"]["message"]
    assert same_bytes(tmp_path / "out", predicted, ["UPPER"])
    assert torn(tmp_path / "out") == []


def struck(monkeypatch: pytest.MonkeyPatch, nth: int, deed: Callable[[], object]) -> None:
    """Do something at the n-th call of the network."""
    calls = 0

    class Struck(Shade):
        def predict_tiles(self, batch: TileBatch) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                deed()
            return super().predict_tiles(batch)

    monkeypatch.setattr(methods, "find", lambda name: Struck)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """All readers that are started."""
    started = []
    begin_one = subprocess.Popen

    def noted(*arguments: Any, **more: Any) -> Any:
        started.append(begin_one(*arguments, **more))
        return started[-1]

    monkeypatch.setattr("histill.slides.reader.subprocess.Popen", noted)
    return started


def test_a_reader_that_is_killed_is_replaced(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[bytes]],
) -> None:  # fmt: skip
    # Not all tiles are read by the time that it dies.
    monkeypatch.setattr("histill.slides.worker.PIXELS_IN_FLIGHT", 1)
    struck(monkeypatch, 2, lambda: children[-1].kill())
    said = histill(*begin(model, one, tmp_path / "out", "--tile", "32", "--overlap", "0", "--batch", "4"))
    assert said.code == 0
    assert len(children) == 2
    assert all(child.poll() is not None for child in children)
    found, whole = map_of(tmp_path / "out"), map_of(predicted, "s.tif")
    both = (found != IGNORE) & (whole != IGNORE)
    assert np.array_equal(found[both], whole[both])
    assert rows(tmp_path / "out")["s"]["unreadable"] == "0"


def test_no_reader_starts(
    fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slide is to blame for that: none is put aside."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "nothing"))
        fails(75, ["its reader did not start", "Run it again"], *begin(model, one, tmp_path / "out"))
    assert not (tmp_path / "out" / "records").exists()
    assert histill(*begin(model, one, tmp_path / "out")).code == 0


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def half(predicted: Path, tmp_path: Path) -> Path:
    """A copy of what was predicted, to be spoilt."""
    return Path(shutil.copytree(predicted, tmp_path / "half"))


def test_what_is_done_is_not_done_again(
    histill: Histill, model: Path, slides: Path, predicted: Path, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histill.engine.tiled.open_guarded", None)
    said = histill(*begin(model, slides, half))
    assert said.code == 0
    assert "6 slides: 6 done before, 0 put aside" in said.err
    assert tree(half) == tree(predicted)


def test_what_went_bad_is_done_again_and_nothing_else(
    histill: Histill, model: Path, slides: Path, predicted: Path, half: Path
) -> None:
    masks = {name: half / row["mask"] for name, row in rows(half).items()}
    (half / "records" / "UPPER.json").write_bytes((half / "records" / "UPPER.json").read_bytes()[:100])
    data = bytearray(masks["a b"].read_bytes())
    data[-5] ^= 1
    masks["a b"].write_bytes(data)
    (half / "pictures" / "UPPER.jpg").write_bytes(b"?")
    (half / "geojson" / f"{masks['切片'].name.removesuffix('.ome.tif')}.geojson").unlink()
    (half / "predictions.csv").write_text("torn")
    (half / "masks" / ".histill-0123").write_bytes(b"left by a kill")
    said = histill(*begin(model, slides, half))
    assert said.code == 0
    assert "6 slides: 3 done before, 0 put aside" in said.err
    assert tree(half) == tree(predicted)


def test_other_settings_do_all_again(histill: Histill, model: Path, one: Path, tmp_path: Path) -> None:
    assert histill(*begin(model, one, tmp_path / "out", "--probabilities")).code == 0
    for flags in (["--at", "0.6", "--mpp", "0.5"], ["--overlap", "30%", "--no-outlines"]):
        said = histill(*begin(model, one, tmp_path / "out", *flags))
        assert said.code == 0
        assert "0 done before" in said.err
    # Nothing is left of what the others wrote and the last did not.
    assert histill(*begin(model, one, tmp_path / "clean", *flags)).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_another_slide_under_the_name_is_done(
    histill: Histill, model: Path, slides: Path, one: Path, tmp_path: Path
) -> None:
    assert histill(*begin(model, one, tmp_path / "out")).code == 0
    shutil.copy(slides / "a b.tif", one)
    said = histill(*begin(model, one, tmp_path / "out"))
    assert "0 done before" in said.err
    found = map_of(tmp_path / "out")
    assert np.array_equal(found[found != IGNORE], shades(look(one))[found != IGNORE])


def test_another_histill_in_the_folder(fails: Fails, model: Path, slides: Path, half: Path, predicted: Path) -> None:
    with lock(half):
        fails(8, "another histill works", *begin(model, slides, half))
    assert tree(half) == tree(predicted)


@pytest.mark.parametrize("nth", [9])
def test_a_full_disk_and_then_room_again(
    nth: int, fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin(model, one, tmp_path / "out", "--probabilities")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_from(nth, os.fsync))
        fails(7, [str(tmp_path / "out"), "the disk is full", "goes on"], *command)
    assert torn(tmp_path) == []
    assert histill(*command).code == 0
    assert histill(*begin(model, one, tmp_path / "clean", "--probabilities")).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


def test_a_read_only_disk(
    fails: Fails, model: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing_from(1, Path.mkdir, errno.EROFS))
    fails(7, [str(tmp_path / "out"), "read-only"], *begin(model, one, tmp_path / "out"))


def test_a_file_in_place_of_the_folder(fails: Fails, model: Path, one: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    fails(7, "a file stands", *begin(model, one, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"
