"""Which rows are learnt from, which choose, and what judges an epoch."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest
from histill.data.images import read_image
from histill.data.tiles import TileBatch, TrueMasks
from histill.engine.method import Card, Method
from histill.engine.run import Machine, Run
from histill.engine.select import selection
from histill.engine.team import Team
from histill.engine.tile_method import TileMethod
from histill.engine.training import load, train
from histill.losses.classification import pooled_mask_loss
from histill.methods import find
from histill.metrics.segmentation import confusion, mean_iou

MACHINE = Machine(accelerator="cpu", precision="float32")


class Settings(Strict):
    select: str = "auto"


class Listener(TileMethod):
    """Learns nothing and remembers what it was shown."""

    card = Card("listener", "listener", "segment", "image labels", "none")
    Config = Settings
    shown: tuple[Manifest, Manifest | None]

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.weight = torch.nn.Parameter(torch.rand(2))

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Remember."""
        type(self).shown = train, val

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The red channel."""
        red = batch.images[:, :1]
        return torch.cat([1 - red, red], dim=1)


class Seeing(Listener):
    card = replace(Listener.card, needs="masks")


def shown(
    table: Manifest, folder: Path, val: Manifest | None = None, kind: type[Listener] = Listener, select: str = "auto"
) -> tuple[list[str], list[str] | None]:
    train(kind, table, val, folder=folder, config=Settings(select=select), seed=0, machine=MACHINE)
    learn, choose = kind.shown
    return [s.id for s in learn.samples], None if choose is None else [s.id for s in choose.samples]


def split(table: Manifest, *splits: str) -> Manifest:
    return replace(table, samples=tuple(replace(s, split=p) for s, p in zip(table.samples, splits, strict=True)))


def test_test_rows_are_never_looked_at(table: Manifest, tmp_path: Path) -> None:
    marked = split(table, "train", "test", "val", "train", "test", "")
    assert shown(marked, tmp_path / "r") == (["s0", "s3"], ["s2"])


def test_without_validation_a_part_is_cut_off_by_patient(table: Manifest, tmp_path: Path) -> None:
    learn, choose = shown(table, tmp_path / "a")
    assert choose is not None
    assert len(choose) == 2
    assert sorted(learn + choose) == [f"s{i}" for i in range(6)]
    patients = {s.id: s.patient for s in table.samples}
    assert not {patients[name] for name in learn} & {patients[name] for name in choose}
    assert shown(table, tmp_path / "b", select="last") == ([f"s{i}" for i in range(6)], None)
    others = replace(table, samples=tuple(replace(s, patient=f"other {s.patient}") for s in table.samples))
    assert shown(table, tmp_path / "c", val=others) == ([f"s{i}" for i in range(6)], [f"s{i}" for i in range(6)])


def test_a_validation_table_shares_no_patient_and_has_rows_to_choose_with(table: Manifest, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="3 patients are also learnt from") as caught:
        shown(table, tmp_path / "a", val=table)
    assert caught.value.code == Exit.USAGE
    official = replace(table, card=table.card.model_copy(update={"split_source": "official"}))
    assert shown(official, tmp_path / "b", val=official)[1] == [f"s{i}" for i in range(6)]
    with pytest.raises(HistillError, match="never chooses"):
        shown(table, tmp_path / "c", val=split(table, *["test"] * 6))


def test_a_method_of_image_labels_is_shown_no_mask_to_learn_from(table: Manifest, tmp_path: Path) -> None:
    shown(table, tmp_path / "weak")
    assert all(sample.mask is None for sample in Listener.shown[0].samples)
    shown(table, tmp_path / "strong", kind=Seeing)
    assert all(sample.mask is not None for sample in Seeing.shown[0].samples)


def test_an_image_that_is_exchanged_while_a_run_rests_is_noticed(table: Manifest, tmp_path: Path) -> None:
    shown(table, tmp_path / "run")
    shown(table, tmp_path / "run")
    shutil.copy(table.samples[3].path, table.samples[0].path)
    with pytest.raises(HistillError, match="files:") as caught:
        shown(table, tmp_path / "run")
    assert caught.value.code == Exit.USAGE


def test_a_test_row_of_the_validation_table_chooses_nothing(table: Manifest, tmp_path: Path) -> None:
    others = replace(table, samples=tuple(replace(s, patient=f"other {s.patient}") for s in table.samples))
    val = split(others, "val", "test", "val", "", "test", "test")
    assert shown(table, tmp_path / "r", val=val)[1] == ["s0", "s2", "s3"]


def test_tables_that_do_not_fit_are_refused(table: Manifest, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="split train") as caught:
        shown(split(table, *["test"] * 6), tmp_path / "a")
    assert caught.value.code == Exit.USAGE
    other = replace(table, card=table.card.model_copy(update={"classes": ("a", "c")}))
    with pytest.raises(HistillError, match="classes") as caught:
        shown(table, tmp_path / "b", val=other)
    assert caught.value.code == Exit.USAGE


def test_a_model_comes_back_and_a_damaged_one_does_not(
    table: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(Listener, table, None, folder=tmp_path, config=Settings(), seed=0, machine=MACHINE)
    asked: list[str] = []

    def finder(name: str) -> type[Method]:
        asked.append(name)
        return Listener

    trained = load(tmp_path, finder)
    assert asked == ["listener"]
    assert load(model, finder).digest == trained.digest
    assert not trained.method.training
    assert trained.method.classes == table.classes
    config = (model / "config.json").read_bytes()
    for name, content in (("model.safetensors", b"?"), ("config.json", config.replace(b"auto", b"last"))):
        good = (model / name).read_bytes()
        (model / name).write_bytes(content)
        with pytest.raises(HistillError, match=name) as caught:
            load(model, finder)
        assert caught.value.code == Exit.INPUT
        (model / name).write_bytes(good)
    for content in (b"{", b"[]", b'{"method": "listener"}'):
        (model / "config.json").write_bytes(content)
        with pytest.raises(HistillError, match="damaged") as caught:
            load(model, finder)
        assert caught.value.code == Exit.INPUT
    with pytest.raises(HistillError, match="no finished model"):
        load(tmp_path / "nowhere", finder)


def test_a_model_names_its_method_and_nothing_is_imported_for_it(table: Manifest, tmp_path: Path) -> None:
    train(Listener, table, None, folder=tmp_path, config=Settings(), seed=0, machine=MACHINE)
    with pytest.raises(HistillError, match="no method 'listener'") as caught:
        load(tmp_path, find)
    assert caught.value.code == Exit.USAGE


# --- selection --------------------------------------------------------------------------------------------------------


def judge(table: Manifest, select: Any) -> tuple[float | None, str | None]:
    events: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(
        fabric=Fabric(accelerator="cpu", devices=1), journal=Journal(None, events.append), workers=0, team=Team()
    )
    score = selection(Listener(Settings(), table.classes), table, select, run)
    return (None if score is None else score()), (events[0]["by"] if events else None)


def test_masks_judge_by_pooled_mean_iou(table: Manifest) -> None:
    total = np.zeros((2, 2), np.int64)
    for sample in table.samples:
        image = read_image(sample.path)
        truth = TrueMasks(table.card)(sample, image)[0]
        total += confusion(truth, (image[..., 0] / 255 > 0.5).astype(np.uint8), 2)
    assert IGNORE not in np.unique(truth)
    score, by = judge(table, "auto")
    assert by == "masks"
    assert score == pytest.approx(mean_iou(total))


def test_labels_judge_where_there_is_no_mask(table: Manifest) -> None:
    score, by = judge(table.without_truth(), "auto")
    assert by == "labels"
    assert judge(table, "labels") == (score, "labels")
    assert score is not None
    assert score < 0
    squares = replace(table, samples=(table.samples[0],))  # 32 x 32: no padding
    red = torch.from_numpy(read_image(squares.samples[0].path)[..., 0] / 255).float()
    labels = torch.from_numpy(table.classes.multi_hot(squares.samples[0].labels))[None]
    expected = -float(pooled_mask_loss(torch.stack([1 - red, red])[None], labels))
    assert judge(squares, "labels")[0] == pytest.approx(expected, rel=1e-5)


def test_masks_that_are_asked_for_and_missing_are_named(table: Manifest) -> None:
    with pytest.raises(HistillError, match="line 2"):
        judge(table.without_truth(), "masks")
    assert judge(table, "last") == (None, None)


def test_rows_that_name_no_class_cannot_judge_by_labels(table: Manifest) -> None:
    silent = replace(table, samples=tuple(replace(s, labels=(), mask=None) for s in table.samples))
    with pytest.raises(HistillError, match="has no label"):
        selection(Listener(Settings(), Classes(("a", "b"))), silent, "auto", run=None)  # type: ignore[arg-type]
