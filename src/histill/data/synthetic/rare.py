"""Data sets of made-up slides on which tumour is rare: a few small foci, or none at all. All of it is synthetic."""

from __future__ import annotations

from histill.core.seeds import generator
from histill.data.synthetic.dataset import LESIONS

SHARES = (0.0135, 0.0285)
"""The tumour's share of the tissue is drawn from here. Glands and fat cells reach into it: 0.01 to 0.03 is seen."""

RARE = LESIONS.card.model_copy(
    update={"source": "histill synth slides --rare: made-up slides with known truth, tumour in small foci or none"}
)
"""One label a slide, tumour or normal; masks show every tissue, and all that is no tumour is normal."""


def tumour_share(seed: int, name: str, split: str, number: int) -> float:
    """The tumour's share of a slide's tissue: 0 for every other one.

    Args:
        seed: of the data set.
        name: of the slide.
        split: that it is in; the first of test is normal, those of the others have tumour.
        number: how many slides of the split come before it.
    """
    if number % 2 != (split == "test"):
        return 0.0
    return float(generator(seed, "rare", name).uniform(*SHARES))
