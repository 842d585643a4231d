"""Bags on disk: any tool's feature file opened by what is in it, and all bags of a folder by their slides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Bag, BagFacts, BagFile, bag_error
from histill.core.errors import Exit, HistillError
from histill.formats import clam, slide2vec, slideflow, stamp, trident, wsisum
from histill.formats.guards import COPY_AGAIN, file_head
from histill.formats.hdf5 import Hdf5
from histill.formats.npz import is_npz, read_npz

SUFFIXES = (".h5", ".hdf5", ".pt", ".npz")
"""of feature files; what a file is, its content says"""

LAYOUTS: tuple[tuple[Callable[[Hdf5], bool], Callable[[Hdf5], BagFile]], ...] = (
    (stamp.recognises, stamp.open_file),
    (trident.recognises, trident.open_file),
    (wsisum.recognises, wsisum.open_file),
    (clam.recognises, clam.open_file),
)
"""of HDF5 files: those that say most of themselves first."""

NO_BAGS = ("patches", "tiles", "slide_embeddings", "slide_latents", "hierarchical_embeddings")
"""Folders beside those of features in which other things have the same suffixes."""

ZIP, PICKLES = b"PK\x03\x04", (b"\x80\x02", b"\x80\x03", b"\x80\x04")


def open_bag(path: Path) -> BagFile:
    """Open a feature file of TRIDENT, CLAM, STAMP, slideflow, slide2vec or WSISum; which it is, its content says.

    Of HDF5 files the features stay on the disk until they are asked for; the others are read whole.

    Raises:
        HistillError: input (4) if it is missing, damaged, or none of these; unsafe (5) if it points elsewhere, holds
            code, or claims far more than it is; numbers (6) if a slide vector is not finite.
    """
    kind = _kind(path)
    if kind == "npz":
        return slide2vec.open_npz(path)
    return _open_tensor(path) if kind == "tensor" else _open_hdf5(path)


def read_bag(path: Path) -> Bag:
    """A whole bag in memory. Raises as `open_bag` and `BagFile.read`."""
    with open_bag(path) as file:
        return file.read()


def find_bags(folder: Path) -> dict[str, Path]:
    """The feature files below a folder by their slides' ids, which are their stems; none is opened.

    Where CLAM keeps ``h5_files`` and ``pt_files`` side by side, the first are taken: they hold the same and the places.
    What lies in folders of patches, tiles, and slide features is no bag.

    Raises:
        HistillError: input (4) if there is no such folder, or nothing in it; usage (2) with the names of all files that
            are of one slide.
    """
    if not folder.is_dir():
        raise bag_error(str(folder), "there is no such folder", "Give the folder that holds the feature files")
    found: dict[str, list[Path]] = {}
    for path in _candidates(folder):
        # Files of results are named after ids, and some systems ignore case.
        found.setdefault(path.stem.lower(), []).append(path)
    if not found:
        what = f"no feature file ({', '.join(SUFFIXES)}) in it"
        raise bag_error(str(folder), what, "Give the folder that holds the feature files")
    twice = [paths for paths in found.values() if len(paths) > 1]
    if twice:
        names = "\n  ".join(" and ".join(str(path.relative_to(folder)) for path in paths) for paths in twice[:20])
        raise HistillError(
            f"{len(twice)} slides have more than one file:\n  {names}\n",
            code=Exit.USAGE,
            subject=str(folder),
            mend="Give the folder of one encoder, or take the others out",
        )
    return {path.stem: path for (path,) in found.values()}


def slide_vectors(place: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """What a slide encoder says of slides: float32 [k] by slide id.

    Args:
        place: a file; or a folder of files ``<slide>.h5`` or ``<slide>_<name>.h5`` (also .pt and .npz); or a folder
            with such a folder in it: ``slide_features_<name>`` as TRIDENT has it, ``<name>``, or ``slide_embeddings``.
        name: of the encoder, in whatever case.

    Raises:
        HistillError: as `open_bag`; input (4) if a file holds anything but one vector, or vectors differ in length.
    """
    paths = _vector_files(place, name) if place.is_dir() else {_without_name(place.stem, name): place}
    vectors = {slide: _read_vector(path, name) for slide, path in paths.items()}
    lengths = {len(vector): slide for slide, vector in vectors.items()}
    if len(lengths) > 1:
        said = " and ".join(f"{length} numbers ({slide})" for length, slide in sorted(lengths.items())[:2])
        raise bag_error(str(place), f"vectors of {said}: not of one encoder", "Give the folder of one encoder")
    return vectors


def _kind(path: Path) -> Literal["npz", "tensor", "hdf5"]:
    """What a file begins as. Raises as `file_head`."""
    head = file_head(path, len(ZIP))
    if head == ZIP and is_npz(path):
        return "npz"
    return "tensor" if head == ZIP or head[:2] in PICKLES else "hdf5"


def _open_hdf5(path: Path) -> BagFile:
    file = Hdf5(path)
    try:
        for recognises, open_file in LAYOUTS:
            if recognises(file):
                return open_file(file)
        if "coords" in file:
            what = "it holds coordinates without features"
            raise bag_error(str(path), what, "Give the folder of features, such as features_<encoder> or h5_files")
        raise bag_error(str(path), "it holds no features", "Give a file with 'features' or 'feats'")
    except BaseException:
        file.close()
        raise


def _open_tensor(path: Path) -> BagFile:
    from histill.data.torch_files import read_tensor

    features = read_tensor(path).numpy()
    count = len(features) if features.ndim else 0
    for layout, tool in (("slide2vec", slide2vec), ("slideflow", slideflow)):
        if tool.recognises(path):
            return BagFile(layout, tool.read_facts(path, count), features)
    return BagFile("clam", BagFacts(slide=path.stem, path=path), features)


def _candidates(folder: Path) -> Iterator[Path]:
    """Files below a folder that may hold features, in order."""
    for at, folders, names in os.walk(folder):
        skipped = {each for each in folders if each.startswith((".", "slide_features_")) or each in NO_BAGS}
        if {"h5_files", "pt_files"} <= set(folders):
            skipped.add("pt_files")
        folders[:] = sorted(set(folders) - skipped)
        for name in sorted(names):
            path = Path(at) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and not name.endswith(".index.npz"):
                yield path


def _vector_files(folder: Path, name: str) -> dict[str, Path]:
    inner = {each.name.lower(): each for each in sorted(folder.iterdir()) if each.is_dir()}
    for likely in (f"slide_features_{name.lower()}", name.lower(), "slide_embeddings"):
        folder = inner.get(likely, folder)
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    named = [path for path in files if path.stem.lower().endswith(f"_{name.lower()}")]
    found = {_without_name(path.stem, name): path for path in named or files}
    if not found:
        what = f"no file of '{name}' in it"
        raise bag_error(str(folder), what, f"Give the folder that holds <slide>.h5 or <slide>_{name}.h5")
    return found


def _without_name(stem: str, name: str) -> str:
    return stem[: -len(name) - 1] if stem.lower().endswith(f"_{name.lower()}") else stem


def _read_vector(path: Path, name: str) -> NDArray[np.float32]:
    kind = _kind(path)
    if kind == "npz":
        values = read_npz(path, ["features"]).get("features")
    elif kind == "tensor":
        from histill.data.torch_files import read_tensor

        values = read_tensor(path).numpy()
    else:
        with Hdf5(path) as file:
            array = file.array("feats" if "feats" in file else "features", "f", (1, 2, 3))
            values = array.values() if max(array.shape) == np.prod(array.shape) else None
    if values is None or values.dtype.kind != "f" or not values.ndim or max(values.shape) != values.size:
        raise bag_error(str(path), f"it holds no single vector of '{name}'", COPY_AGAIN)
    vector = values.reshape(-1).astype(np.float32)  # [k]
    BagFacts(slide=path.stem, slide_vectors={name: vector}, path=path)  # refuses what is not finite
    return vector
