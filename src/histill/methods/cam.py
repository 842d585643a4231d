"""The plain way from image labels to masks: classifier -> class activation map -> pseudo-mask -> segmenter.

Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, doi:10.1109/CVPR.2016.319, for the
maps. Each class's map is divided by its own maximum; the best class that the image label names wins the pixel; a
segmenter learns the result. What every weakly supervised method here has to beat.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from histill.core.config import Share, Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.augment import Augmentation
from histill.data.tiles import TileBatch
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.pseudo_masks import write_pseudo_masks
from histill.engine.run import Run
from histill.engine.select import Select, selection
from histill.engine.stage import Losses, Stage
from histill.engine.tile_method import TileMethod
from histill.losses.classification import multilabel_soft_margin
from histill.losses.segmentation import cross_entropy
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.segmenters import SegmenterSettings, build_segmenter
from histill.pseudo.cam import class_activation, over_maximum, upsample
from histill.pseudo.masks import MaskFolder, check_informative

CARD = Card(
    name="cam",
    title="class activation maps as pseudo-masks (the baseline)",
    task="segment",
    needs="image labels",
    paper="Zhou et al., CVPR 2016",
)
MAP = "cam"


class Config(Strict):
    """A classifier, a segmenter, their schedules."""

    classifier: ClassifierSettings = ClassifierSettings()
    """the network whose maps become masks"""
    classify: Schedule = Schedule(epochs=20)
    """how it learns"""
    classify_augmentation: Augmentation = Augmentation()
    """its changes to images"""
    background_threshold: Share = 0.25
    """where the data set has a background: no class above this share of its maximum is background"""
    segmenter: SegmenterSettings = SegmenterSettings()
    """the network that is kept"""
    segment: Schedule = Schedule(epochs=20)
    """how it learns"""
    segment_augmentation: Augmentation = Augmentation(blur=0.5)
    """its changes to images"""
    select: Select = "auto"
    """what chooses the epoch: masks, labels, last, or auto: masks where validation has any, else labels"""


class Cam(TileMethod):
    """A classifier and a segmenter that learns from its class activation maps."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = cast(Config, config)
        self.classifier = build_classifier(self.config.classifier, len(classes))
        self.segmenter = build_segmenter(self.config.segmenter, len(classes))

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Classify; make a mask of each image's activation maps; segment."""
        config = self.config
        train.require("labels")
        check_informative(train)

        run.train(
            Stage(
                "classify",
                learns=self.classifier,
                trunk=self.classifier.encoder,
                batches=run.learn_from(train, config.classify, config.classify_augmentation),
                loss=self.classification_loss,
                schedule=config.classify,
                start=lambda: self.classifier.start(config.classifier),
            )
        )
        folder = run.once("pseudo-masks", lambda making: self.make_pseudo_masks(train, making, run), shared=True)
        masks = MaskFolder(folder, [MAP])

        run.train(
            Stage(
                "segment",
                learns=self.segmenter,
                trunk=self.segmenter.encoder,
                batches=run.learn_from(train, config.segment, config.segment_augmentation, masks.read),
                loss=self.segmentation_loss,
                schedule=config.segment,
                start=lambda: self.segmenter.start(config.segmenter.weights, self.classifier.encoder),
                select=selection(self, val, config.select, run),
            )
        )

    def classification_loss(self, batch: TileBatch) -> Losses:
        """Multi-label soft margin."""
        return {"soft_margin": multilabel_soft_margin(self.classifier(batch.images), batch.labels)}

    def make_pseudo_masks(self, train: Manifest, folder: Path, run: Run) -> None:
        """The best of each image's named classes by its activation map over the map's maximum."""
        write_pseudo_masks(
            MaskFolder(folder, [MAP]),
            train,
            lambda batch: [self.activation_maps(batch)],
            run,
            background_threshold=self.config.background_threshold,
            provenance={"method": "cam", "stage": "classify", "checkpoint": run.provenance("classify")},
        )

    def activation_maps(self, batch: TileBatch) -> Tensor:
        """M_k / max M_k, float32 [b, k, h, w] at the images' size."""
        self.classifier.eval()
        with torch.no_grad():
            features = self.classifier.encoder(batch.images)[-1].float()  # [b, c, h / s, w / s]
            maps = class_activation(features, self.classifier.head.weight)  # [b, k, h / s, w / s]
        return over_maximum(upsample(maps, *batch.images.shape[-2:]))

    def segmentation_loss(self, batch: TileBatch) -> Losses:
        """L = CE(p, y_cam)."""
        return {"cross_entropy": cross_entropy(self.segmenter(batch.images), batch.masks[:, 0])}

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The segmenter's probabilities."""
        logits: Tensor = self.segmenter(batch.images)  # [b, k, h, w]
        return logits.softmax(dim=1)
