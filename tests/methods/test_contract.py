"""What every method owes, and what those owe that look at pixels or at bags; a new one is tested by being there."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny import MACHINE, WIDTH, table_for, tiny_bag, tiny_card, tiny_config

from histill import methods
from histill.core.config import Strict, resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.bags import read_bag
from histill.data.images import read_image
from histill.data.tiles import Tile, collate
from histill.engine.bag_method import BagMethod
from histill.engine.method import Method
from histill.engine.run import Run
from histill.engine.tile_method import TileMethod
from histill.engine.training import load, train
from histill.formats.trident import write_bag

ALL = methods.names()
OF_PIXELS, OF_BAGS = (
    [name for name in ALL if issubclass(methods.find(name), kind)] for kind in (TileMethod, BagMethod)
)
WRECK = Path(__file__).with_name("wreck.py")


@dataclass
class Seen:
    """What a training showed of itself.

    Attributes:
        kind: the method's class, with a spy on its `fit`.
        method: the object that was trained.
        learn: what it was given to learn from.
        folder: its run.
    """

    kind: type[Method]
    method: Method
    learn: Manifest
    table: Manifest
    folder: Path


@pytest.fixture(scope="module", params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def table(name: str, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return table_for(methods.find(name), tmp_path_factory.mktemp("methods") / "table")


@pytest.fixture(scope="module")
def trained(name: str, table: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    kind = methods.find(name)
    seen: dict[str, Any] = {}
    fit = kind.fit

    def spy(self: Method, learn: Manifest, val: Manifest | None, run: Run) -> None:
        seen.update(method=self, learn=learn)
        fit(self, learn, val, run)

    folder = tmp_path_factory.mktemp(name)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "fit", spy)
        train(kind, table, None, folder=folder, config=tiny_config(kind, table), seed=0, machine=MACHINE)
        yield Seen(kind, seen["method"], seen["learn"], table, folder)
    torch.set_num_threads(before)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def untrained(kind: type[Method], table: Manifest) -> Any:
    """A method that has learned nothing yet, with the weights that training starts from or others."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    return kind.build(config, table.classes, kind.look(config, table)).eval()


def said_of(method: Any, sample: Any) -> dict[str, Any]:
    """All that a method says of a sample, by its name, to the last bit."""
    if isinstance(sample, Path):
        sample = read_bag(sample) if isinstance(method, BagMethod) else read_image(sample)
    found = method.summarise(sample, 5) if method.card.task == "summarize" else method.predict(sample)
    return {field.name: np.array(getattr(found, field.name)).tolist() for field in fields(found)}


def again(seen: Seen) -> None:
    config = tiny_config(seen.kind, seen.table)
    train(seen.kind, seen.table, None, folder=seen.folder, config=config, seed=0, machine=MACHINE)


def test_the_card_is_filled_in(name: str) -> None:
    card = methods.find(name).card
    assert card.name == name
    assert all(getattr(card, field.name) for field in fields(card) if field.name != "ours")
    assert all(card.ours)
    assert methods.about(name).splitlines()[0]


def test_the_defaults_are_valid_and_survive_json(name: str) -> None:
    kind = methods.find(name)
    for config in (kind.Config(), tiny_config(kind)):
        assert resolve(kind.Config, ("again", json.loads(config.model_dump_json()))) == config


def test_every_setting_has_a_help(name: str) -> None:
    def settings(model: type[Strict], prefix: str) -> Iterator[tuple[str, str | None]]:
        for field, info in model.model_fields.items():
            yield f"{prefix}{field}", info.description
            if isinstance(info.annotation, type) and issubclass(info.annotation, Strict):
                yield from settings(info.annotation, f"{prefix}{field}.")

    assert [setting for setting, text in settings(methods.find(name).Config, "") if not text] == []


def test_what_does_not_learn_from_masks_never_sees_one(trained: Seen) -> None:
    masks = [sample.mask for sample in trained.learn.samples]
    assert len(masks) == 6
    assert all(mask is None for mask in masks) == (trained.kind.card.needs != "masks")
    boxes = [sample.boxes for sample in trained.learn.samples]
    assert (None not in boxes) == (trained.kind.card.needs == "boxes")
    assert all(sample.labels for sample in trained.learn.samples if sample.boxes is None)


def test_training_changes_the_weights(trained: Seen) -> None:
    fresh = untrained(trained.kind, trained.learn).state_dict()
    for part in {key.split(".")[0] for key in fresh}:
        keys = [key for key in fresh if key.split(".")[0] == part]
        assert any(not torch.equal(fresh[key], trained.method.state_dict()[key]) for key in keys), part


def test_a_loaded_model_predicts_the_same_bytes(trained: Seen) -> None:
    loaded = load(trained.folder, methods.find)
    assert loaded.card == trained.table.card
    assert loaded.warnings == trained.table.warnings
    for sample in trained.table.samples[-2:]:
        assert said_of(trained.method, sample.path) == said_of(loaded.method, sample.path)


def test_training_a_finished_run_again_changes_nothing(trained: Seen) -> None:
    before = tree(trained.folder)
    again(trained)
    assert tree(trained.folder) == before


def test_results_do_not_depend_on_the_readers(trained: Seen, tmp_path: Path) -> None:
    config = tiny_config(trained.kind, trained.table)
    train(trained.kind, trained.table, None, folder=tmp_path, config=config, seed=0, machine=MACHINE, workers=2)
    assert tree(tmp_path) == tree(trained.folder)


def test_what_was_made_for_a_later_stage_and_changed_is_made_again(trained: Seen) -> None:
    made = sorted(each for each in trained.folder.rglob("*") if each.suffix in (".png", ".npy"))
    assert made or trained.kind.card.needs != "image labels"
    if made:
        before = tree(trained.folder)
        content = bytearray(made[0].read_bytes())
        content[len(content) // 2] ^= 1
        made[0].write_bytes(content)
        again(trained)
        assert tree(trained.folder) == before


def test_other_settings_are_refused(trained: Seen) -> None:
    with pytest.raises(HistillError, match="seed: 0 then, 1 now") as caught:
        train(
            trained.kind,
            trained.table,
            None,
            folder=trained.folder,
            config=tiny_config(trained.kind, trained.table),
            seed=1,
            machine=MACHINE,
        )
    assert caught.value.code == Exit.USAGE


def test_a_table_without_what_is_needed_is_refused_by_line(name: str, table: Manifest, tmp_path: Path) -> None:
    kind = methods.find(name)
    if kind.card.needs == "bags":
        pytest.skip("a table of nothing but paths is all it needs")
    needed = {"masks": {"mask": None}, "boxes": {"boxes": None}}
    lacking = needed.get(kind.card.needs, {"labels": ()})
    bare = replace(table, samples=tuple(replace(sample, **lacking) for sample in table.samples))
    with pytest.raises(HistillError, match="line 2") as caught:
        train(kind, bare, None, folder=tmp_path, config=tiny_config(kind), seed=0, machine=MACHINE)
    assert caught.value.code == Exit.USAGE


# --- what looks at pixels ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=OF_PIXELS)
def of_pixels(request: pytest.FixtureRequest) -> type[TileMethod]:
    kind = methods.find(request.param)
    assert issubclass(kind, TileMethod)
    return kind


def fresh(kind: type[TileMethod], classes: Classes | None = None) -> TileMethod:
    torch.manual_seed(0)
    return kind(tiny_config(kind), classes or tiny_card(kind).as_classes()).eval()


@pytest.mark.parametrize(("h", "w"), [(37, 53), (48, 48), (5, 3)])
def test_a_prediction_is_a_probability_for_every_pixel(of_pixels: type[TileMethod], h: int, w: int) -> None:
    method = fresh(of_pixels)
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    found = method.predict(image)
    assert found.labels.shape == (h, w)
    assert found.labels.dtype == np.uint8
    assert found.probabilities.shape == (len(method.classes), h, w)
    assert found.probabilities.dtype == np.float32
    assert (found.probabilities >= 0).all()
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.labels, found.probabilities.argmax(0))


def test_two_classes_and_a_background_do_as_well(of_pixels: type[TileMethod]) -> None:
    method = fresh(of_pixels, Classes(("rest", "tumour"), background="rest"))
    assert method.predict(np.zeros((32, 32, 3), np.uint8)).probabilities.shape == (2, 32, 32)


def test_a_patchs_prediction_does_not_depend_on_its_neighbours(of_pixels: type[TileMethod]) -> None:
    method = fresh(of_pixels)
    nothing = np.zeros((0, 48, 48), np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        both = method.probabilities(
            collate([Tile("", each, nothing, np.zeros(len(method.classes), np.float32)) for each in images])
        )
    for i, image in enumerate(images):
        np.testing.assert_allclose(both[i].numpy(), method.predict(image).probabilities, atol=1e-4)


# --- what looks at bags -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=OF_BAGS)
def of_bags(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Manifest]:
    """An untrained method, and the table that it was built for."""
    kind = methods.find(request.param)
    table = table_for(kind, tmp_path_factory.mktemp("bags"))
    return untrained(kind, table), table


@pytest.mark.parametrize("n", [1, 2, 17, 400])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_bag_of_any_size_and_precision_is_taken(of_bags: tuple[Any, Manifest], n: int, kind: type) -> None:
    bag = tiny_bag("a", n)
    found = said_of(of_bags[0], replace(bag, features=bag.features.astype(kind)))
    assert found == said_of(of_bags[0], replace(bag, features=bag.features.astype(kind)))
    assert all(np.isfinite(np.array(value, float)).all() for value in found.values() if value is not None)


def test_a_bag_without_places_is_taken(of_bags: tuple[Any, Manifest]) -> None:
    assert said_of(of_bags[0], replace(tiny_bag("a", 17), coords=None))


def test_a_bag_of_no_tile_or_of_another_width_is_refused_by_its_file(of_bags: tuple[Any, Manifest]) -> None:
    bag = replace(tiny_bag("a", 3), path=Path("there/a.h5"))
    for features, what in (
        (bag.features[:0], "it holds no tile"),
        (bag.features[:, 1:], "7 wide, those learnt from 8"),
    ):
        with pytest.raises(HistillError, match=f"there/a.h5: .*{what}") as caught:
            said_of(of_bags[0], replace(bag, features=features, coords=None))
        assert caught.value.code == Exit.INPUT


def broken(table: Manifest, folder: Path, features: np.ndarray) -> Manifest:
    """The table with another first bag to learn from."""
    write_bag(folder / "bad.h5", tiny_bag("bad", len(features)))
    with h5py.File(folder / "bad.h5", "a") as file:
        del file["features"]
        file["features"] = features
    first, *others = table.samples
    return replace(table, samples=(replace(first, path=folder / "bad.h5"), *others))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("features", "code", "what"),
    [
        (np.full((3, WIDTH), np.nan, np.float32), Exit.NUMBERS, "bad.h5: its features hold NaN or infinity"),
        (np.ones((3, WIDTH + 1), np.float32), Exit.USAGE, "bags are of 2 widths: 9 .slide 0., 8 .slide 1."),
        (np.zeros((3, WIDTH), np.float32), Exit.INPUT, "bad.h5: its last row is all zeros"),
    ],
)
def test_a_bad_bag_ends_training_with_its_name(
    of_bags: tuple[Any, Manifest], workers: int, features: np.ndarray, code: Exit, what: str, tmp_path: Path
) -> None:
    kind, table = type(of_bags[0]), broken(of_bags[1], tmp_path, features)
    config, folder = tiny_config(kind), tmp_path / "run"
    with pytest.raises(HistillError, match=what) as caught:
        train(kind, table, None, folder=folder, config=config, seed=0, machine=MACHINE, workers=workers)
    assert caught.value.code == code


# --- stopped anywhere -------------------------------------------------------------------------------------------------


def wreck(folder: Path, step: int, names: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a forked process must not find a team of threads that is not there
    done = subprocess.run(
        [sys.executable, str(WRECK), str(folder), str(step), *names], capture_output=True, text=True, check=True
    )
    assert not [line for line in done.stderr.splitlines() if "Error" in line], done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(result: dict[str, Any], *, least: int) -> None:
    for name, ways in result["methods"].items():
        assert ways["clean"] == {"codes": [0], "torn": [], "differs": []}, name
        for way, code in (("killed", result["killed"]), ("full", Exit.STORAGE)):
            stops = ways[way]["codes"][:-1]
            assert len(stops) >= least, "the saboteur struck too seldom"
            assert stops == [code] * len(stops), (name, way)
            assert ways[way]["codes"][-1] == 0, (name, way)
            assert ways[way]["torn"] == [], (name, way)
            assert ways[way]["differs"] == [], (name, way)


def test_stopped_and_gone_on_with_every_method_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(wreck(tmp_path, 16, ALL, monkeypatch), least=2)


@pytest.mark.slow
def test_stopped_at_every_operation_a_method_ends_in_the_same_bytes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(wreck(tmp_path, 0, [name], monkeypatch), least=40)
