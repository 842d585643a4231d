"""Slide labels from bags: the loss by hand, what is seen, what chooses the epoch, and tables that say too little."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MACHINE, PARTS, SLIDES, WIDTH, tiny_bag, tiny_bags, tiny_config

from histill.core.card import DatasetCard
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.data.bag_batches import BagBatch, Bags, feature_moments
from histill.data.bags import read_bag
from histill.engine.training import load, train
from histill.methods import find
from histill.methods.mil import Config, Mil, class_weights
from histill.nets.mil_heads import MilHeadSettings

SEEN = {"width": WIDTH, "encoder": "made up"}
HEADS = ("mean", "max", "abmil", "gated_abmil", "dsmil", "transmil")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_bags(tmp_path_factory.mktemp("mil"))


def built(card: DatasetCard = SLIDES, **changed: Any) -> Mil:
    torch.manual_seed(0)
    return Mil(resolve(Config, ("tiny", {**tiny_config(Mil).model_dump(), **changed})), card.as_classes(), SEEN).eval()


def head(name: str) -> dict[str, Any]:
    return {**PARTS[MilHeadSettings], "head": name}


def whole(table: Manifest) -> BagBatch:
    (batch,) = Bags(table, len(table.samples), WIDTH).epoch(0, 0)
    return batch


@pytest.mark.parametrize("name", HEADS)
def test_a_prediction_is_the_softmax_of_the_head_on_standardised_features(table: Manifest, name: str) -> None:
    method = built(head=head(name))
    method.mean.copy_(torch.arange(WIDTH) / 10)
    method.deviation.copy_(torch.arange(1, WIDTH + 1))
    bag = read_bag(table.samples[1].path)
    found = method.predict(bag)
    features = (torch.from_numpy(bag.features) - torch.arange(WIDTH) / 10) / torch.arange(1, WIDTH + 1)
    steps = torch.tensor([[i % 6, i // 6] for i in range(len(bag))])
    with torch.no_grad():
        output = method.head(features[None], torch.ones(1, len(bag), dtype=torch.bool), steps[None].float())
    logits = output.logits[0].double()
    np.testing.assert_allclose(found.probabilities, logits.exp() / logits.exp().sum(), rtol=1e-5)
    assert found.probabilities.dtype == np.float32
    if name in ("abmil", "gated_abmil", "dsmil"):
        assert found.attention is not None
        assert found.attention.shape == (len(bag),)
        assert found.attention.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(found.attention, output.attention[0], rtol=1e-5)
    else:
        assert found.attention is None


@pytest.mark.parametrize("name", HEADS)
def test_a_bag_in_a_batch_is_told_as_it_is_alone(table: Manifest, name: str) -> None:
    method = built(head=head(name))
    with torch.no_grad():
        together = method(whole(table)).logits.softmax(1)
    for i, sample in enumerate(table.samples):
        np.testing.assert_allclose(together[i], method.predict(read_bag(sample.path)).probabilities, atol=1e-5)


def test_the_loss_is_the_cross_entropy_by_hand(table: Manifest) -> None:
    method, batch = built(), whole(table)
    with torch.no_grad():
        logits = method(batch).logits.double()
        plain = method.loss(batch)
        method.balance = torch.tensor([0.5, 3.0])
        balanced = method.loss(batch)["CE"]
    each = [float(-(logits[i, i % 2] - torch.logsumexp(logits[i], 0))) for i in range(8)]
    assert list(plain) == ["CE"]
    assert float(plain["CE"]) == pytest.approx(sum(each) / 8, rel=1e-5)
    weighed = [value * (0.5, 3.0)[i % 2] for i, value in enumerate(each)]
    assert float(balanced) == pytest.approx(sum(weighed) / 8, rel=1e-5)


def test_classes_weigh_alike_and_a_bag_1_on_average(table: Manifest) -> None:
    three = DatasetCard(classes=("plain", "rare", "never"))
    samples = [replace(sample, labels=("rare",) if i == 4 else ("plain",)) for i, sample in enumerate(table.samples)]
    for card in (SLIDES, three):
        weights = class_weights(replace(table, samples=tuple(samples), card=card))
        np.testing.assert_allclose(weights[:2], [8 / (2 * 7), 8 / (2 * 1)])
        assert float(7 * weights[0]) == pytest.approx(float(weights[1]))
        assert float(7 * weights[0] + weights[1]) == pytest.approx(8)


class Fitted:
    """What `fit` hands to a run, without training."""

    def __init__(self, method: Mil, table: Manifest, val: Manifest | None) -> None:
        self.workers, self.journal = 0, self
        method.fit(table, val, self)  # type: ignore[arg-type]

    def say(self, *event: object, **details: object) -> None:
        pass

    def train(self, stage: Any) -> None:
        self.stage = stage


def test_features_are_standardised_by_the_training_bags_alone(table: Manifest) -> None:
    learn, val = table.of_split("train"), table.of_split("val")
    method = built(standardise=True)
    Fitted(method, learn, val)
    mean, deviation = feature_moments(learn, WIDTH)
    np.testing.assert_array_equal(method.mean, mean)
    np.testing.assert_array_equal(method.deviation, deviation)
    plain = built(standardise=False)
    Fitted(plain, learn, val)
    assert plain.mean.tolist() == [0] * WIDTH
    assert plain.deviation.tolist() == [1] * WIDTH


@pytest.mark.parametrize("most", [0, 5, 100])
def test_an_epoch_sees_as_many_tiles_as_are_asked_for_and_others_the_next_time(table: Manifest, most: int) -> None:
    bags = Fitted(built(most=most), table, None).stage.batches
    sizes = {sample.id: len(read_bag(sample.path)) for sample in table.samples}
    seen = []
    for epoch in range(2):
        tiles = {}
        for batch in bags.epoch(epoch, 0):
            for i, name in enumerate(batch.ids):
                assert int(batch.present[i].sum()) == (min(most, sizes[name]) if most else sizes[name])
                places = batch.places[i][batch.present[i]].tolist()
                assert places == sorted(places, key=lambda place: (place[1], place[0]))
                tiles[name] = places
        seen.append(tiles)
    both = seen[0].keys() & seen[1].keys()
    assert any(seen[0][name] != seen[1][name] for name in both) == (most == 5)


def test_readers_of_other_processes_can_be_given_what_draws(table: Manifest) -> None:
    bags = Fitted(built(most=5), table, None).stage.batches
    twin = pickle.loads(pickle.dumps(bags))
    for one, other in zip(bags.epoch(0, 0), twin.epoch(0, 0), strict=True):
        assert torch.equal(one.features, other.features)


def test_every_head_learns_what_is_easily_learnt(table: Manifest, tmp_path: Path) -> None:
    # A rare tile says it, so what keeps the most of single tiles is asked.
    schedule = {"epochs": 25, "batch_size": 3, "optimizer": "adamw", "learning_rate": 0.03, "head_factor": 1.0}
    config = resolve(Config, ("tiny", {"head": head("max"), "learn": schedule, "select": "last"}))
    train(Mil, table, None, folder=tmp_path, config=config, seed=0, machine=MACHINE)
    method = load(tmp_path, find).method
    for sample in table.samples:
        assert SLIDES.classes[method.predict(read_bag(sample.path)).probabilities.argmax()] == sample.labels[0]


def test_the_epoch_of_the_least_validation_loss_is_kept(table: Manifest, tmp_path: Path) -> None:
    schedule = {"epochs": 6, "batch_size": 3, "learning_rate": 2.0, "head_factor": 1.0, "momentum": 0.0, "clip": 1.0}
    config = resolve(Config, ("tiny", {"head": head("mean"), "learn": schedule, "select": "loss"}))
    train(Mil, table, None, folder=tmp_path, config=config, seed=0, machine=MACHINE)
    scores = json.loads((tmp_path / "stages/learn/record.json").read_bytes())["details"]["scores"]
    method = load(tmp_path, find).method
    losses = []
    for sample in table.of_split("val").samples:
        told = method.predict(read_bag(sample.path)).probabilities
        losses.append(-np.log(told[SLIDES.classes.index(sample.labels[0])]))
    assert max(scores) == pytest.approx(-np.mean(losses), rel=1e-3)
    assert max(scores) > min(scores)


def test_the_epoch_of_the_greatest_validation_auc_is_kept(table: Manifest, tmp_path: Path) -> None:
    schedule = {"epochs": 6, "batch_size": 3, "learning_rate": 2.0, "head_factor": 1.0, "momentum": 0.0, "clip": 1.0}
    config = resolve(Config, ("tiny", {"head": head("mean"), "learn": schedule}))
    train(Mil, table, None, folder=tmp_path, config=config, seed=0, machine=MACHINE)
    scores = json.loads((tmp_path / "stages/learn/record.json").read_bytes())["details"]["scores"]
    method = load(tmp_path, find).method
    truth, said, losses = [], [], []
    for sample in table.of_split("val").samples:
        told = method.predict(read_bag(sample.path)).probabilities
        truth.append(SLIDES.classes.index(sample.labels[0]))
        said.append(told[1])
        losses.append(-np.log(told[truth[-1]]))
    won = [
        (one > other) + (one == other) / 2
        for one, rare in zip(said, truth, strict=True)
        for other, also in zip(said, truth, strict=True)
        if rare and not also
    ]
    assert max(scores) == pytest.approx(np.mean(won) - 1e-3 * np.mean(losses) / len(losses) ** 2, abs=1e-6)
    assert len(set(scores)) > 1


def test_of_equal_auc_the_epoch_of_the_lower_loss_is_kept(table: Manifest, tmp_path: Path) -> None:
    schedule = {"epochs": 4, "batch_size": 3, "learning_rate": 0.05, "head_factor": 1.0, "momentum": 0.0}
    scores = {}
    for by in ("auc", "loss"):
        config = resolve(Config, ("tiny", {"head": head("mean"), "learn": schedule, "select": by}))
        train(Mil, table, None, folder=tmp_path / by, config=config, seed=0, machine=MACHINE)
        record = json.loads((tmp_path / by / "stages/learn/record.json").read_bytes())
        scores[by] = np.array(record["details"]["scores"])
    losses, n = -scores["loss"], len(table.of_split("val").samples)
    areas = scores["auc"] + 1e-3 * losses / n**2
    assert np.ptp(areas) < 1e-9
    assert np.ptp(losses) > 1e-3
    assert scores["auc"].argmax() == losses.argmin()


def test_validation_bags_of_one_class_are_judged_by_their_loss(table: Manifest, tmp_path: Path) -> None:
    one = table.of_split("val").samples[0].labels
    kept = [each for each in table.samples if each.split != "val" or each.labels == one]
    schedule = {"epochs": 3, "batch_size": 3, "learning_rate": 0.1, "head_factor": 1.0}
    config = resolve(Config, ("tiny", {"head": head("mean"), "learn": schedule}))
    train(Mil, replace(table, samples=tuple(kept)), None, folder=tmp_path, config=config, seed=0, machine=MACHINE)
    said = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [each["by"] for each in said if each["event"] == "selecting"] == ["loss"]
    assert any("of one class" in each.get("text", "") for each in said)


@pytest.mark.parametrize(
    ("labels", "what"), [((), "has no label"), (("plain", "rare"), "has the labels plain and rare")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_slide_of_no_class_or_two_is_refused_by_its_line(
    table: Manifest, tmp_path: Path, labels: tuple[str, ...], what: str, split: str
) -> None:
    at = next(i for i, sample in enumerate(table.samples) if sample.split == split)
    samples = list(table.samples)
    samples[at] = replace(samples[at], labels=labels)
    wrong = replace(table, samples=tuple(samples))
    with pytest.raises(HistillError, match=f"line {at + 2} .slide {at}. {what}") as caught:
        train(Mil, wrong, None, folder=tmp_path, config=tiny_config(Mil), seed=0, machine=MACHINE)
    assert caught.value.code == Exit.USAGE
    assert str(caught.value).count("line") == 1


def test_one_class_alone_is_refused(table: Manifest, tmp_path: Path) -> None:
    alone = replace(table, card=DatasetCard(classes=("plain",)))
    with pytest.raises(HistillError, match=r"there is one class alone\. Label two or more") as caught:
        train(Mil, alone, None, folder=tmp_path, config=tiny_config(Mil), seed=0, machine=MACHINE)
    assert caught.value.code == Exit.USAGE


def test_the_largest_bags_are_taken(table: Manifest) -> None:
    found = built().predict(tiny_bag("large", 20_000))
    assert found.attention is not None
    assert found.attention.sum() == pytest.approx(1, abs=1e-4)
