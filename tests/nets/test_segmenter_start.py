"""Where a segmenter's trunk starts from."""

import pytest
import torch

from histill.core.errors import Exit, HistillError
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.segmenters import SegmenterSettings, build_segmenter

SQUEEZENET = SegmenterSettings(encoder="squeezenet1_0", channels=8, separable=True)


def test_the_classifiers_trunk_is_taken_whole() -> None:
    classifier = build_classifier(ClassifierSettings(encoder="squeezenet1_0", taps=("fire6", "fire8", "fire9")), 3)
    segmenter = build_segmenter(SQUEEZENET, 3)
    segmenter.start("classifier", classifier.encoder)
    theirs = classifier.encoder.trunk().state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in segmenter.encoder.trunk().state_dict().items())


def test_another_trunk_or_none_is_refused() -> None:
    segmenter = build_segmenter(SQUEEZENET, 3)
    with pytest.raises(HistillError, match="no classifier") as none:
        segmenter.start("classifier")
    assert none.value.code == Exit.USAGE
    other = build_classifier(ClassifierSettings(encoder="test_resnet"), 3)
    with pytest.raises(HistillError, match="another architecture") as another:
        segmenter.start("classifier", other.encoder)
    assert another.value.code == Exit.INPUT
