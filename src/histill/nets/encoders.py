"""Trunks: any timm encoder by name, torchvision's SqueezeNet and the wide ResNet-38, with named taps.

An encoder takes images in 0..1 and normalises them itself, as its own weights expect.
"""

from __future__ import annotations

import contextlib
import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from histill.core.errors import Exit, HistillError
from histill.nets.resnet38 import ResNet38, from_mxnet, is_mxnet
from histill.nets.weights import FILE_KINDS, is_file, load_into, read_weights, trunk_part, unreachable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OutputStride = Literal[8, 16, 32]


class Encoder(nn.Module, ABC):
    """A trunk with named taps.

    Attributes:
        taps: the names of its maps, shallow to deep.
        channels: channels of each map.
        strides: pixels of the image for one of each map.
        pretrained: whether weights were loaded; only then may parts be frozen.
    """

    taps: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.pretrained = False
        self._frozen_norms = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images float [b, 3, h, w] in 0..1 -> one map [b, c, h / stride, w / stride] per tap.

        Each map is the very tensor that the rest of the trunk is computed from, so that gradients can be taken at it.
        Its size is rounded as the trunk rounds it; decoders that need exact halves resize it.
        """
        return self.maps((images - self.mean) / self.std)

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised images."""

    def start_from(self, weights: str) -> None:
        """Load start weights: "none", a file, or a name of the hub ("imagenet" is the usual one)."""
        if weights == "none":
            return
        if is_file(weights):
            load_into(self.trunk(), self.fitting(read_weights(Path(weights))), weights)
        else:
            self.load_from_hub(weights)
        self.pretrained = True

    @abstractmethod
    def trunk(self) -> nn.Module:
        """The module whose keys a weights file has."""

    def fitting(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a published file that is the trunk's: without the classification head."""
        return trunk_part(weights, self.trunk().state_dict())

    @abstractmethod
    def load_from_hub(self, name: str) -> None:
        """Load published weights by name."""

    @abstractmethod
    def module_of(self, tap: str) -> str:
        """The name, inside the trunk, of the module whose output a tap is."""

    def freeze(self, *, through: str, norms: bool) -> None:
        """Freeze all up to and including a tap ("" for nothing), and hold every BatchNorm in eval.

        Only where weights were loaded: what is random must learn.
        """
        if not self.pretrained:
            return
        self._frozen_norms = norms
        if through:
            last = self.module_of(through)
            modules = list(self.trunk().named_modules())
            end = max(i for i, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{last}."))
            for _, module in modules[: end + 1]:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Encoder:
        """As nn.Module's, but frozen BatchNorms stay in eval."""
        super().train(mode)
        if self._frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class SqueezeNetEncoder(Encoder):
    """torchvision's SqueezeNet 1.0 (Iandola et al., 2016).

    Its stem is not padded: of 224 px it makes 109 where 112 would stand. With an output stride of 8 the last pooling
    falls away and what follows is dilated, as in DeepLab.
    """

    # name of the tap -> (index in torchvision's `features`, channels, stride)
    TAPS: ClassVar[Mapping[str, tuple[int, int, int]]] = {
        "conv1": (1, 96, 2),
        "fire4": (5, 256, 4),
        "fire5": (7, 256, 8),
        "fire6": (8, 384, 8),
        "fire7": (9, 384, 8),
        "fire8": (10, 512, 8),
        "fire9": (12, 512, 16),
    }
    PYRAMID = ("conv1", "fire4", "fire8", "fire9")
    LAST_POOL, LAST_FIRE = 11, 12

    def __init__(self, taps: Sequence[str] = (), output_stride: OutputStride = 16) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        from torchvision.models import squeezenet1_0

        self.taps = _chosen(tuple(taps) or self.PYRAMID, self.TAPS, "squeezenet1_0")
        # What lies deeper than the deepest tap would be carried along for nothing.
        deepest = self.TAPS[self.taps[-1]][0]
        self.features: nn.Sequential = squeezenet1_0(weights=None).features[: deepest + 1]
        self.channels = tuple(self.TAPS[tap][1] for tap in self.taps)
        self.strides = tuple(min(self.TAPS[tap][2], output_stride) for tap in self.taps)
        self._pools_last = output_stride > 8
        if not self._pools_last and deepest >= self.LAST_FIRE:
            expand: Any = self.features.get_submodule(f"{self.LAST_FIRE}.expand3x3")
            expand.dilation, expand.padding = (2, 2), (2, 2)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised images."""
        wanted = {self.TAPS[tap][0] for tap in self.taps}
        found = []
        for index, layer in enumerate(self.features):
            if index != self.LAST_POOL or self._pools_last:
                x = layer(x)
            if index in wanted:
                found.append(x)
        return found

    def trunk(self) -> nn.Module:
        """The feature layers, keyed as in torchvision's file."""
        return self.features

    def load_from_hub(self, name: str) -> None:
        """Load torchvision's ImageNet weights, the only ones there are."""
        from torchvision.models import SqueezeNet1_0_Weights

        if name != "imagenet":
            raise _no_weights("squeezenet1_0", name, ["imagenet"])
        try:
            weights = SqueezeNet1_0_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise unreachable(f"squeezenet1_0 ({name})", error) from error
        load_into(self.features, self.fitting(dict(weights)), f"squeezenet1_0 ({name})")

    def module_of(self, tap: str) -> str:
        """The index of a tap's layer, as torchvision names it."""
        known = {name: index for name, (index, _, _) in self.TAPS.items() if index < len(self.features)}
        if tap not in known:
            raise _no_tap("squeezenet1_0", tap, list(known))
        return str(known[tap])


class ResNet38Encoder(Encoder):
    """The wide ResNet-38 of weakly supervised segmentation, MLPS's own trunk.

    It takes images in 0..1 as they are, as MLPS does, though its ImageNet weights were learnt with mean and deviation
    taken out. Its taps left out are the ends of its stages; the last three are the paper's: b4_5, b5_2 and bn7.

    Args:
        taps: names of the maps wanted: conv1a, b2, b2_1 and so on to b7, bn7.
        output_stride: pixels of the image for one of the last map; the paper's is 8.
        narrower: divides all widths; only at 1 do published weights fit.
    """

    PYRAMID = ("b2_2", "b3_2", "b4_5", "b5_2", "bn7")

    def __init__(self, taps: Sequence[str] = (), output_stride: OutputStride = 8, narrower: int = 1) -> None:
        super().__init__(mean=(0.0,) * 3, std=(1.0,) * 3)
        self.network = ResNet38(output_stride, narrower)
        self.taps = _chosen(tuple(taps) or self.PYRAMID, self.network.channels, "resnet38")
        self.channels = tuple(self.network.channels[tap] for tap in self.taps)
        self.strides = tuple(self.network.strides[tap] for tap in self.taps)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised images."""
        found: list[Tensor] = self.network(x, self.taps)
        return found

    def trunk(self) -> nn.Module:
        """The network, keyed as in the PyTorch files that the field shares."""
        return self.network

    def fitting(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The trunk's part of such a file, or of the authors' own."""
        return from_mxnet(weights, self.network) if is_mxnet(weights) else super().fitting(weights)

    def load_from_hub(self, name: str) -> None:
        """There is nothing on the hub."""
        raise _no_weights("resnet38", name, [])

    def module_of(self, tap: str) -> str:
        """A tap's own name."""
        if tap not in self.network.channels:
            raise _no_tap("resnet38", tap, list(self.network.channels))
        return tap


class TimmEncoder(Encoder):
    """Any timm network that offers feature maps; its taps are named by timm's `feature_info`."""

    def __init__(self, name: str, taps: Sequence[str] = (), output_stride: OutputStride = 32) -> None:
        import timm

        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 1)
            hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists them"
            raise HistillError(f"there is no encoder '{name}'", code=Exit.USAGE, subject="encoder", mend=hint)
        with torch.device("meta"):
            # Only to be asked: the whole of a VGG16 has 138 million weights to draw.
            info = _timm_features(name, output_stride).feature_info
        known = info.module_name()
        chosen = _chosen(tuple(taps) or tuple(known), known, name)
        order = [known.index(tap) for tap in chosen]
        # What lies deeper than the deepest tap would be carried along for nothing.
        depth = {} if order[-1] + 1 == len(known) else {"out_indices": tuple(info.out_indices)[: order[-1] + 1]}
        network = _timm_features(name, output_stride, **depth)
        published: Mapping[str, Any] = network.pretrained_cfg or {}
        super().__init__(published.get("mean", IMAGENET_MEAN), published.get("std", IMAGENET_STD))
        self.taps = chosen
        self.network: nn.Module = network
        self.name, self._order = name, order
        self._channels_last = getattr(network, "output_fmt", None) == "NHWC"
        self.channels = tuple(info.channels()[i] for i in order)
        self.strides = tuple(info.reduction()[i] for i in order)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised images."""
        if not self._channels_last:
            maps = self.network(x)
            return [maps[i] for i in self._order]
        found: list[Tensor] = []

        def put_channels_first(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # What goes on is a view of what is kept, so that gradients can be taken at it.
            found.append(output.permute(0, 3, 1, 2))  # [b, c, h, w]
            return found[-1].permute(0, 2, 3, 1)  # [b, h, w, c]

        with contextlib.ExitStack() as hooks:
            for tap in self.taps:
                module = self.network.get_submodule(self.module_of(tap))
                hooks.callback(module.register_forward_hook(put_channels_first).remove)
            self.network(x)
        return found

    def trunk(self) -> nn.Module:
        """timm's own module."""
        return self.network

    def fitting(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a published file that is the trunk's: without the classification head."""
        import timm

        # timm flattens the first level of what it takes features from: "stages.0.x" of a file is "stages_0.x" here.
        own = self.network.state_dict()
        flat = {key.replace("_", ".", 1): key for key in own}
        part = trunk_part(weights, {*flat, *own})
        named = {flat.get(key, key): value for key, value in part.items()}
        # A few networks lose more than a head when they become a trunk: what the whole of them has is no fault.
        with torch.device("meta"):
            whole = timm.create_model(self.name).state_dict()
        return {key: value for key, value in named.items() if key in own or key not in whole}

    def module_of(self, tap: str) -> str:
        """The name of a tap's module in timm's feature network."""
        names = dict(self.network.named_modules())
        for name in (tap, tap.replace(".", "_", 1)):
            if name in names:
                return name
        info: Any = self.network.feature_info
        raise _no_tap(self.name, tap, list(info.module_name()))

    def load_from_hub(self, name: str) -> None:
        """Load timm's weights: "imagenet" for the default tag, or a tag such as "a1_in1k"."""
        import timm

        tags = [each.removeprefix(f"{self.name}.") for each in timm.list_pretrained(f"{self.name}.*")]
        if not tags or name not in ("imagenet", *tags):
            raise _no_weights(self.name, name, ["imagenet", *tags] if tags else [])
        full = self.name if name == "imagenet" else f"{self.name}.{name}"
        try:
            whole = timm.create_model(full, pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise unreachable(full, error) from error
        load_into(self.network, self.fitting(whole.state_dict()), full)


def build_encoder(name: str, *, taps: Sequence[str] = (), output_stride: OutputStride) -> Encoder:
    """An encoder by name, without weights; see `Encoder.start_from`.

    Args:
        name: "squeezenet1_0", "resnet38", or any timm name with feature maps.
        taps: names of the maps wanted, shallow to deep; empty: one per halving of the image.
        output_stride: pixels of the image for one of the deepest map.
    """
    if name == "squeezenet1_0":
        return SqueezeNetEncoder(taps, output_stride)
    if name == "resnet38":
        return ResNet38Encoder(taps, output_stride)
    return TimmEncoder(name, taps, output_stride)


def _timm_features(name: str, output_stride: OutputStride, **settings: Any) -> Any:
    import timm

    if output_stride != 32:
        settings["output_stride"] = output_stride
    try:
        return timm.create_model(name, features_only=True, **settings)
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        raise HistillError(
            f"'{name}' offers no feature maps at output stride {output_stride}",
            code=Exit.USAGE,
            subject="encoder",
            mend="Choose a convolutional or hierarchical encoder, such as resnet18",
        ) from error


def _chosen(taps: tuple[str, ...], known: Iterable[str], name: str) -> tuple[str, ...]:
    order = list(known)
    for tap in taps:
        if tap not in order:
            raise _no_tap(name, tap, order)
    if sorted(taps, key=order.index) != list(taps) or len(set(taps)) != len(taps):
        raise HistillError(
            "name each tap once, shallow to deep", code=Exit.USAGE, subject="taps", mend=f"In order: {', '.join(order)}"
        )
    return taps


def _no_tap(name: str, tap: str, known: Sequence[str]) -> HistillError:
    return HistillError(
        f"{name} has no tap '{tap}'", code=Exit.USAGE, subject="taps", mend=f"Its taps: {', '.join(known)}"
    )


def _no_weights(encoder: str, name: str, known: Sequence[str]) -> HistillError:
    return HistillError(
        f"there are no weights '{name}' of {encoder}",
        code=Exit.USAGE,
        subject="weights",
        mend=f"Give none, a file ({', '.join(FILE_KINDS)}), or one of: {', '.join(known) or '(none published)'}",
    )
