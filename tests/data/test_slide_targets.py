"""Targets from what slide-level teachers say, against scikit-learn and slow versions."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parents[1] / "formats"))

from feature_files import features, places, wsisum

from histill.core.bags import Bag
from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample
from histill.data.bag_batches import Vectors
from histill.data.slide_targets import IN_BAGS, JOINED, fit_targets, read_vectors
from histill.formats.trident import write_bag, write_slide_vector
from histill.formats.wsisum import TARGET

SIZES = {"chief": (4, 0.01, 2.0), "prism": (6, 30.0, -100.0), "titan": (3, 1.0, 0.0)}
"""Numbers of a vector, their deviation and their mean."""


def said(slides: int = 9, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return {
        name: {f"s{i}": random.normal(mean, scale, k).astype(np.float32) for i in range(slides)}
        for name, (k, scale, mean) in SIZES.items()
    }


def standardised(raw: Vectors) -> np.ndarray:
    """All teachers side by side, as scikit-learn standardises them."""
    stacked = [np.stack(list(by_slide.values())).astype(float) for by_slide in raw.values()]
    return np.concatenate([StandardScaler().fit_transform(each) for each in stacked], axis=1)


def test_each_teacher_is_standardised_by_itself() -> None:
    raw = said()
    targets = fit_targets(raw, "heads", 768)
    assert targets.sizes == {name: size[0] for name, size in SIZES.items()}
    found = targets.of(raw)
    together = np.concatenate([np.stack([*found[name].values()]) for name in raw], axis=1)
    np.testing.assert_allclose(together, standardised(raw), atol=1e-4)
    assert together.dtype == np.float32


def test_slides_beyond_those_fitted_to_are_told_by_the_same_numbers() -> None:
    raw, other = said(), said(2, seed=5)
    found = fit_targets(raw, "heads", 768).of(other)
    for name, by_slide in other.items():
        stacked = np.stack([*raw[name].values()]).astype(float)
        for slide, vector in by_slide.items():
            np.testing.assert_allclose(found[name][slide], (vector - stacked.mean(0)) / stacked.std(0), rtol=1e-4)


def test_a_number_that_never_changes_becomes_0() -> None:
    raw = said()
    for vector in raw["prism"].values():
        vector[2] = -7.3
    found = fit_targets(raw, "heads", 768).of(raw)
    assert np.abs([vector[2] for vector in found["prism"].values()]).max() < 1e-5
    assert np.std([vector[1] for vector in found["prism"].values()]) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("asked", "given"), [(2, 2), (8, 8), (768, 8)])
def test_components_are_those_of_scikit_learn_but_for_their_signs(asked: int, given: int) -> None:
    raw = said()
    targets = fit_targets(raw, "components", asked)
    assert targets.sizes == {JOINED: given}
    found = np.stack([targets.of(raw)[JOINED][f"s{i}"] for i in range(9)])
    expected = PCA(given, svd_solver="full").fit_transform(standardised(raw))
    for k in range(given):
        sign = np.sign(found[:, k] @ expected[:, k])
        np.testing.assert_allclose(found[:, k], sign * expected[:, k], atol=1e-3)


def test_the_teacher_of_the_largest_numbers_does_not_rule() -> None:
    raw = said(200)
    first = fit_targets(raw, "components", 768).directions
    assert first is not None
    louder = {**raw, "prism": {slide: 1000 * vector for slide, vector in raw["prism"].items()}}
    second = fit_targets(louder, "components", 768).directions
    np.testing.assert_allclose(np.abs(np.sum(first * second, axis=1)), 1, atol=1e-3)


def test_components_are_of_slides_of_which_all_teachers_speak() -> None:
    raw = said()
    del raw["titan"]["s3"], raw["chief"]["s5"]
    targets = fit_targets(raw, "components", 768)
    assert targets.sizes == {JOINED: 6}
    joined = targets.of(raw)[JOINED]
    assert sorted(joined) == ["s0", "s1", "s2", "s4", "s6", "s7", "s8"]
    np.testing.assert_allclose(np.mean(list(joined.values()), axis=0), 0, atol=1e-5)
    apart = fit_targets(raw, "heads", 768).of(raw)
    assert {name: len(by_slide) for name, by_slide in apart.items()} == {"chief": 8, "prism": 9, "titan": 8}


def test_the_same_vectors_give_the_same_bytes_in_whatever_order() -> None:
    raw = said()
    turned = {name: dict(reversed(by_slide.items())) for name, by_slide in raw.items()}
    first, second = fit_targets(raw, "components", 5), fit_targets(turned, "components", 5)
    assert first.digest == second.digest
    np.testing.assert_allclose(first.directions, second.directions, atol=1e-5)  # type: ignore[arg-type]
    assert fit_targets(raw, "components", 5).directions.tobytes() == first.directions.tobytes()  # type: ignore[union-attr]
    raw["chief"]["s0"][0] += 1
    assert fit_targets(raw, "components", 5).digest != first.digest


def test_without_a_teacher_there_is_no_target() -> None:
    for target in ("heads", "components"):
        targets = fit_targets({}, target, 768)  # type: ignore[arg-type]
        assert (targets.sizes, targets.of({})) == ({}, {})


def test_fewer_than_two_slides_are_an_error() -> None:
    raw = said(1)
    for target, who in (("heads", "teacher chief"), ("components", "every teacher")):
        with pytest.raises(HistillError, match=f"1 training slide has what {who} says, and two are") as caught:
            fit_targets(raw, target, 768)  # type: ignore[arg-type]
        assert caught.value.code == Exit.INPUT
    # Each teacher speaks of enough slides, but all together of one.
    apart = said()
    apart["titan"] = {slide: apart["titan"][slide] for slide in ("s0", "s1")}
    apart["chief"] = {slide: apart["chief"][slide] for slide in ("s1", "s2")}
    assert fit_targets(apart, "heads", 768).sizes
    with pytest.raises(HistillError, match="1 training slide has what every teacher says"):
        fit_targets(apart, "components", 768)


# --- where vectors lie ------------------------------------------------------------------------------------------------


def table_of(folder: Path, *paths: Path) -> Manifest:
    samples = tuple(Sample(f"slide {i}", path, line=i + 2) for i, path in enumerate(paths))
    return Manifest(samples, DatasetCard(classes=("a", "b")), folder / "t.csv", "")


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    for i in range(3):
        write_bag(tmp_path / f"{i}.h5", Bag(slide=str(i), features=features(4, 5), coords=places(4), tile_side=512))
    for i in (0, 2, 7):
        write_slide_vector(tmp_path / "titan" / f"{i}.h5", str(i), "titan", np.full(3, i, np.float32))
    return table_of(tmp_path, *(tmp_path / f"{i}.h5" for i in range(3)))


def test_vectors_of_a_folder_go_to_slides_by_the_names_of_their_files(table: Manifest, tmp_path: Path) -> None:
    found = read_vectors(table, {"titan": str(tmp_path / "titan")})
    assert {slide: vector.tolist() for slide, vector in found["titan"].items()} == {
        "slide 0": [0, 0, 0],
        "slide 2": [2, 2, 2],
    }


def test_vectors_in_bags_go_to_their_own_slides_whatever_the_files_are_called(tmp_path: Path) -> None:
    paths = [tmp_path / place / "x.h5" for place in ("one", "other")]
    for i, path in enumerate(paths):
        path.parent.mkdir()
        wsisum(path, features(6, 4, seed=i), places(5))
    found = read_vectors(table_of(tmp_path, *paths), {TARGET: IN_BAGS})
    for i in range(2):
        np.testing.assert_array_equal(found[TARGET][f"slide {i}"], features(6, 4, seed=i)[5])


def test_bags_of_one_name_are_not_given_one_vector(table: Manifest, tmp_path: Path) -> None:
    other = tmp_path / "other" / "0.h5"
    write_bag(other, Bag(slide="0", features=features(4, 5), coords=places(4), tile_side=512))
    twice = table_of(tmp_path, *(sample.path for sample in table.samples), other)
    with pytest.raises(HistillError, match=r"t.csv: line 5: .*0.h5 and .*other/0.h5 have one name") as caught:
        read_vectors(twice, {"titan": str(tmp_path / "titan")})
    assert caught.value.code == Exit.USAGE
    # Rows of one and the same file are.
    again = replace(table, samples=(*table.samples, replace(table.samples[0], id="again")))
    assert read_vectors(again, {"titan": str(tmp_path / "titan")})["titan"]["again"].tolist() == [0, 0, 0]


def test_a_teacher_that_is_silent_of_all_slides_is_an_error(table: Manifest, tmp_path: Path) -> None:
    table = replace(table, samples=table.samples[1:2])
    for place in (str(tmp_path / "titan"), IN_BAGS):
        with pytest.raises(HistillError, match=f"{place}: teacher titan says nothing of any of the 1 slides") as caught:
            read_vectors(table, {"titan": place})
        assert caught.value.code == Exit.INPUT


def test_vectors_in_bags_are_of_one_length(tmp_path: Path) -> None:
    paths = [wsisum(tmp_path / f"{d}.h5", features(6, d), places(5)) for d in (4, 5)]
    with pytest.raises(HistillError, match=f"{TARGET} says 4 numbers .slide 0. and 5 numbers .slide 1.") as caught:
        read_vectors(table_of(tmp_path, *paths), {TARGET: IN_BAGS})
    assert caught.value.code == Exit.INPUT
