"""The training loop, in the order in which it happens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.seeds import derive
from histill.data.tiles import TileBatch
from histill.engine.checkpoint import State, copy_of
from histill.engine.optim import build_optimizer, set_rate
from histill.engine.stage import Losses, Stage

LOWER_THE_RATE = (
    "The last whole epoch is kept. Lower the learning rate, set clip, set precision to float32, or look at these images"
)


class _Learner(nn.Module):
    """What learns, with the stage's loss as its forward: so that precision and several GPUs see the whole step."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.learns = stage.learns
        self._loss = stage.loss

    def forward(self, sealed: _Sealed) -> Losses:
        return self._loss(sealed.batch)


class _Sealed:
    """A batch as it is: Fabric takes dataclasses apart to cast their tensors, and refuses frozen ones."""

    def __init__(self, batch: TileBatch) -> None:
        self.batch = batch


def train_stage(
    stage: Stage, fabric: Fabric, seed: int, state: State | None, keep: Callable[[State], None], journal: Journal
) -> list[float | None]:
    """Train a stage from its start, or from a state on; its network then holds the weights to keep.

    Args:
        stage: what to train.
        fabric: device and precision.
        seed: of the run.
        state: what `keep` was given after the last whole epoch, or None.
        keep: called after every epoch with all that the next one needs.
        journal: told each epoch's losses and score.

    Returns:
        The score after each epoch; None where the stage selects nothing.

    Raises:
        HistillError: numbers (6) if a loss is not finite; the last state kept stands.
    """
    stage_seed = derive(seed, stage.name)
    schedule = stage.schedule
    optimizer = build_optimizer(stage.learns, stage.trunk, schedule)
    learner, optimizer = fabric.setup(_Learner(stage), optimizer)
    average = _average(stage) if schedule.average else None
    begin, best, scores = 0, None, []
    if state is not None:
        stage.learns.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        begin, best, scores = state["epoch"] + 1, state["best"], state["scores"]

    batches_an_epoch = len(stage.batches)
    steps_an_epoch = -(-batches_an_epoch // schedule.accumulate)
    short = batches_an_epoch % schedule.accumulate
    for epoch in range(begin, schedule.epochs):
        # Dropout draws from torch's shared stream; each epoch begins it anew, so a resumed one draws the same.
        torch.manual_seed(derive(stage_seed, "epoch", epoch))
        if stage.before_epoch is not None:
            stage.before_epoch(epoch)
        learner.train()
        sums: dict[str, float] = defaultdict(float)
        for number, batch in enumerate(stage.batches.epoch(epoch, stage_seed)):
            due = (number + 1) % schedule.accumulate == 0 or number + 1 == batches_an_epoch
            with fabric.no_backward_sync(learner, enabled=not due):
                losses = _losses(learner, _channels_last(batch.to(fabric.device)), stage.name)
                total = torch.stack(list(losses.values())).sum()
                _check_finite(total, losses, stage.name, epoch, batch)
                # The last step of an epoch may see fewer batches than the others.
                last = short and number >= batches_an_epoch - short
                fabric.backward(total / (short if last else schedule.accumulate))
            if due:
                step = epoch * steps_an_epoch + number // schedule.accumulate
                set_rate(optimizer, schedule, step, schedule.epochs * steps_an_epoch)
                if schedule.clip:
                    fabric.clip_gradients(learner, optimizer, max_norm=schedule.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    average.update_parameters(stage.learns)
            for name, value in losses.items():
                sums[name] += float(value.detach()) / batches_an_epoch
            journal.show(
                "step", stage=stage.name, epoch=epoch, epochs=schedule.epochs, done=number + 1, of=batches_an_epoch
            )
        _check_weights(stage, epoch)
        score = _score(stage, average)
        scores.append(score)
        if score is not None and (best is None or score > best["score"]):
            best = {"score": score, "epoch": epoch, "weights": _final(stage, average)}
        keep(
            {
                "epoch": epoch,
                "weights": copy_of(stage.learns),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "best": best,
                "scores": scores,
            }
        )
        details: dict[str, Any] = {} if score is None else {"score": round(score, 6)}
        journal.say("epoch", stage=stage.name, epoch=epoch, losses={k: round(v, 6) for k, v in sums.items()}, **details)
    stage.learns.load_state_dict(best["weights"] if best is not None else _final(stage, average))
    stage.learns.eval()
    return scores


def _average(stage: Stage) -> AveragedModel:
    # Buffers (BatchNorm's statistics) are averaged too: a mean of weights with another network's statistics is neither.
    averaging: Callable[[float], Any] = get_ema_multi_avg_fn
    return AveragedModel(stage.learns, multi_avg_fn=averaging(stage.schedule.average), use_buffers=True)


def _final(stage: Stage, average: AveragedModel | None) -> dict[str, Tensor]:
    return copy_of(average.module if average is not None else stage.learns)


def _score(stage: Stage, average: AveragedModel | None) -> float | None:
    if stage.select is None:
        return None
    stage.learns.eval()
    if average is None:
        return stage.select()
    own = copy_of(stage.learns)
    stage.learns.load_state_dict(_final(stage, average))
    score = stage.select()
    stage.learns.load_state_dict(own)
    return score


def _losses(learner: nn.Module, batch: TileBatch, stage: str) -> Losses:
    try:
        losses: Losses = learner(_Sealed(batch))
    except ValueError as error:
        # torch's word where BatchNorm meets one image of one pixel, as after the image pooling of DeepLabV3+.
        if "more than 1 value per channel" not in str(error):
            raise
        raise HistillError(
            "a batch holds one image, and normalisation over a batch needs two",
            code=Exit.USAGE,
            subject=f"stage {stage}",
            mend="Set batch_size to 2 or more, and give more than one image to learn from",
        ) from error
    return losses


def _check_weights(stage: Stage, epoch: int) -> None:
    # A finite loss can still take a step into infinity, and such an epoch must not be the one that is kept.
    if not all(bool(value.isfinite().all()) for value in stage.learns.state_dict().values()):
        raise HistillError(
            f"weights are not finite after epoch {epoch}",
            code=Exit.NUMBERS,
            subject=f"stage {stage.name}",
            mend=LOWER_THE_RATE,
        )


def _channels_last(batch: TileBatch) -> TileBatch:
    return replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))


def _check_finite(total: Tensor, losses: Losses, stage: str, epoch: int, batch: TileBatch) -> None:
    if math.isfinite(float(total.detach())):
        return
    bad = [name for name, value in losses.items() if not math.isfinite(float(value.detach()))] or list(losses)
    raise HistillError(
        f"the loss {' and '.join(bad)} is not finite in epoch {epoch} on: {', '.join(batch.ids)}",
        code=Exit.NUMBERS,
        subject=f"stage {stage}",
        mend=LOWER_THE_RATE,
    )
