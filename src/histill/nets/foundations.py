"""Pathology's published foundation models, as data: which network, which weights, how an image is brought to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from histill.nets.encoders import IMAGENET_MEAN, IMAGENET_STD

Colour = tuple[float, float, float]
Pooling = Literal["class", "class + mean"]
NON_COMMERCIAL = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class Sight:
    """How an encoder wants its images.

    Attributes:
        mean: of each channel, taken out.
        std: of each channel, divided by.
        side: px of the square that it takes; None where any will do.
        resized: px that an image's side is brought to before a square of `side` is cut from its middle; None: `side`.
        interpolation: with which it is resized.
    """

    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    side: int | None = None
    resized: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Foundation:
    """What is known of a published model.

    Attributes:
        title: its name, as its makers write it.
        repository: where the hub has its weights.
        licence: of the weights.
        architecture: timm's name of the network.
        width: numbers of one tile.
        sight: how it wants its images.
        pooling: "class" for its class token; "class + mean" for that and behind it the mean of its patch tokens.
        arguments: of the network, besides the architecture's own.
        swiglu: its blocks have gated layers.
        gated: the hub gives it to those alone who have accepted its licence.
    """

    title: str
    repository: str
    licence: str
    architecture: str
    width: int
    sight: Sight = Sight(side=224)
    pooling: Pooling = "class"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    swiglu: bool = False
    gated: bool = True


_VIRCHOW = {"init_values": 1e-5, "mlp_ratio": 5.3375, "dynamic_img_size": True}

FOUNDATIONS: Mapping[str, Foundation] = {
    "uni_v1": Foundation(
        "UNI",
        "MahmoodLab/UNI",
        NON_COMMERCIAL,
        "vit_large_patch16_224",
        1024,
        arguments={"init_values": 1e-5, "dynamic_img_size": True},
    ),
    "uni_v2": Foundation(
        "UNI2-h",
        "MahmoodLab/UNI2-h",
        NON_COMMERCIAL,
        "vit_giant_patch14_224",
        1536,
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "reg_tokens": 8,
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "dynamic_img_size": True,
        },
        swiglu=True,
    ),
    "virchow": Foundation(
        "Virchow",
        "paige-ai/Virchow",
        "Apache-2.0",
        "vit_huge_patch14_224",
        2560,
        Sight(side=224, interpolation="bicubic"),
        pooling="class + mean",
        arguments=_VIRCHOW,
        swiglu=True,
    ),
    "virchow2": Foundation(
        "Virchow2",
        "paige-ai/Virchow2",
        NON_COMMERCIAL,
        "vit_huge_patch14_224",
        2560,
        Sight(side=224, interpolation="bicubic"),
        pooling="class + mean",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        swiglu=True,
    ),
    "hoptimus0": Foundation(
        "H-optimus-0",
        "bioptimus/H-optimus-0",
        "Apache-2.0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        Sight((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517), 224, interpolation="bicubic"),
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
    ),
    "gigapath": Foundation(
        "Prov-GigaPath",
        "prov-gigapath/prov-gigapath",
        "Apache-2.0",
        "vit_giant_patch14_dinov2",
        1536,
        Sight(side=224, resized=256, interpolation="bicubic"),
        arguments={
            "img_size": 224,
            "patch_size": 16,
            "depth": 40,
            "num_heads": 24,
            "embed_dim": 1536,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
    ),
    "phikon": Foundation(
        "Phikon",
        "1aurent/vit_base_patch16_224.owkin_pancancer",
        "Owkin, non-commercial",
        "vit_base_patch16_224",
        768,
        gated=False,
    ),
}
"""By the names of TRIDENT's folders; not held line by line against the makers' cards. Weights must fit."""
