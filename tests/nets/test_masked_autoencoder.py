"""The autoencoder of bags: what it says of what it does not see, and what changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from histill.core.errors import HistillError
from histill.nets.masked_autoencoder import (
    Block,
    Latent,
    MaskedAutoencoder,
    MaskedAutoencoderSettings,
    build_masked_autoencoder,
    waves,
)

D = 6
TEACHERS = {"titan": 5, "conch_v1.5": 3}


def built(drop_path: float = 0.0, teachers: dict[str, int] = TEACHERS) -> MaskedAutoencoder:
    torch.manual_seed(0)
    sizes = MaskedAutoencoderSettings(
        width=16, depth=2, heads=2, decoder_width=8, decoder_depth=2, decoder_heads=2, drop_path=drop_path
    )
    return build_masked_autoencoder(sizes, D, teachers).eval()


def batch(b: int = 2, n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, places, present and visible."""
    random = torch.Generator().manual_seed(seed)
    features, places = torch.randn(b, n, D, generator=random), 20 * torch.rand(b, n, 2, generator=random)
    return features, places, torch.ones(b, n, dtype=torch.bool), torch.rand(b, n, generator=random) > 0.6


def test_waves_are_sines_and_cosines_of_both_coordinates() -> None:
    found = waves(torch.tensor([[2.5, -40.0]]), 12)[0]
    rates = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = [wave(place * rate) for place in (2.5, -40) for wave in (math.sin, math.cos) for rate in rates]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_waves_of_all_places_of_a_large_slide_differ() -> None:
    side = torch.arange(300.0)
    along = waves(torch.stack([side, torch.zeros(300)], dim=1), 64)
    gaps = torch.cdist(along, along) + torch.eye(300)
    assert float(gaps.min()) > 0.5


@torch.no_grad()
def test_a_block_is_pre_norm() -> None:
    torch.manual_seed(0)
    block, tokens = Block(8, 2), torch.randn(2, 5, 8)
    middle = tokens + block.attention(block.norms[0](tokens))
    first, _, second = block.layers
    expected = middle + second(F.gelu(first(block.norms[1](middle))))
    torch.testing.assert_close(block(tokens, None), expected)


def test_drop_path_skips_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block, tokens = Block(8, 2, drop_path=0.5), torch.randn(1, 3, 8).expand(4000, -1, -1)
    with torch.no_grad():
        found = block.train()._dropped(tokens)
        assert torch.equal(block.eval()._dropped(tokens), tokens)
    dropped = (found == 0).all(dim=2).all(dim=1)
    torch.testing.assert_close(found[~dropped], 2 * tokens[~dropped])
    assert float(dropped.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_drop_path_rises_through_the_encoder() -> None:
    net = MaskedAutoencoder(D, {}, MaskedAutoencoderSettings(width=4, depth=3, heads=1, decoder_depth=1))
    assert [block.drop_path for block in net.encoder] == pytest.approx([0, 0.05, 0.1])  # type: ignore[union-attr]
    assert net.decoder[0].drop_path == 0


@torch.no_grad()
def test_what_is_visible_stays_and_what_is_masked_is_predicted_from_it() -> None:
    net, (features, places, present, visible) = built(), batch()
    found = net(features, places, present, visible)
    assert torch.equal(found.features[visible], features[visible])
    other = torch.where(visible[..., None], features, torch.randn_like(features))
    again = net(other, places, present, visible)
    assert torch.equal(found.features[~visible], again.features[~visible])
    for name in TEACHERS:
        assert torch.equal(found.teachers[name], again.teachers[name])
    assert {name: output.shape for name, output in found.teachers.items()} == {"titan": (2, 5), "conch_v1.5": (2, 3)}
    # It does look at what is visible, at every tile of it, and at places of both kinds.
    for i in visible[0].nonzero()[:, 0]:
        other = features.clone()
        other[0, i] += 1
        again = net(other, places, present, visible)
        assert not torch.allclose(found.features[0][~visible[0]], again.features[0][~visible[0]], atol=1e-5)
        assert not torch.allclose(found.teachers["titan"][0], again.teachers["titan"][0], atol=1e-5)
    for kind in (visible, ~visible):
        moved = places + 3 * kind[..., None]
        again = net(features, moved, present, visible)
        assert not torch.allclose(found.features[~visible], again.features[~visible], atol=1e-5)


@torch.no_grad()
def test_encode_and_decode_apart_say_what_forward_says() -> None:
    net, (features, places, present, _) = built(), batch()
    visible = torch.zeros(2, 12, dtype=torch.bool)
    visible[:, [1, 4, 5]] = True
    whole = net(features, places, present, visible)
    kept, rest = [1, 4, 5], [0, 2, 3, 6, 7, 8, 9, 10, 11]
    latent = net.encode(features[:, kept], places[:, kept], present[:, kept])
    torch.testing.assert_close(net.decode(latent, places[:, rest], present[:, rest]), whole.features[:, rest])
    torch.testing.assert_close(net.slide_vectors(latent), whole.teachers)
    # Chunks: each is decoded with what is visible, and padding in a chunk changes nothing.
    padded = torch.cat([places[:, rest[:4]], torch.full((2, 3, 2), math.inf)], dim=1)
    here = torch.tensor([True] * 4 + [False] * 3).expand(2, -1)
    chunk = net.decode(latent, places[:, rest[:4]], present[:, :4])
    torch.testing.assert_close(net.decode(latent, padded, here)[:, :4], chunk, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@settings(max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=3),
    padding=st.integers(0, 5),
    filler=st.sampled_from([0.0, -1e30, 1e30, math.nan, math.inf]),
    seed=st.integers(0, 99),
)
def test_padding_and_order_change_nothing(
    lengths: list[tuple[int, int]], padding: int, filler: float, seed: int
) -> None:
    """A bag of so many visible and masked tiles says the same alone as beside others, its tiles in any order."""
    net, size, b = built(), max(sum(pair) for pair in lengths) + padding, len(lengths)
    random = torch.Generator().manual_seed(seed)
    features, places = torch.full((b, size, D), filler), torch.full((b, size, 2), filler)
    present = torch.zeros(b, size, dtype=torch.bool)
    # Padding that claims to be visible is still padding.
    visible = torch.rand(b, size, generator=random) > 0.5
    where, alone = [], []
    for i, (seen, hidden) in enumerate(lengths):
        at = torch.randperm(size, generator=random)[: seen + hidden]
        own = torch.randn(1, seen + hidden, D, generator=random)
        there = 9 * torch.rand(1, seen + hidden, 2, generator=random)
        shown = (torch.arange(seen + hidden) < seen)[None]
        features[i, at], places[i, at], visible[i, at], present[i, at] = own[0], there[0], shown[0], True
        where.append(at)
        alone.append(net(own, there, torch.ones_like(shown), shown))
    together = net(features, places, present, visible)
    for i, one in enumerate(alone):
        torch.testing.assert_close(together.features[i, where[i]], one.features[0], rtol=1e-4, atol=1e-5)
        assert bool((together.features[i][~present[i]] == 0).all())
        for name in TEACHERS:
            torch.testing.assert_close(together.teachers[name][i], one.teachers[name][0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_bag_of_which_nothing_is_visible_beside_one_of_which_nothing_is_masked() -> None:
    net, (features, places, present, _) = built(), batch(n=4)
    present[0, 3] = False
    nothing = net(features, places, present, torch.zeros_like(present))
    assert bool((nothing.features[present] != 0).all())
    assert torch.equal(nothing.teachers["titan"][0], nothing.teachers["titan"][1])
    everything = net(features, places, present, present)
    assert torch.equal(everything.features[present], features[present])
    mixed = net(features, places, present, present & torch.tensor([[False], [True]]))
    torch.testing.assert_close(mixed.features[0], nothing.features[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.teachers["titan"][0], nothing.teachers["titan"][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.teachers["titan"][1], everything.teachers["titan"][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shown", ["some", "all", "none", "one bag wholly"])
def test_gradients_are_finite_however_much_is_visible(shown: str) -> None:
    net, (features, places, present, visible) = built(drop_path=0.3).train(), batch(seed=1)
    present = torch.rand(2, 12, generator=torch.Generator().manual_seed(3)) > 0.3
    features[~present] = math.nan
    visible = {"some": visible, "all": present, "none": visible & False}.get(shown, visible)
    if shown == "one bag wholly":
        visible = torch.cat([present[:1], visible[1:]])
    torch.manual_seed(1)
    found = net(features, places, present, visible)
    loss = found.features.square().mean() + sum(output.square().mean() for output in found.teachers.values())
    loss.backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name
    if shown == "some":
        unseen = [name for name, each in net.named_parameters() if each.grad is None or not bool(each.grad.any())]
        assert unseen == []


def test_it_learns_a_bag_by_its_places() -> None:
    """Features that follow from the place: masked ones can be told, and are."""
    net = built(teachers={}).train()
    random = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        places = 8 * torch.rand(8, 16, 2, generator=random)
        features = torch.cat([(places * rate).sin() for rate in (0.3, 0.5, 0.7)], dim=2)
        visible = torch.rand(8, 16, generator=random) > 0.75
        found = net(features, places, torch.ones_like(visible), visible)
        assert found.teachers == {}
        loss = (found.features - features)[~visible].square().mean()
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses


@torch.no_grad()
def test_bf16_leaves_float32_features() -> None:
    net, inputs = built(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(*inputs)
    exact = net(*inputs)
    assert found.features.dtype == found.teachers["titan"].dtype == torch.float32
    torch.testing.assert_close(found.features, exact.features, rtol=0.1, atol=0.1)


def test_teachers_of_any_name_in_any_order_make_one_file() -> None:
    first, second = built(), built(teachers=dict(reversed(TEACHERS.items())))
    second.load_state_dict(first.state_dict())
    inputs = batch()
    torch.testing.assert_close(first(*inputs).teachers, second(*inputs).teachers)


@pytest.mark.parametrize(
    ("sizes", "said"), [({"width": 18, "heads": 2}, "width: 18 is no multiple of 4"), ({"heads": 5}, "5 heads do not")]
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(HistillError, match=said):
        build_masked_autoencoder(MaskedAutoencoderSettings.model_validate(sizes), D, {})


@torch.no_grad()
def test_the_decoder_is_told_where_visible_tiles_lie() -> None:
    net, (features, places, present, _) = built(), batch()
    latent = net.encode(features[:, :4], places[:, :4], present[:, :4])
    elsewhere = Latent(latent.tokens, latent.places + 3, latent.present)
    here, there = (net.decode(each, places[:, 4:], present[:, 4:]) for each in (latent, elsewhere))
    assert not torch.allclose(here, there, atol=1e-5)
