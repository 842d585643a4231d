"""TRIDENT's feature files, read and written; histill's own bags are such files.

``features_<encoder>/<slide>.h5``: `features` float32 [n, d] and `coords` int64 [n, 2], both with attributes.
A tile's side on the slide is `patch_size_level0`; `patch_size` is its side as the encoder saw it. TRIDENT knows no
um/px, but magnifications, each of which stands for a range of spacings: files of ours say `level0_mpp` beside them.
"""

from __future__ import annotations

import bisect
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Bag, BagFacts, BagFile, bag_error
from histill.core.errors import Exit
from histill.core.manifest import plausible_mpp
from histill.core.storage import open_new
from histill.formats.hdf5 import Hdf5, Hdf5Array, read_corners

CHUNK_ROWS = 256
"""Rows that lie together in a file of ours; with (1, d), as some tools write, a bag loads many times slower."""

WRITTEN_ROWS = 8 * CHUNK_ROWS

NOTHING = "None"
"""How TRIDENT writes that it does not know."""

VERSIONS = ("v110", "v110")
"""HDF5 1.10 (2016) and later read what is written; its tables, unlike those before, carry checksums."""

ENCODER = "histill_encoder"
"""The encoder once more, as a text of fixed length."""

_SPACINGS = (0.16, 0.2, 0.3, 0.6, 1.2, 2.4)
_MAGNIFICATIONS = (80, 60, 40, 20, 10, 5)
"""Up to which um/px TRIDENT takes a slide for which magnification."""


def recognises(file: Hdf5) -> bool:
    """Whether a file says of itself what only TRIDENT's do."""
    if "features" not in file or "coords" not in file:
        return False
    coords, features = file.array("coords", "iuf", (2,)), file.array("features", "f", (1, 2))
    return coords.has("patch_size_level0") or features.has("savetodir")


def open_file(file: Hdf5) -> BagFile:
    """A bag of a file that is open; the bag closes it.

    Raises:
        HistillError: as `Hdf5.array` and `BagFacts`.
    """
    features = file.array("features", "f", (2,))
    # TRIDENT's own attribute is a text that is not read (see `Hdf5Array.text`); its folder says the same.
    encoder = features.text(ENCODER) or _encoder_in(file.path.parent.name)
    return BagFile("trident", _facts(file, encoder, len_of=features), features, release=file.close)


def read_patches(path: Path) -> BagFacts:
    """The places of ``patches/<slide>_patches.h5``, for which there are no features yet.

    Raises:
        HistillError: as `Hdf5` and `Hdf5.array`.
    """
    with Hdf5(path) as file:
        return _facts(file, "", slide=path.stem.removesuffix("_patches"))


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag as TRIDENT would; the same bag gives the same bytes, wherever and whenever.

    Features become float32. Slide vectors have files of their own: see `write_slide_vector`. A bag without places has
    no `coords`, and some programs will not take it.

    Raises:
        HistillError: storage (7) as `core.storage.open_new`; usage (2) if its places still lack the spacing.
    """
    if bag.unscaled is not None:
        raise bag_error(bag.subject, "its places need the slide's um/px", "Give it (with_mpp)", Exit.USAGE)
    with _new_file(path) as out:
        if bag.coords is not None:
            coords = out.create_dataset("coords", data=bag.coords, dtype="<i8")
            _describe(coords, bag)
        count, width = bag.features.shape
        chunks = (min(CHUNK_ROWS, count), width) if count else None
        features = out.create_dataset("features", (count, width), "<f4", chunks=chunks, fill_time="alloc")
        for start in range(0, count, WRITTEN_ROWS):
            features[start : start + WRITTEN_ROWS] = bag.features[start : start + WRITTEN_ROWS].astype("<f4")
        _sign(features, bag.slide, bag.encoder)


def write_patches(path: Path, facts: BagFacts) -> None:
    """Write the places alone, as ``patches/<slide>_patches.h5``; see `read_patches`. The same places, the same bytes.

    Raises:
        HistillError: storage (7) as `core.storage.open_new`; usage (2) if there are no places.
    """
    if facts.coords is None:
        raise bag_error(facts.subject, "it has no places", "Give them", Exit.USAGE)
    with _new_file(path) as out:
        _describe(out.create_dataset("coords", data=facts.coords, dtype="<i8"), facts)


def write_slide_vector(path: Path, slide: str, encoder: str, vector: NDArray[np.float32]) -> None:
    """Write what a slide encoder says of a slide, as ``slide_features_<encoder>/<slide>.h5``: `features` [k]."""
    BagFacts(slide=slide, slide_vectors={encoder: vector})  # refuses what is no vector
    with _new_file(path) as out:
        features = out.create_dataset("features", data=vector, dtype="<f4")
        _sign(features, slide, encoder)


def magnification_of(mpp: float | None) -> int | None:
    """The magnification that TRIDENT takes a spacing in um/px for; None where it has none."""
    place = len(_SPACINGS) if mpp is None else bisect.bisect_right(_SPACINGS, mpp)
    return _MAGNIFICATIONS[place] if place < len(_SPACINGS) else None


def _facts(file: Hdf5, encoder: str, *, slide: str = "", len_of: Hdf5Array | None = None) -> BagFacts:
    array = file.array("coords", "iuf", (2,))
    if len_of is not None and array.shape[0] != len_of.shape[0]:
        raise bag_error(str(file.path), f"{len_of.shape[0]} features, but {array.shape[0]} coordinates")
    width, height = array.whole("level0_width"), array.whole("level0_height")
    mpp = array.number("level0_mpp")
    return BagFacts(
        slide=slide or file.path.stem,
        coords=read_corners(array),
        tile_side=array.whole("patch_size_level0"),
        mpp=mpp if mpp is not None and plausible_mpp(mpp) else None,
        encoder=encoder,
        tile_px=array.whole("patch_size"),
        overlap=array.whole("overlap") or 0,
        slide_size=(width, height) if width and height else None,
        magnification=array.number("level0_magnification"),
        path=file.path,
    )


def _encoder_in(folder: str) -> str:
    """The encoder that the name of a folder says, as TRIDENT calls it; empty where it says none."""
    return folder.removeprefix("features_") if folder.startswith("features_") else ""


def _sign(features: h5py.Dataset, slide: str, encoder: str) -> None:
    features.attrs.update({"encoder": encoder or NOTHING, "name": slide, "savetodir": NOTHING})
    if encoder:
        features.attrs[ENCODER] = np.bytes_(encoder.encode())


def _describe(coords: h5py.Dataset, bag: BagFacts) -> None:
    """The attributes by which TRIDENT's readers find their way."""
    level0 = bag.magnification or magnification_of(bag.mpp)
    target = level0 * bag.tile_px / bag.tile_side if level0 and bag.tile_px and bag.tile_side else None
    width, height = bag.slide_size or (None, None)
    told: dict[str, Any] = {
        "patch_size": bag.tile_px,
        "patch_size_level0": bag.tile_side,
        "level0_magnification": _plain(level0),
        "target_magnification": _plain(target),
        "overlap": bag.overlap,
        "name": bag.slide,
        "savetodir": NOTHING,
        "level0_width": width,
        "level0_height": height,
        "level0_mpp": bag.mpp,
    }
    coords.attrs.update({name: NOTHING if value is None else value for name, value in told.items()})


def _plain(value: float | None) -> int | float | None:
    """40 rather than 40.0, as TRIDENT has it."""
    return value if value is None or value != round(value) else round(value)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    # The inner name is that of the one writer's handle, which it stands for.
    with open_new(path) as file, _held_back(file) as file, h5py.File(file, "w", libver=VERSIONS) as out:
        yield out


@contextlib.contextmanager
def _held_back(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """A handle that swallows errors of writing until the block ends, and raises the first of them then.

    An error inside HDF5 leaves its file open in there, to be flushed again, and to crash, when Python ends.
    """
    patient = _Patient(file)
    try:
        yield cast(IO[bytes], patient)
    finally:
        if patient.error is not None:
            raise patient.error


class _Patient(io.RawIOBase):
    """See `_held_back`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        return self._tried(lambda: self._file.write(data), memoryview(data).nbytes)

    def readinto(self, buffer: Any, /) -> int:
        return self._tried(lambda: cast(Any, self._file).readinto(buffer), memoryview(buffer).nbytes)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._tried(lambda: self._file.seek(offset, whence), offset)

    def truncate(self, size: int | None = None, /) -> int:
        return self._tried(lambda: self._file.truncate(size), size or 0)

    def tell(self) -> int:
        return self._tried(self._file.tell, 0)

    def flush(self) -> None:
        self._tried(lambda: self._file.flush() or 0, 0)

    def seekable(self) -> bool:
        return True

    def _tried(self, do: Any, otherwise: int) -> int:
        if self.error is None:
            try:
                return int(do())
            except OSError as error:
                self.error = error
        return otherwise
