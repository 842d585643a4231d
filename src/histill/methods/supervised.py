"""The ceiling: the same segmenter, taught with true masks.

What a method that sees only image labels could reach at most with this network, these images and this schedule.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.augment import Augmentation
from histill.data.tiles import TileBatch, TrueMasks
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select import Select, selection
from histill.engine.stage import Losses, Stage
from histill.engine.tile_method import TileMethod
from histill.losses.segmentation import cross_entropy
from histill.nets.segmenters import SegmenterSettings, build_segmenter

CARD = Card(
    name="supervised",
    title="segmentation with true masks (the ceiling)",
    task="segment",
    needs="masks",
    paper="Chen et al., ECCV 2018 (DeepLabV3+)",
)


class Config(Strict):
    """A segmenter and its schedule."""

    segmenter: SegmenterSettings = SegmenterSettings()
    """the network"""
    segment: Schedule = Schedule(epochs=20)
    """how it learns"""
    segment_augmentation: Augmentation = Augmentation(blur=0.5)
    """changes to images"""
    select: Select = "auto"
    """what chooses the epoch: masks, labels, last, or auto: masks where validation has any, else labels"""


class Supervised(TileMethod):
    """One segmenter, cross-entropy with the true masks."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = cast(Config, config)
        self.segmenter = build_segmenter(self.config.segmenter, len(classes))

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Segment."""
        config = self.config
        train.require("mask")
        run.train(
            Stage(
                "segment",
                learns=self.segmenter,
                trunk=self.segmenter.encoder,
                batches=run.learn_from(train, config.segment, config.segment_augmentation, TrueMasks(train.card)),
                loss=self.segmentation_loss,
                schedule=config.segment,
                start=lambda: self.segmenter.start(config.segmenter.weights),
                select=selection(self, val, config.select, run),
            )
        )

    def segmentation_loss(self, batch: TileBatch) -> Losses:
        """L = CE(p, y)."""
        return {"cross_entropy": cross_entropy(self.segmenter(batch.images), batch.masks[:, 0])}

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The segmenter's probabilities."""
        logits: Tensor = self.segmenter(batch.images)  # [b, k, h, w]
        return logits.softmax(dim=1)
