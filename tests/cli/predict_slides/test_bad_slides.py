"""histill predict on whole slides: bad ones beside good ones, and tiles that cannot be read."""

import contextlib
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parents[2] / "slides"))

from files import bare_tiff
from findings import Fails, begin, labels_of, map_of, rows, same_bytes
from scanned import Pixels, Shade, glass, shades, tissue, write_slide, write_table
from small import Histill, call, torn, tree

from histill import methods
from histill.core.labels import IGNORE
from histill.core.record import read_record
from histill.formats.geojson import read_geojson

# --- bad slides -------------------------------------------------------------------------------------------------------

LENGTHS = 12
BAD: dict[str, str] = {
    **{f"cut {i:02}.tif": "" for i in range(LENGTHS)},
    "empty.tif": "an empty file",
    "junk.svs": "neither a slide nor an image",
    "text.tif": "neither a slide nor an image",
    "missing.tif": "does not say how large a pixel is",
    "zero.tif": "does not say how large a pixel is",
    "screen.tif": "352.8 um/px",
    "longish.tif": "not the sides of a square",
    "sixteen.tif": "16 or more bits",
    "grey16.tif": "16 or more bits",
    "channels.tif": "channels that are not colours",
    "sparse.tif": "more than any slide has",
    "bomb.tif": "may be a bomb",
    "tiles.tif": "cannot be decoded",
    "coarse.tif": "coarser than the 0.5",
}
GOOD = {
    "grey.tif": "ok",
    "alpha.tif": "ok",
    "single.tif": "ok",
    "odd.tif": "ok",
    "jpeg.png": "ok",
    "one tile.tif": "ok",
    "glass.tif": "empty",
    "black.tif": "empty",
    "dot.tif": "empty",
}
"""What looks odd and is read all the same."""


def spoil_tiles(path: Path, *numbers: int) -> Path:
    """Fill some tiles of the largest level with zeros, as a copy that was broken off and gone on with leaves them."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = [(page.dataoffsets[number], page.databytecounts[number]) for number in numbers]
    with path.open("r+b") as stream:
        for offset, count in places:
            stream.seek(offset)
            stream.write(bytes(count))
    return path


def write_bad(folder: Path) -> None:
    """One file for each entry of BAD and GOOD."""
    image = tissue()
    whole = write_slide(folder / "whole.tif", image).read_bytes()
    (folder / "whole.tif").unlink()
    for i in range(LENGTHS):
        (folder / f"cut {i:02}.tif").write_bytes(whole[: 1 + (len(whole) - 2) * i // (LENGTHS - 1)])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "junk.svs").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "text.tif").write_text("not a slide\n" * 100)
    write_slide(folder / "missing.tif", image, mpp=None)
    write_slide(folder / "zero.tif", image, mpp=None, resolution=(0, 0), resolutionunit="CENTIMETER")
    write_slide(folder / "screen.tif", image, mpp=352.8)
    write_slide(folder / "longish.tif", image, mpp=None, resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    write_slide(folder / "sixteen.tif", image.astype(np.uint16) * 257, downs=(1,))
    write_slide(folder / "grey16.tif", image[..., 1].astype(np.uint16) * 257, downs=(1,), photometric="minisblack")
    write_slide(
        folder / "channels.tif", np.repeat(image, 2, 2), downs=(1,), photometric="minisblack", planarconfig="contig"
    )
    for name, side in (("sparse.tif", 400_000), ("bomb.tif", 200_000)):
        tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 322: 4096, 323: 4096, 324: 8, 325: 9}
        bare_tiff(folder / name, {tag: [value] for tag, value in tags.items()}, big=True)
    spoil_tiles(write_slide(folder / "tiles.tif", image), *range(8, 20))
    write_slide(folder / "coarse.tif", image, mpp=8.0)

    green = np.repeat(image[..., 1:2], 3, 2)
    write_slide(folder / "grey.tif", image[..., 1], photometric="minisblack")
    write_slide(
        folder / "alpha.tif", np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]), extrasamples=["unassalpha"]
    )
    write_slide(folder / "single.tif", image, downs=(1,))
    write_slide(folder / "odd.tif", image, downs=(1, 1.37, 3.3, 7.9))
    (folder / "jpeg.png").write_bytes(write_slide(folder / "x.tif", green).read_bytes())
    (folder / "x.tif").unlink()
    write_slide(folder / "one tile.tif", tissue(300, 420), tile=(512, 512))
    write_slide(folder / "glass.tif", glass())
    write_slide(folder / "black.tif", np.zeros((300, 420, 3), np.uint8))
    write_slide(folder / "dot.tif", np.full((1, 1, 3), 200, np.uint8), downs=(1,))


@pytest.fixture(scope="module")
def ward(model: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of bad slides with two good ones, predicted: the output, and what was said. Not to be changed."""
    place = tmp_path_factory.mktemp("ward")
    write_bad(place / "in")
    for name in ("a b.tif", "UPPER.TIF"):
        shutil.copy(slides / name, place / "in" / name)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(methods, "find", lambda name: Shade)
        code = call(*begin(model, place / "in", place / "out", "--max-quarantined", "100%"))
    assert code == 3, said.getvalue()
    return place / "out", said.getvalue()


def test_all_bad_slides_are_put_aside_with_a_reason_and_a_mend(ward: tuple[Path, str]) -> None:
    folder, said = ward
    found = rows(folder)
    assert len(found) == len(BAD) + len(GOOD) + 2
    for name, part in BAD.items():
        row = found[Path(name).stem]
        assert row["status"] == "quarantined", name
        assert part in row["message"], name
        assert name in row["message"]
        assert row["message"].count(". ") >= 1
        assert row["mask"] == row["tiles"] == ""
        assert f"put aside: {row['message']}" in said
    assert "Traceback" not in said
    assert torn(folder) == []
    stems = {Path(row["mask"]).name for row in found.values() if row["mask"]}
    assert {path.name for path in (folder / "masks").iterdir()} == stems


def test_the_others_are_the_same_bytes_as_without_them(ward: tuple[Path, str], predicted: Path) -> None:
    assert same_bytes(ward[0], predicted, ["UPPER"])
    assert (ward[0] / rows(ward[0])["a b"]["mask"]).read_bytes() == (
        predicted / rows(predicted)["a b"]["mask"]
    ).read_bytes()


def test_what_looks_odd_is_read(ward: tuple[Path, str]) -> None:
    found = rows(ward[0])
    for name, status in GOOD.items():
        row = found[Path(name).stem]
        assert row["status"] == status, (name, row)
        assert bool(row["message"]) == (status == "empty"), name
    image = tissue()
    plain = map_of(ward[0], "single")
    assert np.array_equal(plain[plain != IGNORE], shades(image)[plain != IGNORE])
    for name in ("grey", "alpha", "odd", "jpeg", "one tile"):
        other = map_of(ward[0], name)
        both = (plain != IGNORE) & (other != IGNORE)
        assert both.sum() > 0.9 * (plain != IGNORE).sum(), name
        assert np.array_equal(other[both], plain[both]), name


@pytest.mark.slow
def test_real_slides(histill: Histill, model: Path, data_root: Path, tmp_path: Path) -> None:
    """Scanners' files, odd ones and damaged ones, all in one folder, at 2 um/px; one slide says no spacing."""
    command = begin(model, data_root / "slides", tmp_path / "out", "--at", "2", "--max-quarantined", "100%")
    said = histill(*command)
    assert said.code == 3
    assert "Traceback" not in said.err
    found = rows(tmp_path / "out")
    status = {name: row["status"] for name, row in found.items()}
    for name in ("CMU-1-Small-Region", "hamamatsu_dapi"):
        assert status[name] == "ok", found[name]
    for name in ("unreadable_tiles", "broken_header", "vectra_small", "olympus_no_pixels", "dicom_sm_grayscale16"):
        assert status[name] == "quarantined", found[name]
    assert "--mpp" in found["TCGA-CR-7395-01A-01-TS1"]["message"]
    assert all(row["message"] for name, row in found.items() if status[name] != "ok")
    record = read_record(tmp_path / "out" / "records" / "hamamatsu_dapi.json")
    assert record is not None
    assert record.details["lit"] == "fluorescence"
    table = write_table(
        tmp_path / "slides.csv",
        [
            {"id": "given", "path": data_root / "slides" / "TCGA-CR-7395-01A-01-TS1.svs", "mpp": 0.25},
            {"id": "CMU-1-Small-Region", "path": data_root / "slides" / "CMU-1-Small-Region.svs"},
        ],
    )
    assert histill(*begin(model, table, tmp_path / "table", "--at", "2")).code == 0
    assert float(rows(tmp_path / "table")["given"]["tissue_mm2"]) > 0.1
    assert same_bytes(tmp_path / "table", tmp_path / "out", ["CMU-1-Small-Region"])
    for folder in (tmp_path / "out", tmp_path / "table"):
        assert torn(folder) == []
        for row in rows(folder).values():
            if row["mask"]:
                outlines = read_geojson(folder / "geojson" / Path(row["mask"]).name.replace(".ome.tif", ".geojson"))
                scale = float(row["mpp"]) / 1000
                level0 = read_record(folder / "records" / Path(row["mask"]).name.replace(".ome.tif", ".json"))
                assert level0 is not None
                area = sum(each.area.area for each in outlines) * (float(level0.details["level0_mpp"]) / 1000) ** 2
                pixels = int((labels_of(folder / row["mask"]) != IGNORE).sum())
                assert area == pytest.approx(pixels * scale**2, rel=1e-3)


def test_bad_slides_stop_a_run_unless_they_are_allowed(
    fails: Fails, histill: Histill, model: Path, one: Path, tmp_path: Path
) -> None:
    for name in ("a.svs", "b.svs", "t.svs"):
        (one.parent / name).write_bytes(b"torn")
    parts = ["2 of 4 slides cannot be read", "a.svs", "--max-quarantined"]
    fails(4, parts, *begin(model, one.parent, tmp_path / "out"))
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["quarantined", "quarantined"]
    fails(4, "1 of 4 slides", *begin(model, one.parent, tmp_path / "none", "--max-quarantined", "0"))
    said = histill(*begin(model, one.parent, tmp_path / "out", "--max-quarantined", "75%"))
    assert said.code == 3
    assert "3 of 4 slides were put aside: see predictions.csv" in said.out
    assert [row["status"] for row in rows(tmp_path / "out").values()] == [
        "quarantined",
        "quarantined",
        "ok",
        "quarantined",
    ]


def test_a_mended_slide_is_done_by_the_next_run(
    histill: Histill, model: Path, one: Path, predicted: Path, tmp_path: Path
) -> None:
    good = one.read_bytes()
    one.write_bytes(good[:5000])
    assert histill(*begin(model, one, tmp_path / "out")).code == 3
    assert histill(*begin(model, one, tmp_path / "out")).code == 3
    one.write_bytes(good)
    assert histill(*begin(model, one, tmp_path / "out")).code == 0
    assert np.array_equal(map_of(tmp_path / "out"), map_of(predicted, "s.tif"))


def test_an_empty_slide_is_said_and_not_tried_again(
    histill: Histill, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slide(tmp_path / "in" / "a.tif", glass())
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out"))
    assert said.code == 0
    assert "no tissue: a: no pixel differs from the background" in said.err
    assert "1 of 1 slides hold no tissue: see predictions.csv" in said.out
    row = rows(tmp_path / "out")["a"]
    assert (row["status"], row["mask"], row["message"]) == ("empty", "", "no pixel differs from the background")
    assert [row[name] for name in ("tissue_mm2", "gland_mm2", "tiles", "unreadable", "mpp")] == [
        "0.0",
        "0.0",
        "0",
        "0",
        "0.5",
    ]
    before = tree(tmp_path / "out")
    monkeypatch.setattr("histill.engine.tiled.open_guarded", None)
    said = histill(*begin(model, tmp_path / "in", tmp_path / "out"))
    assert said.code == 0
    assert "1 of 1 slides hold no tissue" in said.out
    assert tree(tmp_path / "out") == before


# --- tiles that cannot be read ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pixels]:
    """A slide so wide that its pictures are made of a smaller level, and its pixels; two stored tiles are zeros."""
    image = np.concatenate([tissue(256, 360, seed) for seed in range(10)], axis=1)
    path = write_slide(tmp_path_factory.mktemp("wide") / "s.tif", image)
    # From x = 128 to 256 and y = 128 to 192, as a row has 57 tiles.
    return spoil_tiles(path, 2 * 57 + 2, 2 * 57 + 3), image


LOST = (slice(128, 192), slice(128, 256))


def test_unreadable_tiles_are_counted_and_never_grey(
    histill: Histill, model: Path, wide: tuple[Path, Pixels], tmp_path: Path
) -> None:
    """With tiles of 32 px that do not overlap exactly eight are lost, of more than 500."""
    path, image = wide
    command = begin(model, path, tmp_path / "out", "--tile", "32", "--overlap", "0")
    assert histill(*command).code == 3
    row = rows(tmp_path / "out")["s"]
    assert "7 tiles cannot be read, more than are left out" in row["message"]
    assert "--most-unreadable" in row["message"]
    assert not (tmp_path / "out" / "masks").exists() or not list((tmp_path / "out" / "masks").iterdir())

    command += ["--most-unreadable", "2%"]
    assert histill(*command).code == 0
    row = rows(tmp_path / "out")["s"]
    assert (row["status"], row["unreadable"]) == ("ok", "8")
    record = read_record(tmp_path / "out" / "records" / "s.json")
    assert record is not None
    assert len(record.details["unreadable"]) == 8
    assert "cannot be decoded" in record.details["why"]
    found = map_of(tmp_path / "out")
    assert (image[LOST][..., 1] < 200).mean() > 0.8
    assert (found[LOST] == IGNORE).all()
    seen = found != IGNORE
    assert np.array_equal(found[seen], shades(image)[seen])
    stained = image[..., 1] < 210
    stained[LOST] = False
    assert seen[stained].mean() > 0.95
    outlines = read_geojson(tmp_path / "out" / "geojson" / "s.geojson")
    assert sum(outline.area.area for outline in outlines) == seen.sum()
    before = tree(tmp_path / "out")
    assert "1 done before" in histill(*command).err
    assert tree(tmp_path / "out") == before


def test_overlapping_tiles_fill_what_they_can(
    histill: Histill, model: Path, wide: tuple[Path, Pixels], tmp_path: Path
) -> None:
    """Tiles of 48 px, 36 apart: what reaches into the lost tiles goes, and what it covers beyond comes from others."""
    path, image = wide
    command = begin(model, path, tmp_path / "out", "--tile", "48", "--most-unreadable", "10%")
    assert histill(*command).code == 0
    found = map_of(tmp_path / "out")
    readable = np.zeros(found.shape, bool)
    lost = 0
    for y in range(0, 256, 36):
        for x in range(0, 3600, 36):
            if x < 256 and x + 48 > 128 and y < 192 and y + 48 > 128:
                lost += 1
            else:
                readable[y : y + 48, x : x + 48] = True
    assert int(rows(tmp_path / "out")["s"]["unreadable"]) == lost
    seen = found != IGNORE
    assert not seen[~readable].any()
    stained = image[..., 1] < 210
    assert seen[stained & readable].mean() > 0.95
    assert np.array_equal(found[seen], shades(image)[seen])


def test_a_slide_whose_overview_cannot_be_read_is_put_aside(
    histill: Histill, model: Path, one: Path, tmp_path: Path
) -> None:
    """Where tissue is looked for in the largest level, nobody knows what lies in a lost tile of it."""
    spoil_tiles(one, 2 * 7 + 3)
    assert histill(*begin(model, one, tmp_path / "out", "--most-unreadable", "50%")).code == 3
    assert "a tile's data are cut off or damaged" in rows(tmp_path / "out")["s"]["message"]
