"""A stage: one named part of a method's training, as its paper names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor, nn

from histill.data.batches import B, Batches
from histill.engine.optim import Schedule

Losses = dict[str, Tensor]
"""Loss terms by the paper's names, each weighted as it enters the sum."""


@dataclass(frozen=True)
class Stage(Generic[B]):
    """What `Run.train` needs to know.

    Attributes:
        name: also the name of its folder.
        learns: the network; its weights are the stage's result.
        trunk: the part of it that learns at the plain learning rate.
        batches: what it learns from.
        loss: batch -> terms; their sum is minimised. It follows from the batch, the networks, the epoch and torch's
            random streams alone. Of several processes each calls it with a part of a batch: it calls the same networks
            in the same order whatever that holds, and is a mean over samples, or over the pixels of `count_known`.
        schedule: epochs, batch size, rates.
        start: called before a stage that is not finished: loads start weights, freezes what shall not learn.
        before_epoch: called with the epoch's number: whatever changes with it must follow from it.
        select: called after an epoch, the greater the better: the best epoch's weights are kept; None keeps the last.
    """

    name: str
    learns: nn.Module
    trunk: nn.Module
    batches: Batches[B]
    loss: Callable[[B], Losses]
    schedule: Schedule
    start: Callable[[], None] | None = None
    before_epoch: Callable[[int], None] | None = None
    select: Callable[[], float] | None = None
