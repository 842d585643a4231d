"""An image classifier whose last map explains its answer: trunk, dropout, global average pool, 1x1 head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.config import Share, Strict
from histill.nets.encoders import Encoder, OutputStride, build_encoder


class ImageClassifier(nn.Module):
    """One logit per class, from the mean over the image of a linear map of the trunk's last map.

    Because pooling and head are linear, ``head(features)`` before pooling is the class activation map itself
    (Zhou et al., 2016).
    """

    def __init__(self, encoder: Encoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(encoder.channels[-1], classes, kernel_size=1, bias=False)
        # Small, so that a trunk without normalisation does not begin with large logits.
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Images float [b, 3, h, w] in 0..1 -> logits float32 [b, k]."""
        return self.classify(self.encoder(images)[-1])

    def classify(self, features: Tensor) -> Tensor:
        """The last map [b, c, h, w] -> logits float32 [b, k]."""
        scores: Tensor = self.head(self.dropout(features))  # [b, k, h, w]
        return scores.float().mean(dim=(2, 3))  # [b, k]

    def presence(self, images: Tensor, window: int) -> Tensor:
        """How likely each class is in the window around each pixel, float32 [b, k, h, w].

        The logit of a window is the mean of the class map over it; at an image's edge the window stays inside. For an
        image of the window's size this is the classifier's own logit, at every pixel.

        Args:
            images: float [b, 3, h, w] in 0..1.
            window: its side in px.
        """
        scores = self.head(self.encoder(images)[-1]).float()  # [b, k, h / s, w / s]
        h, w = scores.shape[-2:]
        side = max(1, window // self.encoder.strides[-1])
        tall, wide = min(side, h), min(side, w)
        pooled = F.avg_pool2d(scores, (tall, wide), stride=1)  # [b, k, h / s - tall + 1, w / s - wide + 1]
        above, left = (tall - 1) // 2, (wide - 1) // 2
        edges = (left, wide - 1 - left, above, tall - 1 - above)
        chances = F.pad(pooled, edges, mode="replicate").sigmoid()  # [b, k, h / s, w / s]
        return F.interpolate(chances, size=images.shape[-2:], mode="bilinear", align_corners=False)  # [b, k, h, w]

    def start(self, settings: ClassifierSettings) -> None:
        """Load the start weights and freeze what the settings say."""
        self.encoder.start_from(settings.weights)
        self.encoder.freeze(through=settings.frozen_through, norms=settings.frozen_norms)


class ClassifierSettings(Strict):
    """A classifier by the names of its parts."""

    encoder: str = "resnet50"
    """squeezenet1_0, resnet38 (the wide one of the papers), or any timm encoder with feature maps"""
    weights: str = "imagenet"
    """what the encoder starts from: none, a file (.safetensors, .pth, .npz, .params), or a name of the hub"""
    taps: tuple[str, ...] = ()
    """the encoder's maps that are looked at, shallow to deep; left out, its last three"""
    output_stride: OutputStride = 8
    """pixels of the image for one of the last map"""
    dropout: Share = 0.5
    """share of the last map's channels that are dropped in training"""
    frozen_through: str = ""
    """with loaded weights: the tap up to which nothing learns"""
    frozen_norms: bool = True
    """with loaded weights: BatchNorms keep their statistics"""


def build_classifier(settings: ClassifierSettings, classes: int) -> ImageClassifier:
    """A classifier of so many classes, without weights."""
    taps = settings.taps or build_encoder(settings.encoder, output_stride=32).taps[-3:]
    encoder = build_encoder(settings.encoder, taps=taps, output_stride=settings.output_stride)
    return ImageClassifier(encoder, classes, settings.dropout)
