"""slideflow's bags, read: what lies beside ``<slide>.pt``; the tensor itself is read in `data.torch_files`.

``<slide>.index.npz`` holds the **centres** of tiles in level-0 px, and ``bags_config.json`` the side of a tile in um:
corners follow once the slide's spacing is known (`Bag.with_mpp`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histill.core.bags import BagFacts, Unscaled, bag_error
from histill.formats.npz import read_npz
from histill.formats.sidecars import number_in, read_json, text_in, whole_in

CONFIG = "bags_config.json"


def recognises(path: Path) -> bool:
    """Whether slideflow's files lie beside a tensor."""
    return _index(path).is_file() or path.with_name(CONFIG).is_file()


def read_facts(path: Path, count: int) -> BagFacts:
    """What lies beside a tensor of so many rows says of it.

    Raises:
        HistillError: input (4) if a file beside it is damaged, or has another number of places.
    """
    config = read_json(path.with_name(CONFIG))
    centres = None
    if _index(path).is_file():
        # What NumPy calls an array that was given no name.
        centres = read_npz(_index(path), ["arr_0"]).get("arr_0")
        if centres is None or centres.ndim != 2 or centres.dtype.kind not in "iuf" or len(centres) != count:
            raise bag_error(str(_index(path)), f"no {count} places, as many as there are features")
    unscaled = None
    if centres is not None:
        # A tile_um such as "20x" is a magnification, and no length.
        unscaled = Unscaled(centres.astype(np.float64), "px", "centre", number_in(config, "tile_um"))
    return BagFacts(
        slide=path.stem,
        encoder=text_in(config, "extractor", "class").rpartition(".")[2],
        tile_px=whole_in(config, "tile_px"),
        unscaled=unscaled,
        path=path,
    )


def _index(path: Path) -> Path:
    return path.with_name(f"{path.stem}.index.npz")
