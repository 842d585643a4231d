"""MIL: what is said of a slide, learnt from slide labels over its tiles' features.

A head pools the features of a bag and classifies what it pooled: the mean or the maximum; attention, plain or gated
(Ilse et al., ICML 2018, doi:10.48550/arXiv.1802.04712); the two streams of DSMIL (Li et al., CVPR 2021); the
self-attention of TransMIL (Shao et al., NeurIPS 2021). Encoders stay as they are: bags are feature files.

Where we depart from the papers: features are standardised by the training bags' mean and deviation; a bag is seen by as
many of its tiles as memory allows; the epoch is chosen by the validation bags' AUC, never by the test bags.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.bags import Bag
from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Manifest, Sample, table_error
from histill.core.predictions import BagPrediction
from histill.data.bag_batches import BagBatch, Bags, batch_of, checked, feature_moments
from histill.engine.bag_method import SlideClassifier
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select import said_of
from histill.engine.stage import Losses, Stage
from histill.metrics.bootstrap import resample
from histill.metrics.classification import macro_auc
from histill.nets.mil_heads import BagOutput, MilHeadSettings, build_mil_head

CARD = Card(
    name="mil",
    title="slide labels from bags of features: mean, max, ABMIL, gated ABMIL, DSMIL, TransMIL",
    task="classify",
    needs="slide labels",
    paper="Ilse et al., ICML 2018 (ABMIL); Li et al., CVPR 2021 (DSMIL); Shao et al., NeurIPS 2021 (TransMIL)",
    ours=(
        "Features are standardised by the training bags.",
        "TransMIL sees tiles in the order of their places; its attention, as the paper has none per tile, is not told.",
        "DSMIL's similarities are divided by the root of their width.",
    ),
)


class Config(Strict):
    """A head and its schedule."""

    head: MilHeadSettings = MilHeadSettings()
    """how the tiles of a bag are pooled"""
    standardise: bool = True
    """features at mean 0 and deviation 1 over the training bags, each bag counting alike"""
    most: NonNegativeInt = 0
    """tiles of a bag that an epoch sees, drawn anew each time; 0 for all"""
    balance: bool = False
    """bags of rare classes count as much as those of common ones"""
    learn: Schedule = Schedule(
        epochs=40,
        batch_size=1,
        accumulate=8,
        optimizer="adamw",
        learning_rate=2e-4,
        head_factor=1.0,
        weight_decay=1e-4,
        decay="cosine",
    )
    """how the head learns"""
    select: Literal["auc", "loss", "last"] = "auc"
    """what chooses the epoch: auc of validation bags, of equal ones the lower loss; loss, that alone; last, nothing"""


class Mil(SlideClassifier):
    """One head over one encoder's features."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes, seen: dict[str, Any]) -> None:
        super().__init__(config, classes, seen)
        assert isinstance(config, Config)
        self.config = config
        if len(classes) < 2:
            raise HistillError("there is one class alone", code=Exit.USAGE, subject="classes", mend="Label two or more")
        self.head: nn.Module = build_mil_head(config.head, self.width, len(classes))
        self.mean, self.deviation = (nn.Buffer(torch.full((self.width,), value)) for value in (0.0, 1.0))
        self.balance = torch.ones(len(classes))

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Standardise; then learn what the labels say."""
        _require_one_label(train)
        if self.config.standardise:
            mean, deviation = feature_moments(train, self.width)
            self.mean.copy_(torch.from_numpy(mean))
            self.deviation.copy_(torch.from_numpy(deviation))
        if self.config.balance:
            self.balance = class_weights(train)
        most = self.config.most
        bags = Bags(
            train,
            self.config.learn.batch_size,
            self.width,
            draw=partial(_some, most) if most else None,
            shuffle=True,
            workers=run.workers,
        )
        select = self._selection(val, run)
        run.train(Stage("learn", self.head, self.head, bags, self.loss, self.config.learn, select=select))

    def forward(self, batch: BagBatch) -> BagOutput:
        """What is said of a batch of bags."""
        features = (batch.features - self.mean) / self.deviation
        output: BagOutput = self.head(features, batch.present, batch.places)
        return output

    def predict(self, bag: Bag) -> BagPrediction:
        """The classes' probabilities of one slide, and how much each of its tiles counted, where the head says that."""
        batch = batch_of(checked(bag, self.width), len(self.classes)).to(self.mean.device)
        with torch.inference_mode():
            output = self(batch)
        attention = None if output.attention is None else output.attention[0].float().cpu().numpy()
        return BagPrediction(output.logits[0].float().softmax(0).cpu().numpy(), attention)

    def loss(self, batch: BagBatch) -> Losses:
        """``CE = -log softmax(z)_y``, weighted by the inverse of how common y is where classes are balanced."""
        return {"CE": self.error(self(batch).logits, batch.labels)}

    def error(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss's CE of logits [b, k] for labels [b, k]."""
        truth = labels.argmax(dim=1)  # [b]
        each = F.cross_entropy(logits, truth, reduction="none")  # [b]
        return (each * self.balance.to(each.device)[truth]).mean()

    def _selection(self, val: Manifest | None, run: Run) -> Callable[[], float] | None:
        if val is None or self.config.select == "last":
            return None
        _require_one_label(val)
        by = self.config.select
        if by == "auc" and len({sample.labels for sample in val.samples}) < 2:
            by = "loss"
            run.journal.say(
                "note", text="the validation bags are of one class: their loss chooses the epoch, not the AUC"
            )
        run.journal.say("selecting", by=by, samples=len(val.samples))
        return partial(self._score, Bags(val, 1, self.width, workers=run.workers), by == "auc", run)

    def _score(self, bags: Bags, by_auc: bool, run: Run) -> float:
        """AUC, of equal ones greater where the mean loss is less; or minus that loss."""
        judged = said_of(bags, lambda batch: self._judged(batch, run), run)
        losses, truth, said = (np.array(column) for column in zip(*judged, strict=True))  # [n], [n], [n, k]
        if not by_auc:
            return -float(losses.mean())
        area = macro_auc(truth, said, resample([each.id for each in bags.manifest.samples], draws=0))[0]
        # One pair of bags in another order changes an AUC by more than this, with losses below 100.
        return float(area - 1e-3 * losses.mean() / len(losses) ** 2)

    @torch.no_grad()
    def _judged(self, batch: BagBatch, run: Run) -> tuple[float, int, list[float]]:
        """Of one bag its loss, its class, and the probability of each class."""
        batch = batch.to(run.fabric.device)
        with run.fabric.autocast():
            logits = self(batch).logits.float()  # [1, k]
            loss = float(self.error(logits, batch.labels))
        return loss, int(batch.labels[0].argmax()), logits[0].softmax(0).tolist()


def class_weights(train: Manifest) -> Tensor:
    """``n / (k n_c)`` for each of the k classes that have bags: all weigh alike, and bags 1 on average; float32 [k]."""
    names = train.classes.names
    counts = torch.tensor([sum(name in sample.labels for sample in train.samples) for name in names])
    return len(train.samples) / ((counts > 0).sum() * counts.clamp(min=1))


def _some(most: int, sample: Sample, n: int, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.sort(random.choice(n, min(n, most), replace=False))


def _require_one_label(table: Manifest) -> None:
    def told(sample: Sample) -> str:
        said = f"the labels {' and '.join(sample.labels)}" if sample.labels else "no label"
        return f"line {sample.line} ({sample.id}) has {said}"

    faults = [told(sample) for sample in table.samples if len(sample.labels) != 1]
    if faults:
        raise table_error(table.path, faults, "A slide is of one class: give each row one label")
