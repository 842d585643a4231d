"""Focal and global distillation: what a teacher's maps hold in and outside of boxes, where it looks, and relations.

Yang et al., "Focal and global knowledge distillation for detectors" (FGD), CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from histill.core.config import Strict
from histill.engine.stage import Losses
from histill.losses.feature_distillation import (
    attention,
    attention_error,
    box_shares,
    feature_error,
    relation_error,
)
from histill.nets.alignment import Alignment
from histill.nets.global_context import GlobalContext
from histill.nets.ramp import Ramp


class FocalGlobalSettings(Strict):
    """Weights of the terms, each a sum over elements divided by the batch; 0 for none."""

    foreground: NonNegativeFloat = 1e-3
    """of the features inside of boxes"""
    background: NonNegativeFloat = 5e-4
    """of those outside"""
    attention: NonNegativeFloat = 5e-4
    """of attention transfer"""
    relation: NonNegativeFloat = 5e-6
    """of the global relation"""
    temperature: PositiveFloat = 0.5
    """T of the attention"""
    ramp: NonNegativeInt = 500
    """batches over which the weights rise; 0 for none"""


class FocalGlobal(nn.Module):
    """The lesson: maps of a teacher, who learns nothing by it, and of a student.

    Args:
        settings: its weights.
        alignment: of the maps.
        channels: of the teacher's maps by name.
    """

    def __init__(self, settings: FocalGlobalSettings, alignment: Alignment, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.settings, self.alignment, self.ramp = settings, alignment, Ramp(settings.ramp)
        met = [each.teacher for each in alignment.meetings] if settings.relation else []
        self.teachers, self.students = (
            nn.ModuleDict({name: GlobalContext(channels[name]) for name in met}) for _ in range(2)
        )

    def forward(self, boxes: Sequence[Tensor], teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> Losses:
        """``min(1, i / n) sum over maps [w_f fg + w_b bg + w_a L1(A) + w_r |R(F_T) - R(F_S)|^2]`` in batch i.

        Args:
            boxes: of each image in the teacher's px, float32 [n, 4].
            teacher: its maps [b, c, h, w] by name; level l has a stride of 2^l px.
            student: its maps by name.

        Returns:
            The terms by name, those of weight 0 left out.
        """
        settings, rise = self.settings, self.ramp()
        terms: dict[str, list[Tensor]] = {name: [] for name in ("foreground", "background", "attention", "relation")}
        for each, (target, learnt) in self.alignment(teacher, student).items():
            target, stride = target.detach(), each.pool * 2 ** int(each.teacher[1:])
            focus, seen = (attention(maps, settings.temperature) for maps in (target, learnt))
            shares = box_shares(boxes, (target.shape[-2], target.shape[-1]), stride)
            terms["foreground"].append(feature_error(target, learnt, shares.foreground, focus))
            terms["background"].append(feature_error(target, learnt, shares.background, focus))
            terms["attention"].append(attention_error(focus, seen))
            if settings.relation:
                name = each.teacher
                terms["relation"].append(relation_error(self.teachers[name](target), self.students[name](learnt)))
        weights = {name: float(getattr(settings, name)) for name in terms}
        return {name: rise * weights[name] * torch.stack(terms[name]).sum() for name in terms if weights[name]}
