"""What boxes cost."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import generalized_box_iou_loss


def box_distance(teacher: Tensor, student: Tensor, scores: Tensor, least: float) -> Tensor:
    """The mean of ``1 - GIoU`` of the student's box and the teacher's, over the cells of which the teacher is sure.

    Rezatofighi et al., "Generalized intersection over union", CVPR 2019.

    Args:
        teacher: its boxes x0, y0, x1, y1, [..., 4], in the student's px; no gradient goes to them.
        student: its boxes, of the same shape.
        scores: the teacher's, [...].
        least: the lowest that counts.

    Returns:
        float32 scalar, 0 where no score is high enough.
    """
    sure = scores >= least
    apart: Tensor = generalized_box_iou_loss(student.float()[sure], teacher.detach().float()[sure], reduction="sum")
    return apart / sure.sum().clamp(min=1)
