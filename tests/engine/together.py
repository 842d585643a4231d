"""Trains small stages by one process, by several, and by several that meet with trouble; each is a fork of this one.

Run as: python together.py FOLDER NAME... Prints as JSON, for each of the named runs (see `RUNS`), the exit codes of
each of its starts, and below FOLDER leaves what each run made and, in seen/NAME.START.RANK.json, what each process saw.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from histill.cli.main import _terminate, _Terminated
from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Manifest, Sample
from histill.core.storage import write_inside
from histill.data.augment import Augmentation
from histill.data.tiles import TileBatch
from histill.engine.optim import Schedule
from histill.engine.run import Machine, Run, build_fabric, open_run
from histill.engine.select import selection
from histill.engine.stage import Losses, Stage
from histill.engine.team import Team, TeamError, join
from histill.engine.whole_batch import WholeBatch
from histill.losses.reconstruction import teacher_loss
from histill.losses.segmentation import cross_entropy

IMAGES, SIDE, BATCH = 22, 32, 5
MACHINE = Machine(accelerator="cpu", precision="float32", threads=1)
SCHEDULE = Schedule(epochs=3, batch_size=BATCH, accumulate=2, learning_rate=0.05, clip=1.0, average=0.5, warmup=0.2)


class Net(nn.Module):
    """A trunk and a head with all that several processes might do otherwise than one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3)),
            *(nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8, momentum=0.3), nn.ReLU(), nn.Dropout(0.3)),
        )
        self.head = nn.Conv2d(8, 2, 1)
        self.never = nn.Conv2d(8, 2, 1)
        self.seldom = nn.Parameter(torch.ones(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images)).mean(dim=(2, 3))  # [b, 2]


def make_table(folder: Path) -> Manifest:
    """Images of two brightnesses; each fourth is for choosing."""
    folder.mkdir()
    random = np.random.default_rng(0)
    samples = []
    for i in range(IMAGES):
        path = folder / f"{i}.png"
        pixels = random.normal(90 + 60 * (i % 2), 30, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        mask = path.with_suffix(".mask.png")
        Image.fromarray(random.integers(0, 2, (SIDE, SIDE), np.uint8)).save(mask)
        samples.append(Sample(f"s{i}", path, None, ("ab"[i % 2],), f"p{i}", mask=mask, line=i + 2))
    return Manifest(tuple(samples), DatasetCard(classes=("a", "b")), folder / "t.csv", "digest")


class Watch:
    """What a process sees, and the trouble that it makes at its n-th batch or elsewhere."""

    def __init__(self, trouble: dict[str, Any]) -> None:
        self.trouble = trouble if trouble.get("rank") == int(os.environ.get("RANK", 0)) else {}
        self.ids: list[tuple[str, ...]] = []
        self.scores: list[float] = []
        self.kept: float | None = None

    def strikes(self, where: str) -> bool:
        return bool(self.trouble) and self.trouble["at"] == where

    def at(self, where: str) -> float:
        """Make trouble if it is due here; a factor for the loss."""
        if not self.strikes(where):
            return 1.0
        if self.trouble["what"] == "nan":
            return float("nan")
        if self.trouble["what"] == "error":
            raise HistillError("it broke", code=Exit.STORAGE, subject=where, mend="Mend it")
        if self.trouble["what"] == "bug":
            raise ZeroDivisionError
        os.kill(os.getpid(), self.trouble["what"])
        return 1.0


def work(folder: Path, table: Manifest, watch: Watch, settings: dict[str, Any]) -> None:
    """Two stages and a folder between them."""
    net = Net()

    def loss(batch: TileBatch) -> Losses:
        watch.ids.append(batch.ids)
        factor = watch.at(f"step {len(watch.ids)}")
        logits = net(batch.images)
        entropy = F.binary_cross_entropy_with_logits(logits, batch.labels)
        found = {"entropy": entropy * factor}
        if "s3" in batch.ids:
            is_it = torch.tensor([each == "s3" for each in batch.ids])
            found["seldom"] = ((net.seldom * batch.labels).square().sum(1) * is_it).mean()
        return found

    def select(run: Run) -> float:
        watch.at(f"select {len(watch.scores)}")
        batches = run.learn_from(table, SCHEDULE, Augmentation(flip=0)).epoch(0, 0)
        with torch.no_grad():
            score = -float(sum(F.binary_cross_entropy_with_logits(net(b.images), b.labels) for b in batches))
        watch.scores.append(score)
        return score

    def make(run: Run, to: Path) -> None:
        watch.at("make")
        begin, step = run.turns
        for number in range(begin, 5, step):
            write_inside(to, f"{number}.txt", repr(float(net.head.weight.detach().abs().sum())).encode())

    with open_run(folder, settings=settings, seed=1, machine=MACHINE) as run:
        first = run.learn_from(table, SCHEDULE, Augmentation(blur=0.5))
        watch.kept = run.train(Stage("first", net, net.trunk, first, loss, SCHEDULE, select=lambda: select(run)))
        run.once("made", lambda to: make(run, to))
        run.once("made together", lambda to: make(run, to), shared=True)
        plain = Schedule(epochs=1, batch_size=BATCH - 1)
        second = run.learn_from(table, plain, Augmentation())
        assert run.train(Stage("second", net, net.trunk, second, loss, plain)) is None


def known(rank: int) -> None:
    """Losses over what is known of parts of a batch, weighed by their samples, against those of the whole."""
    team = join("cpu")
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3, 4, 4), torch.randint(0, 3, (7, 4, 4))
    labels[1], labels[3:, :2] = IGNORE, IGNORE
    for given in (labels, torch.full_like(labels, IGNORE)):
        own = team.share.of(7)
        part = logits[own.start : own.stop].clone().requires_grad_()
        with WholeBatch(team.share, 7):
            loss = cross_entropy(part, given[own.start : own.stop]) * len(own) / 7
        loss.backward()
        whole = logits.clone().requires_grad_()
        expected = cross_entropy(whole, given)
        expected.backward()
        torch.testing.assert_close(team.sum(loss.detach().clone()), expected.detach())
        torch.testing.assert_close(part.grad, whole.grad[own.start : own.stop])
    said, true, there = torch.randn(7, 5), torch.randn(7, 5), torch.arange(7) % 3 == 0
    mine = slice(team.share.of(7).start, team.share.of(7).stop)
    with WholeBatch(team.share, 7):
        loss = teacher_loss({"a": said[mine]}, {"a": true[mine]}, {"a": there[mine]}) * len(team.share.of(7)) / 7
    torch.testing.assert_close(team.sum(loss), teacher_loss({"a": said}, {"a": true}, {"a": there}))


def norm(rank: int) -> None:
    """BatchNorm of parts of a batch, forwards and backwards, against that of the whole."""
    team = join("cpu")
    for kind, shape, more, dtype in (
        (nn.BatchNorm2d, (7, 4, 5, 6), {}, torch.float32),
        (nn.BatchNorm2d, (7, 4, 5, 6), {}, torch.bfloat16),
        (nn.BatchNorm2d, (3, 4, 1, 1), {"affine": False, "momentum": 0.3}, torch.float32),
        (nn.BatchNorm1d, (8, 4), {"momentum": None}, torch.float32),
        (nn.BatchNorm3d, (5, 4, 2, 3, 2), {"track_running_stats": False, "eps": 0.1}, torch.float32),
        (BatchNormAct2d, (6, 4, 5, 5), {}, torch.float32),
    ):
        torch.manual_seed(0)
        values, weights = torch.rand(2, *shape) * 3 + 1
        whole, parts = kind(4, **more), kind(4, **more)
        for each in (whole, parts):
            for parameter in each.parameters():
                nn.init.uniform_(parameter, 0.5, 2, generator=torch.Generator().manual_seed(1))
        rows = team.share.of(len(values))
        own = slice(rows.start, rows.stop)
        expected = values.clone().to(dtype).requires_grad_()
        given = values[own].clone().to(dtype).requires_grad_()
        for _ in range(2):
            for tensor in (expected, given):
                tensor.grad = None
            for module in (whole, parts):
                module.zero_grad()
            wanted = whole(expected)
            with WholeBatch(team.share, len(values)):
                found = parts(given)
            (wanted.float().square() * weights).sum().backward()
            (found.float().square() * weights[own]).sum().backward()
            tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
            assert found.dtype == wanted.dtype
            torch.testing.assert_close(found, wanted[own], **tolerance)
            torch.testing.assert_close(given.grad, expected.grad[own], **tolerance)
            for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
                torch.testing.assert_close(team.sum(one.grad), other.grad, **tolerance)
        for one, other in zip(parts.buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        with WholeBatch(team.share, len(values)):
            judged = parts.eval()(given)
        torch.testing.assert_close(judged, whole.eval()(expected)[own], **tolerance)


class Judged:
    """Who finds class a where an image is bright."""

    classes = Classes(("a", "b"))

    def eval(self) -> None:
        """Nothing learns."""

    def probabilities(self, batch: TileBatch) -> Tensor:
        return torch.stack([batch.images.mean(1), 1 - batch.images.mean(1)], dim=1)  # [b, 2, h, w]


def judged(rank: int) -> None:
    """Validation images that are shared out score as those that are not, to the last bit."""
    method: Any = Judged()
    with tempfile.TemporaryDirectory() as place:
        table = make_table(Path(place) / "table")
        for select in ("masks", "labels"):
            found = []
            for team in (Team(), join("cpu")):
                run: Any = SimpleNamespace(team=team, fabric=build_fabric(MACHINE), journal=Journal(), workers=0)
                score = selection(method, table, select, run)
                assert score is not None
                found.append(score())
            assert found[0] == found[1] != 0
            assert join("cpu").gather(found) == [found] * 3


def words(rank: int) -> None:
    """What is said arrives, in order; an error of one is everyone's."""
    team = join("cpu")
    assert join("cpu") is team
    value = {"rank": rank, "text": "é" * 100 * rank, "number": 0.1 + rank, "none": None}
    assert team.gather(value) == [
        {"rank": each, "text": "é" * 100 * each, "number": 0.1 + each, "none": None} for each in range(team.size)
    ]
    assert team.first_makes(lambda: f"by {rank}") == "by 0"
    assert [team.agree(), team.agree(rank == 1), team.agree()] == [False, True, False]
    module = nn.Linear(2, 2, bias=False)
    nn.init.constant_(module.weight, rank)
    team.level(module)
    assert module.weight.abs().sum() == 0

    def one_breaks() -> None:
        with team.together():
            if rank == 1:
                raise HistillError("it broke", code=Exit.INPUT, subject="here", mend="Mend it")
        team.gather(0)

    with pytest.raises(TeamError) as caught:
        one_breaks()
    told = caught.value
    assert (told.what, told.code, told.subject, told.mend) == ("it broke", Exit.INPUT, "here", "Mend it")
    team.leave()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def launch(size: int, run: Callable[[int], None]) -> list[int]:
    """Fork so many processes, each in its place; their exit codes."""
    port, children = free_port(), []
    for rank in range(size):
        child = os.fork()
        if not child:
            with leaving():
                if size > 1:
                    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
                    os.environ.update({name: str(value) for name, value in place.items()})
                    os.environ["MASTER_ADDR"] = "127.0.0.1"
                run(rank)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """End the process with the block, as the command line would."""
    code = 1
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
        code = 0
    except HistillError as error:
        code = int(error.code)
    except _Terminated:
        code = int(Exit.TERMINATED)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(place: Path, names: list[str]) -> None:
    """Do the runs that are named."""
    table = make_table(place / "table")
    (place / "seen").mkdir()
    codes: dict[str, list[list[int]]] = {}

    def start(name: str, size: int, what: Any = None, at: str = "", rank: int = 1, **settings: Any) -> None:
        def run(own: int) -> None:
            watch = Watch({"what": what, "at": at, "rank": rank} if what else {})
            error = None
            try:
                work(place / name, table, watch, {"method": "m", **({"rank": own} if settings else {})})
            except HistillError as caught:
                error = str(caught)
                raise
            finally:
                seen = {"ids": watch.ids, "scores": watch.scores, "kept": watch.kept, "error": error}
                number = len(codes.get(name, []))
                (place / "seen" / f"{name}.{number}.{own}.json").write_text(json.dumps(seen))

        codes.setdefault(name, []).append(launch(size, run))

    for name in names:
        if name in CHECKS:
            codes[name] = [launch(3, CHECKS[name])]
        for each in RUNS.get(name, []):
            start(name, **each)
    print(json.dumps(codes))


KILL, TERM = signal.SIGKILL, signal.SIGTERM
RUNS: dict[str, list[dict[str, Any]]] = {
    "one": [{"size": 1}],
    "two": [{"size": 2}],
    "killed": [{"size": 2, "what": KILL, "at": "step 7"}, {"size": 2}],
    "first killed": [{"size": 2, "what": KILL, "at": "make", "rank": 0}, {"size": 2}],
    "told": [{"size": 2, "what": TERM, "at": "step 6"}, {"size": 2}],
    "fewer": [{"size": 2, "what": TERM, "at": "step 6", "rank": 0}, {"size": 1}],
    "more": [{"size": 1, "what": TERM, "at": "step 6", "rank": 0}, {"size": 2}],
    "alone told": [{"size": 1, "what": TERM, "at": "step 6", "rank": 0}, {"size": 1}],
    "told while choosing": [{"size": 2, "what": TERM, "at": "select 1", "rank": 0}, {"size": 2}],
    "not a number": [{"size": 2, "what": "nan", "at": "step 6"}, {"size": 2}],
    "broken": [{"size": 2, "what": "error", "at": "make", "rank": 0}, {"size": 2}],
    "broken at work": [{"size": 2, "what": "error", "at": "step 6"}, {"size": 2}],
    "broken while choosing": [{"size": 2, "what": "error", "at": "select 1"}, {"size": 2}],
    "bug": [{"size": 2, "what": "bug", "at": "step 3"}],
    "unlike": [{"size": 2, "unlike": True}],
    "too many": [{"size": 5}],
    "three": [{"size": 3}],
    "three told": [{"size": 3, "what": TERM, "at": "step 6"}, {"size": 3}],
}

CHECKS = {"norm": norm, "known": known, "judged": judged, "words": words}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
