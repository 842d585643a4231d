"""Distance maps against scipy and against all pairs of pixels; outlines against loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from histill.losses.shape import shape_transfer, signed_distance, soft_edge


def all_valid(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape, dtype=torch.bool)


def by_scipy(mask: np.ndarray) -> np.ndarray:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    phi = distance_transform_edt(~mask) - distance_transform_edt(mask)
    return np.asarray(phi / np.abs(phi).max())


@given(arrays(np.bool_, st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12))))
def test_the_distance_map_is_scipys(masks: np.ndarray) -> None:
    found = signed_distance(torch.from_numpy(masks), all_valid(torch.from_numpy(masks)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), [by_scipy(mask) for mask in masks], atol=1e-6)


def test_the_distance_map_of_a_large_mask_is_exact_too() -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((257, 300), bool)
    for y, x in random.integers(0, 240, (5, 2)):
        mask[y : y + 17, x : x + 40] = True
    found = signed_distance(torch.from_numpy(mask)[None], torch.ones(1, 257, 300, dtype=torch.bool))
    np.testing.assert_allclose(found[0].numpy(), by_scipy(mask), atol=1e-6)


def test_the_distance_map_by_all_pairs_of_pixels() -> None:
    mask = np.random.default_rng(1).random((6, 7)) > 0.6
    expected = np.zeros((6, 7))
    for y, x in np.ndindex(6, 7):
        others = np.argwhere(mask != mask[y, x])
        nearest = min(math.hypot(y - v, x - u) for v, u in others)
        expected[y, x] = -nearest if mask[y, x] else nearest
    expected /= np.abs(expected).max()
    found = signed_distance(torch.from_numpy(mask)[None], torch.ones(1, 6, 7, dtype=torch.bool))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
    assert np.abs(expected).max() == 1


def test_an_empty_and_a_full_mask_have_no_outline() -> None:
    masks = torch.stack([torch.zeros(4, 5), torch.ones(4, 5)]) > 0
    assert bool((signed_distance(masks, all_valid(masks)) == 0).all())


def test_what_lies_beyond_an_image_is_not_looked_at() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    masks[0, 6:] = True
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[0, :5, :6] = True
    found = signed_distance(masks, valid)[0].numpy()
    np.testing.assert_allclose(found[:5, :6], by_scipy(masks[0, :5, :6].numpy()), atol=1e-6)
    assert not found[5:].any()
    assert not found[:, 6:].any()


def slow_edge(p: Tensor, valid: Tensor) -> Tensor:
    found = torch.zeros_like(p)
    b, h, w = p.shape
    for i in range(b):
        for y in range(h):
            for x in range(w):
                near = [
                    float(p[i, v, u])
                    for v in range(max(0, y - 1), min(h, y + 2))
                    for u in range(max(0, x - 1), min(w, x + 2))
                    if valid[i, v, u]
                ]
                found[i, y, x] = max(near) - min(near) if near else 0
    return found


def test_a_soft_edge_is_the_range_of_the_neighbourhood() -> None:
    p = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_edge(p, all_valid(p)), slow_edge(p, all_valid(p)))
    valid = all_valid(p)
    valid[1, 3:] = False
    p[1, 3:] = 9
    torch.testing.assert_close(soft_edge(p, valid)[valid], slow_edge(p, valid)[valid])
    assert float(slow_edge(p, valid)[valid].max()) < 1


def test_the_edge_of_a_square_is_two_pixels_wide() -> None:
    square = torch.zeros(1, 7, 7)
    square[0, 2:5, 2:5] = 1
    expected = torch.zeros(7, 7)
    expected[1:6, 1:6] = 1
    expected[3, 3] = 0
    assert torch.equal(soft_edge(square, all_valid(square))[0], expected)


def test_shape_transfer_by_loops() -> None:
    random = torch.Generator().manual_seed(0)
    learner, peer = torch.rand(2, 5, 6, generator=random), torch.rand(2, 5, 6, generator=random)
    peer[1] = 0.2  # no outline
    valid = all_valid(learner)
    valid[0, :, 5:], valid[1, 4:] = False, False
    expected = []
    for i in range(2):
        h, w = int(valid[i].any(1).sum()), int(valid[i].any(0).sum())
        phi = by_scipy(peer[i, :h, :w].numpy() > 0.5)
        first = [float(learner[i, y, x]) * phi[y, x] for y in range(h) for x in range(w)]
        a, b = (slow_edge(p[i : i + 1], valid[i : i + 1])[0, :h, :w] for p in (learner, peer))
        second = 1 - (2 * float((a * b).sum()) + 1) / (float(a.sum()) + float(b.sum()) + 1)
        assert len(first) == (25, 24)[i]
        expected.append(sum(first) / len(first) + second)
    assert shape_transfer(learner, peer, valid).tolist() == pytest.approx(expected, rel=1e-4)


def test_shape_goes_from_the_peer_to_the_learner_alone() -> None:
    random = torch.Generator().manual_seed(0)
    learner = torch.rand(1, 6, 6, generator=random).requires_grad_()
    peer = torch.rand(1, 6, 6, generator=random).requires_grad_()
    shape_transfer(learner, peer, all_valid(learner)).backward()
    assert learner.grad is not None
    assert bool((learner.grad != 0).any())
    assert peer.grad is None


def test_agreeing_on_a_shape_costs_least() -> None:
    disc = torch.zeros(1, 15, 15)
    disc[0, 4:11, 4:11] = 1
    costs = [float(shape_transfer(disc.roll(by, 1), disc, all_valid(disc))) for by in range(5)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 5


def test_a_peer_that_is_not_a_number_leaves_a_loss_that_is_none() -> None:
    p = torch.full((1, 4, 4), math.nan)
    assert math.isnan(float(shape_transfer(torch.rand(1, 4, 4), p, all_valid(p))))


def test_half_probabilities_give_a_float32_loss() -> None:
    half = torch.rand(1, 4, 4).bfloat16()
    assert shape_transfer(half, half, all_valid(half)).dtype == torch.float32
