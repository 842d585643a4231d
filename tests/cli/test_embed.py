"""histill embed: slides in, bags out; tables of other tools, bad slides, kills, and what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scanned import glass, tissue, write_slide
from small import EVERYWHERE, Histill, tree

from histill.core.record import faults, read_record
from histill.core.storage import TEMPORARY_PREFIX
from histill.data.bags import find_bags, read_bag

Fails = Callable[..., str]
GRID = "20x_64px_0px_overlap"
STRUCK = Path(__file__).with_name("struck.py")


def begin(slides: Path, to: Path, *more: object) -> list[object]:
    network = ("--encoder", "test_vit", "--weights", "none", "--tile", "64", "--batch", "4")
    return ["embed", slides, "--to", to, *network, *EVERYWHERE, *more]


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / GRID / "features_test_vit.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two slides, one of them glass. Not to be changed."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "a.tif", tissue(200, 260))
    write_slide(folder / "b 1.tif", glass(200, 260))
    return folder


def test_a_folder_of_slides(slides: Path, histill: Histill, tmp_path: Path) -> None:
    said = histill(*begin(slides, tmp_path / "out"))
    assert said.code == 0
    assert "1 of 2 slides hold no tissue" in said.out
    assert "random weights" in said.err
    found = rows(tmp_path / "out")
    assert [(name, row["status"]) for name, row in found.items()] == [("a", "ok"), ("b 1", "empty")]
    bag = read_bag(tmp_path / "out" / GRID / found["a"]["features"])
    assert bag.features.shape == (int(found["a"]["tiles"]), int(found["a"]["width"]))
    assert (bag.tile_side, bag.mpp) == (64, 0.5)
    index = json.loads((tmp_path / "out" / GRID / "features_test_vit.json").read_text())
    assert index["about"]["weights"] == "none"
    assert "random" in index["warnings"][0]
    before = tree(tmp_path / "out")
    assert "2 slides: 2 done before" in histill(*begin(slides, tmp_path / "out")).err
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("wsi,mpp\n{0}/a.tif,0.5\n", ["a"]),
        ("slide_id,slide,label,case_id\nfirst,{0}/a.tif,tumour,p1\n", ["first"]),
    ],
)
def test_tables_as_other_tools_have_them(
    table: str, names: list[str], slides: Path, histill: Histill, tmp_path: Path
) -> None:
    (tmp_path / "slides.csv").write_text(table.format(slides))
    assert histill(*begin(tmp_path / "slides.csv", tmp_path / "out")).code == 0
    assert sorted(find_bags(tmp_path / "out" / GRID / "features_test_vit")) == names


def test_a_bad_slide_is_put_aside(slides: Path, histill: Histill, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.tif").write_bytes((slides / "a.tif").read_bytes())
    (folder / "bad.tif").write_bytes((slides / "a.tif").read_bytes()[:2000])
    said = histill(*begin(folder, tmp_path / "out"))
    assert said.code == 3
    assert "1 of 2 slides were put aside" in said.out
    found = rows(tmp_path / "out")
    assert (found["bad"]["status"], found["bad"]["features"]) == ("quarantined", "")
    assert found["bad"]["message"]
    assert histill(*begin(slides / "a.tif", tmp_path / "alone")).code == 0
    name = f"{GRID}/features_test_vit/a.h5"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.timeout(600)
def test_killed_and_begun_again(slides: Path, histill: Histill, tmp_path: Path) -> None:
    command = [sys.executable, str(STRUCK), "3", *map(str, begin(slides, tmp_path / "out"))]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert run.returncode == 0, run.stderr
    codes = json.loads(run.stdout.splitlines()[-1][run.stdout.splitlines()[-1].rindex("[") :])
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > 2
    assert histill(*begin(slides, tmp_path / "whole")).code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(f"{TEMPORARY_PREFIX}*"))
    for path in (tmp_path / "out" / GRID / "records").rglob("*.json"):
        record = read_record(path)
        assert record is not None
        assert not faults(record, tmp_path / "out" / GRID)


def test_what_is_refused(slides: Path, fails: Fails, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fails(2, "did you mean 'uni_v2'", "embed", slides, "--encoder", "uni_v22", "--to", out)
    fails(4, ["Either", "--weights FILE"], "embed", slides, "--encoder", "phikon", "--to", out)
    fails(4, "no such weights file", "embed", slides, "--encoder", "test_vit", "--weights", "w.bin", "--to", out)
    fails(2, "--at", *begin(slides, out, "--at", "0"))
    fails(2, "--tile", *begin(slides, out, "--tile", "0"))
    fails(2, "is not a share", *begin(slides, out, "--overlap", "much"))
    fails(2, "lies in the folder of slides", *begin(slides, slides / "out"))
    fails(4, "nothing.svs", *begin(tmp_path / "nothing.svs", out))
    fails(4, "no such table", *begin(tmp_path / "nothing.csv", out))
    (tmp_path / "bad.csv").write_text("wsi,mpp\nnone.svs,0.5\nother.svs,fast\n")
    fails(2, ["line 2", "line 3", "no file none.svs"], *begin(tmp_path / "bad.csv", out))
    (tmp_path / "path.csv").write_text("name\nx\n")
    fails(2, "no column 'path'", *begin(tmp_path / "path.csv", out))
    assert not out.exists()
