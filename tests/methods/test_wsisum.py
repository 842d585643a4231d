"""Summaries: losses and Likeness by hand, what is visible, decoding in parts, the search's scores, bags of any size."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import MACHINE, SLIDES, WIDTH, tiny_bag, tiny_bags, tiny_config
from torch.nn import functional as F

from histill.core.bags import Bag
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.data.bag_batches import BagBatch, Bags, feature_moments
from histill.data.bags import read_bag
from histill.data.slide_targets import JOINED
from histill.engine.training import load, train
from histill.formats.trident import write_slide_vector
from histill.methods import find
from histill.methods.wsisum import ClusterDraw, Config, Telling, WsiSum, scattered
from histill.selection.likeness import Likeness
from histill.selection.search import SearchSettings

SCORES = ("likeness", "reconstruction", "slide", "mixed")
TEACHERS = {"titan": 5, "chief": 3}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_bags(tmp_path_factory.mktemp("wsisum"))


def settings_of(**changed: Any) -> Config:
    return resolve(Config, ("tiny", {**tiny_config(WsiSum).model_dump(), **changed}))


def built(teachers: dict[str, int] | None = None, **changed: Any) -> WsiSum:
    torch.manual_seed(0)
    seen = {"width": WIDTH, "encoder": "made up", "teachers": teachers or {}, "vectors": ""}
    method = WsiSum(settings_of(**changed), SLIDES.as_classes(), seen).eval()
    method.mean.copy_(torch.linspace(-1, 1, WIDTH))
    method.deviation.copy_(torch.linspace(0.5, 2, WIDTH))
    return method


def standardised(method: WsiSum, bag: Bag) -> torch.Tensor:
    return (torch.from_numpy(bag.features) - torch.linspace(-1, 1, WIDTH)) / torch.linspace(0.5, 2, WIDTH)


def batch_of(table: Manifest, vectors: dict[str, Any] | None = None) -> BagBatch:
    (batch,) = Bags(table, len(table.samples), WIDTH, vectors=vectors).epoch(0, 0)
    return batch


# --- learning ---------------------------------------------------------------------------------------------------------


def visible_count(n: int, masked: float) -> int:
    return max(1, int((1 - masked) * n + 0.5))


@pytest.mark.parametrize("masked", [0.875, 0.5, 0.0, 0.99])
def test_the_low_loss_is_the_mean_over_bags_of_the_masked_tiles_errors(table: Manifest, masked: float) -> None:
    method, batch = built(masked=masked), batch_of(table)
    with torch.no_grad():
        losses = method.loss(batch)
    assert list(losses) == ["low"]
    each = []
    for i, sample in enumerate(table.samples):
        bag = read_bag(sample.path)
        n, v = len(bag), visible_count(len(bag), masked)
        features, places, some = standardised(method, bag)[None], batch.places[i : i + 1, :n], torch.ones(1, n) > 0
        with torch.no_grad():
            latent = method.autoencoder.encode(features[:, :v], places[:, :v], some[:, :v])
            told = method.autoencoder.decode(latent, places[:, v:], some[:, v:])
        if v < n:
            each.append(float(((told - features[:, v:]) ** 2).mean()))
    assert float(losses["low"]) == pytest.approx(np.mean(each) if each else 0, rel=1e-4)


def test_of_500_tiles_63_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = built(masked=0.875), []
    encode = method.autoencoder.encode

    def spy(features: torch.Tensor, places: torch.Tensor, present: torch.Tensor) -> Any:
        seen.append(present.sum(dim=1).tolist())
        return encode(features, places, present)

    monkeypatch.setattr(method.autoencoder, "encode", spy)
    present = torch.arange(500)[None] < torch.tensor([[500], [4], [1], [8]])
    nothing = torch.zeros(4, 500, WIDTH)
    method.loss(BagBatch(nothing, torch.zeros(4, 500, 2), present, torch.zeros(4, 2), ("a", "b", "c", "d")))
    assert seen == [[63, 1, 1, 1]]


def test_bags_of_one_tile_have_nothing_to_tell_and_break_nothing() -> None:
    method = built(TEACHERS)
    one = torch.ones(2, 1, dtype=torch.bool)
    said = {name: torch.randn(2, k) for name, k in TEACHERS.items()}
    known = {name: torch.tensor([True, False]) for name in TEACHERS}
    nothing = torch.zeros(2, 1, WIDTH), torch.zeros(2, 1, 2), one, torch.zeros(2, 2)
    losses = method.train().loss(BagBatch(*nothing, ("a", "b"), said, known))
    assert float(losses["low"].detach()) == 0
    torch.stack([*losses.values()]).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.parameters())


def test_the_high_loss_is_over_every_pair_of_slide_and_teacher_that_is_known(table: Manifest) -> None:
    random = np.random.default_rng(0)
    said = {
        "titan": {f"slide {i}": random.normal(size=5).astype(np.float32) for i in (0, 3, 4)},
        "chief": {"slide 3": random.normal(size=3).astype(np.float32)},
    }
    method, batch = built(TEACHERS, weight=0.5), batch_of(table, said)
    with torch.no_grad():
        losses = method.loss(batch)
        low, told = losses["low"], method._reconstructed(batch)[0].teachers
    pairs = []
    for name, by_slide in said.items():
        for slide, true in by_slide.items():
            guess = told[name][int(slide[-1])].numpy()
            cosine = guess @ true / np.linalg.norm(guess) / np.linalg.norm(true)
            pairs.append(1 - cosine + np.mean((guess - true) ** 2))
    assert float(losses["high"]) == pytest.approx(0.5 * np.mean(pairs), rel=1e-4)
    assert torch.equal(low, method._reconstructed(batch)[1])
    assert "high" not in built(TEACHERS, weight=0.0).loss(batch)


def test_the_papers_target_is_a_mean_square_over_known_slides(table: Manifest) -> None:
    random = np.random.default_rng(0)
    said = {JOINED: {f"slide {i}": random.normal(size=4).astype(np.float32) for i in (1, 6)}}
    method, batch = built({JOINED: 4}, target="components"), batch_of(table, said)
    with torch.no_grad():
        found = float(method.loss(batch)["high"])
        told = method._reconstructed(batch)[0].teachers[JOINED].numpy()
    expected = np.mean([np.mean((told[i] - said[JOINED][f"slide {i}"]) ** 2) for i in (1, 6)])
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_batch_of_which_a_teacher_is_silent_costs_nothing(table: Manifest) -> None:
    method = built(TEACHERS)
    losses = method.loss(batch_of(table, {"titan": {}, "chief": {}}))
    assert float(losses["high"].detach()) == 0
    losses["high"].backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in method.parameters())


def test_tiles_are_drawn_by_the_clusters_quotas_in_no_order(tmp_path: Path, table: Manifest) -> None:
    labels = np.repeat(np.arange(3), [12, 6, 2]).astype(np.int32)
    buffer = io.BytesIO()
    np.save(buffer, labels)
    sample = replace(table.samples[0], id="a")
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    drawn = ClusterDraw(tmp_path, 10)
    seen = [drawn(sample, 20, np.random.default_rng(seed)) for seed in range(60)]
    assert all(np.bincount(labels[rows]).tolist() == [6, 3, 1] for rows in seen)
    assert all(len(set(rows.tolist())) == 10 for rows in seen)
    assert {int(row) for rows in seen for row in rows} == set(range(20))
    assert {int(labels[rows[0]]) for rows in seen} == {0, 1, 2}
    # All of a small bag, whose clusters are not asked for.
    assert sorted(drawn(replace(sample, id="none"), 10, np.random.default_rng(0)).tolist()) == list(range(10))
    # What was made anew is read anew, by whatever process.
    twin = pickle.loads(pickle.dumps(drawn))
    buffer.seek(0)
    np.save(buffer, labels[::-1])
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    for each in (drawn, twin):
        assert np.bincount(labels[::-1][each(sample, 20, np.random.default_rng(0))]).tolist() == [6, 3, 1]


@pytest.mark.parametrize("target", ["heads", "components"])
@pytest.mark.parametrize("select", ["reconstruction", "last"])
def test_with_teachers_that_miss_slides_it_is_trained_and_comes_back(
    table: Manifest, tmp_path: Path, target: str, select: str
) -> None:
    random = np.random.default_rng(0)
    for name, k, slides in (("titan", 5, (0, 1, 2, 4)), ("chief", 3, (1, 2, 4, 5, 7))):
        for i in slides:
            vector = random.normal(3, 20, k).astype(np.float32)
            write_slide_vector(tmp_path / name / f"{i}.h5", str(i), name, vector)
    teachers = {name: str(tmp_path / name) for name in TEACHERS}
    config = settings_of(teachers=teachers, target=target, select=select, components=2)
    run = tmp_path / "run"
    train(WsiSum, table, None, folder=run, config=config, seed=0, machine=MACHINE)
    trained = load(run, find)
    assert trained.seen["teachers"] == (TEACHERS if target == "heads" else {JOINED: 2})
    np.testing.assert_array_equal(trained.method.mean, feature_moments(table.of_split("train"), WIDTH)[0])
    bag = read_bag(table.samples[-1].path)
    assert len(trained.method.summarise(bag, 4).kept) == 4
    # Other vectors are other settings.
    write_slide_vector(tmp_path / "titan" / "0.h5", "0", "titan", np.ones(5, np.float32))
    with pytest.raises(HistillError, match=r"seen\.vectors") as caught:
        train(WsiSum, table, None, folder=run, config=config, seed=0, machine=MACHINE)
    assert caught.value.code == Exit.USAGE


def test_slides_without_labels_are_learnt_from(table: Manifest, tmp_path: Path) -> None:
    bare = replace(table, samples=tuple(replace(sample, labels=()) for sample in table.samples))
    train(WsiSum, bare, None, folder=tmp_path, config=tiny_config(WsiSum), seed=0, machine=MACHINE)
    assert load(tmp_path, find).method.width == WIDTH


# --- summaries --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.sampled_from(SCORES), st.integers(1, 40), st.booleans())
def test_of_any_bag_and_budget_a_summary_is_of_real_tiles_each_once_and_sorted(
    n: int, budget: int, score: str, probes: int, teachers: bool
) -> None:
    method = built(TEACHERS if teachers else None, score=score, probes=probes, tiles=7)
    found = method.summarise(tiny_bag("a", n), budget, seed=n)
    kept = found.kept.tolist()
    assert sorted(set(kept)) == kept
    assert len(kept) == min(n, budget)
    assert 0 <= kept[0] <= kept[-1] < n
    assert found.clusters.shape == (n,)
    assert np.isfinite(found.score)
    assert -1.001 <= found.reconstruction <= 1.001
    if budget >= n:
        assert kept == list(range(n))
        assert found.reconstruction == 1


@pytest.mark.parametrize("score", SCORES)
def test_the_same_seed_gives_the_same_bytes_and_another_may_not(score: str) -> None:
    method, bag = built(score=score, probes=30), tiny_bag("a", 80)
    first, again = (method.summarise(bag, 9, seed=4) for _ in range(2))
    assert first.kept.tobytes() == again.kept.tobytes()
    assert (first.score, first.reconstruction) == (again.score, again.reconstruction)
    assert len({method.summarise(bag, 9, seed=seed).kept.tobytes() for seed in range(4)}) > 1


@pytest.mark.parametrize("score", SCORES)
def test_a_longer_search_never_ends_lower(score: str) -> None:
    method, bag = built(score=score), tiny_bag("a", 60)
    lengths = [SearchSettings(trials=n, swaps=0) for n in (1, 4, 16, 40)]
    found = [method.summarise(bag, 6, search_settings=each).score for each in lengths]
    assert found == sorted(found)
    swapped = method.summarise(bag, 6, search_settings=SearchSettings(trials=40, swaps=60)).score
    assert swapped >= found[-1]


def test_likeness_is_that_of_features_and_of_what_the_encoder_makes_of_them() -> None:
    method, bag = built(), tiny_bag("a", 40)
    found = method.summarise(bag, 6)
    with torch.no_grad():
        tokens = Telling(method, bag, np.arange(40)).tokens()
    likeness = Likeness([tokens, method.standardised(torch.from_numpy(bag.features)).numpy()])
    assert found.score == pytest.approx(likeness.score(found.kept), abs=1e-5)
    assert found.kept.tolist() == likeness.best(6, 100).tolist()


def test_of_a_large_bag_each_cluster_is_looked_at_and_all_tiles_are_numbered_as_in_the_bag() -> None:
    method, bag = built(probes=20, clusters=2), tiny_bag("a", 200)
    bag.features[150:, 0] += 100
    found = method.summarise(bag, 8)
    assert set(found.clusters[:150]) != set(found.clusters[150:])
    assert (found.kept < 150).any()
    assert (found.kept >= 150).any()


@torch.no_grad()
def test_tokens_are_those_of_tiles_among_as_many_others_as_in_training() -> None:
    method, bag = built(tiles=8), tiny_bag("a", 29)
    probes = np.flatnonzero(np.arange(29) % 4)
    tokens = Telling(method, bag, probes).tokens()
    features, places = standardised(method, bag), torch.tensor([[i % 6, i // 6] for i in range(29)]).float()
    parts = scattered(len(probes), 8)
    assert len(parts) == 3
    for part in parts:
        rows = torch.from_numpy(probes[part])
        latent = method.autoencoder.encode(features[rows][None], places[rows][None], torch.ones(1, len(rows)) > 0)
        np.testing.assert_allclose(tokens[part], latent.tokens[0, 1:], atol=1e-5)


@torch.no_grad()
def test_tiles_are_decoded_in_parts_no_larger_than_what_is_masked_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    method, bag = built(tiles=8, masked=0.875, score="reconstruction"), tiny_bag("a", 50)
    telling, sizes = Telling(method, bag, np.arange(50)), []
    decode = method.autoencoder.decode

    def spy(latent: Any, places: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        sizes.append(places.shape[1])
        return decode(latent, places, present)

    monkeypatch.setattr(method.autoencoder, "decode", spy)
    for kept in (np.array([3, 8, 40]), np.arange(20)):
        sizes.clear()
        found = telling.reconstruction(kept)
        assert max(sizes) <= 7
        assert min(sizes) >= 6
        assert sum(sizes) == 50 - len(kept)
        others = np.setdiff1d(np.arange(50), kept)
        features, places = telling.features, telling.places
        latent = method.autoencoder.encode(features[kept][None], places[kept][None], torch.ones(1, len(kept)) > 0)
        cosines = []
        for part in scattered(len(others), 7):
            told = decode(latent, places[others[part]][None], torch.ones(1, len(part)) > 0)[0]
            cosines += F.cosine_similarity(told, features[others[part]], dim=1).tolist()
        assert found == pytest.approx(np.mean(cosines), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("teachers", [None, TEACHERS])
def test_the_other_scores_by_hand(teachers: dict[str, int] | None) -> None:
    bag, subsets = tiny_bag("a", 24), [np.array([1, 5, 9]), np.array([0, 2, 23])]
    found = {score: Telling(built(teachers, score=score), bag, np.arange(24)).scores(subsets) for score in SCORES}
    method = built(teachers)
    telling = Telling(method, bag, np.arange(24))

    def said(rows: np.ndarray) -> torch.Tensor:
        latent = telling._encode([rows])
        vectors = method.autoencoder.slide_vectors(latent)
        return torch.cat([vectors[name] for name in sorted(vectors)] or [latent.tokens[:, 0]], dim=1)[0]

    for i, subset in enumerate(subsets):
        whole = said(np.arange(24)[scattered(24, method.config.tiles)[0]])
        near = float(F.cosine_similarity(said(subset), whole, dim=0))
        assert found["slide"].values[i] == pytest.approx(near, abs=1e-5)
        told = telling._cosines(telling._encode([subset]), np.arange(24))[0]
        low = np.mean([told[j] for j in range(24) if j not in subset])
        assert found["reconstruction"].values[i] == pytest.approx(low, abs=1e-5)
        assert found["mixed"].values[i] == pytest.approx((low + near) / 2, abs=1e-5)
        for score in SCORES:
            np.testing.assert_allclose(found[score].needs[i][subset], 0, atol=1e-5)
        expected = [0 if j in subset else 1 - told[j] for j in range(24)]
        np.testing.assert_allclose(found["reconstruction"].needs[i], expected, atol=1e-5)


@given(st.integers(0, 200), st.integers(1, 60))
def test_parts_hold_each_number_once_and_are_alike_in_size(n: int, most: int) -> None:
    parts = scattered(n, most)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == max(1, -(-n // most))


@pytest.mark.parametrize("budget", [0, -3])
@pytest.mark.parametrize("score", SCORES)
def test_a_budget_of_nothing_is_refused(budget: int, score: str) -> None:
    with pytest.raises(HistillError, match=f"a budget of {budget} tiles") as caught:
        built(score=score).summarise(tiny_bag("a", 9), budget)
    assert caught.value.code == Exit.USAGE
