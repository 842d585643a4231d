"""Made-up kidney: the same seed, the same tile; boxes that fit what is drawn; and what glomeruli look like."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from histill.core.boxes import read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.manifest import read_manifest
from histill.core.seeds import generator
from histill.data.images import read_image
from histill.data.synthetic.kidney import CLASSES, KidneyTile, compose, kidney_tiles, render_tile
from histill.data.synthetic.kidney_dataset import write_kidneys
from histill.data.synthetic.kidney_paint import Nuclei, Textures, distance, filled, nearest
from histill.data.synthetic.kidney_scene import (
    ANGLES,
    Donor,
    Glomerulus,
    KidneyScene,
    draw_donor,
    draw_kidney_scene,
)
from histill.data.synthetic.kidney_slide import write_kidney_slide
from histill.data.synthetic.kidney_stain import LAYERS
from histill.slides.open import open_slide


@pytest.fixture(scope="module")
def tiles() -> list[KidneyTile]:
    return list(kidney_tiles(24, seed=3, size=256, donors=5, mpp=2))


def same(one: KidneyTile, other: KidneyTile) -> bool:
    return np.array_equal(one.image, other.image) and np.array_equal(one.boxes.corners, other.boxes.corners)


def test_a_tile_follows_from_the_seed_alone(tiles: list[KidneyTile]) -> None:
    again = list(kidney_tiles(3, seed=3, size=256, donors=5, mpp=2))
    assert all(same(one, other) for one, other in zip(again, tiles[:3], strict=True))
    other = next(kidney_tiles(1, seed=4, size=256, donors=5, mpp=2))
    assert not np.array_equal(other.image, tiles[0].image)


def test_tiles_hold_none_to_some_glomeruli_of_natural_size(tiles: list[KidneyTile]) -> None:
    counts = [len(tile.boxes) for tile in tiles]
    assert min(counts) == 0
    assert 2 <= max(counts) <= 9
    assert 0.8 < np.mean(counts) < 3.5
    whole = np.concatenate([tile.boxes.corners for tile in tiles])
    whole = whole[(whole > 0).all(axis=1) & (whole < 256).all(axis=1)]
    widths = 2 * (whole[:, 2] - whole[:, 0])
    assert 120 < float(np.median(widths)) < 230
    assert float(widths.min()) > 60
    assert float(widths.max()) < 320


def test_boxes_lie_in_the_tile(tiles: list[KidneyTile]) -> None:
    for tile in tiles:
        assert tile.image.shape == (256, 256, 3)
        assert tile.image.dtype == np.uint8
        assert (tile.boxes.corners >= 0).all()
        assert (tile.boxes.corners <= 256).all()
        assert set(tile.boxes.classes.tolist()) <= {0}


def test_donors_differ_in_stain_and_look(tiles: list[KidneyTile]) -> None:
    assert [tile.donor.look.stain for tile in tiles[:5]] == ["PAS", "Masson", "PAS", "Masson", "PAS"]
    looks = {tile.donor.name: tile.image.reshape(-1, 3).mean(axis=0) for tile in tiles}
    assert len(looks) == 5
    means = np.asarray(list(looks.values()))
    # Masson's blue collagen against Schiff's magenta: red against green tells the two.
    redness = means[:, 0] - means[:, 1]
    assert redness[[1, 3]].max() < redness[[0, 2, 4]].min()


def plain_donor() -> Donor:
    return draw_donor(0, "donor-00", "PAS")


def ball(x: float, y: float, radius: float, sclerosed: bool = False) -> Glomerulus:
    unit = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)
    return Glomerulus(radius * unit + (x, y), (radius - 12) * unit + (x, y), (x, y), 0.0, sclerosed)


def drawn(*glomeruli: Glomerulus, side: int = 300, mpp: float = 1.0) -> NDArray[np.float32]:
    scene = KidneyScene(side * mpp, glomeruli, (), False, 0.3, 1.2, None)
    return compose(scene, plain_donor(), Textures.draw(0, mpp), side, mpp, generator(0, "test"))


def test_a_box_is_its_capsule() -> None:
    assert ball(100, 120, 80).box == pytest.approx((20, 40, 180, 200), abs=0.1)
    layers = drawn(ball(150, 150, 80))
    y, x = np.mgrid[:300, :300] + 0.5
    away = np.hypot(x - 150, y - 150)
    # Bowman's space is empty between capsule and tuft, and the capsule is a membrane at the box's edge.
    space = (away > 71) & (away < 76)
    assert float(layers[LAYERS.index("matrix")][space].mean()) < 0.05
    assert float(layers[LAYERS.index("matrix")][(away > 78.5) & (away < 80)].mean()) > 0.5


def test_the_tuft_is_full_of_nuclei_and_a_scar_is_not() -> None:
    y, x = np.mgrid[:300, :300] + 0.5
    inside = np.hypot(x - 150, y - 150) < 64
    tuft, scar = drawn(ball(150, 150, 80)), drawn(ball(150, 150, 80, sclerosed=True))
    nuclei, matrix = LAYERS.index("nuclei"), LAYERS.index("matrix")
    outside = np.hypot(x - 150, y - 150) > 85
    assert float(tuft[nuclei][inside].mean()) > 1.3 * float(tuft[nuclei][outside].mean())
    assert float(scar[nuclei][inside].mean()) < 0.5 * float(tuft[nuclei][inside].mean())
    assert float(scar[matrix][inside].mean()) > 1.5 * float(tuft[matrix][inside].mean())


def test_one_that_is_hardly_seen_is_drawn_without_a_box() -> None:
    donor, textures = plain_donor(), Textures.draw(0, 4.0)
    hidden = 0
    for i in range(40):
        scene = draw_kidney_scene(donor, 512, generator(9, "kidney", i))
        tile = render_tile(donor, textures, 128, 4.0, generator(9, "kidney", i))
        expected = []
        for each in scene.glomeruli:
            x0, y0, x1, y1 = each.box
            seen = (min(x1, 512) - max(x0, 0)) * (min(y1, 512) - max(y0, 0)) / ((x1 - x0) * (y1 - y0))
            assert seen > 0
            hidden += seen < 0.5
            if seen >= 0.5:
                expected.append(np.clip(each.box, 0, 512) / 4)
        np.testing.assert_allclose(tile.boxes.corners, np.reshape(expected, (-1, 4)), atol=1e-3)
    assert hidden > 3


@pytest.mark.parametrize("side", [40, 101])
def test_small_tiles_with_parts_of_things(side: int) -> None:
    for tile in kidney_tiles(15, seed=1, size=side, donors=3, mpp=4 if side == 40 else 1):
        assert tile.image.shape == (side, side, 3)


def test_a_tile_wider_than_the_textures() -> None:
    tile = next(kidney_tiles(1, seed=0, size=1100, mpp=0.5))
    assert tile.image.shape == (1100, 1100, 3)


@pytest.mark.parametrize(("size", "mpp"), [(512, 0.1), (512, 5), (90, 1)])
def test_sizes_and_spacings_that_kidney_is_not_drawn_at(size: int, mpp: float) -> None:
    with pytest.raises(HistillError, match="um") as caught:
        next(kidney_tiles(1, seed=0, size=size, mpp=mpp))
    assert caught.value.code == Exit.USAGE


def test_nearest_is_the_nearest() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (12, 2))
    found = nearest(points, (50, 50))
    y, x = np.mgrid[:50, :50]
    away = np.hypot(y[..., None] - np.floor(points[:, 0]), x[..., None] - np.floor(points[:, 1]))
    # Distances are measured along a mask of 5 x 5: a little off.
    assert (np.take_along_axis(away, found[..., None], axis=-1)[..., 0] <= 1.05 * away.min(axis=-1) + 0.6).all()


def test_filled_covers_the_outlines_area() -> None:
    square = np.asarray([[10, 20], [30, 20], [30, 50], [10, 50]], np.float64)
    mask = filled(square, (60, 60))
    assert mask[20:50, 10:30].all()
    assert abs(int(mask.sum()) - 600) <= 2 * (20 + 30) + 4
    assert float(distance(np.ones((5, 5), np.uint8)).max()) == 10_000


def test_nuclei_are_cut_off_at_the_edge() -> None:
    nuclei, layer = Nuclei(), np.zeros((20, 20), np.float32)
    nuclei.add(np.asarray([[0.0, 0.0], [19.5, 10.0], [-30.0, 5.0]]), 8, 1.2, None, 1.0, np.random.default_rng(0))
    nuclei.draw(layer)
    assert layer[0, 0] > 0.4
    assert layer[19, 10] > 0.4
    assert float(layer[6:14].max()) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = write_kidneys(tmp_path_factory.mktemp("kidney") / "new", train=6, val=2, test=3, size=128, mpp=4, seed=2)
    return table.parent


def test_the_data_set(folder: Path) -> None:
    table = read_manifest(folder / "data.csv")
    table.require("boxes")
    assert [len(table.of_split(split).samples) for split in ("train", "val", "test")] == [6, 2, 3]
    assert table.card.synthetic
    assert table.classes.names == CLASSES.names
    patients = {split: {s.patient for s in table.of_split(split).samples} for split in ("train", "val", "test")}
    assert not patients["train"] & patients["test"]
    assert len(patients["train"]) == 6
    for sample in table.samples:
        assert sample.boxes is not None
        assert sample.mpp == 4
        height, width, _ = read_image(sample.path).shape
        boxes = read_boxes(sample.boxes, table.classes, (width, height))
        assert sample.labels == (("glomerulus",) if len(boxes) else ())


def test_the_data_set_follows_from_its_seed(folder: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    write_kidneys(tmp_path / "a", train=6, val=2, test=3, size=128, mpp=4, seed=2, progress=lambda *at: done.append(at))
    write_kidneys(tmp_path / "b", train=6, val=2, test=3, size=128, mpp=4, seed=3)
    assert done == [(number, 11) for number in range(1, 12)]
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(files) == 2 * 11 + 2
    assert all((tmp_path / "a" / file).read_bytes() == (folder / file).read_bytes() for file in files)
    images = [file for file in files if file.suffix == ".jpg"]
    assert not any((tmp_path / "b" / file).read_bytes() == (folder / file).read_bytes() for file in images)


def test_a_stored_image_is_what_was_drawn(folder: Path) -> None:
    table = read_manifest(folder / "data.csv")
    stored = read_image(table.samples[0].path)
    again = write_kidneys(folder.parent / "one", train=1, val=0, test=0, size=128, mpp=4, seed=2)
    assert np.array_equal(read_image(read_manifest(again).samples[0].path), stored)
    assert cv2.Laplacian(stored, cv2.CV_32F).std() > 5, "there is something to see"


def test_a_refused_size_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HistillError):
        write_kidneys(tmp_path / "new", train=1, val=0, test=0, size=10)
    assert list(tmp_path.iterdir()) == []


def test_a_slide_and_its_boxes(tmp_path: Path) -> None:
    made = write_kidney_slide(tmp_path / "a.tif", tmp_path / "a.json", side=700, mpp=4, seed=1, stain="Masson")
    boxes = read_boxes(tmp_path / "a.json", CLASSES, (700, 700))
    assert np.array_equal(boxes.corners, made.corners)
    assert len(boxes) > 5
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.size == (700, 700)
        assert slide.mpp == pytest.approx(4)
        image = slide.read(Region(0, 0, 700, 700), 4.0)
    # Tissue in the boxes, glass in the corners.
    assert all(image[int(y0) : int(y1), int(x0) : int(x1)].mean() < 200 for x0, y0, x1, y1 in boxes.corners)
    assert image[:40, :40].min() > 200
    write_kidney_slide(tmp_path / "b.tif", tmp_path / "b.json", side=700, mpp=4, seed=1, stain="Masson")
    assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize("wrong", [{"side": 100}, {"side": 5000}, {"mpp": 9.0}, {"stain": "HE"}])
def test_slides_that_are_not_made(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="no kidney slide"):
        write_kidney_slide(tmp_path / "a.tif", tmp_path / "a.json", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_glomeruli_do_not_overlap() -> None:
    for i in range(30):
        scene = draw_kidney_scene(plain_donor(), 1500, generator(4, "kidney", i), cortex=True)
        masks = sum(filled(each.capsule / 4, (375, 375)) for each in scene.glomeruli)
        # Neighbours may touch: their rims fall on the same pixels of 4 um.
        assert int((np.asarray(masks) > 1).sum()) <= 12
