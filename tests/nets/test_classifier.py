"""The image classifier: its logits, and what it sees through a window."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from histill.nets.classifier import ClassifierSettings, ImageClassifier, build_classifier

SETTINGS = ClassifierSettings(encoder="squeezenet1_0", weights="none", taps=("fire4", "fire8", "fire9"))


def classifier(classes: int = 3) -> ImageClassifier:
    torch.manual_seed(0)
    return build_classifier(SETTINGS, classes).eval()


def images(h: int, w: int) -> Tensor:
    return torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_logit_is_the_mean_of_the_class_map(classes: int) -> None:
    network, batch = classifier(classes), images(48, 64)
    with torch.no_grad():
        features = network.encoder(batch)[-1]
        expected = torch.einsum("bnhw,kn->bk", features, network.head.weight[:, :, 0, 0]) / features[0, 0].numel()
        torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-6)


def test_for_an_image_of_the_windows_size_presence_is_the_classifiers_own_word() -> None:
    network, batch = classifier(), images(48, 48)
    with torch.no_grad():
        own = network(batch).sigmoid()
        found = network.presence(batch, 48)
    torch.testing.assert_close(found, own[..., None, None].expand_as(found))


@pytest.mark.parametrize(("window", "h", "w"), [(40, 96, 80), (32, 96, 80), (40, 48, 112), (32, 112, 32)])
def test_for_other_images_presence_is_a_sliding_mean_that_stays_inside(window: int, h: int, w: int) -> None:
    network, batch = classifier(), images(h, w)
    with torch.no_grad():
        scores = network.head(network.encoder(batch)[-1])
        found = network.presence(batch, window)
    rows, columns = scores.shape[-2:]
    side = window // 8
    tall, wide = min(side, rows), min(side, columns)
    slow = torch.zeros_like(scores)
    for y in range(rows):
        for x in range(columns):
            top = int(np.clip(y - (tall - 1) // 2, 0, rows - tall))
            left = int(np.clip(x - (wide - 1) // 2, 0, columns - wide))
            slow[:, :, y, x] = scores[:, :, top : top + tall, left : left + wide].mean(dim=(2, 3))
    expected = F.interpolate(slow.sigmoid(), size=(h, w), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.std()) > 0
