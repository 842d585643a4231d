"""Segmenters and classifiers: every decoder on every kind of trunk gives a logit per class and pixel."""

from typing import Any

import pytest
import torch

from histill.core.errors import Exit, HistillError
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.segmenters import Segmenter, SegmenterSettings, build_segmenter, pyramid

PAIRS: list[tuple[str, str, int]] = [
    ("deeplabv3plus", "squeezenet1_0", 8),
    ("deeplabv3plus", "squeezenet1_0", 16),
    ("deeplabv3plus", "resnet18", 8),
    ("deeplabv3plus", "resnet18", 16),
    ("deeplabv3plus", "test_convnext", 16),
    ("unet", "squeezenet1_0", 8),
    ("unet", "squeezenet1_0", 16),
    ("unet", "resnet18", 32),
    ("unet", "test_convnext", 32),
    ("unet", "test_mambaout", 32),
    ("unet", "vgg11_bn", 32),
]


def settings(**values: Any) -> SegmenterSettings:
    return SegmenterSettings(weights="none", channels=16, atrous_rates=(1, 2, 3), **values)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    decoder, encoder, stride = request.param
    torch.manual_seed(0)
    return build_segmenter(settings(decoder=decoder, encoder=encoder, output_stride=stride), 3).eval()


@pytest.mark.parametrize(("h", "w"), [(112, 112), (96, 128)])
def test_one_logit_per_class_and_pixel(segmenter: Segmenter, h: int, w: int) -> None:
    images = torch.rand(2, 3, h, w)
    with torch.no_grad():
        logits = segmenter(images)
        maps = pyramid(images, segmenter.encoder)
    assert logits.shape == (2, 3, h, w)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0
    expected = [(-(-h // s), -(-w // s)) for s in segmenter.encoder.strides]
    assert [each.shape[-2:] for each in maps[-len(expected) :]] == expected


def test_every_part_learns() -> None:
    segmenter = build_segmenter(settings(encoder="squeezenet1_0", separable=True), 3)
    segmenter(torch.rand(2, 3, 48, 48)).square().mean().backward()
    still = [name for name, parameter in segmenter.named_parameters() if parameter.grad is None]
    assert not still


def test_deeplab_at_stride_32_is_refused() -> None:
    with pytest.raises(HistillError, match="8 or 16") as caught:
        build_segmenter(settings(encoder="resnet18", output_stride=32), 3)
    assert caught.value.code == Exit.USAGE


# --- classifier -------------------------------------------------------------------------------------------------------


def test_logits_are_the_pooled_class_map() -> None:
    classifier = build_classifier(ClassifierSettings(encoder="squeezenet1_0", weights="none"), 3).eval()
    images = torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        last = classifier.encoder(images)[-1]
        weight = classifier.head.weight[:, :, 0, 0]
        by_hand = torch.stack([torch.stack([(weight[k] * f.mean(dim=(1, 2))).sum() for k in range(3)]) for f in last])
        torch.testing.assert_close(classifier(images), by_hand, rtol=1e-4, atol=1e-5)


def test_the_last_three_taps_are_the_default() -> None:
    classifier = build_classifier(ClassifierSettings(encoder="squeezenet1_0", weights="none"), 3)
    assert classifier.encoder.taps == ("fire4", "fire8", "fire9")
    assert classifier.encoder.strides[-1] == 8
    chosen = ClassifierSettings(encoder="resnet18", weights="none", taps=("layer2", "layer4"), output_stride=16)
    assert build_classifier(chosen, 3).encoder.taps == ("layer2", "layer4")


def test_the_trunk_is_frozen_only_once_it_is_loaded() -> None:
    chosen = ClassifierSettings(encoder="squeezenet1_0", weights="none", frozen_through="fire9")
    classifier = build_classifier(chosen, 3)
    classifier.start(chosen)
    assert all(parameter.requires_grad for parameter in classifier.parameters())
