"""Bags of slides: the same vectors as one tile at a time gives, files as TRIDENT's, and what becomes of bad slides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.manifest import Manifest, Sample
from histill.core.record import EMPTY, OK, QUARANTINED, read_record
from histill.data.bags import find_bags, read_bag
from histill.engine import embed
from histill.engine.apply import Applied
from histill.engine.embed import EmbedSettings, embed_slides, grid_folder, slide_name, suited_batch
from histill.engine.run import Machine
from histill.formats.trident import read_patches
from histill.nets.embedders import Embedder, build_embedder
from histill.slides.open import open_slide
from histill.slides.tiling import lay_grid
from histill.slides.tissue import find_tissue

MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)
MPP, SIDE = 0.5, 64
GRID = "20x_64px_0px_overlap"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """A network of 5 KB whose input is 160 px: tiles are resized."""
    return build_embedder("test_vit", "none")


def tissue_image(height: int = 220, width: int = 300, seed: int = 0) -> NDArray[np.uint8]:
    """Glass with a blob of uneven, stained tissue in it."""
    random = np.random.default_rng(seed)
    image = random.normal(243, 1, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    blob = ((y - height / 2) / (height * 0.38)) ** 2 + ((x - width / 2) / (width * 0.4)) ** 2 < 1
    grain = random.normal(0, 25, (height // 4 + 1, width // 4 + 1, 1)).repeat(4, 0).repeat(4, 1)[:height, :width]
    image[blob] = (np.array([185.0, 110.0, 165.0]) + grain)[blob]
    return image.clip(0, 255).astype(np.uint8)


GLASS = np.full((200, 300, 3), 244, np.uint8)


def table_of(folder: Path, *images: NDArray[np.uint8], mpp: float | None = MPP) -> Manifest:
    """Flat images as slides."""
    folder.mkdir(exist_ok=True)
    samples = []
    for i, image in enumerate(images):
        path = folder / f"s{i}.png"
        Image.fromarray(image).save(path)
        samples.append(Sample(f"s{i}", path, patient=f"p{i}", mpp=mpp))
    return Manifest(tuple(samples), DatasetCard(classes=("slide",)), folder, "digest")


def settings(**changes: Any) -> EmbedSettings:
    return EmbedSettings(**{"tile": SIDE, "batch_size": 4, **changes})


def run(embedder: Embedder, table: Manifest, folder: Path, **changes: Any) -> Applied:
    return embed_slides(embedder, table, folder, machine=MACHINE, settings=settings(**changes))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def bag_of(folder: Path, slide: str = "s0") -> Bag:
    return read_bag(find_bags(folder / "features_test_vit")[slide])


def test_features_are_those_of_each_tile_alone(embedder: Embedder, tmp_path: Path) -> None:
    """Also where level 0 is finer than what is looked at, tiles overlap, and the last of them lie half outside."""
    table = table_of(tmp_path / "in", tissue_image(330, 450), mpp=0.3)
    run(embedder, table, tmp_path / "out", overlap=0.25, least_tissue=0.05)
    bag = bag_of(tmp_path / "out" / "20x_64px_16px_overlap")
    slow, coords = [], []
    with open_slide(table.samples[0].path, 0.3) as slide, torch.inference_mode():
        grid = lay_grid(slide.at(0.5), find_tissue(slide), side=SIDE, overlap=0.25, least_tissue=0.05)
        for index in range(len(grid)):
            region = grid.region(index)
            image = torch.from_numpy(slide.read_as(region, SIDE, SIDE)).permute(2, 0, 1)[None].float() / 255
            slow.append(embedder(image)[0].numpy())
            coords.append((region.x, region.y))
    assert len(slow) % 4, "the last batch is not full"
    assert len(slow) > 12
    assert np.array_equal(bag.coords, coords)
    assert np.allclose(bag.features, np.stack(slow), atol=1e-5)


def test_files_are_as_tridents(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(600, 840), mpp=0.25)
    run(embedder, table, tmp_path / "out")
    folder = tmp_path / "out" / GRID
    with h5py.File(folder / "features_test_vit" / "s0.h5") as file:
        n, d = file["features"].shape
        assert (file["features"].dtype, file["coords"].dtype, file["coords"].shape) == ("<f4", "<i8", (n, 2))
        assert file["features"].chunks == (min(n, 256), d)
        told = dict(file["coords"].attrs)
        expected = {"patch_size": 64, "patch_size_level0": 128, "level0_magnification": 40, "target_magnification": 20}
        assert {name: told[name] for name in expected} == expected
        assert (told["overlap"], told["level0_width"], told["level0_height"]) == (0, 840, 600)
        assert file["features"].attrs["encoder"] == "test_vit"
    facts = read_patches(folder / "patches" / "s0_patches.h5")
    bag = bag_of(folder)
    assert facts.coords is not None
    assert np.array_equal(facts.coords, bag.coords)
    assert (facts.tile_side, facts.tile_px, facts.mpp, facts.slide) == (128, 64, 0.25, "s0")
    assert (bag.encoder, bag.mpp) == ("test_vit", 0.25)
    with Image.open(folder / "pictures" / "s0.jpg") as picture:
        assert picture.width >= 340
    record = read_record(folder / "records" / "features_test_vit" / "s0.json")
    assert record is not None
    assert record.status == OK
    assert sorted(record.outputs) == ["features_test_vit/s0.h5", "patches/s0_patches.h5", "pictures/s0.jpg"]


def test_a_second_run_does_nothing_and_other_settings_do_it_again(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1))
    assert run(embedder, table, tmp_path / "out").reused == 0
    before = files(tmp_path / "out")
    assert run(embedder, table, tmp_path / "out", least_tissue=0.3).reused == 0
    assert files(tmp_path / "out") != before
    assert run(embedder, table, tmp_path / "out").reused == 0
    assert files(tmp_path / "out") == before
    monkeypatch.setattr(embed, "embed_tiles", None)
    assert run(embedder, table, tmp_path / "out").reused == 2
    assert files(tmp_path / "out") == before


def test_a_second_encoder_leaves_the_first_ones_work_as_it_is(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    run(embedder, table, tmp_path / "out")
    before = files(tmp_path / "out")
    run(build_embedder("test_convnext", "none"), table, tmp_path / "out")
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert f"{GRID}/features_test_convnext/s0.h5" in after
    assert run(embedder, table, tmp_path / "out").reused == 1


def test_other_weights_of_the_same_name_are_other_features(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    run(embedder, table, tmp_path / "out")
    other = build_embedder("test_vit", "none")
    with torch.no_grad():
        next(other.trunk().parameters()).add_(1)
    assert run(other, table, tmp_path / "out").reused == 0


def test_neither_order_nor_company_changes_a_byte(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1))
    run(embedder, table, tmp_path / "both")
    run(embedder, replace(table, samples=table.samples[1:]), tmp_path / "alone")
    alone, both = files(tmp_path / "alone"), files(tmp_path / "both")
    assert all(both[name] == content for name, content in alone.items() if not name.endswith(".csv"))


def test_stopped_and_begun_again_the_bytes_are_the_same(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1))
    run(embedder, table, tmp_path / "whole")
    for stop_at in (1, 3):
        seen: list[str] = []

        def stop(self: Journal, event: str, *, stop_at: int = stop_at, seen: list[str] = seen, **_: object) -> None:
            seen += [event] * (event == "tiles")
            if len(seen) == stop_at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "show", stop)
            with pytest.raises(KeyboardInterrupt):
                run(embedder, table, tmp_path / "stopped")
        assert not list((tmp_path / "stopped").rglob(".histill-*"))
    assert run(embedder, table, tmp_path / "stopped").reused < 2
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_a_slide_without_tissue_has_a_record_and_no_file(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", GLASS, tissue_image())
    done = run(embedder, table, tmp_path / "out")
    assert list(done.empty) == ["s0"]
    folder = tmp_path / "out" / GRID
    record = read_record(folder / "records" / "features_test_vit" / "s0.json")
    assert record is not None
    assert (record.status, bool(record.message)) == (EMPTY, True)
    assert sorted(find_bags(folder / "features_test_vit")) == ["s1"]
    assert not (folder / "patches" / "s0_patches.h5").exists()
    assert (folder / "pictures" / "s0.jpg").exists()
    assert (run(embedder, table, tmp_path / "out").reused, done.empty) == (2, done.empty)


def test_what_has_become_empty_leaves_no_old_file(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    run(embedder, table, tmp_path / "out")
    Image.fromarray(GLASS).save(table.samples[0].path)
    assert list(run(embedder, table, tmp_path / "out").empty) == ["s0"]
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_a_bad_slide_is_put_aside_and_changes_no_other(embedder: Embedder, tmp_path: Path) -> None:
    table = table_of(tmp_path / "in", tissue_image(), tissue_image(seed=1), tissue_image(seed=2))
    bad = table.samples[1].path
    bad.write_bytes(bad.read_bytes()[:3000])
    done = run(embedder, table, tmp_path / "out")
    assert list(done.quarantined) == ["s1"]
    record = read_record(tmp_path / "out" / GRID / "records" / "features_test_vit" / "s1.json")
    assert record is not None
    assert record.status == QUARANTINED
    run(embedder, replace(table, samples=(table.samples[0], table.samples[2])), tmp_path / "clean")
    clean, out = files(tmp_path / "clean"), files(tmp_path / "out")
    assert all(out[name] == content for name, content in clean.items() if not name.endswith(".csv"))
    assert [name for name in out if "s1" in Path(name).stem] == [f"{GRID}/records/features_test_vit/s1.json"]


def test_tiles_that_cannot_be_read_are_left_out_and_counted(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(tmp_path / "in", tissue_image())
    run(embedder, table, tmp_path / "whole")
    whole = bag_of(tmp_path / "whole" / GRID)
    read = embed.TiledWork._tiles

    def some(self: Any, view: Any, longest: int) -> Any:
        for number, image in read(self, view, longest):
            if number in (2, 5):
                view.unreadable.count(number, HistillError("torn", code=Exit.INPUT))
            else:
                yield number, image

    monkeypatch.setattr(embed.TiledWork, "_tiles", some)
    run(embedder, table, tmp_path / "out", most_unreadable=0.5)
    bag = bag_of(tmp_path / "out" / GRID)
    left = np.delete(np.arange(len(whole)), (2, 5))
    assert whole.coords is not None
    assert np.array_equal(bag.coords, whole.coords[left])
    assert np.allclose(bag.features, whole.features[left], atol=1e-5)
    assert list(run(embedder, table, tmp_path / "none").quarantined) == ["s0"]


def test_features_that_are_not_numbers_end_the_run(tmp_path: Path) -> None:
    broken = build_embedder("test_vit", "none")
    with torch.no_grad():
        next(broken.trunk().parameters()).fill_(float("nan"))
    with pytest.raises(HistillError, match="NaN or infinity") as caught:
        run(broken, table_of(tmp_path / "in", tissue_image()), tmp_path / "out")
    assert caught.value.code == Exit.NUMBERS
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_more_pixels_than_a_network_takes_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="--batch") as caught:
        run(embedder, table_of(tmp_path / "in", tissue_image()), tmp_path / "out", tile=4096, batch_size=64)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("mpp", "tile", "overlap", "name"),
    [
        (0.5, 256, 0.0, "20x_256px_0px_overlap"),
        (0.25, 512, 0.5, "40x_512px_256px_overlap"),
        (4.0, 224, 0.0, "4mpp_224px_0px_overlap"),
    ],
)
def test_folders_are_called_as_trident_calls_them(mpp: float, tile: int, overlap: float, name: str) -> None:
    assert grid_folder(EmbedSettings(mpp=mpp, tile=tile, overlap=overlap)) == name


@pytest.mark.parametrize("identity", ["TCGA-CR-7395-01A-01-TS1", "slide 0", "ü.1", "patient_000_node_0"])
def test_files_are_called_as_the_slide_where_that_can_be(identity: str) -> None:
    assert slide_name(identity) == identity


@pytest.mark.parametrize("identity", ["a/b", "..", ".x", "", "x" * 300, "a\nb", "a-0123456789", "a:b"])
def test_other_ids_get_a_name_of_their_own(identity: str) -> None:
    name = slide_name(identity)
    assert name != identity
    assert not set(name) & set("/\\:\n ")
    assert slide_name(name) != name


def test_a_real_slide(data_root: Path, tmp_path: Path) -> None:
    weights = data_root / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
    path = data_root / "slides" / "CMU-1-Small-Region.svs"
    table = Manifest((Sample("CMU-1", path, patient="p"),), DatasetCard(classes=("slide",)), path, "digest")
    squeezenet = build_embedder("squeezenet1_0", str(weights))
    # 2 um/px, to be quick; the slide's own is 0.499.
    run(squeezenet, table, tmp_path / "out", mpp=2.0)
    bag = read_bag(tmp_path / "out" / "5x_64px_0px_overlap" / "features_squeezenet1_0" / "CMU-1.h5")
    assert bag.features.shape[1] == 512
    assert len(bag) > 20
    assert bag.coords is not None
    assert bag.mpp == pytest.approx(0.499)
    with open_slide(path) as slide, torch.inference_mode():
        frame = slide.at(2.0)
        steps = np.rint(bag.coords / frame.scale).astype(int)
        for number in (0, len(bag) // 2, len(bag) - 1):
            x, y = steps[number].tolist()
            image = torch.from_numpy(slide.read_as(frame.region(x, y, SIDE, SIDE), SIDE, SIDE))
            alone = squeezenet(image.permute(2, 0, 1)[None].float() / 255)[0].numpy()
            assert np.allclose(alone, bag.features[number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("there", "batch"), [("cpu", 16), ("cuda", 64)])
def test_as_many_tiles_go_in_one_call_as_suit_the_machine(
    there: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histill.engine.embed.accelerator_of", lambda machine: there)
    assert suited_batch(Machine()) == batch
    assert EmbedSettings().batch_size == 16
