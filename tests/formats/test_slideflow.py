"""What lies beside slideflow's tensors: centres of tiles, and their side in um."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from feature_files import failing, places, slideflow_sides

from histill.formats.slideflow import read_facts, recognises

CENTRES = places(30, side=256) + 128


def test_centres_become_corners_with_the_spacing(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert not recognises(path)
    slideflow_sides(path, CENTRES)
    assert recognises(path)
    facts = read_facts(path, 30)
    assert (facts.slide, facts.encoder, facts.tile_px, facts.coords) == ("a", "UNIFeatures", 256, None)
    known = facts.with_mpp(0.5)
    np.testing.assert_array_equal(known.coords, CENTRES - 128)
    assert known.tile_side == 256
    np.testing.assert_array_equal(facts.steps(), known.steps())


def test_a_side_given_as_a_magnification_is_no_length(tmp_path: Path) -> None:
    slideflow_sides(tmp_path / "a.pt", CENTRES, tile_um="20x")
    facts = read_facts(tmp_path / "a.pt", 30).with_mpp(0.5)
    assert facts.coords is None
    np.testing.assert_array_equal(facts.steps()[:2], [[0, 0], [1, 0]])  # type: ignore[index]


@pytest.mark.parametrize("centres", [CENTRES[:29], CENTRES[:, 0], CENTRES.astype(str)])
def test_places_that_do_not_fit(centres: np.ndarray, tmp_path: Path) -> None:
    slideflow_sides(tmp_path / "a.pt", centres)
    assert "a.index.npz: no 30 places" in failing(read_facts, tmp_path / "a.pt", 30)


def test_only_one_of_the_two_files(tmp_path: Path) -> None:
    slideflow_sides(tmp_path / "a.pt", CENTRES)
    (tmp_path / "a.index.npz").unlink()
    facts = read_facts(tmp_path / "a.pt", 30)
    assert (facts.unscaled, facts.tile_px) == (None, 256)
    slideflow_sides(tmp_path / "b.pt", CENTRES)
    (tmp_path / "bags_config.json").unlink()
    assert read_facts(tmp_path / "b.pt", 30).unscaled.tile_um is None  # type: ignore[union-attr]
