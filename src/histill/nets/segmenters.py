"""Segmentation networks: a decoder of segmentation-models-pytorch on any encoder of `nets.encoders`."""

from __future__ import annotations

from typing import Literal

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.nets.encoders import Encoder, OutputStride, build_encoder
from histill.nets.weights import load_into

DecoderName = Literal["deeplabv3plus", "unet"]
FROM_CLASSIFIER = "classifier"
UNET_CHANNELS = (256, 128, 64, 32, 16)


class Segmenter(nn.Module):
    """Encoder, decoder, head: images in 0..1 -> one logit per class and pixel."""

    def __init__(self, encoder: Encoder, decoder: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.head = nn.Conv2d(channels, classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images float [b, 3, h, w], sides multiples of 16 -> logits float32 [b, k, h, w]."""
        maps = pyramid(images, self.encoder)
        logits = self.head(self.decoder(maps))  # [b, k, h / s, w / s]
        return _resized(logits.float(), *images.shape[-2:])  # [b, k, h, w]

    def start(self, weights: str, classifier: Encoder | None = None) -> None:
        """Load the encoder's start weights: see `SegmenterSettings.weights`.

        Args:
            weights: none, a file, a name of the hub, or "classifier".
            classifier: the trunk of the method's own classifier, if it has one.

        Raises:
            HistillError: usage (2) if "classifier" is asked for where there is none; input (4) if its trunk is another.
        """
        if weights != FROM_CLASSIFIER:
            self.encoder.start_from(weights)
        elif classifier is None:
            raise HistillError(
                "this method has no classifier to start from",
                code=Exit.USAGE,
                subject="segmenter.weights",
                mend="Set none, a file or a name of the hub",
            )
        else:
            load_into(self.encoder.trunk(), classifier.trunk().state_dict(), "the classifier's trunk")


class SegmenterSettings(Strict):
    """A segmenter by the names of its parts."""

    encoder: str = "resnet101"
    """squeezenet1_0, resnet38, or any timm encoder with feature maps"""
    weights: str = "imagenet"
    """what the encoder starts from: none, a file (.safetensors, .pth, .npz), a name of the hub, or "classifier": what
    the trunk of stage 1's classifier has learnt, where both are of one kind"""
    decoder: DecoderName = "deeplabv3plus"
    """deeplabv3plus (Chen et al., 2018) or unet (Ronneberger et al., 2015)"""
    output_stride: OutputStride = 16
    """of the encoder; deeplabv3plus takes 8 or 16"""
    atrous_rates: tuple[int, int, int] = (6, 12, 18)
    """dilations of the three ASPP branches"""
    channels: int = 256
    """width of the DeepLabV3+ decoder"""
    separable: bool = False
    """depthwise separable convolutions in the ASPP: several times less to compute"""


def build_segmenter(settings: SegmenterSettings, classes: int) -> Segmenter:
    """A segmenter with one output channel per class, without weights."""
    trunk = build_encoder(settings.encoder, output_stride=settings.output_stride)
    widths = _widths(trunk)
    if settings.decoder == "unet":
        unet = UnetDecoder(widths, UNET_CHANNELS[: len(widths) - 1], n_blocks=len(widths) - 1)
        return Segmenter(trunk, unet, UNET_CHANNELS[len(widths) - 2], classes)
    if settings.output_stride == 32:
        raise HistillError(
            "deeplabv3plus needs an output stride of 8 or 16", code=Exit.USAGE, subject="output_stride", mend="Set 16"
        )
    depth: Literal[4, 5] = 5 if len(widths) > 5 else 4
    plus = DeepLabV3PlusDecoder(
        widths,
        depth,
        settings.channels,
        settings.atrous_rates,
        settings.output_stride,
        settings.separable,
        aspp_dropout=0.5,
    )
    return Segmenter(trunk, plus, settings.channels, classes)


def pyramid(images: Tensor, encoder: Encoder) -> list[Tensor]:
    """The maps as decoders of segmentation-models-pytorch take them: one per halving, the image itself first.

    Each is resized to the image's size / stride, rounded up, where the trunk rounds otherwise. Where an encoder starts
    at stride 4 (transformers), the level between is a map without channels.
    """
    b, _, h, w = images.shape
    maps = [
        _resized(each, -(-h // stride), -(-w // stride))
        for each, stride in zip(encoder(images), encoder.strides, strict=True)
    ]
    first = encoder.strides[0]
    if first == 1:
        return maps
    between = [images.new_empty(b, 0, h // 2, w // 2)] if first == 4 else []
    return [images, *between, *maps]


def _resized(maps: Tensor, h: int, w: int) -> Tensor:
    if maps.shape[-2:] == (h, w):
        return maps
    return F.interpolate(maps, size=(h, w), mode="bilinear", align_corners=False)


def _widths(encoder: Encoder) -> list[int]:
    first = encoder.strides[0]
    return [*([] if first == 1 else [3]), *([0] if first == 4 else []), *encoder.channels]
