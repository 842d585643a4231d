"""Frozen encoders that make one vector of a tile: any timm network, SqueezeNet, and pathology's foundation models.

An embedder takes images in 0..1 and resizes, cuts and normalises them itself, as its own weights expect.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histill.core.errors import Exit, HistillError
from histill.nets.encoders import IMAGENET_MEAN, IMAGENET_STD, SqueezeNetEncoder
from histill.nets.foundations import FOUNDATIONS, Foundation, Sight
from histill.nets.weights import FILE_KINDS, is_file, load_into, read_weights, trunk_part

HUB = "hub"


class Embedder(nn.Module, ABC):
    """A network that makes one vector of an image.

    Attributes:
        name: as folders of features are called after it.
        sight: how it wants its images.
        licence: of its published weights; empty where none is known.
        weights: where its weights came from: none, a file's name, or the hub's repository.
        pooling: how a vector is made of what the network says of places.
    """

    mean: Tensor
    std: Tensor
    pooling: str = "its own"

    def __init__(self, name: str, sight: Sight, licence: str = "") -> None:
        super().__init__()
        self.name, self.sight, self.licence, self.weights = name, sight, licence, "none"
        self.register_buffer("mean", torch.tensor(sight.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(sight.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images float [b, 3, h, w] in 0..1, square -> [b, d]."""
        return self.vectors((self._seen(images) - self.mean) / self.std)

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """The vectors [b, d] of images [b, 3, side, side] that are resized and normalised."""

    @abstractmethod
    def trunk(self) -> nn.Module:
        """The module whose keys a weights file has."""

    @abstractmethod
    def load_from_hub(self, name: str) -> str:
        """Load published weights by name; returns the repository."""

    def fitting(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a published file that is the trunk's: without the classification head."""
        return trunk_part(weights, self.trunk().state_dict())

    def start_from(self, weights: str) -> None:
        """Load weights: "none" leaves random ones, the same every time; a file; "hub", or a name of the hub.

        Raises:
            HistillError: input (4) if they cannot be had or do not fit; usage (2) if there are none of that name.
        """
        if is_file(weights):
            load_into(self.trunk(), self.fitting(read_weights(Path(weights))), weights)
            self.weights = Path(weights).name
        elif weights != "none":
            self.weights = self.load_from_hub(weights)

    @property
    def digest(self) -> str:
        """A hash of all that a vector depends on: the weights, and how images are brought to them."""
        found = hashlib.sha256(repr((self.name, self.pooling, sorted(asdict(self.sight).items()))).encode())
        for key, value in sorted(self.trunk().state_dict().items()):
            found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    def _seen(self, images: Tensor) -> Tensor:
        side = self.sight.side
        if side is None:
            return images
        resized = self.sight.resized or side
        if images.shape[-1] != resized:
            images = F.interpolate(
                images, (resized, resized), mode=self.sight.interpolation, align_corners=False, antialias=True
            ).clamp(0, 1)  # [b, 3, resized, resized]
        cut = round((resized - side) / 2)
        return images[:, :, cut : cut + side, cut : cut + side]  # [b, 3, side, side]


class SqueezeNetEmbedder(Embedder):
    """torchvision's SqueezeNet 1.0: the mean of its last map, 512 numbers. Its weights are small, for trying things."""

    def __init__(self) -> None:
        super().__init__("squeezenet1_0", Sight(), "BSD-3-Clause")
        with _drawn_alike():
            self.encoder = SqueezeNetEncoder(("fire9",))

    def vectors(self, x: Tensor) -> Tensor:
        """The mean of the last map."""
        return self.encoder.maps(x)[-1].mean((2, 3))  # [b, 512]

    def trunk(self) -> nn.Module:
        """The feature layers, keyed as in torchvision's file."""
        return self.encoder.trunk()

    def load_from_hub(self, name: str) -> str:
        """Load torchvision's ImageNet weights."""
        try:
            self.encoder.load_from_hub("imagenet" if name == HUB else name)
        except HistillError as error:
            raise _unreached(self.name, error) if error.code == Exit.INPUT else error from error
        return "torchvision, ImageNet"


class TimmEmbedder(Embedder):
    """Any timm network without its head; its input size and normalisation are those that timm has for it."""

    def __init__(self, name: str) -> None:
        import timm

        if not timm.is_model(name):
            known = [*FOUNDATIONS, "squeezenet1_0", *timm.list_models()]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"{', '.join(FOUNDATIONS)}, or a name of timm"
            raise HistillError(f"there is no encoder '{name}'", code=Exit.USAGE, subject="encoder", mend=hint)
        with _drawn_alike():
            network = timm.create_model(name, num_classes=0)
        told: Any = network.pretrained_cfg or {}
        super().__init__(name, _sight_of(told), str(told.get("license") or ""))
        self.network: nn.Module = network

    def vectors(self, x: Tensor) -> Tensor:
        """What the network pools its last map or tokens to."""
        found: Tensor = self.network(x)
        if found.ndim != 2:
            raise HistillError(
                f"'{self.name}' makes no one vector of an image", code=Exit.USAGE, mend="Choose another encoder"
            )
        return found

    def trunk(self) -> nn.Module:
        """timm's own module."""
        return self.network

    def fitting(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a published file that is the trunk's: without the classification head."""
        import timm

        # Some heads lose their last layer alone: what the whole network has beyond the trunk is no fault.
        with torch.device("meta"):
            whole = timm.create_model(self.name).state_dict()
        own = self.network.state_dict()
        return {key: value for key, value in super().fitting(weights).items() if key in own or key not in whole}

    def load_from_hub(self, name: str) -> str:
        """Load timm's weights: "hub" or "imagenet" for the default tag, or a tag such as "a1_in1k"."""
        import timm

        tags = [each.removeprefix(f"{self.name}.") for each in timm.list_pretrained(f"{self.name}.*")]
        if not tags or name not in (HUB, "imagenet", *tags):
            raise _no_weights(self.name, name, tags)
        full = self.name if name in (HUB, "imagenet") else f"{self.name}.{name}"
        try:
            whole = timm.create_model(full, pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreached(full, error) from error
        load_into(self.network, self.fitting(whole.state_dict()), full)
        return f"timm, {full}"


class FoundationEmbedder(Embedder):
    """A published vision transformer of pathology, as it is to be used.

    Args:
        name: as folders of features are called after it.
        told: what is known of it.
    """

    def __init__(self, name: str, told: Foundation) -> None:
        import timm
        from timm.layers.mlp import SwiGLUPacked

        super().__init__(name, told.sight, told.licence)
        self.told, self.pooling = told, told.pooling
        gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if told.swiglu else {}
        with _drawn_alike():
            self.network: Any = timm.create_model(told.architecture, num_classes=0, **told.arguments, **gated)

    def vectors(self, x: Tensor) -> Tensor:
        """The class token, with the mean of the patch tokens behind it where the makers say so."""
        tokens: Tensor = self.network.forward_features(x)  # [b, prefix + patches, c]
        if self.pooling == "class":
            return tokens[:, 0]  # [b, c]
        # Between the class token and the patches there may be registers, which nobody wants.
        patches = tokens[:, self.network.num_prefix_tokens :]
        return torch.cat([tokens[:, 0], patches.mean(1)], dim=1)  # [b, 2 c]

    def trunk(self) -> nn.Module:
        """timm's own module, which has the keys of the published file."""
        trunk: nn.Module = self.network
        return trunk

    def load_from_hub(self, name: str) -> str:
        """Load the published weights, the only ones there are; they are read as any file is, without running code."""
        from timm.models import load_state_dict_from_hf

        if name != HUB:
            raise _no_weights(self.name, name, [])
        try:
            weights = load_state_dict_from_hf(self.told.repository, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreached(self.told.repository, error, gated=self.told.gated) from error
        load_into(self.network, self.fitting(dict(weights)), self.told.repository)
        return self.told.repository


def build_embedder(name: str, weights: str = HUB) -> Embedder:
    """A frozen encoder by name, ready to use.

    Args:
        name: one of `FOUNDATIONS`, "squeezenet1_0", or any name of timm.
        weights: "none" for random ones, a file, "hub" for those that are published, or a name of the hub.

    Raises:
        HistillError: usage (2) if there is no such encoder; as `Embedder.start_from`.
    """
    if name == "squeezenet1_0":
        embedder: Embedder = SqueezeNetEmbedder()
    elif name in FOUNDATIONS:
        embedder = FoundationEmbedder(name, FOUNDATIONS[name])
    else:
        embedder = TimmEmbedder(name)
    embedder.start_from(weights)
    return embedder.eval().requires_grad_(False)


def _sight_of(told: Mapping[str, Any]) -> Sight:
    size = told.get("input_size")
    return Sight(
        tuple(told.get("mean", IMAGENET_MEAN)),
        tuple(told.get("std", IMAGENET_STD)),
        int(size[-1]) if size and told.get("fixed_input_size") else None,
        interpolation="bilinear" if told.get("interpolation") == "bilinear" else "bicubic",
    )


@contextlib.contextmanager
def _drawn_alike() -> Iterator[None]:
    """Random weights are the same every time, and whoever draws after this block draws as if it had not been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _unreached(name: str, error: Exception, *, gated: bool = False) -> HistillError:
    enter = "accept its licence at the hub, log in (hf auth login), and try again" if gated else "try again online"
    return HistillError(
        f"the hub did not give these weights ({type(error).__name__})",
        code=Exit.INPUT,
        subject=name,
        mend=f"Either {enter}; or fetch its file elsewhere and give that: --weights FILE",
    )


def _no_weights(encoder: str, name: str, tags: Sequence[str]) -> HistillError:
    return HistillError(
        f"there are no weights '{name}' of {encoder}",
        code=Exit.USAGE,
        subject="weights",
        mend=f"Give none, a file ({', '.join(FILE_KINDS)}), or one of: {', '.join((HUB, *tags))}",
    )
