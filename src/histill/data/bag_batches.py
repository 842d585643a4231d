"""Batches of bags: features of tiles and where they lie, what the slide is said to be, and what its teachers say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from histill.core.bags import Bag, bag_error
from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest, Sample, table_error
from histill.data.bags import open_bag, read_bag
from histill.data.batches import Batches
from histill.data.recent import Recent

T = TypeVar("T")

Vectors = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Teacher -> slide id -> what it says of that slide, [k]."""

Draw = Callable[[Sample, int, np.random.Generator], NDArray[np.integer[Any]]]
"""Sample, n of its tiles, and a generator -> the tiles to be seen this time."""

CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class BagBatch:
    """A batch of bags, padded to the longest.

    Attributes:
        features: float32 [b, n, d], 0 on padding.
        places: where the tiles lie, in steps of a tile from the tissue's corner, float32 [b, n, 2]; all 0 where a file
            does not say.
        present: bool [b, n], False for padding.
        labels: float32 [b, k], 1 where the slide's label names the class.
        ids: the samples' ids.
        vectors: what each slide-level teacher says, float32 [b, k], by its name; anything where it is not known.
        known: bool [b] for each of `vectors`.
    """

    features: Tensor
    places: Tensor
    present: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> BagBatch:
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("features", "places", "present", "labels")}
        vectors, known = ({k: v.to(device) for k, v in each.items()} for each in (self.vectors, self.known))
        return replace(self, **moved, vectors=vectors, known=known)


@dataclass(frozen=True, eq=False)
class Item:
    """One bag of a batch: features float32 [n, d], places float32 [n, 2], labels float32 [k], vectors as they are."""

    id: str
    features: NDArray[np.float32]
    places: NDArray[np.float32]
    labels: NDArray[np.float32]
    vectors: dict[str, NDArray[np.float32] | None] = field(default_factory=dict)


class Bags(Batches[BagBatch]):
    """Bags as batches, epoch by epoch; see `Batches`.

    Args:
        manifest: the samples; their paths are feature files.
        batch_size: bags a batch; in training the last batch of an epoch is left out if it is short.
        width: d that every bag has to have.
        draw: which tiles are seen this time; None for all.
        vectors: what slide-level teachers say; slides they are silent of are marked as not known.
        shuffle: draw a new order each epoch.
        workers: processes that read; 0 reads in this one. The batches are the same bytes.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch_size: int,
        width: int,
        *,
        draw: Draw | None = None,
        vectors: Vectors | None = None,
        shuffle: bool = False,
        workers: int = 0,
    ) -> None:
        dataset = _Dataset(manifest, width, draw, vectors or {})
        super().__init__(dataset, len(manifest.samples), collate, batch_size, shuffle=shuffle, workers=workers)
        self.manifest = manifest


class _Dataset(Dataset[Item]):
    def __init__(self, manifest: Manifest, width: int, draw: Draw | None, vectors: Vectors) -> None:
        self.samples, self.classes, self.width = manifest.samples, manifest.classes, width
        self.draw, self.vectors = draw, vectors
        self.bags = Recent(read_bag, attrgetter("features.nbytes"), CACHE_BYTES)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        index, seed = item
        sample = self.samples[index]
        bag = checked(self.bags.get(sample.path), self.width)
        if self.draw is not None:
            # Their places stay those in the whole slide.
            places, rows = steps_of(bag), self.draw(sample, len(bag), np.random.default_rng(seed))
            features, places = bag.features[rows], places[rows]
        else:
            features, places = bag.features, steps_of(bag)
        said = {name: of.get(sample.id) for name, of in self.vectors.items()}
        labels = self.classes.multi_hot(sample.labels)
        return Item(sample.id, features.astype(np.float32, copy=False), places, labels, said)


def collate(items: Sequence[Item]) -> BagBatch:
    """Bags to a batch, the shorter ones padded."""
    b, n, d = len(items), max(len(item.features) for item in items), items[0].features.shape[1]
    features, places = np.zeros((b, n, d), np.float32), np.zeros((b, n, 2), np.float32)
    present = np.zeros((b, n), bool)
    for i, item in enumerate(items):
        count = len(item.features)
        features[i, :count], places[i, :count], present[i, :count] = item.features, item.places, True
    vectors, known = {}, {}
    for name in items[0].vectors:
        said = [item.vectors[name] for item in items]
        length = max((len(each) for each in said if each is not None), default=1)
        filled = [np.zeros(length, np.float32) if each is None else each for each in said]
        vectors[name] = torch.from_numpy(np.stack(filled))  # [b, k]
        known[name] = torch.tensor([each is not None for each in said])  # [b]
    return BagBatch(
        features=torch.from_numpy(features),
        places=torch.from_numpy(places),
        present=torch.from_numpy(present),
        labels=torch.from_numpy(np.stack([item.labels for item in items])),
        ids=tuple(item.id for item in items),
        vectors=vectors,
        known=known,
    )


def batch_of(bag: Bag, classes: int) -> BagBatch:
    """One bag as a batch, with nothing said of it."""
    features = bag.features.astype(np.float32, copy=False)
    return collate([Item(bag.slide, features, steps_of(bag), np.zeros(classes, np.float32))])


def steps_of(bag: Bag) -> NDArray[np.float32]:
    """`Bag.steps`, and 0 where the file says no places, float32 [n, 2]."""
    steps = bag.steps()
    return np.zeros((len(bag), 2), np.float32) if steps is None else steps


def checked(bag: Bag, width: int) -> Bag:
    """The bag, if it has tiles, and features of this width.

    Raises:
        HistillError: input (4) with the file's name.
    """
    if not len(bag):
        raise bag_error(bag.subject, "it holds no tile", "Leave this slide out of the table")
    if bag.features.shape[1] != width:
        what = f"its features are {bag.features.shape[1]} wide, those learnt from {width}"
        raise bag_error(bag.subject, what, "Give the features of one encoder")
    return bag


def require_sound_bags(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every bag of a table; one error with every fault that stands in the way of learning from it."""
    faults = []
    for done, sample in enumerate(manifest.samples):
        if progress is not None:
            progress(done + 1, len(manifest.samples))
        try:
            if not len(read_bag(sample.path)):
                faults.append(f"line {sample.line} ({sample.id}): it holds no tile")
        except HistillError as error:
            faults.append(f"line {sample.line} ({sample.id}): {error}")
    if faults:
        raise table_error(manifest.path, faults, "Mend these files, or take their rows out of the table", Exit.INPUT)


def common_width(manifest: Manifest) -> tuple[int, str]:
    """The width of all bags' features, and their encoder, empty where no file says it; the files' heads are read.

    Raises:
        HistillError: usage (2) if bags of several widths or encoders stand in one table; input (4) as `open_bag`.
    """
    found = {}
    for sample in manifest.samples:
        with open_bag(sample.path) as file:
            found[sample.id] = file.shape[1], file.facts.encoder
    width = _the_one("widths", {name: width for name, (width, _) in found.items()}, manifest)
    return width, _the_encoder({name: encoder for name, (_, encoder) in found.items()}, manifest)


def common_encoder(manifest: Manifest) -> str:
    """The encoder of the bags that can be opened, empty where no file says it; those that cannot are passed over.

    Raises:
        HistillError: usage (2) if bags of several encoders stand in one table.
    """
    found = {}
    for sample in manifest.samples:
        with contextlib.suppress(HistillError), open_bag(sample.path) as file:
            found[sample.id] = file.facts.encoder
    return _the_encoder(found, manifest)


def _the_encoder(found: Mapping[str, str], manifest: Manifest) -> str:
    said = {name: encoder for name, encoder in found.items() if encoder}
    return _the_one("encoders", said, manifest) if said else ""


def _the_one(what: str, found: Mapping[str, T], manifest: Manifest) -> T:
    first: dict[T, str] = {}
    for name, value in found.items():
        first.setdefault(value, name)
    if len(first) > 1:
        said = ", ".join(f"{value} ({name})" for value, name in list(first.items())[:4])
        raise HistillError(
            f"its bags are of {len(first)} {what}: {said}",
            code=Exit.USAGE,
            subject=str(manifest.path),
            mend="Give the features of one encoder",
        )
    return next(iter(first))


def feature_moments(manifest: Manifest, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of each feature, float32 [d] each: the means over bags, so that each bag counts alike.

    A feature that never changes has a deviation of 1.
    """
    sums = np.zeros((2, width))
    for sample in manifest.samples:
        features = checked(read_bag(sample.path), width).features.astype(np.float64)
        sums += np.stack([features.mean(0), (features * features).mean(0)])
    mean, square = sums / len(manifest.samples)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    # What rounding leaves of a constant is no deviation.
    deviation[deviation <= 1e-6 * np.abs(mean)] = 1
    return mean.astype(np.float32), deviation.astype(np.float32)
