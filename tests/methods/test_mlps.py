"""MLPS part by part, against loops over images, classes and pixels."""

import math
from typing import Any

import pytest
import torch
from tiny import TISSUES, tiny_values
from torch import Tensor
from torch.nn import functional as F

from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.data.tiles import TileBatch
from histill.methods.mlps import Config, Mlps, ProgressiveDropoutAttention, gate


def config(**values: Any) -> Config:
    return resolve(Config, ("test", {**tiny_values(Config), **values}))


def mlps(**values: Any) -> Mlps:
    torch.manual_seed(0)
    return Mlps(config(**values), TISSUES.as_classes())


def a_batch(h: int = 48, w: int = 48, b: int = 2) -> TileBatch:
    random = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (b, 3, h, w), generator=random)
    masks[:, 1, :4] = IGNORE
    return TileBatch(
        images=torch.rand(b, 3, h, w, generator=random),
        valid=torch.ones(b, h, w, dtype=torch.bool),
        labels=torch.tensor([[1.0, 0, 1], [0, 1, 1]])[:b],
        masks=masks,
        ids=("x", "y")[:b],
    )


# --- progressive dropout attention ------------------------------------------------------------------------------------


def slow_attention(m: Tensor, w: Tensor, mu: float) -> Tensor:
    """A * m by loops over images, classes and pixels."""
    b, n, rows, columns = m.shape
    out = torch.zeros_like(m)
    for i in range(b):
        attention = torch.zeros(rows, columns)
        for k in range(len(w)):
            found = torch.zeros(rows, columns)
            for y in range(rows):
                for x in range(columns):
                    found[y, x] = max(0.0, sum(float(w[k, c]) * float(m[i, c, y, x]) for c in range(n)))
            highest = float(found.max())
            for y in range(rows):
                for x in range(columns):
                    attention[y, x] += found[y, x] / len(w) if found[y, x] <= mu * highest else 0
        for c in range(n):
            out[i, c] = attention * m[i, c]
    return out


def attention_at(mu: float | None, **values: Any) -> ProgressiveDropoutAttention:
    attention = ProgressiveDropoutAttention(config(**values))
    attention.threshold = mu
    return attention


@pytest.mark.parametrize("mu", [1.0, 0.8, 0.3])
def test_attention_is_what_the_formula_says(mu: float) -> None:
    torch.manual_seed(0)
    m, w = torch.randn(2, 4, 3, 5), torch.randn(3, 4, 1, 1)
    torch.testing.assert_close(attention_at(mu)(m, w), slow_attention(m, w, mu), rtol=1e-4, atol=1e-5)
    if mu < 1:
        assert not torch.equal(slow_attention(m, w, mu), slow_attention(m, w, 1.0))


def test_a_class_that_is_nowhere_active_gives_no_attention() -> None:
    m = torch.rand(1, 2, 3, 3)
    assert bool((attention_at(0.7)(m, -torch.ones(2, 2, 1, 1)) == 0).all())


def test_normalised_attention_has_a_mean_of_1() -> None:
    torch.manual_seed(0)
    m, w = torch.rand(2, 4, 3, 5), torch.randn(3, 4, 1, 1)
    plain = slow_attention(m, w, 0.8)
    found = attention_at(0.8, normalise_attention=True)(m, w)
    for i in range(2):
        ratio = (plain[i] / m[i])[0]
        torch.testing.assert_close(found[i], plain[i] / ratio.mean(), rtol=1e-4, atol=1e-5)
    assert bool((attention_at(0.8, normalise_attention=True)(m, -w.abs()) == 0).all())


def test_the_gradient_flows_through_attention_and_head() -> None:
    torch.manual_seed(0)
    m = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    attention = attention_at(0.8)
    assert torch.autograd.gradcheck(attention, (m, w))
    (by_w,) = torch.autograd.grad(attention(m, w).sum(), w)
    assert bool((by_w != 0).any())


def test_the_threshold_follows_from_the_epoch() -> None:
    attention = ProgressiveDropoutAttention(config(attention_warmup=3, drop_decay=0.9, drop_floor=0.7))
    expected: list[float | None] = [None, None, None, 1.0, 0.9, 0.81, 0.729, 0.7, 0.7]
    for order in (range(9), reversed(range(9))):
        for epoch in order:
            attention.begin_epoch(epoch)
            assert attention.threshold == (None if expected[epoch] is None else pytest.approx(expected[epoch]))
    assert attention.begin_epoch(2) is None
    m = torch.rand(1, 2, 3, 3)
    assert attention(m, torch.rand(3, 2, 1, 1)) is m
    off = ProgressiveDropoutAttention(config(attention=False))
    off.begin_epoch(10)
    assert off.threshold is None


def test_the_papers_numbers_are_the_defaults() -> None:
    default = Config()
    assert (default.attention_warmup, default.drop_decay, default.drop_floor) == (3, 0.985, 0.65)
    assert default.tap_weights == (0.2, 0.2, 0.6)
    assert default.gate == 0.1
    schedule = default.classify
    assert (schedule.learning_rate, schedule.head_factor, schedule.weight_decay) == (0.01, 10, 5e-4)
    assert (schedule.batch_size, schedule.epochs, schedule.power, schedule.momentum) == (20, 20, 0.9, 0.9)


def test_attention_changes_the_classification_loss_only_while_it_is_on() -> None:
    method, batch = mlps(attention_warmup=1), a_batch()
    method.classifier.dropout.p = 0.0
    plain = F.multilabel_soft_margin_loss(method.classifier(batch.images), batch.labels)
    method.attention.begin_epoch(0)
    torch.testing.assert_close(method.classification_loss(batch)["soft_margin"], plain)
    method.attention.begin_epoch(1)
    features = method.classifier.encoder(batch.images)[-1]
    weight = method.classifier.head.weight
    attended = slow_attention(features.detach(), weight.detach(), 1.0)
    expected = F.multilabel_soft_margin_loss(method.classifier.classify(attended), batch.labels)
    torch.testing.assert_close(method.classification_loss(batch)["soft_margin"], expected, rtol=1e-3, atol=1e-5)


def test_attention_has_no_part_in_prediction() -> None:
    method, batch = mlps().eval(), a_batch()
    with torch.no_grad():
        before = method.predict_tiles(batch)
        method.attention.begin_epoch(50)
        assert torch.equal(method.predict_tiles(batch), before)


# --- pseudo-masks and the loss of stage 2 -----------------------------------------------------------------------------


def test_tap_maps_are_grad_cams_scaled_over_all_classes() -> None:
    method, batch = mlps().eval(), a_batch(48, 64)
    maps = method.tap_maps(batch)
    assert [each.shape for each in maps] == [(2, 3, 48, 64)] * 3
    for each in maps:
        assert not each.requires_grad
        assert each.amin(dim=(1, 2, 3)).tolist() == [0, 0]
        assert each.amax(dim=(1, 2, 3)).tolist() == [1, 1]
    # At the last tap Grad-CAM is the head's own map, but for a factor that the scaling takes away.
    with torch.no_grad():
        own = method.classifier.head(method.classifier.encoder(batch.images)[-1])
        own = F.interpolate(own, size=(48, 64), mode="bilinear", align_corners=False)
        low, high = own.amin(dim=(1, 2, 3), keepdim=True), own.amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(maps[-1], (own - low) / (high - low), rtol=1e-3, atol=1e-4)


def test_maps_scaled_each_by_its_own_maximum() -> None:
    method, batch = mlps(map_scale="each").eval(), a_batch()
    with torch.no_grad():
        own = method.classifier.head(method.classifier.encoder(batch.images)[-1])
        own = F.interpolate(own, size=(48, 48), mode="bilinear", align_corners=False).clamp(min=0)
        highest = own.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(
        method.tap_maps(batch)[-1], torch.where(highest > 0, own / highest, 0), rtol=1e-3, atol=1e-4
    )


def test_tap_maps_need_no_trunk_that_learns() -> None:
    method, batch = mlps().eval(), a_batch()
    expected = method.tap_maps(a_batch())
    method.requires_grad_(False)
    for found, each in zip(method.tap_maps(batch), expected, strict=True):
        torch.testing.assert_close(found, each)


def test_the_segmentation_loss_weighs_the_taps() -> None:
    method, batch = mlps().eval(), a_batch()
    with torch.no_grad():
        logits = method.segmenter(batch.images)
        losses = method.segmentation_loss(batch)
    assert tuple(losses) == ("fire4", "fire8", "fire9")
    for i, (weight, value) in enumerate(zip((0.2, 0.2, 0.6), losses.values(), strict=True)):
        terms = []
        chances = logits.softmax(1)
        for b in range(2):
            for y in range(48):
                for x in range(0, 48, 5):
                    label = int(batch.masks[b, i, y, x])
                    if label != IGNORE:
                        terms.append(-math.log(float(chances[b, label, y, x])))
        sparse = batch.masks.clone()
        sparse[..., [x for x in range(48) if x % 5]] = IGNORE
        with torch.no_grad():
            part = method.segmentation_loss(TileBatch(batch.images, batch.valid, batch.labels, sparse, batch.ids))
        assert float(list(part.values())[i]) == pytest.approx(weight * sum(terms) / len(terms), rel=1e-4)
        full = F.cross_entropy(logits, batch.masks[:, i], ignore_index=IGNORE)
        assert float(value) == pytest.approx(weight * float(full), rel=1e-5)


def test_fewer_weights_mean_the_deepest_taps() -> None:
    assert mlps(tap_weights=[1.0]).taps == ("fire9",)
    assert mlps(tap_weights=[0.5, 0.5]).taps == ("fire8", "fire9")


@pytest.mark.parametrize("weights", [[], [0.25] * 4])
def test_weights_that_fit_no_taps_are_refused(weights: list[float]) -> None:
    with pytest.raises(HistillError, match="taps") as caught:
        mlps(tap_weights=weights)
    assert caught.value.code == Exit.USAGE


# --- the gate ---------------------------------------------------------------------------------------------------------

ABC = Classes(("a", "b", "c"))


def test_the_gate_switches_off_what_is_hardly_there() -> None:
    logits = torch.arange(12.0).view(1, 3, 2, 2)
    presence = torch.tensor([0.5, 0.09, 0.1]).view(1, 3, 1, 1)
    found = gate(logits.softmax(1), presence, 0.1, ABC)
    # As the paper has it: a logit of -inf.
    torch.testing.assert_close(found, logits.masked_fill(presence < 0.1, -torch.inf).softmax(1))
    assert bool((found[:, 1] == 0).all())


def test_with_every_class_off_the_gate_steps_aside_where_that_is_so() -> None:
    probabilities = torch.randn(1, 3, 1, 2).softmax(1)
    presence = torch.tensor([[[[0.01, 0.9]], [[0.02, 0.01]], [[0.03, 0.9]]]])  # [1, 3, 1, 2]
    found = gate(probabilities, presence, 0.1, ABC)
    torch.testing.assert_close(found[..., 0], probabilities[..., 0])
    assert (found[0, :, 0, 1] > 0).tolist() == [True, False, True]


def test_the_background_always_stays_on() -> None:
    found = gate(
        torch.randn(1, 3, 1, 1).softmax(1), torch.full((1, 3, 1, 1), 0.01), 0.1, Classes(ABC.names, background="b")
    )
    assert found[0, :, 0, 0].tolist() == [0, 1, 0]


def test_classes_left_on_without_any_probability_share_it() -> None:
    probabilities = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    found = gate(probabilities, torch.tensor([0.0, 0.5, 0.5]).view(1, 3, 1, 1), 0.1, ABC)
    assert found[0, :, 0, 0].tolist() == [0, 0.5, 0.5]


def test_a_gate_of_0_is_no_gate() -> None:
    method, batch = mlps(gate=0.0).eval(), a_batch()
    with torch.no_grad():
        torch.testing.assert_close(method.probabilities(batch), method.segmenter(batch.images).softmax(1))


def test_the_gate_decides_on_the_blended_map() -> None:
    method, batch = mlps(patch_size=48).eval(), a_batch()
    with torch.no_grad():
        maps = method.predict_tiles(batch)
    assert maps.shape[1] == 6
    blended = maps.mean(dim=0, keepdim=True)
    expected = gate(blended[:, :3], blended[:, 3:], 0.1, method.classes)
    torch.testing.assert_close(method.finish(blended), expected)


def test_prediction_is_gated() -> None:
    method, batch = mlps(patch_size=48).eval(), a_batch()
    with torch.no_grad():
        chances = method.classifier(batch.images).sigmoid()
        threshold = float(chances.flatten().sort().values[2:4].mean())  # some classes of some images are off
        object.__setattr__(method, "config", config(gate=threshold, patch_size=48))
        found = method.probabilities(batch)
    assert bool((chances < threshold).any())
    off = (chances < threshold) & ~(chances < threshold).all(dim=1, keepdim=True)
    assert torch.equal((found == 0).all(dim=(2, 3)), off)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 48, 48))
