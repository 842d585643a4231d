"""GLMKD: global and local mutual knowledge distillation, from a 0/1 label of an image to a mask of its lesion.

Cheng et al., "GLMKD: joint global and local mutual knowledge distillation", Expert Systems with Applications
279:127425, 2025. No code was released.

Two witnesses learn from the same image labels. The global one, a classifier, says by its class activation map what
tells a lesion from the rest. The local one, a network of instances at several scales, says which parts of an image
carry its label. What each saw becomes a pseudo-mask for a student of its own, and the two students, peers, learn
together: each from its mask, from what the other says of every pixel (mutual knowledge distillation), and from the
other's outline (shape transfer). Both predict.

What is published is the plan: two streams, multi-scale instances, mutual distillation, a shape transfer loss. The
formulas and numbers below are ours, as its page in the docs says one by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest
from histill.data.augment import Augmentation
from histill.data.tiles import LEAST, MULTIPLE, TileBatch
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select import Select, selection
from histill.engine.soft_masks import write_soft_masks
from histill.engine.stage import Losses, Stage
from histill.engine.tile_method import TileMethod, usual_side
from histill.losses.distillation import mutual_kl
from histill.losses.pixels import mean_over
from histill.losses.segmentation import dice_loss
from histill.losses.shape import shape_transfer
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.mil import MultiScaleMilSettings, build_multi_scale_mil
from histill.nets.segmenters import SegmenterSettings, build_segmenter
from histill.pseudo.cam import class_activation, over_maximum, upsample
from histill.pseudo.masks import check_both_kinds
from histill.pseudo.refine import without_specks
from histill.pseudo.soft import SoftFolder, Thresholds

GLOBAL, LOCAL = "global", "local"
STREAMS = (GLOBAL, LOCAL)

CARD = Card(
    name="glmkd",
    title="global and local mutual knowledge distillation",
    task="segment",
    needs="lesion labels",
    paper="Cheng et al., Expert Systems with Applications 279:127425, 2025",
    ours=(
        "no code was released: published are the two streams, instances at several scales, mutual distillation and a "
        "shape transfer loss; every formula, network, number and schedule is ours",
        "the global map is averaged over four scales of the image and its flip, for outlines finer than the trunk's",
        "the local network learns from each instance of an image without a lesion, or those without attention would "
        "never be trained",
        "pseudo-masks say nothing between two thresholds, nor where they contradict their image's label",
        "the students teach each other more and more: in the beginning they know nothing",
        "both students predict together, where the classifier sees a lesion, and specks are dropped",
    ),
)

STEP = 2.0**-24
"""From one half to the next float32."""

OpenShare = Annotated[float, Field(gt=0, lt=1)]


class Config(Strict):
    """The numbers of the method, in its order. None of them is published."""

    classifier: ClassifierSettings = ClassifierSettings(output_stride=16)
    """the global witness's network"""
    classify: Schedule = Schedule(epochs=20, optimizer="adamw", learning_rate=1e-4, head_factor=1.0, weight_decay=0.01)
    """its schedule"""
    scales: tuple[PositiveFloat, ...] = (0.5, 1.0, 1.5, 2.0)
    """the sizes at which it looks at an image for the map, as multiples of the image's own; each also mirrored"""
    mil: MultiScaleMilSettings = MultiScaleMilSettings()
    """the local witness's network"""
    localise: Schedule = Schedule(epochs=20, optimizer="adamw", learning_rate=1e-4, head_factor=1.0, weight_decay=0.01)
    """its schedule"""
    grids: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.25, 0.5, 1.0)
    """its scales: cells along a side of the grid, as a share of the side of the network's last map; one is enough"""
    grid_weights: tuple[PositiveFloat, ...] = (0.3, 0.3, 0.4)
    """of each grid in the map; brought to a sum of 1"""
    witness_augmentation: Augmentation = Augmentation()
    """both witnesses' changes to images"""
    foreground: OpenShare = 0.5
    """a pseudo-mask is lesion from this value of its map on"""
    background: Share = 0.25
    """and background up to this one; between the two it says nothing"""
    segmenter: SegmenterSettings = SegmenterSettings(encoder="resnet50")
    """each student's network; with weights "classifier" each starts from its own witness's trunk"""
    temperature: PositiveFloat = 2.0
    """T of mutual distillation"""
    mutual: NonNegativeFloat = 1.0
    """lambda_k: weight of mutual distillation, in the end; 0 for none"""
    shape: NonNegativeFloat = 0.1
    """lambda_s: weight of shape transfer, in the end; 0 for none"""
    ramp: OpenShare = 0.4
    """share of the epochs over which the two weights rise"""
    segment: Schedule = Schedule(
        epochs=60, batch_size=16, optimizer="adam", learning_rate=1e-4, head_factor=1, weight_decay=0, decay="cosine"
    )
    """the students' schedule"""
    segment_augmentation: Augmentation = Augmentation()
    """the students' changes to images"""
    select: Select = "auto"
    """what chooses the students' epoch: masks, labels, last, or auto: masks where validation has any, else labels"""
    students: Literal["both", "global", "local"] = "both"
    """which of the two predict; both: the mean. They are trained alike, whatever it says"""
    gate: Share = 0.1
    """there is no lesion where the classifier's probability is below this; 0 for no gate"""
    threshold: OpenShare = 0.5
    """lesion from this probability on"""
    smallest: Share = 0.0005
    """components smaller than this share of a patch are dropped; 0 for none"""
    patch_size: PositiveInt = 256
    """side of the training patches in px: the window through which the gate looks, and the patch of `smallest`"""


class Glmkd(TileMethod):
    """Two witnesses and two students."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = config = cast(Config, config)
        check_settings(config)
        self.lesion = classes.lesion
        self.thresholds = Thresholds(config.foreground, config.background)
        self.classifier = build_classifier(config.classifier, 1)
        self.mil = build_multi_scale_mil(config.mil, config.grids)
        self.students = Peers(config.segmenter)
        self.rise = 1.0
        """exp(-5 (1 - t)^2), of the epoch"""

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Learn from labels as a whole and by parts; keep what each saw; teach two students, who teach each other."""
        config = self.config
        train.require("labels")
        check_both_kinds(train)
        self.look_at(train, run)

        run.train(
            Stage(
                GLOBAL,
                learns=self.classifier,
                trunk=self.classifier.encoder,
                batches=run.learn_from(train, config.classify, config.witness_augmentation),
                loss=self.global_loss,
                schedule=config.classify,
                start=lambda: self.classifier.start(config.classifier),
            )
        )
        run.train(
            Stage(
                LOCAL,
                learns=self.mil,
                trunk=self.mil.encoder,
                batches=run.learn_from(train, config.localise, config.witness_augmentation),
                loss=self.local_loss,
                schedule=config.localise,
                start=lambda: self.mil.start(config.mil),
            )
        )
        folder = run.once("pseudo-masks", lambda making: self.make_pseudo_masks(train, making, run))
        masks = SoftFolder(folder, STREAMS, self.classes, self.thresholds)

        run.train(
            Stage(
                "segment",
                learns=self.students,
                trunk=self.students.trunks,
                batches=run.learn_from(train, config.segment, config.segment_augmentation, masks.read),
                loss=self.segmentation_loss,
                schedule=config.segment,
                start=self.start_students,
                before_epoch=self.begin_epoch,
                select=selection(self, val, config.select, run),
            )
        )

    def global_loss(self, batch: TileBatch) -> Losses:
        """BCE(z, y)."""
        logits = self.classifier(batch.images)[:, 0]  # [b]
        return {"bce": F.binary_cross_entropy_with_logits(logits, batch.labels[:, self.lesion])}

    def local_loss(self, batch: TileBatch) -> Losses:
        """L = sum_g BCE(bag_g, y) + BCE(mean_g bag_g, y) + [y = 0] sum_g mean_i BCE(z_gi, 0), the mean over images."""
        found = self.mil(batch.images, batch.valid)
        truth = batch.labels[:, self.lesion]  # [b]
        bags = torch.stack([scale.bag for scale in found])  # [g, b]
        of_bags = F.binary_cross_entropy_with_logits(bags, truth.expand_as(bags), reduction="none").sum(dim=0)  # [b]
        of_instances = torch.zeros_like(truth)  # [b]
        for scale in found:
            losses = F.softplus(scale.instances).masked_fill(~scale.present, 0)  # [b, rows, columns]
            of_instances = of_instances + losses.sum(dim=(1, 2)) / scale.present.sum(dim=(1, 2))  # [b]
        return {
            "bags": of_bags.mean(),
            "mean_bag": F.binary_cross_entropy_with_logits(bags.mean(dim=0), truth),
            "instances": (of_instances * (1 - truth)).mean(),
        }

    def make_pseudo_masks(self, train: Manifest, folder: Path, run: Run) -> None:
        """What both witnesses saw in each image."""
        write_soft_masks(
            SoftFolder(folder, STREAMS, self.classes, self.thresholds),
            train,
            self.witnesses,
            run,
            provenance={"method": "glmkd", **{f"checkpoint of {each}": run.provenance(each) for each in STREAMS}},
        )

    @torch.no_grad()
    def witnesses(self, batch: TileBatch) -> Tensor:
        """M_g and M_l of each image, given its label: float32 [b, 2, h, w] in 0..1; 0 without a lesion, and on padding.

        Each image is looked at as if it were alone in its batch.
        """
        self.classifier.eval()
        self.mil.eval()
        maps = torch.zeros(len(batch.images), len(STREAMS), *batch.images.shape[-2:], device=batch.images.device)
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i in batch.labels[:, self.lesion].nonzero()[:, 0].tolist():
            sizes[int(batch.valid[i].any(1).sum()), int(batch.valid[i].any(0).sum())].append(i)
        for (h, w), alike in sizes.items():
            rows, columns = padded(h), padded(w)
            images, valid = batch.images[alike, :, :rows, :columns], batch.valid[alike, :rows, :columns]
            seen = over_maximum(self.global_map(images)[..., :h, :w]), self.local_map(images, valid)[..., :h, :w]
            maps[alike, :, :h, :w] = torch.cat(seen, dim=1)  # [n, 2, h, w]
        return maps

    def global_map(self, images: Tensor) -> Tensor:
        """ReLU(sum_k w_k F_k), the mean over scales and the horizontal flip, float32 [b, 1, h, w]."""
        b, _, h, w = images.shape
        total = images.new_zeros(b, 1, h, w)
        for scale in self.config.scales:
            scaled = upsample(images, padded(h * scale), padded(w * scale))
            for flip in (False, True):
                features = self.classifier.encoder(scaled.flip(3) if flip else scaled)[-1]  # [b, c, h / s, w / s]
                found = upsample(class_activation(features, self.classifier.head.weight).float(), h, w)  # [b, 1, h, w]
                total += found.flip(3) if flip else found
        return total / (2 * len(self.config.scales))

    def local_map(self, images: Tensor, valid: Tensor) -> Tensor:
        """sum_g w_g up(s(z_g)), float32 [b, 1, h, w]."""
        b, _, h, w = images.shape
        total = images.new_zeros(b, 1, h, w)
        for weight, scale in zip(self.config.grid_weights, self.mil(images, valid), strict=True):
            total += weight * upsample(scale.instances[:, None].sigmoid(), h, w)
        return total / sum(self.config.grid_weights)

    def start_students(self) -> None:
        """Load each student's start weights."""
        weights = self.config.segmenter.weights
        self.students.of_global.start(weights, self.classifier.encoder)
        self.students.of_local.start(weights, self.mil.encoder)

    def begin_epoch(self, epoch: int) -> None:
        """Let the weights of what the students teach each other rise: exp(-5 (1 - t)^2)."""
        t = min(1.0, epoch / (self.config.ramp * self.config.segment.epochs))
        self.rise = math.exp(-5 * (1 - t) ** 2)

    def segmentation_loss(self, batch: TileBatch) -> Losses:
        """L = L_sup(S_g, M_g) + L_sup(S_l, M_l) + lambda_k(t) L_mkd + lambda_s(t) [L_st(g <- l) + L_st(l <- g)]."""
        z_g, z_l = self.students(batch.images)  # [b, h, w] each
        losses = {
            "sup_global": supervision(z_g, batch.masks[:, 0], self.lesion).mean(),
            "sup_local": supervision(z_l, batch.masks[:, 1], self.lesion).mean(),
        }
        if self.config.mutual:
            mutual = mutual_kl(z_g, z_l, batch.valid, self.config.temperature)
            losses["mkd"] = self.config.mutual * self.rise * mutual.mean()
        if self.config.shape:
            p_g, p_l = z_g.sigmoid(), z_l.sigmoid()
            both_ways = shape_transfer(p_g, p_l, batch.valid) + shape_transfer(p_l, p_g, batch.valid)
            losses["shape"] = self.config.shape * self.rise * both_ways.mean()
        return losses

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The students' mean probability of the lesion, and for the gate what the classifier sees: [b, 2, h, w]."""
        peers = self.students
        chosen = {"both": (peers.of_global, peers.of_local), "global": (peers.of_global,), "local": (peers.of_local,)}
        seen = [student(batch.images).sigmoid() for student in chosen[self.config.students]]  # [b, 1, h, w] each
        maps = torch.stack(seen).mean(dim=0)  # [b, 1, h, w]
        if self.config.gate:
            presence = self.classifier.presence(batch.images, self.config.patch_size)
            maps = torch.cat([maps, presence], dim=1)  # [b, 2, h, w]
        # What an image is reflected to must not make a speck at its edge larger than it is.
        return maps.masked_fill(~batch.valid[:, None], 0)

    def finish(self, maps: Tensor) -> Tensor:
        """Nothing where the classifier sees no lesion; lesion from the threshold on; no specks."""
        lesion = maps[:, 0].float().clamp(0, 1)  # [b, h, w]
        if self.config.gate:
            lesion = lesion.masked_fill(maps[:, 1] < self.config.gate, 0)
        # Odds over those of the threshold: what reaches it reaches one half.
        yes, no = lesion * (1 - self.config.threshold), (1 - lesion) * self.config.threshold
        odds = yes / (yes + no)
        stays = torch.stack([self.without_specks(each) for each in lesion >= self.config.threshold])
        lesion = torch.where(stays, odds.clamp(min=0.5 + STEP), torch.minimum(odds, 1 - odds).clamp(max=0.5 - STEP))
        pair = (lesion, 1 - lesion) if self.lesion == 0 else (1 - lesion, lesion)
        return torch.stack(pair, dim=1)  # [b, 2, h, w]

    def without_specks(self, found: Tensor) -> Tensor:
        """A mask bool [h, w] without its components of fewer pixels than `smallest` allows."""
        return torch.from_numpy(without_specks(found.cpu().numpy(), self.least)).to(found.device)

    @property
    def least(self) -> int:
        """Pixels of the smallest component that stays."""
        return math.ceil(self.config.smallest * self.config.patch_size**2)

    @property
    def reach(self) -> int:
        """How far around a pixel `finish` looks, in px: a component of fewer than `least` px ends within that."""
        return max(0, self.least - 1)

    def look_at(self, train: Manifest, run: Run) -> None:
        """Say where the gate's window is not the patches' size, and where two grids come to the same."""
        side, patch = usual_side(train), self.config.patch_size
        if side != patch:
            run.journal.say("note", text=f"patch_size is {patch} px, the training images' usual side is {side}")
        device = next(self.parameters()).device
        with torch.no_grad():
            features = self.mil.eval().encoder(torch.zeros(1, 3, padded(side), padded(side), device=device))[-1]
        h, w = features.shape[-2:]
        if len(set(self.mil.cells(h, w))) < len(self.config.grids):
            text = f"two of the grids are the same on the local network's map of {h} x {w}: their weights add up"
            run.journal.say("note", text=text)


class Peers(nn.Module):
    """S_g and S_l: two students of one kind, one for what each witness saw."""

    def __init__(self, settings: SegmenterSettings) -> None:
        super().__init__()
        self.of_global, self.of_local = build_segmenter(settings, 1), build_segmenter(settings, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, h, w] -> z_g and z_l, logits of the lesion, float32 [b, h, w] each."""
        return self.of_global(images)[:, 0], self.of_local(images)[:, 0]

    @property
    def trunks(self) -> nn.Module:
        """Both students' trunks."""
        return nn.ModuleList([self.of_global.encoder, self.of_local.encoder])


def supervision(logits: Tensor, masks: Tensor, lesion: int) -> Tensor:
    """L_sup = BCE(p, P) + DiceLoss(p, P), ignored pixels out of both.

    Args:
        logits: of p, float32 [b, h, w].
        masks: P, int64 [b, h, w]; `IGNORE` where it says nothing.
        lesion: its index.

    Returns:
        float32 [b].
    """
    known, target = masks != IGNORE, (masks == lesion).float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # [b, h, w]
    return mean_over(cross_entropy, known) + dice_loss(logits.sigmoid(), target, known)


def padded(side: float) -> int:
    """The side to which an image of this side is padded."""
    return max(LEAST, math.ceil(side / MULTIPLE) * MULTIPLE)


def check_settings(config: Config) -> None:
    """Refuse settings that do not fit each other."""
    if not config.scales:
        raise HistillError("no scale is given", code=Exit.USAGE, subject="scales", mend="Give one or more, such as 1")
    if not config.grids or len(config.grids) != len(config.grid_weights):
        raise HistillError(
            f"{len(config.grid_weights)} weights for {len(config.grids)} grids",
            code=Exit.USAGE,
            subject="grid_weights",
            mend="Give one or more grids, and a weight for each",
        )
