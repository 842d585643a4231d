"""The detector: its maps, its places, its losses against torchvision's and loops, what it finds, and that it learns."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.ops import box_iou

from histill.core.errors import Exit, HistillError
from histill.nets.detector import Detector, DetectorSettings, Found, Objects, Views, build_detector


def detector(classes: int = 2, **values: Any) -> Detector:
    torch.manual_seed(0)
    small: dict[str, Any] = {"encoder": "test_resnet", "weights": "none", "channels": 64, "depth": 1}
    return build_detector(DetectorSettings(**small | values), classes).eval()


def objects(boxes: list[list[float]], classes: list[int]) -> Objects:
    return Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(classes, dtype=torch.int64))


def random_objects(count: int, side: float, classes: int, seed: int) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side * 0.8
    size = 4 + torch.rand(count, 2, generator=generator) * side
    return Objects(torch.cat([corner, corner + size], 1), torch.randint(classes, (count,), generator=generator))


@pytest.mark.parametrize(
    ("encoder", "levels", "trunk"),
    [
        ("test_resnet", (2, 6), "c2 c3 c4 c5"),
        ("test_resnet", (3, 7), "c2 c3 c4 c5"),
        ("test_resnet", (3, 4), "c2 c3 c4"),
        ("squeezenet1_0", (2, 6), "c2 c3 c4"),
        ("test_convnext", (3, 6), "c2 c3 c4 c5"),
        ("test_mambaout", (2, 5), "c2 c3 c4 c5"),
    ],
)
@pytest.mark.parametrize(("h", "w"), [(64, 96), (75, 100)])
def test_maps_have_names_and_the_images_own_size_over_the_stride(
    encoder: str, levels: tuple[int, int], trunk: str, h: int, w: int
) -> None:
    net = detector(encoder=encoder, levels=levels)
    with torch.no_grad():
        views = net(torch.rand(2, 3, h, w))
    high, wide = -(-h // 32) * 32, -(-w // 32) * 32
    assert " ".join(views.trunk) == trunk
    assert list(views.pyramid) == [f"p{level}" for level in range(levels[0], levels[1] + 1)]
    for name, each in (views.trunk | views.pyramid).items():
        stride = 2 ** int(name[1:])
        assert each.shape == (2, net.channels[name], -(-high // stride), -(-wide // stride)), name
    n = sum(each[0, 0].numel() for each in views.pyramid.values())
    assert views.logits.shape == (2, n, 2)
    assert views.sides.shape == (2, n, 4)
    assert views.centerness.shape == (2, n)
    assert views.cells.shape == (n, 4)
    assert bool((views.sides >= 0).all())
    parts = views.by_level(views.logits)
    assert [part.shape[1] for part in parts.values()] == [each[0, 0].numel() for each in views.pyramid.values()]
    assert torch.equal(torch.cat(list(parts.values()), 1), views.logits)


def test_cells_and_boxes_are_where_the_formula_says() -> None:
    net = detector(levels=(3, 5))
    with torch.no_grad():
        views = net(torch.rand(1, 3, 64, 96))
    index = 0
    for level in (3, 4, 5):
        stride = 2**level
        for row in range(64 // stride):
            for column in range(96 // stride):
                x, y = column * stride, row * stride
                assert views.cells[index].tolist() == [x, y, x + stride, y + stride]
                left, upper, right, lower = (float(side) * stride for side in views.sides[0, index])
                middle = (x + stride / 2, y + stride / 2)
                expected = [middle[0] - left, middle[1] - upper, middle[0] + right, middle[1] + lower]
                assert views.boxes[0, index].tolist() == pytest.approx(expected, abs=1e-4)
                index += 1
    assert index == len(views.cells)
    coder = BoxLinearCoder(normalize_by_size=True)
    torch.testing.assert_close(views.boxes[0], coder.decode(views.sides[0], views.cells))


def test_levels_below_the_trunk_are_convolutions_of_the_one_above() -> None:
    net = detector(levels=(3, 7))
    with torch.no_grad():
        pyramid = net(torch.rand(1, 3, 128, 128)).pyramid
        first, second = net.pyramid.extra_blocks.steps
        assert torch.equal(pyramid["p6"], first(pyramid["p5"]))
        assert torch.equal(pyramid["p7"], second(pyramid["p6"].relu()))


def test_padding_shows_the_trunks_mean_colour() -> None:
    net, images = detector(), torch.rand(1, 3, 50, 70)
    padded = net.encoder.mean.expand(1, 3, 64, 96).clone()
    padded[..., :50, :70] = images
    with torch.no_grad():
        assert torch.equal(net(images).logits, net(padded).logits)
        wider = detector(pad_to=128)(images)
    assert wider.pyramid["p3"].shape[-2:] == (16, 16)


def slow_assignment(net: Detector, views: Views, truth: Objects) -> list[int]:
    """The rule cell by cell and box by box."""
    first, last = net.settings.levels
    ends = list(net.settings.reach) or [8 * 2**level for level in range(first, last)]
    found = []
    for x0, y0, x1, y1 in views.cells.tolist():
        stride, x, y = x1 - x0, (x0 + x1) / 2, (y0 + y1) / 2
        level = int(math.log2(stride)) - first
        least, most = [0, *ends][level], [*ends, math.inf][level]
        best, smallest = -1, math.inf
        for j, (left, top, right, bottom) in enumerate(truth.boxes.tolist()):
            distances = (x - left, y - top, right - x, bottom - y)
            near = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < net.settings.radius * stride
            area = (right - left) * (bottom - top)
            if min(distances) > 0 and near and least < max(distances) <= most and area < smallest:
                best, smallest = j, area
        found.append(best)
    return found


@pytest.mark.parametrize(
    "values", [{"levels": (3, 7)}, {"levels": (2, 5)}, {"levels": (2, 4), "reach": (12.0, 50.0), "radius": 2.5}]
)
def test_cells_answer_for_the_objects_that_the_rule_says(values: dict[str, Any]) -> None:
    net = detector(**values)
    with torch.no_grad():
        views = net(torch.rand(1, 3, 128, 128))
    hit = set()
    for seed in range(4):
        truth = random_objects(7, 128 + 32 * seed, 2, seed)
        found = net.assign(views, truth)
        assert found.tolist() == slow_assignment(net, views, truth)
        hit |= {int(cell[2] - cell[0]) for cell in views.cells[found >= 0]}
    assert len(hit) >= 2  # levels that took part
    assert net.assign(views, objects([], [])).tolist() == [-1] * len(views.cells)
    # At the very end of a level's reach; torchvision's levels leave out a box at their ends.
    if not net.settings.reach:
        first = 2 ** net.settings.levels[0]
        x = first / 2
        edge = objects([[x - 8 * first, x - 8 * first, x + 8 * first, x + 8 * first]], [0])
        assert int(net.assign(views, edge)[0]) == 0


def test_losses_are_torchvisions() -> None:
    net, images = detector(levels=(3, 6)), torch.rand(3, 3, 128, 128)
    with torch.no_grad():
        views = net(images)
    truth = [random_objects(5, 128, 2, 0), objects([], []), random_objects(2, 128, 2, 1)]
    found = net.losses(views, truth)
    cells = [each[0, 0].numel() for each in views.pyramid.values()]
    said = {"cls_logits": views.logits, "bbox_regression": views.sides, "bbox_ctrness": views.centerness[..., None]}
    targets = [{"boxes": each.boxes, "labels": each.classes} for each in truth]
    theirs = FCOS.compute_loss(
        SimpleNamespace(center_sampling_radius=1.5, head=net.head), targets, said, [views.cells] * 3, cells
    )
    assert list(found) == ["classification", "box", "centerness"]
    assert [float(each) for each in found.values()] == [float(each) for each in theirs.values()]
    assert all(float(each) > 0 for each in found.values())


def test_losses_are_the_formulas_spelt_out() -> None:
    net = detector(levels=(3, 5))
    with torch.no_grad():
        views = net(torch.rand(2, 3, 64, 64))
    truth = [random_objects(2, 64, 2, 3), random_objects(1, 64, 2, 4)]
    focal, distance, entropy, count = 0.0, 0.0, 0.0, 0
    for i, each in enumerate(truth):
        for n, j in enumerate(slow_assignment(net, views, each)):
            for c in range(2):
                p = float(views.logits[i, n, c].sigmoid())
                wanted = j >= 0 and int(each.classes[j]) == c
                focal -= 0.25 * (1 - p) ** 2 * math.log(p) if wanted else 0.75 * p**2 * math.log(1 - p)
            if j < 0:
                continue
            count += 1
            one, other = views.boxes[i, n].tolist(), each.boxes[j].tolist()
            w, h = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
            shared = max(w, 0) * max(h, 0)
            areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
            hull = math.prod(max(one[k + 2], other[k + 2]) - min(one[k], other[k]) for k in (0, 1))
            distance += 1 - (shared / (areas - shared) - (hull - areas + shared) / hull)
            x, y = ((views.cells[n, k] + views.cells[n, k + 2]).item() / 2 for k in (0, 1))
            left, top, right, bottom = x - other[0], y - other[1], other[2] - x, other[3] - y
            middle = math.sqrt(
                min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            )  # Tian et al., equation 3
            q = float(views.centerness[i, n].sigmoid())
            entropy -= middle * math.log(q) + (1 - middle) * math.log(1 - q)
    assert count > 0
    found = [float(each) for each in net.losses(views, truth).values()]
    assert found == pytest.approx([focal / count, distance / count, entropy / count], rel=1e-4)


def test_images_without_objects_teach_that_there_are_none() -> None:
    net = detector().train()
    terms = net.losses(net(torch.rand(2, 3, 64, 64)), [objects([], [])] * 2)
    sum(terms.values()).backward()
    assert terms["classification"].item() > 0
    assert terms["box"].item() == terms["centerness"].item() == 0
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("encoder", ["test_resnet", "squeezenet1_0"])
def test_every_part_learns(encoder: str) -> None:
    net = detector(encoder=encoder, levels=(2, 6)).train()
    sum(net.losses(net(torch.rand(2, 3, 64, 64)), [objects([[8, 8, 40, 44]], [1])] * 2).values()).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_half_precision_gives_float32_answers_and_finite_gradients() -> None:
    net = detector().train()
    with torch.autocast("cpu", torch.bfloat16):
        views = net(torch.rand(2, 3, 64, 64))
        terms = net.losses(views, [objects([[8, 8, 40, 44]], [1]), objects([], [])])
    # What is read without having been written would show: p7 comes of a single cell.
    del [[torch.full((2**n,), math.nan) for n in range(4, 20)] for _ in range(20)][:]
    assert [each.dtype for each in views.pyramid.values()] == [torch.bfloat16] * 3 + [torch.float32] * 2
    assert {each.dtype for each in (views.logits, views.sides, views.centerness, *terms.values())} == {torch.float32}
    sum(terms.values()).backward()
    assert not [name for name, p in net.named_parameters() if not bool(p.grad.isfinite().all())]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(found.boxes.dtype == torch.float32 for found in net.eval().detect(torch.rand(1, 3, 64, 64)))


def made_up(net: Detector, seed: int) -> Views:
    """What a network could say that finds a lot."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        views = net(torch.rand(2, 3, 64, 64))
    logits = torch.randn(views.logits.shape, generator=generator) * 2 - 1
    sides = torch.rand(views.sides.shape, generator=generator) * 3
    sides[:, ::7, 0] = sides[:, ::7, 2] = 0  # boxes without area
    centerness = torch.randn(views.centerness.shape, generator=generator) + 1
    return Views(views.trunk, views.pyramid, logits, sides, centerness, views.cells)


def slow_found(net: Detector, views: Views, i: int, h: int, w: int) -> list[tuple[float, int, list[float]]]:
    settings, every, start = net.settings, [], 0
    for level in views.pyramid.values():
        cells, own = level[0, 0].numel(), []
        for n in range(start, start + cells):
            x0, y0, x1, y1 = views.boxes[i, n].tolist()
            box = [min(max(x0, 0), w), min(max(y0, 0), h), min(max(x1, 0), w), min(max(y1, 0), h)]
            for c in range(2):
                score = math.sqrt(float(views.logits[i, n, c].sigmoid() * views.centerness[i, n].sigmoid()))
                if score >= settings.score:
                    own.append((score, c, box))
        every += sorted(own, key=lambda each: -each[0])[: settings.candidates]
        start += cells
    kept: list[tuple[float, int, list[float]]] = []
    for score, c, box in sorted(every, key=lambda each: -each[0]):
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        others = [other for _, same, other in kept if same == c]
        if not others or float(box_iou(torch.tensor([box]), torch.tensor(others)).max()) <= settings.nms:
            kept.append((score, c, box))
    return kept[: settings.most]


@pytest.mark.parametrize(
    "values", [{}, {"score": 0.6, "nms": 0.3}, {"candidates": 20, "nms": 0.9}, {"most": 5, "score": 0.3}]
)
def test_what_is_found_is_what_loops_find(values: dict[str, Any]) -> None:
    net = detector(levels=(3, 5), **values)
    views = made_up(net, 1)
    for i, found in enumerate(net.found(views, (50, 60))):
        expected = slow_found(net, views, i, 50, 60)
        assert len(expected) > 3
        assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-5)
        assert found.classes.tolist() == [c for _, c, _ in expected]
        torch.testing.assert_close(found.boxes, torch.tensor([box for _, _, box in expected]))
        assert found.classes.dtype == torch.int64


def test_nothing_found_has_its_shapes() -> None:
    for found in detector(score=0.9).detect(torch.rand(2, 3, 40, 56)):
        assert isinstance(found, Found)
        assert [tuple(each.shape) for each in found] == [(0, 4), (0,), (0,)]


def squares(count: int) -> tuple[Tensor, list[Objects]]:
    """A dark square in the upper half of a grey image and a bright one in the lower."""
    generator = torch.Generator().manual_seed(0)
    images, truth = torch.full((count, 3, 64, 64), 0.5), []
    for image in images:
        boxes = []
        for c in (0, 1):
            side = int(torch.randint(14, 24, (), generator=generator))
            x = int(torch.randint(0, 64 - side, (), generator=generator))
            y = int(torch.randint(32 * c, 32 * c + 32 - side, (), generator=generator))
            image[:, y : y + side, x : x + side] = float(c)
            boxes.append([float(x), float(y), float(x + side), float(y + side)])
        truth.append(objects(boxes, [0, 1]))
    return images, truth


def test_it_learns_to_find_squares() -> None:
    net = detector(levels=(3, 4)).train()
    images, truth = squares(4)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        sum(net.losses(net(images), truth).values()).backward()
        optimiser.step()
    right = 0
    for found, true in zip(net.detect(images), truth, strict=True):
        for box, c in zip(*true, strict=True):
            best = found.boxes[found.classes == c][:1]  # the one of the highest score
            right += bool(len(best)) and float(box_iou(best, box[None])) > 0.5
    assert right >= 7  # of 8


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"levels": (5, 3)}, "from level 5 to 3"),
        ({"levels": (1, 3)}, "from level 1 to 3"),
        ({"encoder": "squeezenet1_0", "levels": (5, 6)}, "do not begin at level 5"),
        ({"pad_to": 48}, "no whole cells of level 5"),
        ({"reach": (10.0, 20.0)}, "2 reaches"),
        ({"reach": (10.0, 20.0, 5.0, 70.0)}, "4 reaches"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HistillError, match=said) as caught:
        detector(**values)
    assert caught.value.code == Exit.USAGE
    assert caught.value.mend


def test_start_weights_and_frozen_norms(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    donor = detector()
    path = tmp_path / "trunk.safetensors"
    save_file(donor.encoder.trunk().state_dict(), path)
    torch.manual_seed(7)
    settings = donor.settings.model_copy(update={"weights": str(path), "frozen_through": donor.encoder.taps[1]})
    net = build_detector(settings, 2)
    net.start()
    torch.testing.assert_close(net.encoder.trunk().state_dict(), donor.encoder.trunk().state_dict())
    net.train()
    assert not any(m.training for m in net.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("encoder.") for name in frozen)


@pytest.mark.parametrize(
    ("values", "head", "trunk"), [({}, 1, 1), ({"depth": 2}, 0, 1), ({"encoder": "resnet10t"}, 1, 0)]
)
def test_what_fits_is_inherited(values: dict[str, Any], head: int, trunk: int) -> None:
    teacher = detector()
    torch.manual_seed(7)
    student = build_detector(teacher.settings.model_copy(update={"levels": (2, 6), "weights": "none", **values}), 2)
    student.inherit(teacher)
    own, theirs = student.state_dict(), teacher.state_dict()
    for part, inherited in (("head", head), ("encoder", trunk)):
        keys = [key for key in own if key.startswith(part) and key in theirs]
        assert (
            all(own[key].shape == theirs[key].shape and torch.equal(own[key], theirs[key]) for key in keys) == inherited
        )
