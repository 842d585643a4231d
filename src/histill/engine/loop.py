"""The training loop, in the order in which it happens."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.seeds import derive
from histill.data.batches import Batch
from histill.engine.checkpoint import State, copy_of, random_state, set_random
from histill.engine.optim import build_optimizer, set_rate
from histill.engine.stage import Losses, Stage
from histill.engine.stopping import Stopping
from histill.engine.team import Team
from histill.engine.whole_batch import WholeBatch

LOWER_THE_RATE = (
    "The last whole epoch is kept. Lower the learning rate, set clip, set precision to float32, or look at these images"
)


class _Learner(nn.Module):
    """What learns, with the stage's loss as its forward: so that precision and several GPUs see the whole step."""

    def __init__(self, stage: Stage[Any]) -> None:
        super().__init__()
        self.learns = stage.learns
        self._loss = stage.loss

    def forward(self, sealed: _Sealed) -> Losses:
        return self._loss(sealed.batch)


class _Sealed:
    """A batch as it is: Fabric takes dataclasses apart to cast their tensors, and refuses frozen ones."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


def train_stage(
    stage: Stage[Any],
    fabric: Fabric,
    seed: int,
    state: State | None,
    keep: Callable[[State], None],
    journal: Journal,
    team: Team | None = None,
) -> list[float | None]:
    """Train a stage from its start, or from a state on; its network then holds the weights to keep.

    Told to end, by SIGTERM or Ctrl-C, it finishes the step at work, hands its state to `keep`, and obeys.

    Args:
        stage: what to train.
        fabric: device and precision.
        seed: of the run.
        state: what `keep` was given last, or None.
        keep: called by the first process with all that what follows needs: after every epoch, and within one where
            training is told to end.
        journal: told each epoch's losses and score.
        team: the processes that train together; None for this one alone.

    Returns:
        The score after each epoch; None where the stage selects nothing.

    Raises:
        HistillError: numbers (6) if a loss is not finite; the last state kept stands. What ended another process.
    """
    training = _Training(stage, fabric, derive(seed, stage.name), keep, journal, team or Team())
    begin = 0 if state is None else training.go_on_from(state)
    for epoch in range(begin, stage.schedule.epochs):
        training.learn(epoch)
        training.judge(epoch)
    return training.finish()


class _Training:
    """A stage at work: what its epochs go through, and what one leaves to the next."""

    def __init__(
        self,
        stage: Stage[Any],
        fabric: Fabric,
        seed: int,
        keep: Callable[[State], None],
        journal: Journal,
        team: Team,
    ) -> None:
        self.stage, self.fabric, self.seed, self.keep = stage, fabric, seed, keep
        self.journal, self.team = journal, team
        optimizer = build_optimizer(stage.learns, stage.trunk, stage.schedule)
        self.learner, self.optimizer = fabric.setup(team.wrap(_Learner(stage), fabric.device), optimizer)
        self.average = _average(stage) if stage.schedule.average else None
        self.best: dict[str, Any] | None = None
        self.scores: list[float | None] = []
        self.batches, self.accumulate = len(stage.batches), stage.schedule.accumulate
        self.sums: dict[str, float] = {}
        self.interrupted: State | None = None
        """the state that a begun epoch was kept in, until that epoch goes on"""

    def go_on_from(self, state: State) -> int:
        """Take up what was kept; the epoch to go on with."""
        self.stage.learns.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best, self.scores = state["best"], state["scores"]
        self.interrupted = state if state["done"] else None
        return int(state["epoch"]) + 1

    def learn(self, epoch: int) -> None:
        """The steps of an epoch, or those that are left of it."""
        # Dropout draws from torch's shared stream; each epoch begins it anew, so a resumed one draws the same.
        torch.manual_seed(derive(self.seed, "epoch", epoch))
        if self.stage.before_epoch is not None:
            self.stage.before_epoch(epoch)
        self.learner.train()
        done, self.sums = self._interrupted()
        with Stopping(patient=self.team.size > 1) as stopping:
            batches = self.stage.batches.epoch(epoch, self.seed, begin=done, share=self.team.share)
            while done < self.batches:
                with self.team.together():
                    batch = next(batches)
                if self._told(stopping) and done % self.accumulate == 0:
                    break
                with self.team.at_work():
                    self.step(batch, epoch, done)
                done += 1
                self.journal.show(
                    "step",
                    stage=self.stage.name,
                    epoch=epoch,
                    epochs=self.stage.schedule.epochs,
                    done=done,
                    of=self.batches,
                )
            self.sums = _added(self.team.gather(self.sums))
            if done < self.batches or self._told(stopping):
                self._keep(epoch - 1, done)
                self.team.part()

    def step(self, batch: Batch, epoch: int, number: int) -> None:
        """Learn from a batch, or from this process's part of one; the optimiser's turn comes every `accumulate`-th."""
        schedule, fabric, team = self.stage.schedule, self.fabric, self.team
        short = self.batches % self.accumulate
        due = (number + 1) % self.accumulate == 0 or number + 1 == self.batches
        rows = len(batch.ids)
        whole = self.stage.batches.whole if team.size > 1 else rows
        with contextlib.nullcontext() if due else team.holding_back(self.learner):
            with WholeBatch(team.share, whole) if team.size > 1 else contextlib.nullcontext():
                losses = _losses(self.learner, batch.to(fabric.device), self.stage.name)
            total = torch.stack(list(losses.values())).sum()
            self._check_finite(total, losses, epoch, batch)
            # The last step of an epoch may see fewer batches than the others.
            seen = short if short and number >= self.batches - short else self.accumulate
            # Gradients become the mean over the processes, whose parts of a batch may differ by an image.
            fabric.backward(total * (rows * team.size / whole) / seen)
        if due:
            steps = -(-self.batches // self.accumulate)
            step = epoch * steps + number // self.accumulate
            set_rate(self.optimizer, schedule, step, schedule.epochs * steps)
            if schedule.clip:
                fabric.clip_gradients(self.learner, self.optimizer, max_norm=schedule.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.update_parameters(self.stage.learns)
        for name, value in losses.items():
            share = float(value.detach()) * (rows / whole) / self.batches
            self.sums[name] = self.sums.get(name, 0.0) + share

    def judge(self, epoch: int) -> None:
        """Score an epoch, and keep what the next one needs."""
        with self.team.together():
            self._check_weights(epoch)
        try:
            with self.team.together():
                own = self._score()
            score = self.team.gather(own)[0]
        except BaseException:
            # What was learnt, for an hour perhaps, is not lost with what comes after it.
            with Stopping(patient=True):
                self._keep(epoch - 1, self.batches)
                self.team.part()
            raise
        self.scores.append(score)
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"score": score, "epoch": epoch, "weights": self._final() if self.team.is_first else {}}
        with Stopping(patient=True) as stopping:
            self._keep(epoch, 0)
            details: dict[str, Any] = {} if score is None else {"score": round(score, 6)}
            means = {name: round(value, 6) for name, value in self.sums.items()}
            self.journal.say("epoch", stage=self.stage.name, epoch=epoch, losses=means, **details)
            self._told(stopping)

    def finish(self) -> list[float | None]:
        """Leave the network with the weights to keep; the scores."""
        if self.team.is_first:
            self.stage.learns.load_state_dict(self.best["weights"] if self.best is not None else self._final())
        self.team.level(self.stage.learns)
        self.stage.learns.eval()
        return self.scores

    def _interrupted(self) -> tuple[int, dict[str, float]]:
        # What was done of the epoch at work, and what its losses sum up to so far.
        state, self.interrupted = self.interrupted, None
        if state is None:
            return 0, {}
        set_random(state["random"], self.fabric.device)
        # The processes' sums are added up in the end: the first holds what came before.
        return state["done"], dict(state["sums"]) if self.team.is_first else {}

    def _told(self, stopping: Stopping) -> bool:
        # Whether any process is told to end; then all are.
        told = self.team.agree(stopping.asked is not None)
        if told and stopping.asked is None:
            stopping.asked = signal.SIGTERM
        return told

    def _keep(self, epoch: int, done: int) -> None:
        # `epoch` is the last whole one, or -1; of the next, `done` batches are behind.
        with self.team.together():
            if self.team.is_first:
                self.keep(
                    {
                        "epoch": epoch,
                        "done": done,
                        "sums": self.sums,
                        "random": random_state(self.fabric.device),
                        "weights": copy_of(self.stage.learns),
                        "optimizer": self.optimizer.state_dict(),
                        "average": self.average.state_dict() if self.average is not None else None,
                        "best": self.best,
                        "scores": self.scores,
                    }
                )

    def _final(self) -> dict[str, Tensor]:
        return copy_of(self.average.module if self.average is not None else self.stage.learns)

    def _score(self) -> float | None:
        if self.stage.select is None:
            return None
        self.stage.learns.eval()
        if self.average is None:
            return self.stage.select()
        own = copy_of(self.stage.learns)
        self.stage.learns.load_state_dict(self._final())
        try:
            return self.stage.select()
        finally:
            self.stage.learns.load_state_dict(own)

    def _check_weights(self, epoch: int) -> None:
        # A finite loss can still take a step into infinity, and such an epoch must not be the one that is kept.
        if not all(bool(value.isfinite().all()) for value in self.stage.learns.state_dict().values()):
            raise HistillError(
                f"weights are not finite after epoch {epoch}",
                code=Exit.NUMBERS,
                subject=f"stage {self.stage.name}",
                mend=LOWER_THE_RATE,
            )

    def _check_finite(self, total: Tensor, losses: Losses, epoch: int, batch: Batch) -> None:
        if math.isfinite(float(self.team.sum(total.detach().clone()))):
            return
        with self.team.together():
            if not math.isfinite(float(total.detach())):
                bad = [name for name, value in losses.items() if not math.isfinite(float(value.detach()))]
                raise HistillError(
                    f"the loss {' and '.join(bad or losses)} is not finite in epoch {epoch} on: {', '.join(batch.ids)}",
                    code=Exit.NUMBERS,
                    subject=f"stage {self.stage.name}",
                    mend=LOWER_THE_RATE,
                )
        # Another process has the images; here it tells of them.
        self.team.agree()


def _added(parts: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _average(stage: Stage[Any]) -> AveragedModel:
    # Buffers (BatchNorm's statistics) are averaged too: a mean of weights with another network's statistics is neither.
    averaging: Callable[[float], Any] = get_ema_multi_avg_fn
    return AveragedModel(stage.learns, multi_avg_fn=averaging(stage.schedule.average), use_buffers=True)


def _losses(learner: nn.Module, batch: Batch, stage: str) -> Losses:
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
