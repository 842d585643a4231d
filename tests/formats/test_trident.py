"""TRIDENT's files: read as published, written so that its readers find all they look for, the same bytes each time."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import failing, features, places, trident, whole_bag

from histill.core import storage
from histill.core.bags import Bag, Unscaled
from histill.core.errors import Exit, HistillError
from histill.data.bags import open_bag, read_bag
from histill.formats.trident import (
    CHUNK_ROWS,
    magnification_of,
    read_patches,
    write_bag,
    write_slide_vector,
)

SABOTEUR = Path(__file__).parents[1] / "core" / "saboteur.py"
X, PLACES = features(), places()


def same(one: Bag, other: Bag) -> bool:
    names = "tile_side tile_px overlap mpp encoder slide_size magnification".split()
    return all(getattr(one, name) == getattr(other, name) for name in names)


# --- read -------------------------------------------------------------------------------------------------------------


def test_a_file_as_published(tmp_path: Path) -> None:
    path = trident(tmp_path / "features_uni_v1" / "TCGA-A1.b.h5", X, PLACES)
    with open_bag(path) as file:
        assert file.layout == "trident"
        bag = file.read()
    np.testing.assert_array_equal(bag.features, X)
    np.testing.assert_array_equal(bag.coords, PLACES)
    assert (bag.slide, bag.encoder) == ("TCGA-A1.b", "uni_v1")
    assert (bag.tile_side, bag.tile_px, bag.overlap) == (512, 256, 0)
    assert (bag.slide_size, bag.magnification) == ((20000, 30000), 40)
    # A magnification stands for a range of spacings, and is none.
    assert bag.mpp is None
    steps = bag.steps()
    assert steps is not None
    np.testing.assert_array_equal(steps[:3], [[0, 0], [1, 0], [2, 0]])


def test_what_trident_does_not_know_is_unknown(tmp_path: Path) -> None:
    nothing = dict.fromkeys(["level0_magnification", "level0_width", "level0_height", "patch_size"], "None")
    bag = read_bag(trident(tmp_path / "a.h5", X, PLACES, **nothing))
    assert (bag.magnification, bag.slide_size, bag.tile_px, bag.tile_side, bag.encoder) == (None, None, None, 512, "")


@pytest.mark.parametrize("side", [np.nan, np.inf, [1, 2], 2.0**40])
def test_a_side_that_is_none(side: object, tmp_path: Path) -> None:
    failing(open_bag, trident(tmp_path / "a.h5", X, PLACES, patch_size_level0=side))


def test_other_lengths_are_never_taken_for_a_slide_target(tmp_path: Path) -> None:
    path = trident(tmp_path / "a.h5", X, PLACES[:299])
    assert "300 features, but 299 coordinates" in failing(open_bag, path)


def test_a_slides_vector_is_no_bag(tmp_path: Path) -> None:
    write_slide_vector(tmp_path / "a.h5", "a", "titan", X[0])
    assert "not of 2 dimensions" in failing(open_bag, tmp_path / "a.h5")


def test_patches_without_features(tmp_path: Path) -> None:
    path = trident(tmp_path / "s1_patches.h5", X, PLACES)
    with h5py.File(path, "r+") as file:
        del file["features"]
    patches = read_patches(path)
    np.testing.assert_array_equal(patches.coords, PLACES)
    assert (patches.slide, patches.tile_side, patches.tile_px) == ("s1", 512, 256)
    assert "coordinates without features" in failing(open_bag, path)


def test_patches_of_a_slide_without_tissue(tmp_path: Path) -> None:
    path = trident(tmp_path / "s1_patches.h5", X[:0], PLACES[:0])
    assert read_patches(path).coords.shape == (0, 2)  # type: ignore[union-attr]
    assert len(read_bag(path)) == 0


# --- written ----------------------------------------------------------------------------------------------------------


def test_what_others_find_in_a_file_of_ours(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", whole_bag())
    with h5py.File(tmp_path / "a.h5") as file:
        assert sorted(file) == ["coords", "features"]
        assert (file["features"].dtype, file["features"].shape) == (np.dtype("<f4"), (300, 6))
        assert file["features"].chunks == (CHUNK_ROWS, 6)
        assert (file["coords"].dtype, file["coords"].shape) == (np.dtype("<i8"), (300, 2))
        told = dict(file["coords"].attrs)
        assert told.pop("level0_mpp") == 0.2521
        assert told == {
            "patch_size": 256,
            "patch_size_level0": 512,
            "level0_magnification": 40,
            "target_magnification": 20,
            "overlap": 32,
            "name": "TCGA-A1.b",
            "savetodir": "None",
            "level0_width": 20000,
            "level0_height": 30000,
        }
        assert isinstance(told["name"], str)
        told = dict(file["features"].attrs)
        assert (told["encoder"], told["name"], told["savetodir"]) == ("uni é", "TCGA-A1.b", "None")
        assert isinstance(told["encoder"], str)


def test_what_is_not_known_is_written_as_trident_does(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", Bag(slide="a", features=X, coords=PLACES))
    with h5py.File(tmp_path / "a.h5") as file:
        assert {name for name, value in file["coords"].attrs.items() if value == "None"} == {
            *("patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "savetodir"),
            *("level0_width", "level0_height", "level0_mpp"),
        }
        assert file["features"].attrs["encoder"] == "None"
    with open_bag(tmp_path / "a.h5") as file:
        assert file.layout == "trident"


def test_halves_become_float32(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", Bag(slide="a", features=X.astype(np.float16)))
    again = read_bag(tmp_path / "a.h5")
    np.testing.assert_array_equal(again.features, X.astype(np.float16).astype(np.float32))
    assert again.features.dtype == np.float32


@settings(max_examples=40)
@given(data=st.data())
def test_a_bag_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    count, width = data.draw(st.integers(0, 600)), data.draw(st.integers(1, 9))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = (random.standard_normal((count, width)) * 10.0 ** random.integers(-30, 30)).astype(np.float32)
    assume(not count or x[-1].any())
    sizes = st.none() | st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))
    sides = st.none() | st.integers(1, 10**5)
    bag = Bag(
        slide="slide",
        features=x,
        coords=data.draw(st.none() | st.just(random.integers(-5000, 10**6, (count, 2)))),
        tile_side=data.draw(sides),
        tile_px=data.draw(sides),
        overlap=data.draw(st.integers(0, 500)),
        mpp=data.draw(st.none() | st.floats(0.02, 20)),
        encoder=data.draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)),
        slide_size=data.draw(sizes),
        magnification=data.draw(st.none() | st.sampled_from([5.0, 20.0, 40.0, 63.0])),
    )
    path = tmp_path_factory.mktemp("bags") / "slide.h5"
    write_bag(path, bag)
    again = read_bag(path)
    np.testing.assert_array_equal(again.features, bag.features)
    if bag.coords is None:
        assert (again.coords, again.encoder) == (None, "")
        return
    np.testing.assert_array_equal(again.coords, bag.coords)
    assert again.magnification == (bag.magnification or magnification_of(bag.mpp))
    names = "tile_side tile_px overlap mpp encoder slide_size".split()
    assert [getattr(again, name) for name in names] == [getattr(bag, name) for name in names]


@pytest.mark.parametrize(
    ("mpp", "magnification"),
    [(0.1, 80), (0.17, 60), (0.25, 40), (0.2999, 40), (0.3, 20), (0.5, 20), (0.99, 10), (2.0, 5), (2.4, None)],
)
def test_spacings_and_the_magnifications_that_stand_for_them(mpp: float, magnification: int | None) -> None:
    assert magnification_of(mpp) == magnification
    assert magnification_of(None) is None


def test_a_bag_read_from_trident_is_written_with_its_magnifications(tmp_path: Path) -> None:
    first = read_bag(trident(tmp_path / "features_uni_v1" / "a.h5", X, PLACES))
    write_bag(tmp_path / "b.h5", first.take(np.arange(60, 80)))
    with h5py.File(tmp_path / "b.h5") as file:
        told = dict(file["coords"].attrs)
        assert (told["level0_magnification"], told["target_magnification"], told["level0_mpp"]) == (40, 20, "None")
        assert file["features"].chunks == (20, 6)
    again = read_bag(tmp_path / "b.h5")
    assert same(first, again)
    np.testing.assert_array_equal(again.coords, PLACES[60:80])


def test_places_that_lack_the_spacing_are_not_written(tmp_path: Path) -> None:
    bag = Bag(slide="a", features=X, unscaled=Unscaled(PLACES.astype(np.float64), "um", "corner", 128.0))
    assert "um/px" in failing(write_bag, tmp_path / "a.h5", bag, code=Exit.USAGE)
    assert list(tmp_path.iterdir()) == []
    write_bag(tmp_path / "a.h5", bag.with_mpp(0.5))
    assert read_bag(tmp_path / "a.h5").tile_side == 256


def test_a_slides_vector(tmp_path: Path) -> None:
    write_slide_vector(tmp_path / "a.h5", "a", "titan", X[0])
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["features"], X[0])
        assert (file["features"].attrs["encoder"], file["features"].attrs["name"]) == ("titan", "a")
    failing(write_slide_vector, tmp_path / "b.h5", "a", "titan", X)
    failing(write_slide_vector, tmp_path / "b.h5", "a", "titan", X[0] * np.nan, code=Exit.NUMBERS)
    assert not (tmp_path / "b.h5").exists()


WRITER = """
import sys
from pathlib import Path
import numpy as np
sys.path[:0] = [sys.argv[1]]
from feature_files import whole_bag
from histill.formats.trident import write_bag
dirty = [np.full(300_000, 7.0) for _ in range(20)]
del dirty
write_bag(Path(sys.argv[2]), whole_bag())
"""


def test_the_same_bag_gives_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", whole_bag())
    other = tmp_path / "deep" / "b.h5"
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(other)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    assert other.read_bytes() == (tmp_path / "a.h5").read_bytes()


# --- damage -----------------------------------------------------------------------------------------------------------


def data_regions(path: Path) -> list[tuple[int, int]]:
    """Where the numbers lie in a file, which have no checksum."""
    regions = []
    with h5py.File(path) as file:
        for found in file.values():
            if found.chunks:
                chunks = [found.id.get_chunk_info(i) for i in range(found.id.get_num_chunks())]
                regions += [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]
            else:
                regions.append((found.id.get_offset(), found.id.get_offset() + found.id.get_storage_size()))
    return regions


def test_one_flipped_byte_in_a_file_of_ours_is_refused_or_changes_nothing_but_a_number(tmp_path: Path) -> None:
    # TRIDENT's format has no checksum for the numbers; what says where they lie, and what they are, has one in ours.
    bag = whole_bag(20)
    path = tmp_path / "a.h5"
    write_bag(path, bag)
    whole, regions = path.read_bytes(), data_regions(path)
    random = np.random.default_rng(0)
    refused = 0
    for at in range(0, len(whole), 67):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            again = read_bag(path)
        except HistillError:
            refused += 1
            continue
        assert same(again, bag) or again.magnification == 40
        numbers_are_the_same = (again.features == bag.features).all() and (again.coords == bag.coords).all()
        assert numbers_are_the_same or any(start <= at < stop for start, stop in regions)
    assert refused > 10


FULL_DISK = """
import importlib.util, json, os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from feature_files import whole_bag
from histill.core.errors import HistillError
from histill.formats.trident import write_bag
spec = importlib.util.spec_from_file_location("saboteur", sys.argv[2])
saboteur = importlib.util.module_from_spec(spec)
spec.loader.exec_module(saboteur)
bag, codes, nth = whole_bag(100), {}, 0
while not codes or codes[nth]:
    nth += 1 + nth // 4
    folder = Path(sys.argv[3]) / str(nth)
    folder.mkdir()
    (folder / "a.h5").write_bytes(b"old")
    child = os.fork()
    if not child:
        saboteur.Saboteur(nth, "full").install()
        try:
            write_bag(folder / "a.h5", bag)
        except HistillError as error:
            # Through the end of Python, where HDF5 would flush once more.
            sys.exit(int(error.code))
        sys.exit(0)
    codes[nth] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def test_a_full_disk_at_any_write_leaves_the_old_file_and_ends_python_well(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(SABOTEUR), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    codes = json.loads(done.stdout)
    assert list(codes.values()) == [Exit.STORAGE] * (len(codes) - 1) + [0]
    assert len(codes) > 4
    for nth, code in codes.items():
        folder = tmp_path / nth
        assert [path.name for path in folder.iterdir()] == ["a.h5"]
        # The last operation is the sync of the folder, after the name is given.
        old = (folder / "a.h5").read_bytes() == b"old"
        assert (old and code) or len(read_bag(folder / "a.h5")) == 100


def test_an_error_inside_hdf5_is_told_as_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(HistillError, match="the disk is full") as caught:
        write_bag(tmp_path / "a.h5", whole_bag())
    assert caught.value.code == Exit.STORAGE
    assert list(tmp_path.iterdir()) == []
