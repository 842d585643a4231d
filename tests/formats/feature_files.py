"""Feature files as each tool publishes them, written by hand: not with the code under test."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from histill.core.bags import Bag
from histill.core.errors import Exit, HistillError

Array = NDArray[Any]


def features(count: int = 300, width: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def places(count: int = 300, side: int = 512, columns: int = 20) -> Array:
    """Corners of tiles side by side, beginning at (1000, 2000)."""
    number = np.arange(count)
    return np.stack([1000 + number % columns * side, 2000 + number // columns * side], 1).astype(np.int64)


def whole_bag(count: int = 300) -> Bag:
    """A bag of which everything is known."""
    return Bag(
        slide="TCGA-A1.b",
        features=features(count),
        coords=places(count),
        tile_side=512,
        tile_px=256,
        overlap=32,
        mpp=0.2521,
        encoder="uni é",
        slide_size=(20000, 30000),
    )


def trident(path: Path, x: Array, coords: Array, **changed: object) -> Path:
    """`features_<encoder>/<slide>.h5`: chunks of one row, attributes on the data sets, None as a text."""
    told: dict[str, object] = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "/elsewhere/../../etc/passwd",
        "level0_width": 20000,
        "level0_height": 30000,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=x, chunks=(1, x.shape[1]), maxshape=(None, x.shape[1]))
        file["features"].attrs.update({"name": path.stem, "savetodir": "None", "encoder": "uni_v1"})
        file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        file["coords"].attrs.update(told | changed)
    return path


def clam(path: Path, x: Array, coords: Array) -> Path:
    """`h5_files/<slide>.h5`: int32 places, no attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=x, chunks=(1, x.shape[1]), maxshape=(None, x.shape[1]))
        file.create_dataset("coords", data=coords.astype(np.int32), chunks=(1, 2), maxshape=(None, 2))
    return path


def stamp(path: Path, x: Array, um: Array, **attributes: object) -> Path:
    """`feats` as halves, `coords` in um, attributes on the file."""
    told: dict[str, object] = {
        "stamp_version": "2.3.0",
        "extractor": "uni2",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "code_hash": "0123abcd",
        "feat_type": "tile",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = um.astype(np.float32)
        file["feats"] = x.astype(np.float16)
        for name, value in (told | attributes).items():
            if value is not None:
                file.attrs[name] = value
    return path


def wsisum(path: Path, x: Array, coords: Array | None) -> Path:
    """`features` with a row more than `coords`, or no `coords` at all."""
    with h5py.File(path, "w") as file:
        file["features"] = x
        if coords is not None:
            file["coords"] = coords.astype(np.int32)
    return path


def slide2vec(folder: Path, slide: str, x: Array, coords: Array) -> Path:
    """`tile_embeddings/<slide>.npz` with its JSON, and `tiles/<slide>.coordinates.*`."""
    (folder / "tile_embeddings").mkdir(parents=True, exist_ok=True)
    (folder / "tiles").mkdir(exist_ok=True)
    path = folder / "tile_embeddings" / f"{slide}.npz"
    np.savez_compressed(path, features=x, tile_index=np.arange(len(x)))
    told = {
        "sample_id": slide,
        "encoder_name": "virchow2",
        "requested_tile_size_px": 224,
        "tile_size_lv0": 512,
        "coordinates_npz_path": "/another/machine/places.npz",
    }
    path.with_name(f"{slide}.meta.json").write_text(json.dumps(told))
    x_, y_ = coords.T
    np.savez_compressed(folder / "tiles" / f"{slide}.coordinates.npz", tile_index=np.arange(len(x)), x=x_, y=y_)
    tiling = {"slide": {"base_spacing_um": 0.25, "dimensions": [9, 9]}, "tiling": {"tile_size_lv0": 512}}
    (folder / "tiles" / f"{slide}.coordinates.meta.json").write_text(json.dumps(tiling))
    return path


def slideflow_sides(path: Path, centres: Array, tile_um: object = 128) -> None:
    """What lies beside slideflow's `<slide>.pt`."""
    np.savez(path.with_name(f"{path.stem}.index.npz"), centres)
    told = {"extractor": {"class": "slideflow.model.extractors.UNIFeatures"}, "tile_px": 256, "tile_um": tile_um}
    path.with_name("bags_config.json").write_text(json.dumps(told))


def failing(read: Any, *given: object, code: Exit = Exit.INPUT, **options: object) -> str:
    """What an error says; it must be the one error, with a code, a subject and a mend."""
    with pytest.raises(HistillError) as caught:
        read(*given, **options)
    assert caught.value.code == code, caught.value
    assert caught.value.mend
    assert caught.value.subject
    return str(caught.value)
