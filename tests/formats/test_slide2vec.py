"""slide2vec's files as published: an archive, what lies beside it, and what may be wrong with either."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import failing, features, places, slide2vec

from histill.core.errors import Exit, HistillError
from histill.data.bags import find_bags, open_bag, read_bag
from histill.formats.npz import read_npz
from histill.formats.sidecars import read_json

X, PLACES = features(), places()


def test_features_places_and_spacing(tmp_path: Path) -> None:
    path = slide2vec(tmp_path, "a.b", X, PLACES)
    with open_bag(path) as file:
        assert (file.layout, file.shape) == ("slide2vec", (300, 6))
        bag = file.read()
    np.testing.assert_array_equal(bag.features, X)
    np.testing.assert_array_equal(bag.coords, PLACES)
    assert (bag.slide, bag.encoder, bag.mpp) == ("a.b", "virchow2", 0.25)
    assert (bag.tile_side, bag.tile_px) == (512, 224)
    assert find_bags(tmp_path) == {"a.b": path}


def test_without_what_lies_beside_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=X.astype(np.float16))
    bag = read_bag(tmp_path / "a.npz")
    np.testing.assert_array_equal(bag.features, X.astype(np.float16))
    assert (bag.coords, bag.encoder, bag.mpp, bag.tile_side) == (None, "", None, None)


def test_a_path_in_the_json_is_not_followed(tmp_path: Path) -> None:
    path = slide2vec(tmp_path, "a", X, PLACES)
    other = tmp_path / "other.npz"
    (tmp_path / "tiles" / "a.coordinates.npz").rename(other)
    meta = path.with_name("a.meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"coordinates_npz_path": str(other)}))
    assert read_bag(path).coords is None


@pytest.mark.parametrize(
    "told", [{}, {"slide": 3, "tiling": []}, {"slide": {"base_spacing_um": "x"}}, {"tiling": {"tile_size_lv0": -4}}]
)
def test_odd_values_in_the_json_are_unknown(told: dict[str, object], tmp_path: Path) -> None:
    path = slide2vec(tmp_path, "a", X, PLACES)
    (tmp_path / "tiles" / "a.coordinates.meta.json").write_text(json.dumps(told))
    bag = read_bag(path)
    assert (bag.mpp, bag.tile_side) == (None, 512)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"a"', "\xff", "[" * 100_000])
def test_no_json(text: str, tmp_path: Path) -> None:
    path = slide2vec(tmp_path, "a", X, PLACES)
    path.with_name("a.meta.json").write_text(text, encoding="latin-1")
    assert "a.meta.json" in failing(open_bag, path)


def test_a_json_of_any_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{" + " " * (5 << 20) + "}")
    assert "no JSON object" in failing(read_json, tmp_path / "a.json")


@pytest.mark.parametrize(
    "places",
    [
        {"x": PLACES[:, 0]},
        {"x": PLACES[1:, 0], "y": PLACES[1:, 1]},
        {"x": PLACES, "y": PLACES},
        {"x": PLACES[:, 0] / 2, "y": PLACES[:, 1] / 2},
    ],
)
def test_places_that_do_not_fit(places: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = slide2vec(tmp_path, "a", X, PLACES)
    np.savez(tmp_path / "tiles" / "a.coordinates.npz", **places)  # type: ignore[arg-type]
    assert "no 300 places" in failing(open_bag, path)


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"other": X}, "no array 'features'"),
        ({"features": X.astype(np.int32)}, "no array 'features' of fractions"),
        ({"features": X[0]}, "not [n, d]"),
        ({"features": np.float32(1)}, "not [n, d]"),
    ],
)
def test_archives_of_something_else(arrays: dict[str, np.ndarray], what: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert what in failing(open_bag, tmp_path / "a.npz")


def test_no_pickle_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.array([{"a": 1}], object))
    assert "pickle" in failing(open_bag, tmp_path / "a.npz", code=Exit.UNSAFE)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((20_000, 300), np.float32))
    assert "it may be a bomb" in failing(open_bag, tmp_path / "a.npz", code=Exit.UNSAFE)


def test_an_array_that_claims_more_than_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=X)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        raw = archive.read("features.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("features.npy", raw.replace(b"(300, 6), }", b"(300000000, 600), }"))
    assert "it claims an array of [300000000, 600]" in failing(open_bag, tmp_path / "b.npz")


def test_damage_anywhere_is_one_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=X[:30])
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 29):
        (tmp_path / "b.npz").write_bytes(whole[:length])
        failing(read_npz, tmp_path / "b.npz", ["features"])
    for at in range(0, len(whole), 17):
        (tmp_path / "b.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            found = read_npz(tmp_path / "b.npz", ["features"])
        except HistillError:
            continue
        # The archive's checksum: the numbers are right, or the name is another.
        assert not found or (found["features"] == X[:30]).all()
