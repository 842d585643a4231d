"""Several processes that train together: where each of them stands, and how they keep together.

They are started from outside with the same command line, by torchrun or by Slurm's srun. The first of them speaks and
writes, all compute. What one has to tell the others goes by exchanges, which all make in the same order; each begins
with a word of how it stands with everyone. So an error of one process is every process's error, with its exit code and
its message, and who is told to end takes the others along.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor, nn
from torch import distributed as peers
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from histill.core.errors import Exit, HistillError
from histill.data.batches import Share

LIMIT = timedelta(minutes=10)
"""How long one process waits for another within a step: more only passes where one is lost without a word."""
PATIENCE = timedelta(days=30)
"""How long the others wait while the first makes something alone."""
PARTING = timedelta(minutes=1)
"""How long who ends waits for the others to end too."""
WELL, ENDS, FAILS = 0, 1, 2
"""How it stands with a process. The greatest of all is everyone's."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that were started together.

    Attributes:
        rank: its number among all, from 0.
        size: how many they are.
        local: its number on its machine, from 0.
        address: of the machine of the first.
        port: on which the first is met there.
        attempt: torchrun's count of its starts.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    address: str = ""
    port: int = 0
    attempt: str = ""


def find_place(environment: Mapping[str, str]) -> Place:
    """This process's place by what torchrun, or Slurm's srun, says in the environment; else it is alone.

    A Slurm job that is not a step of several tasks (a batch script, an interactive shell) is alone.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Place(
            rank=int(environment["RANK"]),
            size=int(environment["WORLD_SIZE"]),
            local=int(environment.get("LOCAL_RANK", 0)),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=int(environment.get("MASTER_PORT", 29500)),
            attempt=environment.get("TORCHELASTIC_RESTART_COUNT", ""),
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
        return Place(
            rank=int(environment["SLURM_PROCID"]),
            size=int(environment["SLURM_STEP_NUM_TASKS"]),
            local=int(environment["SLURM_LOCALID"]),
            address=environment.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes),
            # Two jobs on a machine have numbers of their own.
            port=int(environment.get("MASTER_PORT") or 15000 + int(environment.get("SLURM_JOB_ID", 0)) % 10000),
        )
    return Place()


class TeamError(HistillError):
    """An error that every process of the team has been told of, and ends with."""


class UntoldError(HistillError):
    """An error that the others are not told of: they are gone, or at work where they would not hear it."""


class Team:
    """The processes that train together; on its own, a process is a team of one, and nothing below costs it anything.

    Args:
        place: of this process.
        words: the group by which they tell each other things; None for one process. Networks meet in torch's own group.
    """

    def __init__(self, place: Place | None = None, words: peers.ProcessGroup | None = None) -> None:
        self.place = place or Place()
        self.rank, self.size = self.place.rank, self.place.size
        self._words = words

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Its share of a batch."""
        return Share(self.rank, self.size)

    # --- words --------------------------------------------------------------------------------------------------------

    def agree(self, ends: bool = False) -> bool:
        """Meet the others: whether any of them is to end.

        Raises:
            HistillError: what any of them ended with.
        """
        return self._exchange(ENDS if ends else WELL) == ENDS

    def gather(self, value: Made) -> list[Made]:
        """Every process's value, in their order: numbers, texts, None, lists and dictionaries of them.

        Raises:
            HistillError: what any of them ended with.
        """
        if self.size == 1:
            return [value]
        if self._exchange(WELL) == ENDS:
            raise TeamError("another process was told to end", code=Exit.TERMINATED)
        return list(self._collect(value))

    def first_makes(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, in every process; its error is everyone's."""
        with self.together():
            made: Any = make() if self.is_first else None
        found: Made = self.gather(made)[0]
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block whose error ends all: the others meet it in their next exchange."""
        try:
            yield
        except (TeamError, UntoldError):
            raise
        except HistillError as error:
            self._exchange(FAILS, error)
            raise

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """A block in which processes meet in their networks, and wait there for each other.

        Who fails cannot tell the others, and ends; they notice that it is gone.
        """
        try:
            with noticing_loss():
                yield
        except (TeamError, UntoldError):
            raise
        except HistillError as error:
            if self.size == 1:
                raise
            raise UntoldError(error.what, code=error.code, subject=error.subject, mend=error.mend) from error

    def part(self) -> None:
        """Wait a little for the others before ending: who leaves first takes them with it, at work or not."""
        if self.size > 1:
            with contextlib.suppress(RuntimeError):
                met = peers.all_reduce(torch.tensor([ENDS]), peers.ReduceOp.MAX, self._words, async_op=True)
                assert met is not None
                met.wait(PARTING)

    def leave(self) -> None:
        """End well, together."""
        if self.size > 1:
            self.agree()
            peers.destroy_process_group()

    def _exchange(self, stands: int, error: HistillError | None = None) -> int:
        if self.size == 1:
            return stands
        with noticing_loss():
            greatest = torch.tensor([stands])
            peers.all_reduce(greatest, peers.ReduceOp.MAX, self._words)
        if int(greatest) == FAILS:
            own = None if error is None else [error.what, int(error.code), error.subject, error.mend]
            what, code, subject, mend = next(each for each in self._collect(own) if each is not None)
            raise TeamError(what, code=Exit(code), subject=subject, mend=mend) from error
        return int(greatest)

    def _collect(self, value: Any) -> Iterator[Any]:
        # As JSON: what comes over a network is not unpickled.
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with noticing_loss():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            peers.all_gather(lengths, torch.tensor([len(text)]), self._words)
            longest = max(int(length) for length in lengths)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            peers.all_gather(texts, torch.cat([text, torch.zeros(longest - len(text), dtype=torch.uint8)]), self._words)
        for length, each in zip(lengths, texts, strict=True):
            yield json.loads(bytes(each[: int(length)].tolist()))

    # --- networks -----------------------------------------------------------------------------------------------------

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """A module whose gradients are the mean of all processes', and which begins as the first process's."""
        if self.size == 1:
            return module
        # Unused parameters are looked for, as a loss may leave out a part of a network. This also leaves gradients in
        # the same buckets from the first step on, without which a resumed run would add them in another order. Where
        # there are none torch says that it looked in vain; so here is one.
        module.register_parameter("unused", nn.Parameter(torch.zeros(1)))
        self.agree()
        with noticing_loss():
            return DistributedDataParallel(
                module.to(device),
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,
            )

    def holding_back(self, learner: nn.Module) -> contextlib.AbstractContextManager[object]:
        """A block whose gradients stay this process's own, to go along with those of the next."""
        return learner.module.no_sync() if self.size > 1 else contextlib.nullcontext()  # type: ignore[operator, union-attr]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, where it was."""
        if self.size > 1:
            with noticing_loss():
                peers.all_reduce(value)
        return value

    @torch.no_grad()
    def level(self, module: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.size == 1:
            return
        self.agree()
        with noticing_loss():
            for tensor in module.state_dict().values():
                whole = tensor.contiguous()
                peers.broadcast(whole, 0)
                tensor.copy_(whole)


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Turn what torch says when another process is gone into an error that a user can act on."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not isinstance(error, peers.DistError) and not any(name in text for name in ("gloo", "Gloo", "NCCL")):
            raise
        raise UntoldError(
            f"another process of this run is gone ({text[:200]})",
            code=Exit.TEMPORARY,
            mend="See what it or its machine says, and run the same command again: it goes on where it stopped",
        ) from error


def join(accelerator: str) -> Team:
    """This process's team, met at the first call and for good.

    Args:
        accelerator: cpu, whose processes meet by gloo; or cuda, whose networks meet by NCCL.

    Raises:
        HistillError: temporary (75) if the others do not come.
    """
    return _meet(find_place(os.environ), accelerator)


@functools.cache
def _meet(place: Place, accelerator: str) -> Team:
    if place.size == 1:
        return Team()
    try:
        address = f"tcp://{place.address}:{place.port}"
        store, *_ = next(iter(rendezvous(address, place.rank, place.size, timeout=LIMIT)))
        # torchrun's store still holds where the processes were that it has started anew.
        store = PrefixStore(f"histill {place.attempt}", store)
        backend = "nccl" if accelerator == "cuda" else "gloo"
        peers.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=LIMIT)
        words = peers.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise HistillError(
            f"the {place.size} processes do not meet ({' '.join(str(error).split())[:200]})",
            code=Exit.TEMPORARY,
            subject=f"{place.address}:{place.port}",
            mend="Start them all by one torchrun or srun; if the port is taken, name another in MASTER_PORT",
        ) from error
    assert isinstance(words, peers.ProcessGroup)
    return Team(place, words)
