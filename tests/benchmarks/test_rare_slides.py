"""What is read beside bags of rare slides: each tile's share of the tissue, as the label map has it."""

from pathlib import Path

import numpy as np
import pytest
import rare_slides
from rare_slides import rare_tiles, read_rare, write_shares

from histill.core.bags import Bag
from histill.core.labels import Classes
from histill.core.manifest import Sample, read_manifest, write_manifest
from histill.data.synthetic.rare import RARE
from histill.formats.pyramid import new_labels
from histill.formats.trident import write_bag

CLASSES = Classes(("tumour", "stroma"))


@pytest.fixture
def truth(tmp_path: Path) -> np.ndarray:
    labels = (np.random.default_rng(0).random((300, 200)) < 0.4).astype(np.uint8)
    with new_labels(tmp_path / "a.ome.tif", shape=(300, 200), mpp=0.5, classes=CLASSES) as file:
        file.add(labels)
    return labels


def bag_of(places: list[tuple[int, int]]) -> Bag:
    features = np.random.default_rng(1).random((len(places), 4)).astype(np.float32)
    return Bag(slide="a", features=features, coords=np.array(places, np.int64), tile_side=64)


def test_shares_are_counted_in_the_truth(tmp_path: Path, truth: np.ndarray) -> None:
    places = [(0, 0), (64, 128), (136, 236), (192, 256), (-32, 0)]
    shares = rare_tiles(bag_of(places), tmp_path / "a.ome.tif", tissue=1)
    for (x, y), share in zip(places, shares, strict=True):
        pixels = sum(
            truth[row, column] == 1
            for row in range(max(y, 0), min(y + 64, 300))
            for column in range(max(x, 0), min(x + 64, 200))
        )
        assert share == pytest.approx(pixels / 64**2)


@pytest.mark.usefixtures("truth")
def test_a_bag_comes_back_with_its_shares(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"")
    sample = Sample("a", tmp_path / "a.tif", None, ("tumour",), "a", "train", tmp_path / "a.ome.tif", None, 0.5)
    write_manifest(tmp_path / "slides.csv", [sample], RARE)
    bag = bag_of([(0, 0), (64, 128), (128, 192)])
    folder = tmp_path / rare_slides.grid_folder(rare_slides.SETTINGS)
    write_bag(folder / rare_slides.features_folder(rare_slides.ENCODER) / "a.h5", bag)
    write_shares(tmp_path, read_manifest(tmp_path / "slides.csv"))
    (found,) = read_rare(tmp_path, "train")
    np.testing.assert_array_equal(found.bag.features, bag.features)
    np.testing.assert_allclose(found.share, rare_tiles(bag, tmp_path / "a.ome.tif"), atol=1e-4)
    assert found.rare.tolist() == (found.share >= 0.5).tolist()
    table = tmp_path / rare_slides.SHARES / "a.csv"
    table.write_bytes(table.read_bytes().replace(b"64,128", b"64,64"))
    with pytest.raises(SystemExit, match="not of its bag"):
        list(read_rare(tmp_path))
