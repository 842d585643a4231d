"""slide2vec's files, read: ``tile_embeddings/<slide>.npz`` or ``.pt`` and ``<slide>.meta.json``; places in ``tiles/``.

A .pt is read in `data.torch_files`. Places are looked for where slide2vec puts them, in
``../tiles/<slide>.coordinates.npz``; the path that the JSON names is that of another machine, and not followed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histill.core.bags import BagFacts, BagFile, bag_error
from histill.core.manifest import plausible_mpp
from histill.formats.npz import read_npz
from histill.formats.sidecars import number_in, read_json, text_in, whole_in


def recognises(path: Path) -> bool:
    """Whether slide2vec's description lies beside a file."""
    return path.with_name(f"{path.stem}.meta.json").is_file()


def open_npz(path: Path) -> BagFile:
    """A bag of an archive.

    Raises:
        HistillError: as `read_npz`; input (4) if it holds no features, or a file beside it does not fit.
    """
    features = read_npz(path, ["features"]).get("features")
    if features is None or features.dtype.kind != "f":
        raise bag_error(str(path), "it holds no array 'features' of fractions", "Give a file of features")
    return BagFile("slide2vec", read_facts(path, len(features) if features.ndim else 0), features)


def read_facts(path: Path, count: int) -> BagFacts:
    """What lies beside features of so many rows says of them.

    Raises:
        HistillError: input (4) if a file beside them is damaged, or has another number of places.
    """
    told = read_json(path.with_name(f"{path.stem}.meta.json"))
    tiles = path.parent.parent / "tiles"
    tiling = read_json(tiles / f"{path.stem}.coordinates.meta.json")
    places = tiles / f"{path.stem}.coordinates.npz"
    coords = None
    if places.is_file():
        found = read_npz(places, ["x", "y"])
        x, y = found.get("x"), found.get("y")
        if x is None or y is None or not x.shape == y.shape == (count,) or x.dtype.kind + y.dtype.kind != "ii":
            raise bag_error(str(places), f"no {count} places, as many as there are features")
        coords = np.stack([x, y], axis=1).astype(np.int64)  # [n, 2]
    mpp = number_in(tiling, "slide", "base_spacing_um")
    return BagFacts(
        slide=path.stem,
        coords=coords,
        tile_side=whole_in(tiling, "tiling", "tile_size_lv0") or whole_in(told, "tile_size_lv0"),
        mpp=mpp if mpp is not None and plausible_mpp(mpp) else None,
        encoder=text_in(told, "encoder_name"),
        tile_px=whole_in(told, "requested_tile_size_px"),
        path=path,
    )
