"""Each term of feature distillation against loops over its formula."""

import math

import pytest
import torch
from torch import Tensor

from histill.losses.feature_distillation import (
    Attention,
    attention,
    attention_error,
    box_shares,
    feature_error,
    imitation,
    relation_error,
)

B, C, H, W = 2, 3, 4, 5


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (B, C, H, W), generator=torch.Generator().manual_seed(seed))


def slow_softmax(values: list[float]) -> list[float]:
    powers = [math.exp(each) for each in values]
    return [each / sum(powers) for each in powers]


def slow_attention(image: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    f = image.tolist()
    cells = [sum(abs(f[c][y][x]) for c in range(C)) / C / temperature for y in range(H) for x in range(W)]
    channels = [sum(abs(f[c][y][x]) for y in range(H) for x in range(W)) / (H * W) / temperature for c in range(C)]
    return [H * W * each for each in slow_softmax(cells)], [C * each for each in slow_softmax(channels)]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_attention_is_the_formula(temperature: float) -> None:
    features = maps(0)
    found = attention(features, temperature)
    assert found.spatial.shape == (B, H, W)
    for b in range(B):
        spatial, channel = slow_attention(features[b], temperature)
        assert found.spatial[b].flatten().tolist() == pytest.approx(spatial, rel=1e-5)
        assert found.channel[b].tolist() == pytest.approx(channel, rel=1e-5)
    assert found.spatial.mean((1, 2)).tolist() == pytest.approx([1] * B)
    assert torch.equal(attention(features).spatial, attention(features, 0.5).spatial)


def slow_shares(boxes: list[list[float]], h: int, w: int, stride: float) -> tuple[list[float], list[float]]:
    inside = []
    for y in range(h):
        for x in range(w):
            best = 0.0
            for x0, y0, x1, y1 in boxes:
                area = sum(
                    x0 < (u + 1) * stride and u * stride < x1 and y0 < (v + 1) * stride and v * stride < y1
                    for v in range(h)
                    for u in range(w)
                )
                touched = x0 < (x + 1) * stride and x * stride < x1 and y0 < (y + 1) * stride and y * stride < y1
                best = max(best, 1 / area if touched else 0.0)
            inside.append(best)
    outside = inside.count(0.0)
    return inside, [1 / outside if each == 0 else 0.0 for each in inside]


def test_shares_are_one_over_the_area_of_the_smallest_box_or_of_the_background() -> None:
    boxes = [
        [[3.0, 2.0, 17.0, 30.0], [8.0, 8.0, 16.0, 16.0], [30.0, 0.0, 55.0, 5.0]],  # the last reaches beyond
        [],
        [[0.0, 0.0, 40.0, 32.0]],  # all of the image
    ]
    found = box_shares([torch.tensor(each).view(-1, 4) for each in boxes], (H, W), 8)
    for b, each in enumerate(boxes):
        inside, outside = slow_shares(each, H, W, 8)
        assert found.foreground[b].flatten().tolist() == pytest.approx(inside)
        assert found.background[b].flatten().tolist() == pytest.approx(outside)
    # A box of whole cells alone gives 1 in all, as does a background.
    assert float(found.foreground[2].sum()) == pytest.approx(1)
    assert float(found.background[1].sum()) == pytest.approx(1)
    assert float(found.background[2].sum()) == 0
    assert bool((found.foreground * found.background == 0).all())
    # One cell of 8 px where the small box lies, though the large one holds it too.
    assert float(found.foreground[0, 1, 1]) == 1
    assert float(found.foreground[0, 0, 0]) == pytest.approx(1 / 12)


def test_a_box_beyond_the_map_counts_at_its_edge() -> None:
    found = box_shares([torch.tensor([[100.0, 100.0, 120.0, 120.0]])], (4, 4), 8)
    assert found.foreground[0].nonzero().tolist() == [[3, 3]]


def test_feature_error_is_the_formula() -> None:
    teacher, student, weights = maps(0), maps(1), maps(2, B, H, W).abs()
    focus = attention(teacher)
    expected = 0.0
    for b in range(B):
        for c in range(C):
            for y in range(H):
                for x in range(W):
                    error = (float(teacher[b, c, y, x]) - float(student[b, c, y, x])) ** 2
                    focused = float(focus.spatial[b, y, x]) * float(focus.channel[b, c])
                    expected += float(weights[b, y, x]) * focused * error
    assert float(feature_error(teacher, student, weights, focus)) == pytest.approx(expected / B, rel=1e-5)


def test_attention_error_is_the_formula() -> None:
    teacher, student = attention(maps(0)), attention(maps(1))
    expected = 0.0
    for b in range(B):
        pairs = zip(teacher.spatial[b].flatten().tolist(), student.spatial[b].flatten().tolist(), strict=True)
        expected += sum(abs(t - s) for t, s in pairs)
        pairs = zip(teacher.channel[b].tolist(), student.channel[b].tolist(), strict=True)
        expected += sum(abs(t - s) for t, s in pairs)
    assert float(attention_error(teacher, student)) == pytest.approx(expected / B, rel=1e-5)


def test_relation_error_and_imitation_are_sum_over_the_batch_and_mean() -> None:
    teacher, student = maps(0), maps(1)
    squares = sum((t - s) ** 2 for t, s in zip(teacher.flatten().tolist(), student.flatten().tolist(), strict=True))
    assert float(relation_error(teacher, student)) == pytest.approx(squares / B, rel=1e-5)
    assert float(imitation(teacher, student)) == pytest.approx(squares / (B * C * H * W), rel=1e-5)


def test_terms_are_0_for_equal_maps_and_float32_of_half_ones() -> None:
    half = maps(0).bfloat16()
    focus, shares = attention(half), torch.ones(B, H, W)
    for term in (
        feature_error(half, half, shares, focus),
        attention_error(focus, attention(half)),
        relation_error(half, half),
        imitation(half, half),
    ):
        assert term.dtype == torch.float32
        assert float(term) == 0


def test_only_the_relation_moves_the_teacher() -> None:
    teacher, student = maps(0).requires_grad_(), maps(1).requires_grad_()
    focus = attention(teacher)
    assert isinstance(focus, Attention)
    terms = [
        feature_error(teacher, student, torch.ones(B, H, W), focus),
        attention_error(focus, attention(student)),
        imitation(teacher, student),
    ]
    sum(terms).backward()
    assert teacher.grad is None
    assert student.grad is not None
    relation_error(teacher, student).backward()
    assert teacher.grad is not None
