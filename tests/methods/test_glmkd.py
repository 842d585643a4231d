"""GLMKD part by part, against loops over images, cells and pixels."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt, label
from tiny import LESIONS, MACHINE, OWN, PARTS, tiny_config, tiny_table, tiny_values
from torch import Tensor
from torch.nn import functional as F

from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest
from histill.data.tiles import Tile, TileBatch, collate
from histill.engine.optim import Schedule
from histill.engine.training import train
from histill.losses.segmentation import dice_loss
from histill.methods.glmkd import Config, Glmkd, padded, supervision
from histill.nets.mil import BagLogits

STREAMS = ("global", "local")
TWO = LESIONS.as_classes()  # tumour, rest


def config(**values: Any) -> Config:
    return resolve(Config, ("test", {**tiny_values(Config), **OWN["glmkd"], **values}))


def glmkd(classes: Classes = TWO, **values: Any) -> Glmkd:
    torch.manual_seed(0)
    method = Glmkd(config(**values), classes)
    method.classifier.head.weight.data.abs_()  # so that it activates on something
    return method


def a_batch(h: int = 48, w: int = 48, positive: tuple[int, ...] = (1, 0, 1)) -> TileBatch:
    """Images with and without a lesion; masks of both streams, in part ignored."""
    random = torch.Generator().manual_seed(1)
    b = len(positive)
    masks = torch.randint(0, 2, (b, 2, h, w), generator=random)
    masks[:, 1, :4] = IGNORE
    masks[0, 0, :, :7] = IGNORE
    there = torch.tensor(positive).float()
    return TileBatch(
        images=torch.rand(b, 3, h, w, generator=random),
        valid=torch.ones(b, h, w, dtype=torch.bool),
        labels=torch.stack([there, 1 - there], dim=1),
        masks=masks,
        ids=tuple(f"{i}" for i in range(b)),
    )


def of_sizes(*sizes: tuple[int, int], lesion: bool = True) -> TileBatch:
    random = np.random.default_rng(0)
    labels = np.array([1, 0] if lesion else [0, 1], np.float32)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    return collate([Tile("", image, np.zeros((0, *image.shape[:2]), np.uint8), labels) for image in images])


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def cross_entropy(z: float, y: float) -> float:
    p = sigmoid(z)
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


# --- the witnesses learn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positive", [(1, 0, 1), (1, 1), (0, 0)])
def test_the_global_loss_is_cross_entropy_with_the_lesions_label(positive: tuple[int, ...]) -> None:
    method, batch = glmkd().eval(), a_batch(positive=positive)
    with torch.no_grad():
        (found,) = method.global_loss(batch).values()
        logits = method.classifier(batch.images)
    assert logits.shape == (len(positive), 1)
    terms = [cross_entropy(float(z), y) for z, y in zip(logits, positive, strict=True)]
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("positive", [(1, 0, 1), (1, 1), (0, 0)])
def test_the_local_loss_is_what_the_formula_says(positive: tuple[int, ...]) -> None:
    method, batch = glmkd().eval(), a_batch(64, 48, positive=positive)
    valid = batch.valid.clone()
    valid[0, 40:] = False
    batch = replace(batch, valid=valid)
    with torch.no_grad():
        found = method.local_loss(batch)
        scales = method.mil(batch.images, batch.valid)
    bags = means = instances = 0.0
    for i, y in enumerate(positive):
        bags += sum(cross_entropy(float(scale.bag[i]), y) for scale in scales)
        means += cross_entropy(sum(float(scale.bag[i]) for scale in scales) / len(scales), y)
        if not y:
            for scale in scales:
                cells = [cross_entropy(float(z), 0) for z in scale.instances[i][scale.present[i]]]
                instances += sum(cells) / len(cells)
    assert not bool(scales[-1].present.all())
    b = len(positive)
    expected = {"bags": bags / b, "mean_bag": means / b, "instances": instances / b}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    assert (instances > 0) == (0 in positive)


# --- what the witnesses saw -------------------------------------------------------------------------------------------


def test_the_global_map_is_the_mean_activation_over_scales_and_the_flip() -> None:
    method, batch = glmkd(scales=[0.5, 1.0, 1.5]).eval(), a_batch(48, 64)
    with torch.no_grad():
        found = method.global_map(batch.images)
        seen = []
        for h, w in ((32, 32), (48, 64), (80, 96)):  # to the next multiple of 16, and 32 at least
            scaled = F.interpolate(batch.images, size=(h, w), mode="bilinear", align_corners=False)
            for mirrored in (False, True):
                image = torch.flip(scaled, [3]) if mirrored else scaled
                features = method.classifier.encoder(image)[-1]
                head = method.classifier.head.weight[0, :, 0, 0]
                active = torch.einsum("n,bnhw->bhw", head, features).clamp(min=0)[:, None]
                grown = F.interpolate(active, size=(48, 64), mode="bilinear", align_corners=False)
                seen.append(torch.flip(grown, [3]) if mirrored else grown)
    torch.testing.assert_close(found, torch.stack(seen).mean(0), rtol=1e-4, atol=1e-6)
    assert float(found.std()) > 0


def test_a_mirrored_image_has_the_mirrored_global_map() -> None:
    method, batch = glmkd().eval(), a_batch()
    with torch.no_grad():
        plain, mirrored = method.global_map(batch.images), method.global_map(batch.images.flip(3))
    torch.testing.assert_close(mirrored.flip(3), plain, rtol=1e-4, atol=1e-6)


def test_the_local_map_is_the_weighted_mean_over_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    method = glmkd()
    scales = []
    for side in (1, 2, 4):
        logits = torch.randn(1, side, side)
        scales.append(BagLogits(torch.zeros(1), logits, torch.ones(1, side, side, dtype=torch.bool)))
    monkeypatch.setattr(method.mil, "forward", lambda images, valid: scales)
    found = method.local_map(torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
    expected = torch.zeros(8, 8)
    for weight, scale in zip((0.3, 0.3, 0.4), scales, strict=True):
        chances = torch.sigmoid(scale.instances)[:, None]
        expected += weight * F.interpolate(chances, size=(8, 8), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found, expected[None, None])


def test_grid_weights_are_brought_to_a_sum_of_1() -> None:
    batch = a_batch()
    with torch.no_grad():
        maps = [
            glmkd(grids=[0.5, 1.0], grid_weights=weights).eval().local_map(batch.images, batch.valid)
            for weights in ([1.0, 3.0], [0.25, 0.75])
        ]
    torch.testing.assert_close(maps[0], maps[1])


def test_witnesses_see_nothing_in_an_image_without_a_lesion() -> None:
    method, batch = glmkd(), a_batch(positive=(1, 0, 1))
    maps = method.witnesses(batch)
    assert maps.shape == (3, 2, 48, 48)
    assert not bool(maps[1].any())
    assert bool((maps[[0, 2]].amax(dim=(2, 3)) > 0).all())
    assert maps[[0, 2], 0].amax(dim=(1, 2)).tolist() == [1, 1]
    assert bool(((maps >= 0) & (maps <= 1)).all())
    torch.testing.assert_close(maps[[0, 2], 1], method.local_map(batch.images[[0, 2]], batch.valid[[0, 2]])[:, 0])
    assert not bool(method.witnesses(a_batch(positive=(0, 0))).any())


def test_witnesses_look_at_each_image_as_if_it_were_alone() -> None:
    method = glmkd()
    sizes = ((40, 56), (64, 64), (40, 56), (33, 20))
    batch = of_sizes(*sizes)
    together = method.witnesses(batch)
    for i, (h, w) in enumerate(sizes):
        image = (batch.images[i, :, :h, :w].permute(1, 2, 0) * 255).round().byte().numpy()
        tile = Tile("", image, np.zeros((0, h, w), np.uint8), np.array([1, 0], np.float32))
        alone = method.witnesses(collate([tile]))
        torch.testing.assert_close(together[i, :, :h, :w], alone[0, :, :h, :w], rtol=1e-4, atol=1e-5)
        assert float(together[i, 0, :h, :w].max()) == 1
        assert not bool(together[i, :, h:].any())
        assert not bool(together[i, :, :, w:].any())


@pytest.mark.parametrize(("side", "expected"), [(1, 32), (32, 32), (33, 48), (56.0, 64), (112, 112)])
def test_sides_are_padded_as_batches_are(side: float, expected: int) -> None:
    assert padded(side) == expected
    assert of_sizes((math.ceil(side), 64)).images.shape[2] == expected


# --- the students learn -----------------------------------------------------------------------------------------------


def slow_supervision(logits: Tensor, masks: Tensor, lesion: int) -> list[float]:
    found = []
    for z, mask in zip(logits, masks, strict=True):
        terms = []
        both = first = second = 0.0
        for y, x in (mask != IGNORE).nonzero().tolist():
            p, target = sigmoid(float(z[y, x])), float(mask[y, x] == lesion)
            terms.append(cross_entropy(float(z[y, x]), target))
            both, first, second = both + p * target, first + p, second + target
        found.append(sum(terms) / max(len(terms), 1) + 1 - (2 * both + 1) / (first + second + 1))
    return found


@pytest.mark.parametrize("lesion", [0, 1])
def test_supervision_is_cross_entropy_and_dice_over_what_is_known(lesion: int) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 5, 6, generator=random)
    masks = torch.randint(0, 2, (4, 5, 6), generator=random)
    masks[0, 2:], masks[1], masks[2], masks[3] = IGNORE, IGNORE, lesion, 1 - lesion
    found = supervision(logits, masks, lesion)
    assert found.tolist() == pytest.approx(slow_supervision(logits, masks, lesion), rel=1e-5)
    assert float(found[1]) == 0


def test_ignored_pixels_teach_nothing() -> None:
    logits = torch.randn(1, 3, 4, requires_grad=True)
    masks = torch.zeros(1, 3, 4).long()
    masks[0, 1] = IGNORE
    supervision(logits, masks, 0).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, 1] == 0).all())
    assert bool((logits.grad[0, [0, 2]] != 0).all())
    masks[:] = IGNORE
    logits.grad = None
    loss = supervision(logits, masks, 0)
    loss.sum().backward()
    assert loss.tolist() == [0]
    assert not bool(torch.as_tensor(logits.grad).any())


def test_the_weights_rise_to_1_and_follow_from_the_epoch() -> None:
    method = glmkd(segment={**PARTS[Schedule], "epochs": 10})
    for order in (range(10), reversed(range(10))):
        for epoch in order:
            method.begin_epoch(epoch)
            assert method.rise == pytest.approx(math.exp(-5 * (1 - min(1, epoch / 4)) ** 2))
    method.begin_epoch(0)
    assert method.rise == pytest.approx(math.exp(-5))
    method.begin_epoch(4)
    assert method.rise == 1


def slow_shape(learner: Tensor, peer: Tensor, valid: Tensor) -> float:
    """mean(p_a phi(p_b)) + DiceLoss(e(p_a), e(p_b)) of images in a rectangle each."""
    products, dice = [], []
    for p_a, p_b, shown in zip(learner, peer, valid, strict=True):
        h, w = int(shown.any(1).sum()), int(shown.any(0).sum())
        p_a, p_b = p_a[:h, :w], p_b[:h, :w]
        mask = (p_b > 0.5).numpy()
        phi = np.zeros((h, w))
        if mask.any() and not mask.all():
            phi = distance_transform_edt(~mask) - distance_transform_edt(mask)
            phi /= np.abs(phi).max()
        products.append(np.mean(p_a.numpy() * phi))
        edges = [F.max_pool2d(p[None], 3, 1, 1) + F.max_pool2d(-p[None], 3, 1, 1) for p in (p_a, p_b)]
        dice.append(float(dice_loss(*edges)))
    return float(np.mean(products) + np.mean(dice))


@pytest.mark.parametrize(("mutual", "shape"), [(1.0, 0.1), (0.5, 0.3), (0.0, 0.1), (1.0, 0.0), (0.0, 0.0)])
def test_the_segmentation_loss_term_by_term(mutual: float, shape: float) -> None:
    method, batch = glmkd(mutual=mutual, shape=shape).eval(), a_batch()
    valid = batch.valid.clone()
    valid[2, :, 40:] = False
    masks = batch.masks.clone()
    masks[2, :, :, 40:] = IGNORE
    batch = replace(batch, valid=valid, masks=masks)
    method.begin_epoch(0)
    with torch.no_grad():
        for student in (method.students.of_global, method.students.of_local):
            student.head.weight.mul_(40)  # so that masks are neither empty nor full
        found = {name: float(value) for name, value in method.segmentation_loss(batch).items()}
        z_g, z_l = (student(batch.images)[:, 0] for student in (method.students.of_global, method.students.of_local))
    p_g, p_l = z_g.sigmoid(), z_l.sigmoid()
    assert all(0.01 < float((p > 0.5).float().mean()) < 0.99 for p in (p_g, p_l))
    expected = {
        "sup_global": np.mean(slow_supervision(z_g, masks[:, 0], 0)),
        "sup_local": np.mean(slow_supervision(z_l, masks[:, 1], 0)),
    }
    if mutual:
        kl = 0.0
        for i, y, x in valid.nonzero().tolist():
            a, b = sigmoid(float(z_g[i, y, x]) / 2), sigmoid(float(z_l[i, y, x]) / 2)
            for q, p in ((a, b), (b, a)):
                kl += (q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))) / int(valid[i].sum()) / 3
        expected["mkd"] = mutual * math.exp(-5) * 4 * kl
    if shape:
        both_ways = slow_shape(p_g, p_l, valid) + slow_shape(p_l, p_g, valid)
        expected["shape"] = shape * math.exp(-5) * both_ways
    assert found == pytest.approx(expected, rel=1e-3)


def test_nothing_is_learnt_beyond_an_images_edge() -> None:
    method, batch = glmkd(), a_batch()
    valid, masks = batch.valid.clone(), batch.masks.clone()
    valid[:, 32:], masks[:, :, 32:] = False, IGNORE
    logits = [torch.randn(3, 48, 48, requires_grad=True) for _ in range(2)]
    method.students.forward = lambda images: tuple(logits)  # type: ignore[assignment, method-assign]
    torch.stack(list(method.segmentation_loss(replace(batch, valid=valid, masks=masks)).values())).sum().backward()
    for z in logits:
        assert z.grad is not None
        assert not bool(z.grad[:, 32:].any())
        assert bool((z.grad[:, :32] != 0).any())


def test_each_student_learns_its_own_mask() -> None:
    method, batch = glmkd(mutual=0.0, shape=0.0), a_batch()
    only_global = batch.masks.clone()
    only_global[:, 1] = IGNORE
    torch.stack(list(method.segmentation_loss(replace(batch, masks=only_global)).values())).sum().backward()
    for student, learns in ((method.students.of_global, True), (method.students.of_local, False)):
        learnt = [bool((each.grad != 0).any()) for each in student.parameters() if each.grad is not None]
        assert any(learnt) == learns


def test_under_bf16_losses_are_float32() -> None:
    method, batch = glmkd(), a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [method.global_loss(batch), method.local_loss(batch), method.segmentation_loss(batch)]
    for each in losses:
        assert {value.dtype for value in each.values()} == {torch.float32}
        assert bool(torch.stack(list(each.values())).isfinite().all())


# --- prediction -------------------------------------------------------------------------------------------------------


def finished(method: Glmkd, lesion: Tensor, presence: float = 1.0) -> Tensor:
    """Class probabilities of a map of the lesion [h, w]."""
    maps = torch.stack([lesion, torch.full_like(lesion, presence)])[None]  # [1, 2, h, w]
    return method.finish(maps)[0]  # [2, h, w]


def slow_mask(lesion: np.ndarray, threshold: float, least: int) -> np.ndarray:
    """Lesion from the threshold on, but for components of fewer pixels, by scipy."""
    found = lesion >= threshold
    parts, count = label(found, np.ones((3, 3)))
    for part in range(1, count + 1):
        if (parts == part).sum() < least:
            found[parts == part] = False
    return np.asarray(found)


def test_the_students_mean_and_each_alone() -> None:
    batch, seen = a_batch(), {}
    for students in ("both", "global", "local"):
        method = glmkd(students=students).eval()
        with torch.no_grad():
            seen[students] = method.predict_tiles(batch)
    assert seen["both"].shape == (3, 2, 48, 48)
    assert not torch.allclose(seen["global"][:, 0], seen["local"][:, 0])
    torch.testing.assert_close(seen["both"][:, 0], (seen["global"][:, 0] + seen["local"][:, 0]) / 2)
    with torch.no_grad():
        torch.testing.assert_close(seen["local"][:, 0], method.students.of_local(batch.images)[:, 0].sigmoid())


def test_the_gate_is_what_the_classifier_sees() -> None:
    method, batch = glmkd(patch_size=48).eval(), a_batch()
    with torch.no_grad():
        chances = method.classifier(batch.images).sigmoid()  # [b, 1]
        maps = method.predict_tiles(batch)
        assert method.predict_tiles(batch).shape[1] == 2
        torch.testing.assert_close(maps[:, 1], chances[..., None].expand(-1, 48, 48))
        assert glmkd(gate=0.0).eval().predict_tiles(batch).shape[1] == 1


def test_where_the_classifier_sees_no_lesion_there_is_none() -> None:
    method = glmkd(gate=0.1, smallest=0.0)
    lesion = torch.full((4, 4), 0.9)
    assert finished(method, lesion, 0.09)[0].unique().tolist() == [0]
    torch.testing.assert_close(finished(method, lesion, 0.11)[0], lesion)
    torch.testing.assert_close(glmkd(gate=0.0, smallest=0.0).finish(lesion[None, None])[0, 0], lesion)


def test_the_lesion_stands_where_its_class_does() -> None:
    lesion = torch.tensor([[0.9, 0.2]])
    for classes in (TWO, Classes(("rest", "tumour"), background="rest")):
        found = finished(glmkd(classes, smallest=0.0), lesion)
        torch.testing.assert_close(found[classes.lesion], lesion)
        torch.testing.assert_close(found.sum(0), torch.ones(1, 2))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("classes", [TWO, Classes(("rest", "tumour"), background="rest")])
def test_lesion_is_what_reaches_the_threshold(threshold: float, classes: Classes) -> None:
    method = glmkd(classes, threshold=threshold, smallest=0.0)
    reached = torch.tensor(threshold)
    lesion = torch.stack([reached * 0, reached - 1e-6, reached, reached + 1e-6, reached * 0 + 1])[None]
    found = finished(method, lesion)
    assert (found.argmax(0) == classes.lesion).tolist() == [[False, False, True, True, True]]
    assert found[classes.lesion, 0, [0, 4]].tolist() == [0, 1]
    assert bool((found[classes.lesion].diff() >= 0).all())


@given(
    arrays(np.float32, (9, 11), elements=st.sampled_from([0.1, 0.4, 0.5, 0.9])),
    st.sampled_from([0.0, 0.001, 0.002, 0.0025]),
)
def test_specks_go_and_what_is_as_large_as_it_must_be_stays(lesion: np.ndarray, smallest: float) -> None:
    method = SPECKS[smallest]
    assert method.least == round(smallest * 48**2 + 0.499)
    found = finished(method, torch.from_numpy(lesion))
    np.testing.assert_array_equal(found.argmax(0).numpy() == 0, slow_mask(lesion, 0.5, method.least))
    kept = slow_mask(lesion, 0.5, method.least) | (lesion < 0.5)
    np.testing.assert_allclose(found[0].numpy()[kept], lesion[kept], atol=1e-6)


SPECKS = {smallest: glmkd(smallest=smallest, patch_size=48) for smallest in (0.0, 0.001, 0.002, 0.0025)}


@given(
    arrays(np.float32, (14, 17), elements=st.sampled_from([0.1, 0.9])),
    st.sampled_from(sorted(SPECKS)),
    st.tuples(st.integers(0, 13), st.integers(0, 16)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_a_piece_with_its_margin_is_decided_as_the_whole(
    lesion: np.ndarray, smallest: float, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """What `reach` promises; beyond the map there is nothing: 0 in every channel."""
    method = SPECKS[smallest]
    reach = method.reach
    whole = finished(method, torch.from_numpy(lesion)).numpy()
    maps = np.stack([lesion, np.ones_like(lesion)])
    around = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)))
    (top, left), (h, w) = corner, size
    piece = around[:, top : top + h + 2 * reach, left : left + w + 2 * reach]
    found = method.finish(torch.from_numpy(np.ascontiguousarray(piece))[None])[0].numpy()
    inner = whole[:, top : top + h, left : left + w]
    found = found[:, reach : reach + inner.shape[1], reach : reach + inner.shape[2]]
    np.testing.assert_array_equal(found, inner)


def test_a_component_as_long_as_the_reach_needs_all_of_it() -> None:
    method = glmkd(smallest=0.0025, patch_size=48)
    assert (method.least, method.reach) == (6, 5)
    assert (glmkd(smallest=0.0).reach, glmkd(smallest=0.0001).reach) == (0, 0)
    line = torch.zeros(1, 20)
    line[0, :6] = 0.9
    assert bool((finished(method, line)[0, 0, :6] > 0.5).all())
    # Seen from its end, one pixel less around it would show a speck.
    assert not bool((finished(method, line[:, :5])[0] > 0.5).any())


def test_where_there_was_no_tile_a_distribution_comes_out() -> None:
    found = glmkd().finish(torch.zeros(1, 2, 5, 6))
    assert torch.equal(found[0, 0], torch.zeros(5, 6))
    assert torch.equal(found[0, 1], torch.ones(5, 6))


def test_a_speck_at_an_images_edge_does_not_grow_by_reflection(monkeypatch: pytest.MonkeyPatch) -> None:
    method = glmkd(smallest=0.0025, patch_size=48, gate=0.0).eval()
    image = np.zeros((40, 40, 3), np.uint8)
    image[-2:, -2:] = 255  # 4 px; with their reflection 16

    def bright(images: Tensor) -> Tensor:
        return 8 * images[:, :1] - 4

    for student in (method.students.of_global, method.students.of_local):
        monkeypatch.setattr(student, "forward", bright)
    assert (method.predict(image).labels == 1).all()
    image[-3:, -2:] = 255
    assert (method.predict(image).labels == 0).sum() == 6


def test_the_documented_numbers_are_the_defaults() -> None:
    default = Config()
    assert default.scales == (0.5, 1.0, 1.5, 2.0)
    assert (default.grids, default.grid_weights) == ((0.25, 0.5, 1.0), (0.3, 0.3, 0.4))
    assert (default.foreground, default.background) == (0.5, 0.25)
    assert (default.temperature, default.mutual, default.shape, default.ramp) == (2.0, 1.0, 0.1, 0.4)
    assert (default.gate, default.threshold, default.smallest, default.patch_size) == (0.1, 0.5, 0.0005, 256)
    assert (default.classifier.encoder, default.classifier.output_stride) == ("resnet50", 16)
    assert (default.mil.encoder, default.mil.output_stride) == ("resnet34", 16)
    for schedule in (default.classify, default.localise):
        assert (schedule.optimizer, schedule.learning_rate, schedule.epochs) == ("adamw", 1e-4, 20)
    schedule = default.segment
    assert (schedule.optimizer, schedule.learning_rate, schedule.epochs) == ("adam", 1e-4, 60)
    assert (schedule.batch_size, schedule.decay, schedule.head_factor) == (16, "cosine", 1)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    return tiny_table(tmp_path / "table", LESIONS)


def run(table: Manifest, folder: Path, **values: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    once = {stage: {**PARTS[Schedule], "epochs": 1} for stage in ("classify", "localise", "segment")}
    settings = config(**{"select": "last", **once, **values})
    train(Glmkd, table, None, folder=folder, config=settings, seed=0, machine=MACHINE, listener=told.append)
    return told


@pytest.mark.parametrize(("kept", "lack"), [(0, "without"), (1, "with")])
def test_a_table_of_one_kind_is_refused(table: Manifest, tmp_path: Path, kept: int, lack: str) -> None:
    with pytest.raises(HistillError, match=f"no image {lack} tumour") as caught:
        run(replace(table, samples=table.samples[kept::2]), tmp_path / "run")
    assert caught.value.code == Exit.USAGE
    assert f"Add images {lack} tumour" in caught.value.mend


def test_three_classes_are_refused() -> None:
    with pytest.raises(HistillError, match="one class from a background") as caught:
        glmkd(Classes(("a", "b", "c"), background="c"))
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"scales": []}, "scales"),
        ({"grids": [], "grid_weights": []}, "grid_weights"),
        ({"grids": [0.5, 1.0]}, "grid_weights"),
        ({"foreground": 0.2}, "foreground"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(values: dict[str, Any], subject: str) -> None:
    with pytest.raises(HistillError) as caught:
        glmkd(**values)
    assert (caught.value.code, caught.value.subject) == (Exit.USAGE, subject)
    assert caught.value.mend


def test_one_scale_is_enough() -> None:
    method = glmkd(grids=[1.0], grid_weights=[1.0])
    assert len(method.mil.heads) == 1
    assert bool(torch.stack(list(method.local_loss(a_batch()).values())).isfinite().all())


def test_a_loss_that_is_not_a_number_ends_the_run_and_names_the_images(table: Manifest, tmp_path: Path) -> None:
    wild = {**PARTS[Schedule], "learning_rate": 1e30, "warmup": 0.0, "average": 0.0}
    with pytest.raises(HistillError, match="not finite") as caught:
        run(table, tmp_path / "run", segment=wild)
    assert caught.value.code == Exit.NUMBERS
    assert "segment" in caught.value.subject


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pseudo_masks_that_are_empty_or_full_do_not_stop_a_run(
    table: Manifest, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one says nothing, and the journal counts it; a full one stands."""

    def constant(self: Glmkd, images: Tensor, *_: Tensor) -> Tensor:
        return torch.full_like(images[:, :1], value)

    monkeypatch.setattr(Glmkd, "global_map", constant)
    monkeypatch.setattr(Glmkd, "local_map", constant)
    told = run(table, tmp_path / "run")
    notes = [event["text"] for event in told if event["event"] == "note" and "map shows no" in event["text"]]
    expected = [f"the {each} map shows no tumour in 3 of 3 images that have it: they are ignored" for each in STREAMS]
    assert notes == ([] if value else expected)


def test_what_does_not_fit_the_patches_is_told(table: Manifest, tmp_path: Path) -> None:
    """The last map of 40 px, padded to 48, is 5 x 5: 0.2 of it and 0.25 come to the same."""
    told = run(table, tmp_path / "run", grids=[0.2, 0.25, 1.0])
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert "patch_size is 48 px, the training images' usual side is 40" in notes
    assert any(note.startswith("two of the grids are the same") for note in notes)


def test_the_tiny_settings_are_those_that_the_contract_runs() -> None:
    assert tiny_config(Glmkd) == config()
