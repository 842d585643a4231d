"""MLPS: multi-layer pseudo-supervision, from image labels to tissue masks.

Han et al., "Multi-layer pseudo-supervision for histopathology tissue semantic segmentation using patch-level
classification labels", Medical Image Analysis 80:102487, 2022, doi:10.1016/j.media.2022.102487.

Stage 1 learns to name the tissues of a patch, while progressive dropout attention (PDA) hides more and more of the
regions it relies on most, so that it looks at whole tissues. Grad-CAM at three depths of that classifier turns each
patch's labels into three pseudo-masks. Stage 2 learns to segment from all three at once, and at prediction stage 1
gates its classes.

Where we depart: any trunk with three named taps, of which the paper's wide ResNet-38 is one; the gate looks through a
window of the training patches' size, so that images of other sizes are gated alike, and on slides decides on blended
tiles; a background class, where a data set has one; validation never sees test images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
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
from histill.pseudo.cam import class_activation, grad_cam, min_max, over_maximum, upsample
from histill.pseudo.masks import MaskFolder, check_informative

CARD = Card(
    name="mlps",
    title="multi-layer pseudo-supervision",
    task="segment",
    needs="image labels",
    paper="Han et al., Medical Image Analysis 80:102487, 2022",
    ours=(
        "any encoder with three named taps in place of the wide ResNet-38",
        "the gate looks through windows of the training patches' size, so images of any size are gated alike",
        "attention can be normalised, which keeps training and inference logits on one scale (off, as published)",
        "each class's map can be scaled by its own maximum, so that a rare class is not drowned by a frequent one",
        "stage 2's trunk may start from stage 1's, for where no published weights are at hand",
        "a background class, where image labels never name it, is what no class activates on",
    ),
)


class Config(Strict):
    """The numbers of the paper, in its order."""

    classifier: ClassifierSettings = ClassifierSettings()
    """stage 1's network"""
    attention: bool = True
    """progressive dropout attention; off for the ablation"""
    attention_warmup: NonNegativeInt = 3
    """epochs before attention begins"""
    drop_decay: Share = 0.985
    """sigma: the dropout threshold shrinks by this factor each epoch"""
    drop_floor: Share = 0.65
    """the dropout threshold's least value, as a share of each map's maximum"""
    normalise_attention: bool = False
    """divide the attention by its mean; the paper does not, and its training and inference logits then differ"""
    classify: Schedule = Schedule(epochs=20)
    """stage 1's schedule"""
    classify_augmentation: Augmentation = Augmentation()
    """stage 1's changes to images"""
    map_scale: Literal["together", "each"] = "together"
    """how an image's maps come to 0..1: by one minimum and maximum over all classes, as in the released code, or each
    class's positive part by its own maximum, which is ours: a rare class is not drowned by a frequent one"""
    background_threshold: Share = 0.25
    """where the data set has a background: no class above this, on a scale of 0 to 1, is background"""
    segmenter: SegmenterSettings = SegmenterSettings()
    """stage 2's network"""
    tap_weights: tuple[NonNegativeFloat, ...] = (0.2, 0.2, 0.6)
    """weight of each tap's pseudo-mask, shallow to deep; the number of taps follows"""
    segment: Schedule = Schedule(epochs=20, warmup=0.05)
    """stage 2's schedule; the short warm-up is ours, against the collapse that users of the released code saw"""
    segment_augmentation: Augmentation = Augmentation(blur=0.5)
    """stage 2's changes to images"""
    select: Select = "auto"
    """what chooses stage 2's epoch: masks, labels, last, or auto: masks where validation has any, else labels"""
    gate: Share = 0.1
    """a class whose stage-1 probability is below this is switched off; 0 for no gate"""
    patch_size: PositiveInt = 224
    """side of the training patches in px: the window through which the gate looks"""


class Mlps(TileMethod):
    """Two networks: a classifier that explains itself, and a segmenter that learns from the explanations."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = cast(Config, config)
        self.classifier = build_classifier(self.config.classifier, len(classes))
        self.attention = ProgressiveDropoutAttention(self.config)
        self.segmenter = build_segmenter(self.config.segmenter, len(classes))
        self.taps = self.classifier.encoder.taps[-len(self.config.tap_weights) :]
        if len(self.taps) != len(self.config.tap_weights) or not self.taps:
            raise HistillError(
                f"{len(self.config.tap_weights)} weights for {len(self.classifier.encoder.taps)} taps",
                code=Exit.USAGE,
                subject="tap_weights",
                mend="Give one weight per tap, shallow to deep, or fewer for the deepest alone",
            )

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Classify with progressive dropout; make a mask at three depths; segment with all three."""
        config = self.config
        train.require("labels")
        check_informative(train)
        self.check_settings(train, run)

        run.train(
            Stage(
                "classify",
                learns=self.classifier,
                trunk=self.classifier.encoder,
                batches=run.learn_from(train, config.classify, config.classify_augmentation),
                loss=self.classification_loss,
                schedule=config.classify,
                start=lambda: self.classifier.start(config.classifier),
                before_epoch=self.attention.begin_epoch,
            )
        )
        folder = run.once("pseudo-masks", lambda making: self.make_pseudo_masks(train, making, run), shared=True)
        masks = MaskFolder(folder, self.taps)

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

    def check_settings(self, train: Manifest, run: Run) -> None:
        """Refuse settings under which attention never begins; say where the gate's window is not the patches' size."""
        config = self.config
        if config.attention and config.attention_warmup >= config.classify.epochs:
            raise HistillError(
                f"attention would begin after {config.attention_warmup} epochs of {config.classify.epochs}: never",
                code=Exit.USAGE,
                subject="attention_warmup",
                mend="Lower it, raise classify.epochs, or set attention to false",
            )
        sides = {max(sample.crop.w, sample.crop.h) for sample in train.samples if sample.crop}
        if sides and sides != {config.patch_size}:
            found = f"{min(sides)} to {max(sides)}"
            run.journal.say("note", text=f"patch_size is {config.patch_size} px, the training crops' sides are {found}")

    def classification_loss(self, batch: TileBatch) -> Losses:
        """Multi-label soft margin of the classifier's logits, its last map under attention."""
        features = self.classifier.encoder(batch.images)[-1]  # [b, c, h, w]
        features = self.attention(features, self.classifier.head.weight)
        return {"soft_margin": multilabel_soft_margin(self.classifier.classify(features), batch.labels)}

    def make_pseudo_masks(self, train: Manifest, folder: Path, run: Run) -> None:
        """Grad-CAM at each tap, scaled to 0..1; the best class that the image label names."""
        write_pseudo_masks(
            MaskFolder(folder, self.taps),
            train,
            self.tap_maps,
            run,
            background_threshold=self.config.background_threshold,
            provenance={"method": "mlps", "stage": "classify", "checkpoint": run.provenance("classify")},
        )

    def tap_maps(self, batch: TileBatch) -> list[Tensor]:
        """Grad-CAM at each tap, float32 [b, k, h, w] at the images' size, 0..1 by `map_scale`."""
        self.classifier.eval()
        h, w = batch.images.shape[-2:]
        with torch.enable_grad():
            # Nothing learns here, but Grad-CAM wants gradients even where a frozen trunk has none.
            maps = self.classifier.encoder(batch.images.detach().requires_grad_())
            cams = grad_cam(self.classifier.classify(maps[-1]), maps[-len(self.taps) :])
        grown = [upsample(cam.float(), h, w) for cam in cams]  # [b, k, h, w] each
        return [min_max(cam) if self.config.map_scale == "together" else over_maximum(F.relu(cam)) for cam in grown]

    def segmentation_loss(self, batch: TileBatch) -> Losses:
        """L = 0.2 CE(p, y_b4_5) + 0.2 CE(p, y_b5_2) + 0.6 CE(p, y_bn7), ignored pixels left out."""
        logits = self.segmenter(batch.images)  # [b, k, h, w]
        return {
            tap: weight * cross_entropy(logits, batch.masks[:, i])
            for i, (tap, weight) in enumerate(zip(self.taps, self.config.tap_weights, strict=True))
        }

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The segmenter's probabilities and, for the gate, what the classifier sees: [b, 2 k, h, w]."""
        probabilities: Tensor = self.segmenter(batch.images).float().softmax(dim=1)  # [b, k, h, w]
        if not self.config.gate:
            return probabilities
        presence = self.classifier.presence(batch.images, self.config.patch_size)
        return torch.cat([probabilities, presence], dim=1)  # [b, 2 k, h, w]

    def finish(self, maps: Tensor) -> Tensor:
        """Switch off the classes that the classifier does not see."""
        if not self.config.gate:
            return maps
        probabilities, presence = maps.chunk(2, dim=1)  # [b, k, h, w] each
        return gate(probabilities, presence, self.config.gate, self.classes)


def gate(probabilities: Tensor, presence: Tensor, threshold: float, classes: Classes) -> Tensor:
    """Switch classes off where they are hardly present; where all would be off, the gate steps aside.

    A probability of 0, the others growing to a sum of 1, is what a logit of -inf comes to, and can be blended before.

    Args:
        probabilities: [b, k, h, w].
        presence: probabilities [b, k, h, w], or [b, k, 1, 1] for whole images.
        threshold: the least presence of a class that stays on; a background class always does.
        classes: of the data set.
    """
    off = presence < threshold
    if classes.background is not None:
        off = off.index_fill(1, torch.tensor([classes.index(classes.background)], device=off.device), False)
    off = off & ~off.all(dim=1, keepdim=True)
    # Where the classes left on have no probability at all in float32, they share it.
    left = probabilities.clamp(min=torch.finfo(torch.float32).tiny).masked_fill(off, 0)
    return left / left.sum(dim=1, keepdim=True)


class ProgressiveDropoutAttention(nn.Module):
    """PDA: attention that leaves out what the classifier relies on most, a little more each epoch.

    ``M_k = ReLU(sum_n w_kn m_n)``, ``M^_k = M_k where M_k <= mu max(M_k), else 0``, ``A = mean_k M^_k``, and the
    features become ``A * m``. mu is 1 when attention begins and shrinks by `drop_decay` each epoch down to
    `drop_floor`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.threshold: float | None = None
        """mu; None while attention is off"""

    def begin_epoch(self, epoch: int) -> None:
        """Set mu for an epoch."""
        age = epoch - self.config.attention_warmup
        on = self.config.attention and age >= 0
        self.threshold = max(self.config.drop_floor, self.config.drop_decay**age) if on else None

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """The last map m [b, n, h, w] and the head's weight w [k, n, 1, 1] -> A * m [b, n, h, w]."""
        if self.threshold is None:
            return features
        maps = class_activation(features, weight)  # [b, k, h, w]
        kept = maps * (maps <= self.threshold * maps.amax(dim=(2, 3), keepdim=True))
        attention = kept.mean(dim=1, keepdim=True)  # [b, 1, h, w]
        if self.config.normalise_attention:
            mean = attention.mean(dim=(2, 3), keepdim=True)
            attention = attention / mean.clamp(min=torch.finfo(torch.float32).tiny)
        return attention * features
