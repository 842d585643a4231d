"""What networks leave on disk: finished weights as safetensors, training state that loads with weights_only."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from histill.core.storage import write_bytes
from histill.nets.weights import check_finite, load_into, read_weights

State = dict[str, Any]
DIGEST_BYTES = hashlib.sha256().digest_size


def weight_bytes(module: nn.Module) -> bytes:
    """A module's weights and buffers as the bytes of a safetensors file; equal weights give equal bytes."""
    tensors = {key: value.detach().to("cpu").contiguous().clone() for key, value in module.state_dict().items()}
    check_finite(tensors, type(module).__name__)
    return save(tensors)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file of `weight_bytes` that must fit exactly; raises as `load_into`."""
    load_into(module, read_weights(path), str(path))


def write_state(path: Path, state: State) -> None:
    """Write a training state: tensors, numbers, strings, lists and dictionaries; its hash comes first."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_bytes(path, hashlib.sha256(data).digest() + data)


def read_state(path: Path) -> State | None:
    """Read a training state; None if there is none or it is damaged, and training then starts afresh."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    # torch.load does not notice a flipped byte.
    if hashlib.sha256(data).digest() != digest:
        return None
    try:
        state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError):
        # Whole, but of another torch.
        return None
    return state


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights and buffers, on the CPU."""
    return {key: value.detach().to("cpu").clone() for key, value in module.state_dict().items()}


def random_state(device: torch.device) -> list[Tensor]:
    """The state of torch's shared streams: the CPU's, and that of a GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random(state: list[Tensor], device: torch.device) -> None:
    """Let torch's shared streams go on from where they were."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
