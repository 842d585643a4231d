"""What every method owes; a new one is tested by being there."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MACHINE, tiny_card, tiny_config, tiny_table

from histill import methods
from histill.core.config import Strict, resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.images import read_image
from histill.data.tiles import Tile, collate
from histill.engine.method import Method
from histill.engine.run import Run
from histill.engine.training import load, train

ALL = methods.names()
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
    return tiny_table(tmp_path_factory.mktemp("methods") / "table", tiny_card(methods.find(name)))


def classes(name: str) -> Classes:
    return tiny_card(methods.find(name)).as_classes()


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
        train(kind, table, None, folder=folder, config=tiny_config(kind), seed=0, machine=MACHINE)
        yield Seen(kind, seen["method"], seen["learn"], table, folder)
    torch.set_num_threads(before)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def again(seen: Seen) -> None:
    train(seen.kind, seen.table, None, folder=seen.folder, config=tiny_config(seen.kind), seed=0, machine=MACHINE)


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


@pytest.mark.parametrize(("h", "w"), [(37, 53), (48, 48), (5, 3)])
def test_a_prediction_is_a_probability_for_every_pixel(name: str, h: int, w: int) -> None:
    kind = methods.find(name)
    torch.manual_seed(0)
    method = kind(tiny_config(kind), classes(name)).eval()
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    found = method.predict(image)
    assert found.labels.shape == (h, w)
    assert found.labels.dtype == np.uint8
    assert found.probabilities.shape == (len(classes(name)), h, w)
    assert found.probabilities.dtype == np.float32
    assert (found.probabilities >= 0).all()
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.labels, found.probabilities.argmax(0))


def test_two_classes_and_a_background_do_as_well(name: str) -> None:
    kind = methods.find(name)
    two = Classes(("rest", "tumour"), background="rest")
    method = kind(tiny_config(kind), two).eval()
    assert method.predict(np.zeros((32, 32, 3), np.uint8)).probabilities.shape == (2, 32, 32)


def test_a_patchs_prediction_does_not_depend_on_its_neighbours(name: str, table: Manifest) -> None:
    kind = methods.find(name)
    torch.manual_seed(0)
    method = kind(tiny_config(kind), classes(name)).eval()
    nothing = np.zeros((0, 48, 48), np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        both = method.probabilities(
            collate([Tile("", each, nothing, np.zeros(len(classes(name)), np.float32)) for each in images])
        )
    for i, image in enumerate(images):
        np.testing.assert_allclose(both[i].numpy(), method.predict(image).probabilities, atol=1e-4)


def test_what_learns_from_image_labels_never_sees_a_mask(trained: Seen) -> None:
    masks = [sample.mask for sample in trained.learn.samples]
    assert len(masks) == 6
    assert all(mask is None for mask in masks) == (trained.kind.card.needs != "masks")
    assert all(sample.labels for sample in trained.learn.samples)


def test_training_changes_the_weights(trained: Seen) -> None:
    torch.manual_seed(0)
    fresh = trained.kind(tiny_config(trained.kind), trained.table.classes).state_dict()
    for part in {key.split(".")[0] for key in fresh}:
        keys = [key for key in fresh if key.startswith(f"{part}.")]
        assert any(not torch.equal(fresh[key], trained.method.state_dict()[key]) for key in keys), part


def test_a_loaded_model_predicts_the_same_bytes(trained: Seen) -> None:
    loaded = load(trained.folder, methods.find)
    assert loaded.card == trained.table.card
    assert loaded.warnings == trained.table.warnings
    for sample in trained.table.samples[-2:]:
        image = read_image(sample.path)
        first, second = trained.method.predict(image), loaded.method.predict(image)
        assert first.probabilities.tobytes() == second.probabilities.tobytes()
        assert first.labels.tobytes() == second.labels.tobytes()


def test_training_a_finished_run_again_changes_nothing(trained: Seen) -> None:
    before = tree(trained.folder)
    again(trained)
    assert tree(trained.folder) == before


def test_results_do_not_depend_on_the_readers(trained: Seen, tmp_path: Path) -> None:
    config = tiny_config(trained.kind)
    train(trained.kind, trained.table, None, folder=tmp_path, config=config, seed=0, machine=MACHINE, workers=2)
    assert tree(tmp_path) == tree(trained.folder)


def test_a_pseudo_mask_that_changed_is_made_again(trained: Seen) -> None:
    masks = sorted(trained.folder.glob("*/*/*.png"))
    assert masks or trained.kind.card.needs != "image labels"
    if masks:
        before = tree(trained.folder)
        content = bytearray(masks[0].read_bytes())
        content[len(content) // 2] ^= 1
        masks[0].write_bytes(content)
        again(trained)
        assert tree(trained.folder) == before


def test_other_settings_are_refused(trained: Seen) -> None:
    with pytest.raises(HistillError, match="seed: 0 then, 1 now") as caught:
        train(
            trained.kind,
            trained.table,
            None,
            folder=trained.folder,
            config=tiny_config(trained.kind),
            seed=1,
            machine=MACHINE,
        )
    assert caught.value.code == Exit.USAGE


def test_a_table_without_what_is_needed_is_refused_by_line(name: str, table: Manifest, tmp_path: Path) -> None:
    kind = methods.find(name)
    lacking = {"labels": ()} if kind.card.needs != "masks" else {"mask": None}
    bare = replace(table, samples=tuple(replace(sample, **lacking) for sample in table.samples))
    with pytest.raises(HistillError, match="line 2") as caught:
        train(kind, bare, None, folder=tmp_path, config=tiny_config(kind), seed=0, machine=MACHINE)
    assert caught.value.code == Exit.USAGE


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
