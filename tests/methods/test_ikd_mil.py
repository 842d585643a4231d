"""IKD-MIL part by part: its losses against loops over pixels, its rounds with a run that only pretends."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LESIONS, MACHINE, TISSUES, tiny_card, tiny_table, tiny_values
from torch import Tensor

from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.tiles import TileBatch
from histill.engine.stage import Losses, Stage
from histill.engine.training import train
from histill.methods import ikd_mil
from histill.methods.ikd_mil import Config, IkdMil, smooth
from histill.nets.teacher import Teacher
from histill.nets.weights import read_weights

CLASSES = LESIONS.as_classes()  # tumour, and the rest as background
RESNET = {"encoder": "resnet18", "weights": "none"}


def config(**values: Any) -> Config:
    return resolve(Config, ("test", {**tiny_values(Config), **values}))


def ikd(seed: int = 0, **values: Any) -> IkdMil:
    torch.manual_seed(seed)
    return IkdMil(config(**values), CLASSES)


def teaching(seed: int = 7) -> Teacher:
    return Teacher(ikd(seed).network)


class Says(torch.nn.Module):
    """A teacher whose fused map is given."""

    def __init__(self, taught: Tensor) -> None:
        super().__init__()
        self.taught = taught

    def forward(self, images: Tensor) -> Tensor:
        return self.taught[:, None].expand(-1, 4, -1, -1)


def a_batch(positive: Sequence[bool] = (True, False), h: int = 32, w: int = 48) -> TileBatch:
    """Images of which the first is padded at its right."""
    random = torch.Generator().manual_seed(1)
    b = len(positive)
    valid = torch.ones(b, h, w, dtype=torch.bool)
    valid[0, :, 40:] = False
    tumour = torch.tensor(positive).float()
    return TileBatch(
        images=torch.rand(b, 3, h, w, generator=random),
        valid=valid,
        labels=torch.stack([tumour, 1 - tumour], dim=1),
        masks=torch.zeros(b, 0, h, w, dtype=torch.int64),
        ids=tuple("abcdef"[:b]),
    )


def pixels(maps: Tensor, valid: Tensor) -> list[float]:
    return [float(value) for value in maps[valid]]


def slow_dice(output: list[float], target: list[float]) -> float:
    both = sum(o * t for o, t in zip(output, target, strict=True))
    return 1 - (2 * both + 1) / (sum(output) + sum(target) + 1)


def values(losses: Losses) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in losses.items()}


# --- the teacher's losses ---------------------------------------------------------------------------------------------


def test_the_papers_numbers_are_the_defaults() -> None:
    default = Config()
    assert (default.network.encoder, default.network.fusion) == ("vgg16_bn", (0.3, 0.3, 0.4))
    assert (default.teacher_form, default.exponent, default.roles) == ("painted", 4, "swap")
    assert (default.wce_weight, default.threshold, default.smoothing, default.released) == (2, 0.5, 3, False)
    for schedule in (default.teach, default.distil):
        assert (schedule.optimizer, schedule.learning_rate, schedule.weight_decay) == ("adam", 5e-5, 5e-5)
        assert (schedule.batch_size, schedule.epochs, schedule.head_factor, schedule.power) == (16, 30, 1, 0)
    assert 480 < default.teach.epochs + default.rounds * default.distil.epochs <= 510


def test_a_painted_label_is_dice_on_every_output() -> None:
    method, batch = ikd(), a_batch((True, False, True))
    losses = values(method.teacher_loss(batch))
    outputs = method.network(batch.images).detach()
    assert tuple(losses) == ("s1", "s2", "s3", "f")
    for i, loss in enumerate(losses.values()):
        terms = []
        for b, positive in enumerate((True, False, True)):
            seen = pixels(outputs[b, i], batch.valid[b])
            terms.append(slow_dice(seen if positive else [1 - s for s in seen], [1.0] * len(seen)))
        assert loss == pytest.approx(sum(terms) / 3, rel=1e-4)


def test_pooled_pixels_are_cross_entropy_of_their_generalised_mean() -> None:
    method, batch = ikd(teacher_form="pooled", exponent=3.0), a_batch((True, False, True))
    losses = values(method.teacher_loss(batch))
    outputs = method.network(batch.images).detach()
    assert tuple(losses) == ("s1", "s2", "s3", "f")
    for i, loss in enumerate(losses.values()):
        terms = []
        for b, positive in enumerate((True, False, True)):
            seen = pixels(outputs[b, i], batch.valid[b])
            pooled = (sum(s**3 for s in seen) / len(seen)) ** (1 / 3)
            terms.append(-math.log(pooled if positive else 1 - pooled))
        assert loss == pytest.approx(sum(terms) / 3, rel=1e-4)


# --- the student's losses ---------------------------------------------------------------------------------------------


def slow_wce(fused: list[float], taught: list[float], positive: bool, threshold: float = 0.5) -> float:
    """mean(w CE) of one image's valid pixels."""
    labels = [positive and t > threshold for t in taught]
    if positive and not any(labels):
        return 0.0
    losses = [-math.log(max(f if y else 1 - f, 1e-6)) for f, y in zip(fused, labels, strict=True)]
    if len(set(labels)) == 1:
        return sum(losses) / len(losses)
    total = sum(math.exp(-loss) for loss in losses)
    weights = [math.exp(-loss) / total * len(losses) for loss in losses]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / len(losses)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_student_learns_the_fused_map_of_its_teacher(threshold: float) -> None:
    kinds = (True, False, True, True)
    method, batch = ikd(threshold=threshold), a_batch(kinds)
    taught = torch.rand(4, 32, 48, generator=torch.Generator().manual_seed(2))
    taught[2] *= threshold  # nowhere above
    taught[3] = threshold + taught[3] * (1 - threshold)  # everywhere above
    taught[0, :, 40:] = 1.0  # beyond the image
    losses = values(method.student_loss(batch, Teacher(Says(taught))))
    outputs = method.network(batch.images).detach()
    assert tuple(losses) == ("s1", "s2", "s3", "f", "wce")
    for i, name in enumerate(("s1", "s2", "s3", "f")):
        terms = []
        for b, positive in enumerate(kinds):
            seen, target = pixels(outputs[b, i], batch.valid[b]), pixels(taught[b], batch.valid[b])
            terms.append(slow_dice(seen, target) if positive else slow_dice([1 - s for s in seen], [1.0] * len(seen)))
        assert losses[name] == pytest.approx(sum(terms) / 4, rel=1e-4)
    terms = [
        slow_wce(pixels(outputs[b, 3], batch.valid[b]), pixels(taught[b], batch.valid[b]), positive, threshold)
        for b, positive in enumerate(kinds)
    ]
    assert terms[2] == 0
    assert min(terms[0], terms[1], terms[3]) > 0
    assert losses["wce"] == pytest.approx(2 * sum(terms) / 4, rel=1e-4)


def test_a_positive_without_a_mask_gets_no_weighted_cross_entropy() -> None:
    method, batch = ikd(), a_batch((True,))
    taught = torch.full((1, 32, 48), 0.5)  # not above
    fused = torch.full((1, 32, 48), 0.3, requires_grad=True)
    positive = method.positive(batch)
    method.weighted_cross_entropy(fused, taught, positive, batch.valid).sum().backward()
    assert fused.grad is not None
    assert bool((fused.grad == 0).all())
    # A mask that lies in the padding alone is none.
    beyond = taught.masked_fill(~batch.valid, 1.0)
    assert method.weighted_cross_entropy(fused, beyond, positive, batch.valid).tolist() == [0]


def test_a_full_mask_weighs_all_pixels_alike_and_a_negative_too() -> None:
    method, batch = ikd(), a_batch((True, False))
    fused = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    found = method.weighted_cross_entropy(fused, torch.ones(2, 32, 48), method.positive(batch), batch.valid)
    seen = [pixels(fused[b], batch.valid[b]) for b in range(2)]
    assert float(found[0]) == pytest.approx(np.mean([-math.log(f) for f in seen[0]]), rel=1e-4)
    assert float(found[1]) == pytest.approx(np.mean([-math.log(1 - f) for f in seen[1]]), rel=1e-4)


def test_a_weight_of_0_is_no_weighted_cross_entropy() -> None:
    method = ikd(wce_weight=0.0)
    assert tuple(method.student_loss(a_batch(), teaching())) == ("s1", "s2", "s3", "f")


def test_as_released_the_cross_entropy_wants_background_everywhere() -> None:
    method, batch = ikd(released=True), a_batch((True, False))
    fused = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    taught = torch.full((2, 32, 48), 0.99)  # an integer of it is 0
    found = method.weighted_cross_entropy(fused, taught, method.positive(batch), batch.valid)
    for b in range(2):
        background = [-math.log(1 - f) for f in pixels(fused[b], batch.valid[b])]
        assert float(found[b]) == pytest.approx(np.mean(background), rel=1e-4)


@pytest.mark.parametrize("form", ["painted", "pooled"])
@pytest.mark.parametrize("kinds", [(True, True), (False, False), (True,)])
def test_a_batch_of_one_class_teaches_with_finite_losses_and_gradients(form: str, kinds: tuple[bool, ...]) -> None:
    method, batch = ikd(teacher_form=form).train(), a_batch(kinds)
    for losses in (method.teacher_loss(batch), method.student_loss(batch, teaching())):
        torch.stack(list(losses.values())).sum().backward()
        assert all(math.isfinite(value) for value in values(losses).values())
        for parameter in method.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all())
            parameter.grad = None


def test_padding_is_in_no_term() -> None:
    method, batch = ikd().eval(), a_batch((True, False))
    teacher = teaching()
    other = torch.where(batch.valid[:, None], batch.images, torch.rand_like(batch.images))
    # The networks see a little beyond the edge, so here they are made blind: each pixel's output is given.
    outputs = torch.rand(2, 4, 32, 48, generator=torch.Generator().manual_seed(4))
    changed = torch.where(batch.valid[:, None], outputs, 1 - outputs)
    losses = []
    for images, each in ((batch.images, outputs), (other, changed)):
        method.network.forward = lambda _, each=each: each  # type: ignore[method-assign]
        teacher.network.forward = lambda _, each=each: each  # type: ignore[method-assign]
        moved = TileBatch(images, batch.valid, batch.labels, batch.masks, batch.ids)
        losses.append(
            {
                **values(method.teacher_loss(moved)),
                "student": sum(values(method.student_loss(moved, teacher)).values()),
            }
        )
    assert losses[0] == losses[1]


def test_only_the_student_learns() -> None:
    method = ikd(network=RESNET).train()
    teacher = Teacher(ikd(7, network=RESNET).network)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    torch.stack(list(method.student_loss(a_batch(), teacher).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # Its BatchNorms did not take the batch in either.
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


# --- prediction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesion", [0, 1])
def test_maps_are_in_the_order_of_the_classes_and_nothing_on_padding(lesion: int) -> None:
    names = ("rest", "tumour") if lesion else ("tumour", "rest")
    torch.manual_seed(0)
    method, batch = IkdMil(config(), Classes(names, background="rest")).eval(), a_batch()
    with torch.no_grad():
        fused = method.network(batch.images)[:, -1]
        maps = method.predict_tiles(batch)
    assert torch.equal(maps[:, lesion], fused * batch.valid)
    torch.testing.assert_close(maps.sum(dim=1), batch.valid.float())


def slow_smooth(maps: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """[k, h, w], pixel by pixel."""
    k, h, w = maps.shape
    found = np.full(maps.shape, 1 / k)
    for y in range(h):
        for x in range(w):
            sums = np.zeros(k)
            for v in range(max(0, y - radius), min(h, y + radius + 1)):
                for u in range(max(0, x - radius), min(w, x + radius + 1)):
                    sums += math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2)) * maps[:, v, u]
            if sums.sum() > 0:
                found[:, y, x] = sums / sums.sum()
    return found


def some_maps(b: int, h: int, w: int) -> Tensor:
    fused = torch.rand(b, 1, h, w, generator=torch.Generator().manual_seed(5))
    return torch.cat([fused, 1 - fused], dim=1)


def test_smoothing_is_the_gaussian_mean_of_what_was_seen() -> None:
    maps = some_maps(2, 13, 17)
    maps[0, :, :, 9:] = 0
    maps[1, :, 3:6, 2:5] = 0
    found = smooth(maps, 1.2, 5)
    for b in range(2):
        np.testing.assert_allclose(found[b].numpy(), slow_smooth(maps[b].numpy(), 1.2, 5), atol=1e-6)
    assert found[0, :, 0, 16].tolist() == [0.5, 0.5]  # farther than 5 px from all that was seen


def test_smoothing_does_not_darken_edges() -> None:
    maps = torch.zeros(1, 2, 20, 20)
    maps[:, 0, 3:, 4:], maps[:, 1, 3:, 4:] = 0.8, 0.2
    found = smooth(maps, 3.0, 12)
    torch.testing.assert_close(found[:, 0], torch.full((1, 20, 20), 0.8))


def test_a_piece_with_its_margin_is_smoothed_as_the_whole_is() -> None:
    method = ikd(smoothing=1.6)
    assert method.reach == math.ceil(4 * 1.6)
    maps = some_maps(1, 40, 60)
    maps[:, :, :9, :20] = 0
    whole = method.finish(maps)
    top, left, r = 11, 13, method.reach
    piece = method.finish(maps[:, :, top - r : top + 8 + r, left - r : left + 20 + r])
    assert torch.equal(piece[:, :, r:-r, r:-r], whole[:, :, top : top + 8, left : left + 20])
    inner = method.finish(maps[:, :, top - r + 1 : top + 8 + r, left - r : left + 20 + r])
    assert not torch.equal(inner[:, :, r - 1 : -r, r:-r], whole[:, :, top : top + 8, left : left + 20])


def test_a_sigma_of_0_is_no_smoothing() -> None:
    method, maps = ikd(smoothing=0.0), some_maps(1, 8, 8)
    assert method.reach == 0
    assert method.finish(maps) is maps


def test_the_default_reaches_4_sigma() -> None:
    assert ikd().reach == 12


def test_smoothing_is_float32_under_autocast() -> None:
    maps = some_maps(1, 30, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(smooth(maps, 3.0, 12), smooth(maps, 3.0, 12))
        found = smooth(maps, 3.0, 12)
    assert torch.equal(found, smooth(maps, 3.0, 12))


# --- rounds -----------------------------------------------------------------------------------------------------------


class Pretended:
    """A run whose stages only mark the network that learns, and are told their scores.

    Attributes:
        seen: for each stage its name, the marks of who learns and who teaches, and whether start weights were loaded.
    """

    def __init__(self, scores: Sequence[float | None]) -> None:
        self.scores = list(scores)
        self.seen: list[tuple[str, float, float | None, bool]] = []
        self.notes: list[str] = []
        self.journal = self

    def say(self, event: str, **details: Any) -> None:
        self.notes.append(str(details.get("text")))

    def learn_from(self, *given: Any) -> None:
        return None

    def train(self, stage: Stage) -> float | None:
        if stage.start is not None:
            stage.start()
        loss: Any = stage.loss
        teacher = loss.keywords["teacher"].network if hasattr(loss, "keywords") else None
        self.seen.append((stage.name, mark(stage.learns), mark(teacher) if teacher else None, stage.start is not None))
        set_mark(stage.learns, len(self.seen))
        return self.scores.pop(0)


def mark(network: Any) -> float:
    return float(network.sides[0].bias.detach())


def set_mark(network: Any, value: float) -> None:
    with torch.no_grad():
        network.sides[0].bias.fill_(value)


def pretend(table: Manifest, scores: Sequence[float | None], **settings: Any) -> tuple[Pretended, float]:
    """The run, and the mark of the network that predicts in the end."""
    method = ikd(rounds=len(scores) - 1, select="last", **settings)
    set_mark(method.network, 0)
    run: Any = Pretended(scores)
    method.fit(table.without_truth(), None, run)
    assert not run.scores
    return run, mark(method.network)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_table(tmp_path_factory.mktemp("ikd") / "table", LESIONS)


def test_swap_the_best_student_teaches_and_the_old_teacher_learns(table: Manifest) -> None:
    run, last = pretend(table, [0.5, 0.6, 0.7, 0.8])
    assert run.seen == [
        ("teacher", 0, None, True),
        ("round-1", 0, 1, True),  # a network as the teacher once was learns from the teacher
        ("round-2", 1, 2, False),  # the old teacher learns from the student
        ("round-3", 2, 3, False),
    ]
    assert last == 4


@pytest.mark.parametrize("settings", [{"roles": "promote"}, {"released": True}])
def test_promote_the_student_goes_on_and_teaches_itself(table: Manifest, settings: dict[str, Any]) -> None:
    run, last = pretend(table, [0.5, 0.6, 0.7], **settings)
    assert [each[1:3] for each in run.seen] == [(0, None), (0, 1), (2, 2)]
    assert last == 3


@pytest.mark.parametrize(
    ("roles", "expected"),
    [("swap", [(0, None), (0, 1), (1, 2), (1, 2), (2, 4)]), ("promote", [(0, None), (0, 1), (2, 2), (2, 2), (4, 4)])],
)
def test_a_round_that_made_things_worse_is_not_kept(
    table: Manifest, roles: str, expected: list[tuple[float, float | None]]
) -> None:
    run, last = pretend(table, [0.5, 0.7, 0.6, 0.7, 0.65], roles=roles)
    assert [each[1:3] for each in run.seen] == expected
    assert last == 4  # of the third round, as good as the first: not worse
    assert [note.partition(":")[0] for note in run.notes] == ["round 2 is not kept", "round 4 is not kept"]


def test_where_no_round_is_better_the_first_teacher_predicts(table: Manifest) -> None:
    run, last = pretend(table, [0.5, 0.4, 0.45])
    # The second student starts anew, from the start weights, too.
    assert run.seen == [("teacher", 0, None, True), ("round-1", 0, 1, True), ("round-2", 0, 1, True)]
    assert last == 1


def test_where_nothing_selects_every_round_is_kept(table: Manifest) -> None:
    run, last = pretend(table, [None, None, None])
    assert [each[1:3] for each in run.seen] == [(0, None), (0, 1), (1, 2)]
    assert last == 3


def test_without_rounds_the_teacher_predicts(table: Manifest) -> None:
    run, last = pretend(table, [0.5])
    assert (len(run.seen), last) == (1, 1)


# --- whole runs -------------------------------------------------------------------------------------------------------


def run_tiny(
    table: Manifest, folder: Path, listener: Callable[[dict[str, Any]], None] | None = None, **settings: Any
) -> Path:
    return train(
        IkdMil, table, None, folder=folder, config=config(**settings), seed=0, machine=MACHINE, listener=listener
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def test_the_model_holds_the_network_that_predicts_and_nothing_else(table: Manifest, tmp_path: Path) -> None:
    model = run_tiny(table, tmp_path, rounds=1)
    own = ikd().state_dict()
    assert read_weights(model / "model.safetensors").keys() == own.keys()
    assert {key.partition(".")[0] for key in own} == {"network"}


def test_killed_between_rounds_and_within_a_run_ends_in_the_same_bytes(
    table: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scores are such that the second of three rounds is not kept.
    by_stage = {"teacher": 0.1, "round-1": 0.5, "round-2": 0.3, "round-3": 0.6}
    now = {"stage": "teacher"}
    monkeypatch.setattr(ikd_mil, "selection", lambda *given: lambda: by_stage[now["stage"]])

    def listen(event: dict[str, Any], stop: tuple[str, int] | None = None) -> None:
        if event["event"] in ("stage", "step"):
            now["stage"] = event["stage"]
        if event["event"] == "epoch" and (event["stage"], event["epoch"]) == stop:
            raise KeyboardInterrupt

    run_tiny(table, tmp_path / "clean", listen, rounds=3)
    stopped = tmp_path / "stopped"
    for stop in (("round-1", 0), ("round-2", 1), ("round-3", 0)):
        with pytest.raises(KeyboardInterrupt):
            run_tiny(table, stopped, lambda event, stop=stop: listen(event, stop), rounds=3)
    run_tiny(table, stopped, listen, rounds=3)
    assert tree(stopped) == tree(tmp_path / "clean")
    notes = [event["text"] for event in read_journal(stopped / "journal.jsonl") if event["event"] == "note"]
    assert notes
    assert set(notes) == {"round 2 is not kept: score 0.3000, before 0.5000"}


def test_another_trunk_trains_and_predicts(table: Manifest, tmp_path: Path) -> None:
    run_tiny(table, tmp_path, rounds=1, network={**RESNET, "fusion": [0.5, 0.5]})
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["tumour", "rest"])
def test_a_table_of_one_kind_only_is_refused(table: Manifest, tmp_path: Path, kind: str) -> None:
    alike = table.choose(lambda sample: sample.split == "val" or sample.labels == (kind,))
    with pytest.raises(HistillError, match="there is no image with") as caught:
        run_tiny(alike, tmp_path)
    assert caught.value.code == Exit.USAGE


def test_tissues_are_no_lesion(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="no class is the background") as caught:
        run_tiny(tiny_table(tmp_path / "table", TISSUES), tmp_path / "run")
    assert caught.value.code == Exit.USAGE
    assert tiny_card(IkdMil) == LESIONS


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_images(table: Manifest, tmp_path: Path) -> None:
    schedule = {"epochs": 2, "batch_size": 3, "learning_rate": 1e30, "warmup": 0.0}
    with pytest.raises(HistillError, match=r"not finite") as caught:
        run_tiny(table, tmp_path, teach=schedule)
    assert caught.value.code == Exit.NUMBERS
