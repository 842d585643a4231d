"""MHKD step by step: what each is taught, by hand; who learns and who does not; plans; what is refused."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MACHINE, tiny_values
from tiny_boxes import tiny_boxes
from torch import Tensor, nn

from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.journal import read_journal
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.data.pairs import PairBatch
from histill.engine.box_method import objects_of
from histill.engine.run import Run
from histill.engine.stage import Stage
from histill.engine.training import train
from histill.methods.mhkd import PLANS, STEPS, Config, Mhkd, School
from histill.nets.counterparts import counterparts
from histill.nets.detector import DetectorSettings, Views
from histill.nets.weights import read_weights

CLASSES = Classes(("glomerulus", "tubule"))
DETECTION = {"classification", "box", "centerness"}
OFFLINE = {"foreground", "background", "attention", "relation"}
ONLINE = {f"teacher_{name}" for name in DETECTION} | {"classes", "mutual", "boxes", "imitation"}


def config(**values: Any) -> Config:
    return resolve(Config, ("test", {**tiny_values(Config), "ratio": 2, "tile": 48, **values}))


def at_school(**values: Any) -> tuple[Mhkd, School]:
    torch.manual_seed(0)
    method = Mhkd(config(**values), CLASSES)
    school = School.build(method.config, method.detector, len(CLASSES), torch.device("cpu"))
    return method, school


def a_batch(ratio: int = 2, *, empty: bool = False) -> PairBatch:
    """Two fields, of which the second holds nothing."""
    random = torch.Generator().manual_seed(1)
    high = torch.rand(2, 3, 64, 96, generator=random)
    boxes, classes = torch.tensor([[8.0, 8, 40, 38], [50, 20, 90, 60]]), torch.tensor([0, 1])
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    first = nothing if empty else (boxes, classes)
    low = nn.functional.avg_pool2d(high, ratio)
    return PairBatch(high, low, (first[0], nothing[0]), (first[1], nothing[1]), ("x", "y"))


def gradients(losses: dict[str, Tensor], names: set[str], *networks: nn.Module) -> list[bool]:
    """Whether the sum of some terms moves each network."""
    for network in networks:
        network.zero_grad(set_to_none=True)
    torch.stack([losses[name] for name in sorted(names)]).sum().backward(retain_graph=True)
    return [any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in each.parameters()) for each in networks]


# --- the terms --------------------------------------------------------------------------------------------------------


def test_without_a_lesson_the_student_learns_from_the_scaled_boxes_alone() -> None:
    method, school = at_school()
    batch = a_batch()
    found = method.taught(school, (), batch)
    truth = objects_of([each / 2 for each in batch.boxes], batch.classes)
    expected = method.detector.losses(method.detector(batch.low), truth)
    assert set(found) == DETECTION
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)


def test_the_teacher_learns_high_resolution() -> None:
    method, school = at_school()
    batch = a_batch()
    found = method.teaching(school.teacher, batch)
    expected = school.teacher.losses(school.teacher(batch.high), objects_of(batch.boxes, batch.classes))
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)


def test_offline_the_teacher_stands_still() -> None:
    method, school = at_school(offline={"ramp": 0})
    losses = method.taught(school, ("offline",), a_batch())
    assert set(losses) == DETECTION | OFFLINE
    for name in sorted(OFFLINE):
        assert gradients(losses, {name}, school.teacher, method.detector.encoder) == [False, True], name
    # Shallow maps are of levels 2 and 3; what is deeper than level 3 is not touched.
    names = {each.teacher for each in school.shallow.alignment.meetings}
    assert names == {"c2", "c3", "p2", "p3"}
    assert {each.teacher for each in school.deep.meetings} == {"p4", "p5"}
    assert {each.teacher for each in school.whole.meetings} == {"p2", "p3", "p4", "p5"}


def test_offline_terms_rise_batch_by_batch() -> None:
    method, school = at_school(offline={"ramp": 4})
    school.teacher.eval()
    method.detector.eval()
    first, second = (method.taught(school, ("offline",), a_batch()) for _ in range(2))
    for name in OFFLINE:
        torch.testing.assert_close(2 * first[name], second[name])


def test_who_is_moved_by_each_term_online() -> None:
    method, school = at_school(sure=0)
    losses = method.taught(school, ("online",), a_batch())
    assert set(losses) == DETECTION | ONLINE
    moved = {name: gradients(losses, {name}, school.teacher, method.detector) for name in sorted(losses)}
    student = {name: [False, True] for name in (*DETECTION, "classes", "boxes", "imitation")}
    teacher = {name: [True, False] for name in (*(f"teacher_{each}" for each in DETECTION), "mutual")}
    assert moved == student | teacher


@dataclass
class Cell:
    """A cell of the student and the teacher's that speaks for it, where both answer for the same object."""

    said: list[float]
    logits: list[float]
    score: float
    theirs: list[float]
    own: list[float]


def alike(method: Mhkd, school: School, batch: PairBatch, high: Views, low: Views) -> tuple[list[Cell], int]:
    """Such cells, and the number of the student's that answer for an object."""
    found, count = [], 0
    index = counterparts(high, low, 2)
    for i in range(2):
        truth = objects_of(batch.boxes, batch.classes)[i]
        theirs = school.teacher.assign(high, truth).tolist()
        own = method.detector.assign(low, truth._replace(boxes=truth.boxes / 2)).tolist()
        count += sum(each >= 0 for each in own)
        for n, cell in enumerate(index[i].tolist()):
            if cell >= 0 and theirs[cell] == own[n]:
                said, logits = high.logits[i, cell].tolist(), low.logits[i, n].tolist()
                box = (high.boxes[i, cell] / 2).tolist()
                found.append(Cell(said, logits, float(high.scores[i, cell].max()), box, low.boxes[i, n].tolist()))
    return found, count


def slow_kl(first: list[float], second: list[float], temperature: float) -> float:
    total = 0.0
    for one, other in zip(first, second, strict=True):
        q, p = (1 / (1 + math.exp(-each / temperature)) for each in (one, other))
        total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    return temperature**2 * total


def slow_giou(one: list[float], other: list[float]) -> float:
    def area(box: list[float]) -> float:
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    shared = area([max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])])
    hull = area([min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])])
    union = area(one) + area(other) - shared
    return shared / union - (hull - union) / hull


def spoken(views: Views, seed: int) -> Views:
    """Views of a head that says something else at every cell."""
    random = torch.Generator().manual_seed(seed)
    logits = views.logits + torch.randn(views.logits.shape, generator=random)
    return replace(views, logits=logits, sides=1 + 3 * torch.rand(views.sides.shape, generator=random))


def test_online_terms_are_what_loops_over_cells_say() -> None:
    method, school = at_school(sure=0.07, temperature=3, classes=0.7, boxes=0.6, imitation=0.5, mutual=0.2)
    method.detector.eval()
    school.teacher.eval()
    batch = a_batch()
    with torch.no_grad():
        high, low = school.teacher(batch.high), method.detector(batch.low)
        # Heads begin all alike, and no box has an area: here they say something.
        high, low = (spoken(each, seed) for seed, each in enumerate((high, low)))
        found = {name: float(term) for name, term in method.online(school, batch, high, low).items()}
        cells, count = alike(method, school, batch, high, low)
        sure = [cell for cell in cells if cell.score >= 0.07]
        assert 0 < len(sure) < len(cells)
        assert count > 0
        maps = [
            float((high.pyramid[f"p{4 + i}"] - adapted).square().mean())
            for i, adapted in enumerate([low.pyramid["p3"], low.pyramid["p4"]])
        ]
    expected = {
        "classes": 0.7 * sum(slow_kl(cell.said, cell.logits, 3) for cell in cells) / count,
        "mutual": 0.2 * sum(slow_kl(cell.logits, cell.said, 3) for cell in cells) / count,
        "boxes": 0.6 * sum(1 - slow_giou(cell.own, cell.theirs) for cell in sure) / len(sure),
        "imitation": 0.5 * sum(maps) / len(maps),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("off", ["classes", "mutual", "boxes", "imitation"])
def test_a_weight_of_nothing_takes_out_its_term_alone(off: str) -> None:
    found = []
    for values in ({}, {off: 0}):
        method, school = at_school(**values)
        method.eval()
        school.teacher.eval()
        found.append(method.taught(school, ("online",), a_batch()))
    assert set(found[0]) - set(found[1]) == {off}
    for name, term in found[1].items():
        torch.testing.assert_close(term, found[0][name])


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
def test_every_ratio_can_be_taught(ratio: int) -> None:
    method, school = at_school(ratio=ratio, tile=0)
    batch = a_batch(ratio)
    losses = method.taught(school, ("offline", "online"), batch)
    assert all(bool(term.isfinite()) for term in losses.values())


@pytest.mark.parametrize("lessons", [("offline",), ("online",), ("features",), ()])
def test_a_batch_of_which_no_image_holds_a_box_teaches_that(lessons: tuple[Any, ...]) -> None:
    method, school = at_school()
    losses = method.taught(school, lessons, a_batch(empty=True))
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(term.isfinite()) for term in losses.values())
    assert all(bool(p.grad.isfinite().all()) for p in method.detector.parameters() if p.grad is not None)
    assert losses["box"] == losses["centerness"] == 0


# --- plans ------------------------------------------------------------------------------------------------------------

TERMS = {"offline": OFFLINE, "online": ONLINE, "features": {"imitation"}}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_teaches_its_lessons_and_moves_who_learns_from_them(plan: str) -> None:
    method, school = at_school(plan=plan)
    for lessons in PLANS[plan]:
        losses = method.taught(school, lessons, a_batch())
        assert set(losses) == DETECTION.union(*(TERMS[lesson] for lesson in lessons))
        learns = school.of(method.detector, lessons)
        assert ("teacher" in learns) == ("online" in lessons)
        assert ("shallow" in learns) == ("offline" in lessons)
        modules = set(learns.modules())
        assert set(school.trunks(method.detector, lessons)) <= modules


def test_plans_differ_in_nothing_but_their_lessons() -> None:
    start = [at_school(plan=plan)[0].state_dict() for plan in PLANS]
    assert all(torch.equal(start[0][key], each[key]) for each in start for key in start[0])


@pytest.mark.parametrize(("changes", "inherits"), [({}, True), ({"plan": "low"}, False), ({"inherit": False}, False)])
def test_a_student_who_is_taught_begins_with_the_teachers_head_and_trunk(
    changes: dict[str, Any], inherits: bool
) -> None:
    method, school = at_school(**changes)
    before = copy.deepcopy(method.detector.state_dict())
    method.begin(school, first=False)
    after, taught = method.detector.state_dict(), school.teacher.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    method.begin(school, first=True)
    after = method.detector.state_dict()
    for part in ("head", "encoder"):
        keys = [key for key in after if key.startswith(part)]
        assert all(torch.equal(after[key], taught[key]) for key in keys) == inherits
    # The pyramids begin at other levels.
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith("pyramid"))


def test_the_ceiling_looks_at_high_resolution() -> None:
    method = Mhkd(config(plan="high", ratio=8), CLASSES)
    assert (method.coarser, method.detector.settings.pad_to) == (1, 8 * 32)
    assert (Mhkd(config(ratio=8), CLASSES).coarser, config(ratio=8).pad_teacher.pad_to) == (8, 8 * 32)


def test_the_papers_schedule() -> None:
    defaults = Config()
    for schedule in (defaults.teach, defaults.learn):
        found = schedule.epochs, schedule.batch_size, schedule.learning_rate, schedule.momentum, schedule.weight_decay
        assert found == (24, 16, 0.01, 0.9, 1e-4)
    assert (defaults.go_alone.epochs, defaults.go_alone.learning_rate) == (6, pytest.approx(0.001))
    assert defaults.offline.model_dump() == {
        "foreground": 1e-3,
        "background": 5e-4,
        "attention": 5e-4,
        "relation": 5e-6,
        "temperature": 0.5,
        "ramp": 500,
    }
    assert (defaults.temperature, defaults.sure, defaults.mutual) == (2, 0.3, 0.1)
    assert (defaults.student.score, defaults.student.nms) == (0.05, 0.6)


# --- a run ------------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """A run, the table it learnt from, and the teacher's weights after each step."""

    folder: Path
    table: Manifest
    teacher: list[dict[str, Tensor]]


def run(table: Manifest, folder: Path, **values: Any) -> Path:
    train(Mhkd, table, None, folder=folder, config=config(**values), seed=0, machine=MACHINE)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    place = tmp_path_factory.mktemp("mhkd")
    table = tiny_boxes(place / "table")
    schools: list[School] = []
    weights: list[dict[str, Tensor]] = []
    build, trains = School.build, Run.train

    def kept(*arguments: Any) -> School:
        schools.append(build(*arguments))
        return schools[0]

    def noted(self: Run, stage: Stage[Any]) -> Any:
        score = trains(self, stage)
        weights.append({key: value.clone() for key, value in schools[0].teacher.state_dict().items()})
        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(School, "build", kept)
        patch.setattr(Run, "train", noted)
        run(table, place / "run")
    return Ran(place / "run", table, weights)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_steps_and_their_terms(ran: Ran) -> None:
    epochs = [each for each in read_journal(ran.folder / "journal.jsonl") if each["event"] == "epoch"]
    found = {stage: set(each["losses"]) for each in epochs for stage in [each["stage"]]}
    assert list(found) == list(STEPS)
    assert list(found.values()) == [DETECTION, DETECTION | OFFLINE, DETECTION | ONLINE, DETECTION]
    assert {each["stage"] for each in epochs if "score" in each} == {STEPS[0], STEPS[3]}


def test_the_teacher_stands_still_in_step_1_and_learns_in_step_2(ran: Ran) -> None:
    after = ran.teacher
    assert same(after[0], after[1])
    assert not same(after[1], after[2])
    assert same(after[2], after[3])


def test_a_finished_model_is_the_student_alone(ran: Ran) -> None:
    kept = read_weights(ran.folder / "model" / "model.safetensors")
    alone = read_weights(ran.folder / "stages" / STEPS[3] / "weights.safetensors")
    assert {key.removeprefix("detector.") for key in kept} == set(alone)


def test_an_earlier_runs_teacher_is_taken_over(ran: Ran, tmp_path: Path) -> None:
    later = run(ran.table, tmp_path / "later", teacher_run=str(ran.folder), ratio=4, alone=0)
    theirs = read_weights(ran.folder / "stages" / STEPS[0] / "weights.safetensors")
    assert same(theirs, read_weights(later / "teacher" / "weights.safetensors"))
    assert sorted(each.name for each in (later / "stages").iterdir()) == list(STEPS[1:3])
    events = read_journal(later / "journal.jsonl")
    assert not [each for each in events if "learnt from another table" in each.get("text", "")]
    # The last step is the one whose epoch is chosen.
    assert {each["stage"] for each in events if each["event"] == "epoch" and "score" in each} == {STEPS[2]}


def test_a_teacher_of_another_table_is_told(ran: Ran, tmp_path: Path) -> None:
    other = replace(ran.table, digest="another")
    folder = run(other, tmp_path / "high", teacher_run=str(ran.folder), plan="high")
    texts = [each["text"] for each in read_journal(folder / "journal.jsonl") if each["event"] == "note"]
    assert any("learnt from another table" in text for text in texts)
    theirs = read_weights(ran.folder / "stages" / STEPS[0] / "weights.safetensors")
    kept = read_weights(folder / "model" / "model.safetensors")
    assert same(theirs, {key.removeprefix("detector."): value for key, value in kept.items()})


def damaged(folder: Path) -> None:
    path = folder / "stages" / STEPS[0] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize(
    ("change", "what"),
    [(lambda _: None, "no such stage that is finished"), (damaged, "weights.safetensors")],
    ids=["none", "damaged"],
)
def test_a_teacher_that_is_none_is_refused(ran: Ran, change: Callable[[Path], None], what: str, tmp_path: Path) -> None:
    place = tmp_path / "other"
    if change is damaged:
        from shutil import copytree

        copytree(ran.folder, place)
        change(place)
    with pytest.raises(HistillError, match=what) as caught:
        run(ran.table, tmp_path / "run", teacher_run=str(place))
    assert caught.value.code == Exit.INPUT


def test_a_teacher_of_another_network_is_refused(ran: Ran, tmp_path: Path) -> None:
    other = {**DetectorSettings().model_dump(mode="json"), **tiny_values(Config)["teacher"], "depth": 2}
    with pytest.raises(HistillError) as caught:
        run(ran.table, tmp_path / "run", teacher_run=str(ran.folder), teacher=other)
    assert caught.value.code == Exit.INPUT


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_table_without_boxes_is_refused_by_line(ran: Ran, tmp_path: Path) -> None:
    samples = list(ran.table.samples)
    samples[1] = replace(samples[1], boxes=None)
    with pytest.raises(HistillError, match=r"line 3 \(tile 1\) has no file of boxes") as caught:
        run(replace(ran.table, samples=tuple(samples)), tmp_path)
    assert caught.value.code == Exit.USAGE


def test_every_bad_file_of_boxes_is_told_before_anything_is_learnt(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '[{"class": "glomerulus", "box": [0, 0, 65, 9]}, {"class": "vein", "box": [0, 0, 9, 9]}]'
    )
    (tmp_path / "b.json").write_text("{")
    samples = list(ran.table.samples)
    for i, name in ((0, "a.json"), (7, "b.json")):
        samples[i] = replace(samples[i], boxes=tmp_path / name)
    with pytest.raises(HistillError) as caught:
        run(replace(ran.table, samples=(samples[0], *samples[1:7])), tmp_path / "run")
    assert caught.value.code == Exit.USAGE
    for told in ("line 2 (tile 0)", "entry 1", "beyond the image of 64 x 64", "entry 2", "'vein'"):
        assert told in str(caught.value)
    with pytest.raises(HistillError, match=r"line 9 \(tile 7\): .*not valid JSON"):
        run(replace(ran.table, samples=(*ran.table.samples[:7], samples[7])), tmp_path / "other")
    assert not (tmp_path / "run" / "stages").exists()


def test_validation_images_without_any_box_are_refused(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]\n")
    samples = [replace(s, boxes=tmp_path / "none.json") if s.split == "val" else s for s in ran.table.samples]
    with pytest.raises(HistillError, match="none of the validation images holds a box") as caught:
        run(replace(ran.table, samples=tuple(samples)), tmp_path / "run", plan="low")
    assert caught.value.code == Exit.USAGE


def test_a_ratio_that_does_not_divide_the_tile_is_refused(ran: Ran, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="a tile of 50 px cannot be seen 4 times as coarse") as caught:
        run(ran.table, tmp_path, ratio=4, tile=50)
    assert caught.value.code == Exit.USAGE


def test_a_ratio_that_is_no_halving_is_refused() -> None:
    with pytest.raises(HistillError, match="ratio") as caught:
        config(ratio=3)
    assert caught.value.code == Exit.USAGE


def test_maps_that_have_nothing_in_common_are_refused() -> None:
    with pytest.raises(HistillError, match="no deep map in common"):
        at_school(shallow=7)


def test_images_that_the_ratio_does_not_divide_are_seen_whole(ran: Ran) -> None:
    method, _ = at_school(ratio=4)
    image = np.full((37, 50, 3), 200, np.uint8)
    found = method.eval().predict(image)
    assert found.scores is not None
    assert bool((found.corners[:, 2:] <= (50, 37)).all())
