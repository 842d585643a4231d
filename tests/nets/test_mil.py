"""Networks of instances, against loops over cells."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histill.nets.encoders import Encoder
from histill.nets.mil import GatedAttention, MultiScaleMil, MultiScaleMilSettings, build_multi_scale_mil

GRIDS = (0.25, 0.5, 1.0)


class Means(Encoder):
    """A trunk that can be computed by hand: the mean of 4 x 4 pixels, and its square."""

    def __init__(self) -> None:
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.taps, self.channels, self.strides = ("means",), (6,), (4,)

    def maps(self, x: Tensor) -> list[Tensor]:
        means = F.avg_pool2d(x, 4)
        return [torch.cat([means, means**2], dim=1)]

    def trunk(self) -> nn.Module:
        return self

    def load_from_hub(self, name: str) -> None:
        raise AssertionError

    def module_of(self, tap: str) -> str:
        return tap


def network(grids: Sequence[float] = GRIDS) -> MultiScaleMil:
    torch.manual_seed(0)
    return MultiScaleMil(Means(), grids, hidden=5)


def images(b: int = 2, h: int = 32, w: int = 48) -> Tensor:
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(0))


def valid(of: Tensor) -> Tensor:
    return torch.ones(len(of), *of.shape[-2:], dtype=torch.bool)


def test_gated_attention_is_what_the_formula_says() -> None:
    torch.manual_seed(0)
    attention = GatedAttention(channels=4, hidden=3)
    instances = torch.randn(2, 5, 4)
    present = torch.tensor([[True] * 5, [True, False, True, False, True]])
    with torch.no_grad():
        found = attention(instances, present)
    attention.requires_grad_(False)
    value, gate, score = attention.value, attention.gate, attention.score
    for i in range(2):
        energies = {}
        for n in range(5):
            if present[i, n]:
                hidden = torch.tanh(value.weight @ instances[i, n] + value.bias)
                hidden = hidden * torch.sigmoid(gate.weight @ instances[i, n] + gate.bias)
                energies[n] = math.exp(float(score.weight[0] @ hidden + score.bias[0]))
        for n in range(5):
            assert float(found[i, n]) == pytest.approx(energies.get(n, 0) / sum(energies.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("h", "w", "expected"),
    [
        (16, 16, [(4, 4), (8, 8), (16, 16)]),
        (6, 13, [(2, 3), (3, 7), (6, 13)]),
        (2, 2, [(1, 1), (1, 1), (2, 2)]),
        (1, 1, [(1, 1), (1, 1), (1, 1)]),
    ],
)
def test_grids_are_shares_of_the_maps_sides(h: int, w: int, expected: list[tuple[int, int]]) -> None:
    assert network().cells(h, w) == expected


@pytest.mark.parametrize(("h", "w"), [(32, 48), (36, 52), (4, 8)])
def test_every_scale_is_heads_on_adaptive_averages(h: int, w: int) -> None:
    method, batch = network(), images(2, h, w)
    found = method(batch, valid(batch))
    features = method.encoder(batch)[-1]
    assert len(found) == 3
    for scale, head, (rows, columns) in zip(
        found, method.heads, method.cells(features.shape[-2], features.shape[-1]), strict=True
    ):
        cells = F.adaptive_avg_pool2d(features, (rows, columns))
        logits = torch.zeros(2, rows, columns)
        for y in range(rows):
            for x in range(columns):
                logits[:, y, x] = (head.logit(cells[:, :, y, x]))[:, 0]
        torch.testing.assert_close(scale.instances, logits, rtol=1e-4, atol=1e-5)
        assert bool(scale.present.all())
        weights = head.attention(cells.flatten(2).transpose(1, 2), torch.ones(2, rows * columns, dtype=torch.bool))
        torch.testing.assert_close(scale.bag, (weights * logits.flatten(1)).sum(1), rtol=1e-4, atol=1e-5)


def test_padding_is_no_instance() -> None:
    """An image says the same in a larger frame, whose cells are of the same size."""
    method, alone = network(), images(1, 32, 32)
    framed = torch.rand(1, 3, 64, 64)
    framed[..., :32, :32] = alone
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[:, :32, :32] = True
    for scale, small in zip(method(framed, inside), method(alone, valid(alone)), strict=True):
        rows, columns = small.instances.shape[1:]
        torch.testing.assert_close(scale.instances[:, :rows, :columns], small.instances)
        torch.testing.assert_close(scale.bag, small.bag)
        assert int(scale.present.sum()) == rows * columns
        assert bool(scale.present[:, :rows, :columns].all())


def test_a_cell_that_is_padding_in_part_is_the_mean_of_the_rest() -> None:
    method, batch = network([0.5]), images(1, 32, 32)
    part = valid(batch)
    part[:, 20:] = False  # of the lower cells of 16 px, 4 px are left: one row of the map
    (scale,) = method(batch, part)
    features = method.encoder(batch)[-1]  # [1, 6, 8, 8]
    expected = method.heads[0].logit(features[:, :, 4, 0:2].mean(dim=2))[:, 0]
    torch.testing.assert_close(scale.instances[:, 2, 0], expected)


def test_gradients_reach_every_part() -> None:
    torch.manual_seed(0)
    settings = MultiScaleMilSettings(encoder="squeezenet1_0", weights="none", output_stride=8, hidden=4)
    method, batch = build_multi_scale_mil(settings, GRIDS), images(2, 64, 64)
    sum(scale.bag.sum() for scale in method(batch, valid(batch))).backward()
    for name, parameter in method.named_parameters():
        # A softmax does not see what is added to all its inputs.
        if not name.endswith("score.bias"):
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name


def test_bf16_leaves_float32_logits() -> None:
    method, batch = network(), images()
    with torch.autocast("cpu", torch.bfloat16):
        found = method(batch, valid(batch))
    for scale, exact in zip(found, method(batch, valid(batch)), strict=True):
        assert scale.bag.dtype == scale.instances.dtype == torch.float32
        torch.testing.assert_close(scale.instances, exact.instances, rtol=0.05, atol=0.02)


def test_start_loads_nothing_where_nothing_is_asked_for() -> None:
    settings = MultiScaleMilSettings(encoder="squeezenet1_0", weights="none")
    method = build_multi_scale_mil(settings, [1.0])
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.start(settings)
    assert not method.encoder.pretrained
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
