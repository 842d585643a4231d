"""Random numbers follow from names alone."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histill.core.seeds import derive, generator

paths = st.lists(st.text(alphabet="ab1.", max_size=3) | st.integers(0, 99), max_size=3)


@given(st.integers(0, 9), paths, st.integers(0, 9), paths)
def test_equal_places_and_only_they_have_equal_seeds(
    seed: int, place: list[str | int], other_seed: int, other: list[str | int]
) -> None:
    same = seed == other_seed and [(type(step), step) for step in place] == [(type(step), step) for step in other]
    assert (derive(seed, *place) == derive(other_seed, *other)) == same
    assert 0 <= derive(seed, *place) < 2**63


def test_steps_do_not_run_together() -> None:
    assert derive(0, "ab", "c") != derive(0, "a", "bc")
    assert derive(0, "1") != derive(0, 1)
    assert derive(1, 2) != derive(12)


def test_seeds_are_the_same_in_another_process() -> None:
    code = "from histill.core.seeds import derive; print(derive(7, 'segment', 3, 'val_00'))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    # Written down, as a run that was begun with one version goes on with the next.
    assert int(other) == derive(7, "segment", 3, "val_00") == 1225217060483154973


def test_a_generator_has_no_memory_of_others() -> None:
    first = generator(0, "a").random(4)
    generator(0, "b").random(100)
    np.testing.assert_array_equal(generator(0, "a").random(4), first)
    assert not np.array_equal(generator(0, "b").random(4), first)
