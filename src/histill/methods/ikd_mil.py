"""IKD-MIL: iterative fusion-knowledge distillation, from 0/1 image labels to lesion masks.

He, Li, Zemp, "Enhancing weakly-supervised histopathology image segmentation with knowledge distillation on MIL-based
pseudo-labels", arXiv:2407.10274, 2024.

A teacher learns from image labels alone to segment, by multiple instance learning (MIL): three depths of its trunk each
give a map, and their weighted sum is the fused map. A student of the same kind learns from the teacher's fused map,
every side of it and by a weighted cross-entropy that trusts the pixels it finds easy. Then the roles reverse: the best
student teaches, the old teacher learns; and again, round by round. A round that made things worse is not kept.

Where we depart: any trunk with named taps; the cross-entropy and the exchange of weights are those of the paper, and
not what its released code makes of them (`released` is there to compare); validation, never the test images, says which
epoch is best and which round is kept; on slides the fused map is smoothed after blending, up to the edge of what was
seen.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from histill.core.config import Share, Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.augment import Augmentation
from histill.data.tiles import TileBatch
from histill.engine.checkpoint import copy_of
from histill.engine.method import Card
from histill.engine.optim import Schedule
from histill.engine.run import Run
from histill.engine.select import Select, selection
from histill.engine.stage import Losses, Stage
from histill.engine.tile_method import TileMethod
from histill.losses.classification import pooled_mask_loss
from histill.losses.mil import mil_dice
from histill.losses.noise import oeem_cross_entropy
from histill.nets.side_outputs import SideOutputSettings, build_side_outputs
from histill.nets.teacher import Teacher
from histill.pseudo.masks import check_both_kinds

CARD = Card(
    name="ikd_mil",
    title="iterative fusion-knowledge distillation on MIL pseudo-labels",
    task="segment",
    needs="lesion labels",
    paper="He et al., arXiv:2407.10274, 2024",
    ours=(
        "any encoder with feature maps in place of VGG16, with as many sides as weights",
        "the teacher may also learn by pooled pixels, a generalised mean, in place of the painted label",
        "the roles truly reverse, which the released code's exchange of weights does not do",
        "the weighted cross-entropy follows a mask of the fused map, which the released code rounds down to background",
        "epochs and rounds are judged on validation images; the released code looks at the test images",
        "smoothing counts only what was seen, so that maps do not fade at the edge of an image or of tissue",
    ),
)

PUBLISHED = Schedule(
    epochs=30,
    batch_size=16,
    optimizer="adam",
    learning_rate=5e-5,
    head_factor=1.0,
    weight_decay=5e-5,
    power=0.0,  # nothing is said of a decay
)


class Config(Strict):
    """The numbers of the paper, in its order."""

    network: SideOutputSettings = SideOutputSettings()
    """teacher and student alike"""
    teacher_form: Literal["painted", "pooled"] = "painted"
    """what the first teacher learns from an image label: painted over the image, by Dice; or compared with the pixels'
    generalised mean, by binary cross-entropy"""
    exponent: PositiveFloat = 4.0
    """r of that mean: 1 is the plain one, and the greater it is the nearer to the maximum"""
    teach: Schedule = PUBLISHED
    """the first teacher's schedule"""
    rounds: NonNegativeInt = 16
    """how often a student learns from a teacher; 0 to keep the first teacher. 30 and 16 times 30 epochs are the
    published 500, but for 10"""
    distil: Schedule = PUBLISHED
    """each round's schedule"""
    roles: Literal["swap", "promote"] = "swap"
    """after a round the student teaches; swap: the old teacher learns; promote: the student goes on, from its copy"""
    wce_weight: NonNegativeFloat = 2.0
    """of the weighted cross-entropy; 0 for none"""
    threshold: Share = 0.5
    """where the teacher's fused map is above this, the weighted cross-entropy wants lesion"""
    augmentation: Augmentation = Augmentation()
    """changes to images, in all stages"""
    select: Select = "auto"
    """what chooses epochs and rounds: masks, labels, last, or auto: masks where validation has any, else labels"""
    smoothing: NonNegativeFloat = 3.0
    """sigma in px of the Gaussian over the fused map, in prediction; 0 for none"""
    released: bool = False
    """for comparison only: do as the released code does. Its cross-entropy wants background everywhere, and after a
    round both networks are the student"""


class IkdMil(TileMethod):
    """One network of side outputs, and in training another one that teaches it."""

    card = CARD
    Config = Config

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__(config, classes)
        self.config = cast(Config, config)
        self.lesion = classes.lesion
        self.network = build_side_outputs(self.config.network)
        sides = range(1, len(self.config.network.fusion) + 1)
        self.outputs = (*(f"s{side}" for side in sides), "f")

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Let a network learn from image labels; then, round by round, another one from it, and reverse the roles."""
        config = self.config
        train.require("labels")
        check_both_kinds(train)
        select = selection(self, val, config.select, run)
        teacher = Teacher(deepcopy(self.network))

        best = run.train(
            Stage(
                "teacher",
                learns=self.network,
                trunk=self.network.encoder,
                batches=run.learn_from(train, config.teach, config.augmentation),
                loss=self.teacher_loss,
                schedule=config.teach,
                start=lambda: self.network.start(config.network),
                select=select,
            )
        )
        # From here on the teacher is the best there is, and what learns begins as the first teacher began.
        teacher.swap(self.network)

        unlearnt = True
        for number in range(1, config.rounds + 1):
            before = copy_of(self.network)
            score = run.train(
                Stage(
                    f"round-{number}",
                    learns=self.network,
                    trunk=self.network.encoder,
                    batches=run.learn_from(train, config.distil, config.augmentation),
                    loss=partial(self.student_loss, teacher=teacher),
                    schedule=config.distil,
                    start=(lambda: self.network.start(config.network)) if unlearnt else None,
                    select=select,
                )
            )
            if score is None or best is None or score >= best:
                best, unlearnt = score, False
                self.reverse_roles(teacher)
            else:
                self.network.load_state_dict(before)
                run.journal.say("note", text=f"round {number} is not kept: score {score:.4f}, before {best:.4f}")
        teacher.swap(self.network)

    def reverse_roles(self, teacher: Teacher) -> None:
        """The student teaches; the old teacher learns, or in its place the student goes on."""
        if self.config.roles == "swap" and not self.config.released:
            teacher.swap(self.network)
        else:
            teacher.follow(self.network)

    def teacher_loss(self, batch: TileBatch) -> Losses:
        """Each of s1, s2, s3 and f against the image label.

        Painted: ``DiceLoss(s, 1)`` on positives, ``DiceLoss(1 - s, 1)`` on negatives. Pooled: the binary cross-entropy
        of ``(mean s^r)^(1/r)``.
        """
        outputs = self.network(batch.images).unbind(dim=1)  # d + 1 of [b, h, w]
        positive = self.positive(batch)
        losses = {}
        for name, output in zip(self.outputs, outputs, strict=True):
            if self.config.teacher_form == "painted":
                losses[name] = mil_dice(output, torch.ones_like(output), positive, batch.valid).mean()
            else:
                label = positive[:, None].float()  # [b, 1]
                losses[name] = pooled_mask_loss(output[:, None], label, self.config.exponent, batch.valid)
        return losses

    def student_loss(self, batch: TileBatch, teacher: Teacher) -> Losses:
        """Each of s1, s2, s3 and f against the teacher's fused map f_t, and a weighted cross-entropy.

        ``DiceLoss(s, f_t)`` on positives, ``DiceLoss(1 - s, 1)`` on negatives; ``2 mean(w CE)`` of f, as
        `weighted_cross_entropy` has it.
        """
        taught = teacher(batch.images)[:, -1]  # [b, h, w]
        outputs = self.network(batch.images).unbind(dim=1)  # d + 1 of [b, h, w]
        positive = self.positive(batch)
        losses: Losses = {
            name: mil_dice(output, taught, positive, batch.valid).mean()
            for name, output in zip(self.outputs, outputs, strict=True)
        }
        if self.config.wce_weight:
            wce = self.weighted_cross_entropy(outputs[-1], taught, positive, batch.valid)  # [b]
            losses["wce"] = self.config.wce_weight * wce.mean()
        return losses

    def weighted_cross_entropy(self, fused: Tensor, taught: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
        """``mean(w CE)`` of each image, with ``CE = -log p_y`` and p = (1 - f, f), and w as OEEM has it; float32 [b].

        On positives y is ``f_t > 0.5``, on negatives 0. A positive of which no pixel is above is left out: it would
        only push to background. The released code casts f_t to integers, and pushes there always.

        Args:
            fused: the student's f, [b, h, w].
            taught: the teacher's f_t, [b, h, w].
            positive: bool [b].
            valid: bool [b, h, w].
        """
        chances = torch.stack([1 - fused, fused], dim=1)  # [b, 2, h, w]
        if self.config.released:
            return oeem_cross_entropy(chances, taught.long() * positive[:, None, None], valid)
        mask = (taught > self.config.threshold) & positive[:, None, None]  # [b, h, w]
        says_nothing = positive & ~(mask & valid).any(dim=(1, 2))  # [b]
        return oeem_cross_entropy(chances, mask.long(), valid).masked_fill(says_nothing, 0)

    def positive(self, batch: TileBatch) -> Tensor:
        """Which images have the lesion, bool [b]."""
        return batch.labels[:, self.lesion] > 0

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """f for the lesion and 1 - f for the background, [b, 2, h, w]; both 0 on padding, as where no tile was."""
        fused: Tensor = self.network(batch.images)[:, -1]  # [b, h, w]
        maps = [1 - fused, fused] if self.lesion else [fused, 1 - fused]
        return torch.stack(maps, dim=1) * batch.valid[:, None]  # [b, 2, h, w]

    @property
    def reach(self) -> int:
        """How many px beyond a pixel smoothing looks: 4 sigma."""
        return math.ceil(4 * self.config.smoothing)

    def finish(self, maps: Tensor) -> Tensor:
        """Smooth the maps: the Gaussian mean of what was seen."""
        return smooth(maps, self.config.smoothing, self.reach) if self.reach else maps


def smooth(maps: Tensor, sigma: float, radius: int) -> Tensor:
    """The mean of class probabilities around each pixel, by a Gaussian over those pixels that have any.

    Args:
        maps: [b, k, h, w], summing over k to 1, or to 0 where nothing was seen.
        sigma: in px.
        radius: in px; farther away the weight is 0.

    Returns:
        float32 [b, k, h, w], summing to 1; the same for all classes where nothing was seen within reach.
    """
    weights = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(-radius, radius + 1)]
    seen = _blurred(_blurred(maps.float(), weights, dim=2), weights, dim=3)  # [b, k, h, w]
    total = seen.sum(dim=1, keepdim=True)  # [b, 1, h, w]
    return torch.where(total > 0, seen / total, 1 / maps.shape[1])


def _blurred(maps: Tensor, weights: list[float], dim: Literal[2, 3]) -> Tensor:
    # Sums of shifted maps: on a CPU several times faster than a convolution of so few channels, and the same bits for a
    # pixel wherever a piece was cut.
    radius, size = len(weights) // 2, maps.shape[dim]
    padded = F.pad(maps, (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius))
    total = torch.zeros_like(maps)
    for shift, weight in enumerate(weights):
        total.add_(padded.narrow(dim, shift, size), alpha=weight)
    return total
