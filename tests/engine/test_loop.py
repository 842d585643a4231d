"""The training loop, against plain loops of its own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.engine import loop
from histill.engine.checkpoint import State
from histill.engine.loop import train_stage
from histill.engine.optim import Schedule, rate_factor
from histill.engine.stage import Stage

MakeStage = Callable[..., Stage]


def train(stage: Stage, state: State | None = None, journal: Journal | None = None) -> tuple[list[State], list[Any]]:
    """The states kept and the scores."""
    states: list[State] = []
    fabric = Fabric(accelerator="cpu", devices=1)
    scores = train_stage(stage, fabric, 0, state, lambda each: states.append(copy.deepcopy(each)), journal or Journal())
    return states, scores


def weights(stage: Stage) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in stage.learns.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], *, exact: bool = True) -> None:
    assert first.keys() == second.keys()
    for key in first:
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(first[key], second[key], **tolerance)


def test_a_plain_loop_gives_the_same(make_stage: MakeStage) -> None:
    schedule = Schedule(epochs=3, learning_rate=0.05, head_factor=2.0, momentum=0.9, weight_decay=0.01, warmup=0.3)
    stage, plain = make_stage(schedule), make_stage(schedule)
    momentum: dict[str, Tensor] = {}
    step = 0
    for epoch in range(3):
        for batch in plain.batches.epoch(epoch, 0):
            plain.learns.zero_grad()
            plain.loss(batch)["square"].backward()
            rate = 0.05 * rate_factor(step, 12, 0.3, 0.9)
            with torch.no_grad():
                for name, parameter in plain.learns.named_parameters():
                    assert parameter.grad is not None
                    momentum[name] = 0.9 * momentum.get(name, 0) + parameter.grad + 0.01 * parameter
                    parameter -= rate * (1 if name.startswith("trunk") else 2) * momentum[name]
            step += 1
    train(stage)
    assert_same(weights(stage), weights(plain), exact=False)
    assert not stage.learns.training


def test_accumulation_equals_the_larger_batch(make_stage: MakeStage) -> None:
    whole = make_stage(Schedule(epochs=2), size=4)
    parts = make_stage(Schedule(epochs=2, accumulate=2), size=2)
    train(whole)
    train(parts)
    assert_same(weights(parts), weights(whole), exact=False)


def test_every_step_has_its_own_place_in_the_schedule(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(loop, "set_rate", lambda optimizer, schedule, step, steps: seen.append((step, steps)))
    train(make_stage(Schedule(epochs=3, accumulate=2), images=6))
    assert seen == [(step, 6) for step in range(6)]


def test_the_average_is_kept_buffers_and_all(make_stage: MakeStage) -> None:
    trace: list[dict[str, Tensor]] = []
    plain = make_stage(Schedule(epochs=2), norm=True)
    step = plain.loss

    def spy(batch: Any) -> Any:
        trace.append(weights(plain))
        return step(batch)

    plain = make_stage(Schedule(epochs=2), norm=True, learns=plain.learns, trunk=plain.trunk, loss=spy)
    train(plain)
    trace = [*trace[1:], weights(plain)]
    average = dict(trace[0])
    for each in trace[1:]:
        for key, value in each.items():
            average[key] = average[key] * 0.6 + value * 0.4 if value.is_floating_point() else average[key]
    stage = make_stage(Schedule(epochs=2, average=0.6), norm=True)
    train(stage)
    found = weights(stage)
    for key in average:
        if average[key].is_floating_point():
            torch.testing.assert_close(found[key], average[key], rtol=1e-4, atol=1e-6)
    assert not torch.equal(found["head.weight"], trace[-1]["head.weight"])


def test_the_best_epochs_weights_are_kept(make_stage: MakeStage) -> None:
    scores = iter([0.1, 0.9, 0.9, 0.3])
    stage = make_stage(Schedule(epochs=4), select=lambda: next(scores))
    states, found = train(stage)
    assert found == [0.1, 0.9, 0.9, 0.3]
    assert states[-1]["best"]["epoch"] == 1
    assert_same(weights(stage), states[1]["weights"])
    assert not torch.equal(states[1]["weights"]["head.weight"], states[3]["weights"]["head.weight"])


def test_without_selection_the_last_epoch_is_kept(make_stage: MakeStage) -> None:
    stage = make_stage(Schedule(epochs=3))
    states, scores = train(stage)
    assert scores == [None] * 3
    assert_same(weights(stage), states[-1]["weights"])


def test_what_is_averaged_is_what_is_judged(make_stage: MakeStage) -> None:
    judged: list[dict[str, Tensor]] = []

    def select() -> float:
        assert not stage.learns.training
        judged.append(weights(stage))
        return float(len(judged))

    stage = make_stage(Schedule(epochs=2, average=0.8), select=select)
    states, _ = train(stage)
    assert_same(weights(stage), judged[1])
    assert not torch.equal(judged[1]["head.weight"], states[1]["weights"]["head.weight"])


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(epochs=4, warmup=0.5),
        Schedule(epochs=4, average=0.7, accumulate=3),
        Schedule(epochs=4, optimizer="adamw", average=0.7),
    ],
)
@pytest.mark.parametrize("stopped_after", [0, 2, 3])
def test_going_on_from_a_state_gives_the_same_bits(
    schedule: Schedule, stopped_after: int, make_stage: MakeStage
) -> None:
    def select_for(stage_of: list[Stage]) -> Callable[[], float]:
        return lambda: -float(stage_of[0].learns.get_parameter("head.weight").detach().abs().sum())

    def fresh() -> Stage:
        own: list[Stage] = []
        own.append(make_stage(schedule, norm=True, dropout=0.5, select=select_for(own)))
        return own[0]

    whole = fresh()
    states, scores = train(whole)
    resumed = fresh()
    later, again = train(resumed, states[stopped_after])
    assert [state["epoch"] for state in later] == list(range(stopped_after + 1, 4))
    assert again == scores
    assert_same(weights(resumed), weights(whole))


def test_each_epoch_is_announced_before_it_begins(make_stage: MakeStage) -> None:
    seen: list[int] = []
    train(make_stage(Schedule(epochs=3), before_epoch=seen.append))
    assert seen == [0, 1, 2]


def test_the_journal_tells_the_mean_of_each_loss(make_stage: MakeStage) -> None:
    events: list[dict[str, Any]] = []
    values = iter([1.0, 2.0, 3.0, 6.0])
    stage = make_stage(Schedule(epochs=1))
    head = stage.learns.get_parameter("head.bias")
    stage = make_stage(
        Schedule(epochs=1),
        learns=stage.learns,
        trunk=stage.trunk,
        loss=lambda batch: {"a": head.sum() * 0 + next(values), "b": head.sum() * 0 + 0.5},
    )
    train(stage, journal=Journal(None, events.append))
    (epoch,) = [event for event in events if event["event"] == "epoch"]
    assert epoch["losses"] == {"a": 3.0, "b": 0.5}
    assert [event["done"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_with_the_batchs_ids(bad: float, make_stage: MakeStage) -> None:
    stage = make_stage(Schedule(epochs=2))
    plain, calls = stage.loss, []

    def loss(batch: Any) -> Any:
        calls.append(batch.ids)
        return {**plain(batch), "strange": torch.tensor(bad if len(calls) == 6 else 0.0)}

    states: list[State] = []
    stage = make_stage(Schedule(epochs=2), learns=stage.learns, trunk=stage.trunk, loss=loss)
    with pytest.raises(HistillError, match=r"strange is not finite in epoch 1 on: 1\.0, 1\.1") as caught:
        train_stage(stage, Fabric(accelerator="cpu", devices=1), 0, None, states.append, Journal())
    assert caught.value.code == Exit.NUMBERS
    assert [state["epoch"] for state in states] == [0]


def test_weights_that_are_not_finite_are_not_kept(make_stage: MakeStage) -> None:
    # One step: the loss before it is finite, its gradient and so the weights after it are not.
    stage = make_stage(Schedule(epochs=1, batch_size=100))
    plain = stage.loss

    def loss(batch: Any) -> Any:
        root = torch.stack([(each.sum() * 0).sqrt() for each in stage.learns.parameters()]).sum()
        return {**plain(batch), "root": root}

    states: list[State] = []
    broken = make_stage(stage.schedule, learns=stage.learns, trunk=stage.trunk, loss=loss)
    with pytest.raises(HistillError, match="not finite") as caught:
        train_stage(broken, Fabric(accelerator="cpu", devices=1), 0, None, states.append, Journal())
    assert caught.value.code == Exit.NUMBERS
    assert not states
