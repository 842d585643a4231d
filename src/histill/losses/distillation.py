"""What one output learns from another: divergences between what two networks say of the same pixels or cells."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from histill.losses.pixels import mean_over


def bernoulli_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """``KL(q || p) = q log(q / p) + (1 - q) log((1 - q) / (1 - p))`` at each pixel, q and p the sigmoids of two logits.

    Args:
        teacher: logits of q, of any shape; no gradient goes to them.
        student: logits of p, of the same shape.

    Returns:
        float32, of the same shape, >= 0 but for rounding.
    """
    teacher, student = teacher.detach().float(), student.float()
    q = teacher.sigmoid()
    yes = q * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (1 - q) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return yes + no


def mutual_kl(first: Tensor, second: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """``T^2 [KL(sg s(z_2 / T) || s(z_1 / T)) + KL(sg s(z_1 / T) || s(z_2 / T))]``, the mean over pixels.

    Each learns from the other, which stands still meanwhile. Zhang et al., "Deep mutual learning", CVPR 2018, with
    Hinton's temperature (2015), whose square keeps the gradient's scale.

    Args:
        first: z_1, logits [b, h, w].
        second: z_2, logits [b, h, w].
        valid: bool [b, h, w]; False leaves a pixel out.
        temperature: T.

    Returns:
        float32 [b].
    """
    first, second = first / temperature, second / temperature
    both = bernoulli_kl(second, first) + bernoulli_kl(first, second)  # [b, h, w]
    return temperature**2 * mean_over(both, valid)


def class_kl(teacher: Tensor, student: Tensor, temperature: float, count: float) -> Tensor:
    """``T^2 / N sum KL(s(z_T / T) || s(z_S / T))``, over all cells of a batch and all classes, each by itself.

    For detectors whose classes are sigmoids: Hinton's distillation (2015) of each. Dividing by the cells that have an
    object, as the focal loss is, keeps the two on one scale.

    Args:
        teacher: z_T, logits of any shape; no gradient goes to them.
        student: z_S, logits of the same shape.
        temperature: T.
        count: N, such as the cells that have an object; at least 1 is taken.

    Returns:
        float32 scalar.
    """
    return temperature**2 * bernoulli_kl(teacher / temperature, student / temperature).sum() / max(1.0, count)
