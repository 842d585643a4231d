"""Self-attention against loops over tokens, and its approximation against matrices written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from histill.core.errors import HistillError
from histill.nets.attention import SelfAttention, nystrom_attention, pseudoinverse, segment_means


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_attention_is_what_the_formula_says() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(width=6, heads=2), drawn(2, 5, 6)
    present = torch.tensor([[True] * 5, [True, False, True, False, True]])
    found = attention(tokens, present)
    for b in range(2):
        queries, keys, values = (tokens[b] @ attention.ask.weight.T + attention.ask.bias).split(6, dim=1)
        for i in range(5):
            parts = []
            for head in (slice(0, 3), slice(3, 6)):
                powers = {
                    j: math.exp(float(queries[i, head] @ keys[j, head]) / math.sqrt(3))
                    for j in range(5)
                    if present[b, j]
                }
                parts.append(sum(power * values[j, head] for j, power in powers.items()) / sum(powers.values()))
            torch.testing.assert_close(found[b, i], attention.tell(torch.cat(parts)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [7, 30, 64])
def test_nystrom_is_the_product_of_three_matrices(n: int) -> None:
    queries, keys, values = (drawn(2, 3, n, 4, seed=i) for i in range(3))
    few_queries, few_keys = segment_means(queries, 6), segment_means(keys, 6)
    left = (queries @ few_keys.mT / 2).softmax(-1)
    middle = (few_queries @ few_keys.mT / 2).softmax(-1)
    right = (few_queries @ keys.mT / 2).softmax(-1)
    expected = left @ pseudoinverse(middle, 6) @ right @ values
    torch.testing.assert_close(nystrom_attention(queries, keys, values, 6), expected, rtol=1e-4, atol=1e-4)


def test_nystrom_with_every_token_a_landmark_is_exact() -> None:
    # Queries near their keys: the matrix between the landmarks is far from singular.
    keys, values = 3 * drawn(1, 2, 12, 8), drawn(1, 2, 12, 8, seed=1)
    queries = keys + 0.1 * drawn(1, 2, 12, 8, seed=2)
    exact = F.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(nystrom_attention(queries, keys, values, 12), exact, rtol=1e-3, atol=1e-3)


def test_nystrom_of_tokens_in_groups_is_exact() -> None:
    """Where tokens of a segment are the same, so are rows and columns of the attention: it has the landmarks' rank."""
    groups, values = 3 * drawn(1, 1, 5, 8), drawn(1, 1, 40, 8, seed=1)
    tokens = groups.repeat_interleave(8, dim=2)
    exact = F.scaled_dot_product_attention(tokens, tokens, values)
    torch.testing.assert_close(nystrom_attention(tokens, tokens, values, 5, iterations=20), exact, rtol=1e-3, atol=1e-4)


def test_pseudoinverse_of_a_softmax() -> None:
    matrices = (2 * drawn(3, 8, 8)).softmax(-1)
    expected = torch.linalg.pinv(matrices.double())
    torch.testing.assert_close(pseudoinverse(matrices.double(), 20), expected, rtol=1e-6, atol=1e-6)
    alone = torch.stack([pseudoinverse(matrix[None], 6)[0] for matrix in matrices])
    torch.testing.assert_close(pseudoinverse(matrices, 6), alone)


@pytest.mark.parametrize(
    ("n", "segments", "count"), [(1, 4, 1), (4, 4, 4), (5, 4, 3), (8, 4, 4), (9, 4, 3), (100, 7, 7)]
)
def test_segments_are_of_one_length_but_the_last(n: int, segments: int, count: int) -> None:
    tokens = drawn(2, n, 3)
    found = segment_means(tokens, segments)
    length = math.ceil(n / segments)
    expected = [tokens[:, start : start + length].mean(1) for start in range(0, n, length)]
    assert found.shape == (2, count, 3)
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_short_sequences_are_exact_and_long_ones_are_not() -> None:
    torch.manual_seed(0)
    near, exact = SelfAttention(8, 2, landmarks=10), SelfAttention(8, 2)
    exact.load_state_dict(near.state_dict())
    assert torch.equal(near(drawn(1, 10, 8)), exact(drawn(1, 10, 8)))
    assert not torch.allclose(near(drawn(1, 30, 8)), exact(drawn(1, 30, 8)))
    with pytest.raises(ValueError, match="padding"):
        near(drawn(1, 30, 8), torch.ones(1, 30, dtype=torch.bool))


def test_heads_divide_the_width() -> None:
    with pytest.raises(HistillError, match="3 heads do not divide a width of 8"):
        SelfAttention(8, 3)
