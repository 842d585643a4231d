"""Classes, their colours and their multi-hot labels."""

import numpy as np
import pytest

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, PALETTE, Classes


def test_classes_have_an_order_and_colours() -> None:
    classes = Classes(("gland", "stroma"), background="stroma")
    assert len(classes) == 2
    assert classes.index("stroma") == 1
    assert classes.colours == PALETTE[:2]
    with pytest.raises(KeyError, match="lumen"):
        classes.index("lumen")


def test_multi_hot() -> None:
    classes = Classes(("a", "b", "c"))
    hot = classes.multi_hot(["c", "a"])
    assert hot.dtype == np.float32
    assert hot.tolist() == [1, 0, 1]
    assert classes.multi_hot([]).tolist() == [0, 0, 0]
    with pytest.raises(KeyError, match="d"):
        classes.multi_hot(["d"])


def test_a_palette_shows_ignore_in_white() -> None:
    palette = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6))).palette()
    assert len(palette) == 768
    assert palette[:6] == [1, 2, 3, 4, 5, 6]
    assert palette[3 * IGNORE :] == [255, 255, 255]
    assert set(palette[6 : 3 * IGNORE]) == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "no class"),
        ((("a", "b", "a"),), "class named twice: a"),
        ((("a",), ((0, 0, 0), (1, 1, 1))), "2 colours for 1 classes"),
        ((("a", "b"), (), "c"), "background 'c' is not one of the classes. Choose one of: a, b"),
        ((tuple(map(str, range(255))),), "255 classes; at most 254"),
    ],
)
def test_faulty_classes(arguments: tuple, message: str) -> None:
    with pytest.raises(HistillError, match=message) as caught:
        Classes(*arguments)
    assert caught.value.code == Exit.USAGE


def test_as_many_classes_as_a_mask_holds() -> None:
    classes = Classes(tuple(map(str, range(254))))
    assert len(classes.colours) == 254


def test_the_lesion_is_what_is_not_the_background() -> None:
    assert Classes(("rest", "tumour"), background="rest").lesion == 1


@pytest.mark.parametrize(
    "classes", [Classes(("rest", "tumour")), Classes(("a", "b", "c"), background="c"), Classes(("a",), background="a")]
)
def test_other_classes_have_no_single_lesion(classes: Classes) -> None:
    with pytest.raises(HistillError, match="one class from a background") as caught:
        _ = classes.lesion
    assert caught.value.code == Exit.USAGE
