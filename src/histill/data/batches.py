"""Samples as batches, epoch by epoch, whatever a sample is: a patch, a bag, a field at two resolutions."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from histill.core.errors import HistillError
from histill.core.seeds import derive, generator


class Batch(Protocol):
    """What a stage's loss is given: a frozen dataclass of tensors whose docstring says their shapes."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the samples."""

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process takes, where several train together: one of `size` as equal as can be.

    Attributes:
        rank: which, from 0.
        size: of how many.
    """

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> range:
        """The places of its part in a batch of so many."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)


class Batches(Generic[B]):
    """Batches of a dataset: what epoch e holds follows from (seed, e) alone, not from the past.

    Args:
        dataset: its items are asked for by (index, seed); an item's random draws follow from its seed.
        count: how many samples it has.
        collate: items -> a batch.
        batch_size: samples a batch; in training the last batch of an epoch is left out if it is short.
        shuffle: draw a new order each epoch.
        workers: processes that read; 0 reads in this one. The batches are the same bytes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        count: int,
        collate: Callable[[Sequence[Any]], B],
        batch_size: int,
        *,
        shuffle: bool = False,
        workers: int = 0,
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.workers = count, batch_size, shuffle, workers
        self._dataset, self._collate = dataset, collate

    def __len__(self) -> int:
        return max(1, self.count // self.batch_size) if self.shuffle else -(-self.count // self.batch_size)

    @property
    def whole(self) -> int:
        """Samples of a whole batch in training."""
        return min(self.batch_size, self.count)

    def epoch(self, epoch: int, seed: int, *, begin: int = 0, step: int = 1, share: Share | None = None) -> Iterator[B]:
        """The batches of one epoch.

        Args:
            epoch: its number.
            seed: of the stage; order and augmentation follow from it.
            begin: the first batch to be read; those before it are not.
            step: 1 for every batch from there on, n for every n-th.
            share: of each batch, the part to be read; None for all of it.

        Raises:
            HistillError: whatever the dataset raises, in whatever process.
        """
        order = np.arange(self.count)
        if self.shuffle:
            order = generator(seed, "order", epoch).permutation(self.count)
        batches = [
            [(int(i), derive(seed, "augment", epoch, int(i))) for i in order[start : start + self.batch_size]]
            for start in range(0, len(self) * self.batch_size, self.batch_size)
        ][begin::step]
        if share is not None:
            batches = [[batch[i] for i in share.of(len(batch))] for batch in batches]
        loader = DataLoader(
            _Told(self._dataset),
            batch_sampler=batches,
            collate_fn=partial(_collated, self._collate),
            # It would draw from torch's shared stream, which is dropout's.
            generator=torch.Generator(),
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_its_parent,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, HistillError):
                raise batch
            yield batch


class _Told(Dataset[Any]):
    """A dataset whose errors come as items: those that a reading process raises, torch tells in words of its own."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> Any:
        try:
            return self._dataset[item]
        except HistillError as error:
            return error


def _collated(collate: Callable[[Sequence[Any]], B], items: Sequence[Any]) -> B | HistillError:
    return next((item for item in items if isinstance(item, HistillError)), None) or collate(items)


def _leave_signals_to_its_parent(worker: int) -> None:
    # A scheduler tells every process to end, a terminal too; who trains still wants the batches of the step at work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
