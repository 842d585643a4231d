"""Bags on disk: each tool's files told apart by what is in them, and all bags of a folder by their slides."""

import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "formats"))

from feature_files import (
    clam,
    failing,
    features,
    places,
    slide2vec,
    slideflow_sides,
    stamp,
    trident,
    wsisum,
)

from histill.core.bags import Bag
from histill.core.errors import Exit, HistillError
from histill.data.bags import find_bags, open_bag, read_bag, slide_vectors
from histill.data.torch_files import read_tensor
from histill.formats.trident import write_bag, write_slide_vector

X, PLACES = features(), places()
CASE = "TCGA-3C-AALI-01"


def tensor(path: Path, x: np.ndarray = X, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(x), path, **options)  # type: ignore[arg-type]
    return path


# --- which tool's it is -----------------------------------------------------------------------------------------------


def test_the_content_says_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    made = {
        "trident": trident(tmp_path / "a.pt", X, PLACES),
        "clam": clam(tmp_path / "b.npz", X, PLACES),
        "stamp": stamp(tmp_path / "c.bin", X, PLACES),
        "wsisum": wsisum(tmp_path / "d", features(301), PLACES),
        "slide2vec": slide2vec(tmp_path, "e", X, PLACES).rename(tmp_path / "e.h5"),
    }
    for layout, path in made.items():
        with open_bag(path) as file:
            assert (file.layout, file.shape) == (layout, (300, 6))


def test_tensors_by_what_lies_beside_them(tmp_path: Path) -> None:
    path = tensor(tmp_path / "pt_files" / "a.1.pt")
    with open_bag(path) as file:
        assert (file.layout, file.shape, file.facts.slide) == ("clam", (300, 6), "a.1")
        np.testing.assert_array_equal(file.read().features, X)
    slideflow_sides(path, PLACES + 256)
    with open_bag(path) as file:
        assert file.layout == "slideflow"
        np.testing.assert_array_equal(file.read().with_mpp(0.25).coords, PLACES)
    other = slide2vec(tmp_path / "s2v", "b", X, PLACES)
    other.unlink()
    with open_bag(tensor(other.with_suffix(".pt"))) as file:
        assert file.layout == "slide2vec"
        np.testing.assert_array_equal(file.read().coords, PLACES)


def test_bags_of_ours_open(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", Bag(slide="a", features=X))
    assert len(read_bag(tmp_path / "a.h5")) == 300


def test_hdf5_needs_no_torch(tmp_path: Path) -> None:
    import subprocess

    path = clam(tmp_path / "a.h5", X, PLACES)
    code = "import sys; from pathlib import Path; from histill.data.bags import read_bag; read_bag(Path(sys.argv[1]));"
    code += "print('torch' in sys.modules)"
    run = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("kind", "held"), [("f4", "f4"), ("f2", "f2"), ("f8", "f4")])
def test_kinds_of_numbers(zipped: bool, kind: str, held: str, tmp_path: Path) -> None:
    path = tensor(tmp_path / "a.pt", X.astype(kind), _use_new_zipfile_serialization=zipped)
    bag = read_bag(path)
    assert bag.features.dtype == np.dtype(held)
    np.testing.assert_array_equal(bag.features, X.astype(kind).astype(held))


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(X).bfloat16(), tmp_path / "a.pt")
    np.testing.assert_array_equal(read_bag(tmp_path / "a.pt").features, torch.from_numpy(X).bfloat16().float().numpy())


def test_parameters_and_views_are_tensors(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.from_numpy(X)), tmp_path / "a.pt")
    np.testing.assert_array_equal(read_bag(tmp_path / "a.pt").features, X)
    torch.save(torch.from_numpy(X).T.contiguous().T, tmp_path / "b.pt")
    np.testing.assert_array_equal(read_bag(tmp_path / "b.pt").features, X)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"state_dict": 1, "x\x1b": 2}, "dict of state_dict, x?"),
        ([1, 2], "list"),
        (torch.zeros(3, 3, dtype=torch.int64), "tensor of torch.int64"),
        (torch.zeros(3), "not [n, d]"),
        (torch.ones(3, 3, 3), "not [n, d]"),
        (torch.tensor(1.0), "not [n, d]"),
        (torch.eye(3).to_sparse(), "not one tensor of features"),
    ],
)
def test_something_else_in_a_tensor_file(value: object, what: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    assert what in failing(open_bag, tmp_path / "a.pt")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/histill-was-here",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(zipped: bool, tmp_path: Path) -> None:
    torch.save({"features": Evil()}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "b.pt"):
        assert "refused" in failing(open_bag, tmp_path / name, code=Exit.UNSAFE)
    assert not Path("/tmp/histill-was-here").exists()


def test_one_number_repeated_without_end_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(1).expand(1_000_000, 1_000_000), tmp_path / "a.pt")
    assert "it may be a bomb" in failing(open_bag, tmp_path / "a.pt", code=Exit.UNSAFE)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tensor(tmp_path / "a.pt", np.zeros((1000, 100), "f4"))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert "compressed" in failing(open_bag, tmp_path / "b.pt", code=Exit.UNSAFE)


def test_one_flipped_byte_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = tensor(tmp_path / "a.pt", X[:40])
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            np.testing.assert_array_equal(read_tensor(path).numpy(), X[:40])
        except HistillError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_cut_off_anywhere_is_one_error(zipped: bool, tmp_path: Path) -> None:
    whole = tensor(tmp_path / "a.pt", X[:40], _use_new_zipfile_serialization=zipped).read_bytes()
    for length in range(1, len(whole), 61):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        with pytest.raises(HistillError):
            read_bag(tmp_path / "b.pt")


def test_features_of_a_tensor_that_are_not_finite(tmp_path: Path) -> None:
    x = X.copy()
    x[5] = np.nan
    assert "first in row 5" in failing(read_bag, tensor(tmp_path / "a.pt", x), code=Exit.NUMBERS)


# --- all bags of a folder ---------------------------------------------------------------------------------------------


def test_each_tools_folder(tmp_path: Path) -> None:
    for slide in ("b", "a"):
        job = tmp_path / "trident" / "20x_256px_0px_overlap"
        trident(job / "features_uni_v1" / f"{slide}.h5", X, PLACES)
        trident(job / "patches" / f"{slide}_patches.h5", X, PLACES)
        trident(job / "slide_features_titan" / f"{slide}.h5", X, PLACES)
        clam(tmp_path / "clam" / "h5_files" / f"{slide}.h5", X, PLACES)
        tensor(tmp_path / "clam" / "pt_files" / f"{slide}.pt")
        stamp(tmp_path / "stamp" / "uni2-0123abcd" / "site1" / f"{slide}.h5", X, PLACES)
        slide2vec(tmp_path / "slide2vec", slide, X, PLACES)
        slideflow_sides(tensor(tmp_path / "slideflow" / f"{slide}.pt"), PLACES)
    (tmp_path / "stamp" / "uni2-0123abcd" / "site1" / "a.jpg").touch()
    (tmp_path / "slideflow" / "._a.pt").touch()
    (tmp_path / "slideflow" / ".cache").mkdir()
    tensor(tmp_path / "slideflow" / ".cache" / "a.pt")
    for tool in ("trident", "clam", "stamp", "slide2vec", "slideflow"):
        found = find_bags(tmp_path / tool)
        assert list(found) == ["a", "b"]
        for slide, path in found.items():
            with open_bag(path) as file:
                assert (file.layout, file.facts.slide) == (tool, slide)
    assert {path.parent.name for path in find_bags(tmp_path / "clam").values()} == {"h5_files"}
    # Alone, the tensors are what there is.
    assert list(find_bags(tmp_path / "clam" / "pt_files")) == ["a", "b"]


def test_two_files_of_one_slide_are_named(tmp_path: Path) -> None:
    clam(tmp_path / "a.h5", X, PLACES)
    tensor(tmp_path / "A.pt")
    clam(tmp_path / "one" / "b.h5", X, PLACES)
    clam(tmp_path / "two" / "b.h5", X, PLACES)
    clam(tmp_path / "c.h5", X, PLACES)
    said = failing(find_bags, tmp_path, code=Exit.USAGE)
    assert "2 slides have more than one file" in said
    assert "A.pt and a.h5" in said or "a.h5 and A.pt" in said
    assert "one/b.h5 and two/b.h5" in said
    assert "c.h5" not in said


def test_a_folder_without_bags(tmp_path: Path) -> None:
    assert "no such folder" in failing(find_bags, tmp_path / "none")
    (tmp_path / "a.svs").touch()
    assert "no feature file" in failing(find_bags, tmp_path)


# --- slide vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6)])
def test_vectors_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    trident(tmp_path / "x.h5", X, PLACES)
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = X[0].reshape(shape), PLACES
    tensor(tmp_path / "b.pt", X[0].reshape(shape))
    np.savez(tmp_path / "c.npz", features=X[0].reshape(shape).astype(np.float16))
    for name in ("a.h5", "b.pt", "c.npz"):
        (found,) = slide_vectors(tmp_path / name, "titan").items()
        assert found[0] == name[0]
        assert found[1].dtype == np.float32
        np.testing.assert_allclose(found[1], X[0], atol=1e-3)


def test_vectors_of_a_folder_in_each_tools_way(tmp_path: Path) -> None:
    for place in ("t/slide_features_titan/a.h5", "w/TITAN/a.h5", "f/a_TITAN.h5", "p/a.h5", "s/slide_embeddings/a.h5"):
        write_slide_vector(tmp_path / place, "a", "titan", X[0])
        write_slide_vector(tmp_path / place.replace("a.h5", "b.h5").replace("a_T", "b_T"), "b", "titan", X[1])
    # What belongs to another encoder stays out.
    write_slide_vector(tmp_path / "f" / "a_PRISM.h5", "a", "prism", X[0][:3])
    write_slide_vector(tmp_path / "t" / "slide_features_prism" / "a.h5", "a", "prism", X[0][:3])
    for folder in ("t", "w", "f", "p", "s"):
        found = slide_vectors(tmp_path / folder, "titan")
        assert list(found) == ["a", "b"]
        np.testing.assert_array_equal(found["b"], X[1])


def test_vectors_that_are_none(tmp_path: Path) -> None:
    assert "not one" not in failing(slide_vectors, clam(tmp_path / "bag" / "a.h5", X, PLACES), "titan")
    failing(slide_vectors, tensor(tmp_path / "b.pt", X), "titan")
    failing(slide_vectors, tmp_path / "none.h5", "titan")
    (tmp_path / "empty").mkdir()
    assert "no file of 'titan'" in failing(slide_vectors, tmp_path / "empty", "titan")
    tensor(tmp_path / "nan.pt", np.array([1, np.nan], "f4"))
    assert "NaN" in failing(slide_vectors, tmp_path / "nan.pt", "titan", code=Exit.NUMBERS)
    for count, name in ((3, "a"), (4, "b")):
        write_slide_vector(tmp_path / "mixed" / f"{name}.h5", name, "titan", X[0][:count])
    assert "3 numbers (a) and 4 numbers (b)" in failing(slide_vectors, tmp_path / "mixed", "titan")


@pytest.mark.parametrize(("name", "length"), [("TITAN", 768), ("CHIEF", 768), ("prism", 1280)])
def test_the_published_vectors(name: str, length: int, data_root: Path) -> None:
    found = slide_vectors(data_root / "mil_features", name)
    assert list(found) == [CASE]
    assert found[CASE].shape == (length,)
    assert np.isfinite(found[CASE]).all()
    assert found[CASE].std() > 0


# --- real bags --------------------------------------------------------------------------------------------------------


def test_real_features_go_round(data_root: Path, tmp_path: Path) -> None:
    with np.load(data_root / "mil_features" / "glas_bags_squeezenet1_0.npz") as glas:
        rows = glas["bag_index"] == 3
        bag = Bag(
            slide=str(glas["bag_name"][3]),
            features=glas["features"][rows],
            coords=glas["coords"][rows].astype(np.int64),
            tile_side=224,
            encoder="squeezenet1_0",
        )
    assert bag.features.shape == (12, 512)
    write_bag(tmp_path / f"{bag.slide}.h5", bag)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_bag(find_bags(tmp_path)[bag.slide])
    np.testing.assert_array_equal(again.features, bag.features.astype(np.float32))
    np.testing.assert_array_equal(again.coords, bag.coords)
    assert (again.encoder, again.tile_side) == ("squeezenet1_0", 224)


def test_the_published_slide_goes_round(data_root: Path, tmp_path: Path) -> None:
    bag = read_bag(data_root / "mil_features" / f"{CASE}_conch15_500patches.h5")
    summary = bag.take(np.arange(0, 500, 8))
    write_bag(tmp_path / "a.h5", summary)
    again = read_bag(tmp_path / "a.h5")
    np.testing.assert_array_equal(again.features, summary.features)
    np.testing.assert_array_equal(again.coords, summary.coords)
