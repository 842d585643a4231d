"""Class maps, against loops over images, classes, channels and pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from histill.core.errors import Exit, HistillError
from histill.pseudo.cam import class_activation, grad_cam, min_max, over_maximum, upsample


class Trunk(nn.Module):
    """Two maps on the way to pooled logits, with a bend between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, stride=2, padding=1)
        self.head = nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        shallow = self.first(images).tanh()
        deep = self.second(shallow).relu()
        return [shallow, deep], self.head(deep).mean(dim=(2, 3))


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def test_class_activation() -> None:
    features, weight = torch.randn(2, 4, 3, 2), torch.randn(3, 4, 1, 1)
    found = class_activation(features, weight)
    for i in range(2):
        for k in range(3):
            for y in range(3):
                for x in range(2):
                    total = sum(float(weight[k, n]) * float(features[i, n, y, x]) for n in range(4))
                    assert float(found[i, k, y, x]) == pytest.approx(max(total, 0), abs=1e-5)


def test_grad_cam_at_every_map_is_that_of_each_image_alone() -> None:
    trunk, batch = Trunk(), images()
    maps, logits = trunk(batch)
    found = grad_cam(logits, maps)
    for i in range(2):
        for k in range(3):
            for tap in range(2):
                alone, z = trunk(batch[i : i + 1])
                (gradient,) = torch.autograd.grad(z[0, k], alone[tap])
                slow = torch.zeros(alone[tap].shape[-2:])
                for n in range(alone[tap].shape[1]):
                    slow += gradient[0, n].mean() * alone[tap][0, n].detach()
                torch.testing.assert_close(found[tap][i, k], slow, rtol=1e-4, atol=1e-6)
                assert not found[tap].requires_grad


def test_grad_cam_at_the_last_map_is_the_heads_weight_over_the_area() -> None:
    trunk = Trunk()
    maps, logits = trunk(images())
    h, w = maps[-1].shape[-2:]
    closed = torch.einsum("kn,bnyx->bkyx", trunk.head.weight[:, :, 0, 0], maps[-1]) / (h * w)
    torch.testing.assert_close(grad_cam(logits, maps)[-1], closed.detach(), rtol=1e-4, atol=1e-6)
    assert float(closed.min()) < 0  # without a ReLU


def test_grad_cam_of_a_map_that_leads_nowhere_is_refused() -> None:
    maps, logits = Trunk()(images())
    with pytest.raises(HistillError, match="do not depend") as caught:
        grad_cam(logits, [maps[0] * 1.0])
    assert caught.value.code == Exit.USAGE


# A range below the least normal number counts as flat.
finite = st.floats(-100, 100, width=32, allow_subnormal=False)


@given(arrays(np.float32, (2, 3, 2, 2), elements=finite))
def test_min_max_is_one_scale_over_all_classes(values: np.ndarray) -> None:
    found = min_max(torch.from_numpy(values)).numpy()
    for i in range(2):
        low, high = values[i].min(), values[i].max()
        if high > low:
            np.testing.assert_allclose(found[i], (values[i] - low) / (high - low), rtol=1e-4, atol=1e-6)
        else:
            assert (found[i] == 0).all()


@given(arrays(np.float32, (2, 3, 2, 2), elements=st.floats(0, 100, width=32)))
def test_over_maximum_is_a_scale_for_each_class(values: np.ndarray) -> None:
    found = over_maximum(torch.from_numpy(values)).numpy()
    for i in range(2):
        for k in range(3):
            high = values[i, k].max()
            if high > 1e-30:
                np.testing.assert_allclose(found[i, k], values[i, k] / high, rtol=1e-5)
            elif high == 0:
                assert (found[i, k] == 0).all()


def test_upsample_is_bilinear_between_pixel_centres() -> None:
    row = upsample(torch.tensor([[[[0.0, 1.0]]]]), 1, 4)[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))
