"""The one rule for weights: none, a file, or the hub's name. No pickle is run, and nothing is loaded in part.

A file is safetensors, a ``.pth``, ``.pt`` or ``.bin`` that torch reads with weights_only, an ``.npz`` without objects,
or MXNet's ``.params``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Mapping
from itertools import accumulate, takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from histill.core.errors import Exit, HistillError
from histill.nets.mxnet_params import read_mxnet_params

FILE_KINDS = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".params")
WRAPPERS = frozenset({"module", "model", "net", "network", "backbone", "encoder", "trunk", "features"})
"""attributes under which training codes keep a network, or networks their trunk"""
MOST_NAMED = 5


def is_file(weights: str) -> bool:
    """Whether a `weights` setting means a file rather than "none" or a name of the hub."""
    return weights.endswith(FILE_KINDS)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by key.

    Raises:
        HistillError: input (4) if it is missing, torn or of an unknown kind; unsafe (5) if reading it would run code.
    """
    if not path.is_file():
        raise HistillError("there is no such weights file", code=Exit.INPUT, subject=str(path), mend="Check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        if path.suffix == ".params":
            return {name: torch.from_numpy(array) for name, array in read_mxnet_params(path).items()}
        if path.suffix in (".pth", ".pt", ".bin"):
            return _state_dict(torch.load(path, map_location="cpu", weights_only=True), path)
    except pickle.UnpicklingError as error:
        raise _unsafe(path) from error
    except ValueError as error:
        # numpy's word for an array of objects, which only a pickle can hold.
        if "allow_pickle" in str(error):
            raise _unsafe(path) from error
        raise _unreadable(path, error) from error
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, LookupError, TypeError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # safetensors has an error type of its own, which it does not export as a common base.
        if type(error).__module__.startswith("safetensors"):
            raise _unreadable(path, error) from error
        raise
    raise HistillError(
        f"weights of kind '{path.suffix}' cannot be read",
        code=Exit.INPUT,
        subject=str(path),
        mend=f"Give one of: {', '.join(FILE_KINDS)}",
    )


def trunk_part(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """What a published file holds of a trunk, under the trunk's own names.

    Wrappers around the trunk, such as "module." or "backbone.", are taken off. What belongs to parts that the trunk
    does not have, such as a classification head or a decoder, is left out; what belongs to the trunk's own parts and
    still does not fit stays, for `load_into` to refuse.

    Args:
        weights: a file's tensors, by key.
        names: the keys that the trunk has.
    """
    prefixes = {""}
    for key in weights:
        prefixes |= set(accumulate(f"{step}." for step in takewhile(WRAPPERS.__contains__, key.split("."))))
    parts = [
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        for prefix in sorted(prefixes)
    ]
    part = max(parts, key=lambda part: len(part.keys() & names))
    roots = {_root(name) for name in names}
    return {key: value for key, value in part.items() if _root(key) in roots}


def load_into(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights that must fit a module exactly: same keys, same shapes, all finite.

    Raises:
        HistillError: input (4) naming what is missing, left over or of another shape; numbers (6) if not finite.
    """
    own = module.state_dict()
    # How many batches a BatchNorm has seen says nothing where its momentum is fixed; older files leave it out.
    weights = {**{key: own[key] for key in own if key.endswith("num_batches_tracked")}, **weights}
    missing = [key for key in own if key not in weights]
    extra = [key for key in weights if key not in own]
    other = [
        f"{key} {tuple(weights[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:MOST_NAMED])}{', ...' if len(keys) > MOST_NAMED else ''}"
        for what, keys in (("missing", missing), ("not known here", extra), ("of another shape", other))
        if keys
    ]
    if faults:
        raise HistillError(
            "the weights are of another architecture: " + "; ".join(faults),
            code=Exit.INPUT,
            subject=where,
            mend="Use the file that belongs to this network, or choose the network that belongs to this file",
        )
    check_finite(weights, where)
    module.load_state_dict(dict(weights))


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise a numbers error (6) that names the tensors with NaN or infinity."""
    bad = [key for key, value in weights.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise HistillError(
            f"{len(bad)} tensors hold NaN or infinity: {', '.join(bad[:MOST_NAMED])}",
            code=Exit.NUMBERS,
            subject=where,
            mend="Use an undamaged file",
        )


def unreachable(name: str, error: Exception) -> HistillError:
    """The error for weights that the hub did not give; it names the two ways out."""
    return HistillError(
        f"the hub cannot be reached for these weights ({type(error).__name__})",
        code=Exit.INPUT,
        subject=name,
        mend="Either fetch the file elsewhere and give its path as 'weights', or set 'weights' to none",
    )


def _root(key: str) -> str:
    return key.partition(".")[0]


def _state_dict(value: object, path: Path) -> dict[str, Tensor]:
    # Training codes wrap the state dict in a dictionary of their own; these two keys are the common ones.
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise HistillError(
            "holds no state dict", code=Exit.INPUT, subject=str(path), mend="Save module.state_dict() and give that"
        )
    return {str(key).removeprefix("module."): tensor for key, tensor in value.items()}


def _unsafe(path: Path) -> HistillError:
    return HistillError(
        "refused: the file holds a pickle that could run code",
        code=Exit.UNSAFE,
        subject=str(path),
        mend="Save the tensors alone (module.state_dict()), best as safetensors",
    )


def _unreadable(path: Path, error: Exception) -> HistillError:
    what = " ".join(str(error).split())[:120]
    return HistillError(
        f"cannot be read as weights: {what}", code=Exit.INPUT, subject=str(path), mend="Fetch the file again"
    )
