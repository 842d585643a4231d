"""Heads on bags: each against its formula, and all against padding, order and length."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from histill.core.errors import HistillError
from histill.nets.mil_heads import (
    Abmil,
    Dsmil,
    MilHead,
    MilHeadSettings,
    PlainPooling,
    TransMil,
    build_mil_head,
    reading_order,
)

HEADS = get_args(MilHeadSettings.model_fields["head"].annotation)
D, K = 5, 3


def built(head: str, classes: int = K, **more: int) -> MilHead:
    torch.manual_seed(0)
    sizes = {"hidden": 8, "attention": 4, "attention_heads": 2, "landmarks": 6} | more
    return build_mil_head(MilHeadSettings.model_validate({"head": head, **sizes}), D, classes).eval()


def bag(n: int, seed: int = 0) -> Tensor:
    return torch.randn(1, n, D, generator=torch.Generator().manual_seed(seed))


def all_of(features: Tensor) -> Tensor:
    return torch.ones(features.shape[:2], dtype=torch.bool)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight @ x + layer.bias


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mean", "max"])
def test_plain_pooling(kind: str) -> None:
    head, features = built(kind), bag(7)
    assert isinstance(head, PlainPooling)
    instances = [linear(head.project[0], x).relu() for x in features[0]]
    pooled = sum(instances) / 7 if kind == "mean" else torch.stack(instances).amax(0)
    assert isinstance(pooled, Tensor)
    found = head(features, all_of(features))
    torch.testing.assert_close(found.logits[0], linear(head.classify, pooled))
    assert found.attention is None


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_abmil_is_what_formulas_7_to_9_say(gated: bool) -> None:
    head, features = built("gated_abmil" if gated else "abmil"), bag(7)
    assert isinstance(head, Abmil)
    instances = [linear(head.project[0], x).relu() for x in features[0]]
    powers = []
    for h in instances:
        inner = linear(head.attention.value, h).tanh()
        if gated:
            inner = inner * linear(head.attention.gate, h).sigmoid()
        powers.append(math.exp(float(linear(head.attention.score, inner))))
    weights = [power / sum(powers) for power in powers]
    pooled = torch.stack([a * h for a, h in zip(weights, instances, strict=True)]).sum(0)
    found = head(features, all_of(features))
    torch.testing.assert_close(found.logits[0], linear(head.classify, pooled))
    torch.testing.assert_close(found.attention, torch.tensor([weights]))


@torch.no_grad()
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_dsmil_is_what_the_formulas_say(classes: int) -> None:
    head, features = built("dsmil", classes), bag(7)
    assert isinstance(head, Dsmil)
    instances = [linear(head.project[0], x).relu() for x in features[0]]
    queries = [linear(head.query, h) for h in instances]
    first, bags, weights = [], [], []
    for c in range(classes):
        scores = [float(linear(head.score, h)[c]) for h in instances]
        critical = scores.index(max(scores))
        powers = [math.exp(float(q @ queries[critical]) / math.sqrt(4)) for q in queries]
        weights.append([power / sum(powers) for power in powers])
        bags.append(torch.stack([u * linear(head.value, h) for u, h in zip(weights[c], instances, strict=True)]).sum(0))
        first.append(max(scores))
    logits = (torch.tensor(first) + linear(head.classify, torch.cat(bags))) / 2
    found = head(features, all_of(features))
    torch.testing.assert_close(found.logits[0], logits)
    torch.testing.assert_close(found.attention[0], torch.tensor(weights[int(logits.argmax())]))


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 2, 5, 9, 10])
def test_transmil_is_what_the_paper_says(n: int) -> None:
    head, features = built("transmil", landmarks=1000), bag(n)
    assert isinstance(head, TransMil)
    tiles = head.project(features)
    side = math.ceil(math.sqrt(n))
    tiles = torch.cat([tiles, tiles[:, : side * side - n]], dim=1)
    tokens = torch.cat([head.token[None, None], tiles], dim=1)
    tokens = tokens + head.layers[0](head.norms[0](tokens))
    image = torch.zeros(8, side, side)
    for i in range(side * side):
        image[:, i // side, i % side] = tokens[0, 1 + i]
    shown = image.clone()
    for convolve in head.places:
        assert isinstance(convolve, nn.Conv2d)
        reach = convolve.weight.shape[-1] // 2
        for y in range(side):
            for x in range(side):
                shown[:, y, x] += convolve.bias
                for dy in range(-reach, reach + 1):
                    for dx in range(-reach, reach + 1):
                        if 0 <= y + dy < side and 0 <= x + dx < side:
                            shown[:, y, x] += convolve.weight[:, 0, dy + reach, dx + reach] * image[:, y + dy, x + dx]
    for i in range(side * side):
        tokens[0, 1 + i] = shown[:, i // side, i % side]
    tokens = tokens + head.layers[1](head.norms[1](tokens))
    expected = linear(head.classify, head.norms[2](tokens[0, 0]))
    torch.testing.assert_close(head(features, all_of(features)).logits[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    padding=st.integers(0, 6),
    filler=st.sampled_from([0.0, -1e30, 1e30, math.nan, math.inf]),
    with_coords=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padding_changes_nothing(
    head: str, lengths: list[int], padding: int, filler: float, with_coords: bool, seed: int
) -> None:
    """A bag says the same alone as beside others, wherever its padding stands and whatever stands there."""
    net, size = built(head), max(lengths) + padding
    random = torch.Generator().manual_seed(seed)
    features, coords = torch.full((len(lengths), size, D), filler), torch.full((len(lengths), size, 2), filler)
    present = torch.zeros(len(lengths), size, dtype=torch.bool)
    alone = []
    for i, n in enumerate(lengths):
        at = torch.randperm(size, generator=random)[:n].sort().values
        features[i, at] = torch.randn(n, D, generator=random)
        coords[i, at] = torch.randint(0, 9, (n, 2), generator=random).float()
        present[i, at] = True
        places = coords[i : i + 1, at] if with_coords else None
        alone.append(net(features[i : i + 1, at], torch.ones(1, n, dtype=torch.bool), places))
    together = net(features, present, coords if with_coords else None)
    for i, one in enumerate(alone):
        torch.testing.assert_close(together.logits[i : i + 1], one.logits, rtol=1e-4, atol=1e-5)
        if together.attention is not None:
            torch.testing.assert_close(together.attention[i][present[i]], one.attention[0], rtol=1e-4, atol=1e-6)
            assert bool((together.attention[i][~present[i]] == 0).all())
            assert float(together.attention[i].sum()) == pytest.approx(1, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_the_order_of_tiles_changes_nothing(head: str) -> None:
    net, features, order = built(head), bag(23), torch.randperm(23, generator=torch.Generator().manual_seed(1))
    places = torch.randperm(100, generator=torch.Generator().manual_seed(2))[:23]
    coords = torch.stack([places % 10, places // 10], dim=1)[None]
    first, second = net(features, all_of(features), coords), net(features[:, order], all_of(features), coords[:, order])
    torch.testing.assert_close(first.logits, second.logits, rtol=1e-4, atol=1e-5)
    if first.attention is not None:
        torch.testing.assert_close(first.attention[:, order], second.attention, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_transmil_knows_the_order_where_it_knows_no_places() -> None:
    net, features = built("transmil"), bag(23)
    assert not torch.allclose(net(features, all_of(features)).logits, net(features.flip(1), all_of(features)).logits)


def test_reading_order_goes_by_rows() -> None:
    coords = torch.tensor([[3, 0], [1, 2], [0, 2], [2, 0], [9, 1]])
    assert coords[reading_order(coords)].tolist() == [[2, 0], [3, 0], [9, 1], [0, 2], [1, 2]]


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("n", [1, 2, 50_000])
def test_bags_of_any_length(head: str, n: int) -> None:
    # Each with each other, 50,000 tiles would take 10 GB.
    found = built(head, landmarks=16)(bag(n), torch.ones(1, n, dtype=torch.bool))
    assert found.logits.shape == (1, K)
    assert bool(found.logits.isfinite().all())


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_every_part_and_no_padding(head: str) -> None:
    net = built(head).train()
    features = torch.cat([bag(30), bag(30, seed=1)])
    present = torch.rand(2, 30, generator=torch.Generator().manual_seed(2)) > 0.4
    features[~present] = math.nan
    features.requires_grad_(True)
    net(features, present).logits.square().sum().backward()
    assert features.grad is not None
    assert bool((features.grad[~present] == 0).all())
    for name, parameter in net.named_parameters():
        # A softmax does not see what is added to all its inputs.
        if not name.endswith("score.bias") or head == "dsmil":
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert bool((parameter.grad != 0).any()), name


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_bf16_leaves_float32_logits(head: str) -> None:
    net, features = built(head), bag(40)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(features, all_of(features))
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, net(features, all_of(features)).logits, rtol=0.1, atol=0.05)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(HistillError, match="3 heads do not divide"):
        built("transmil", attention_heads=3)
