"""Which part of a published file is a trunk's, however the file wraps it and whatever else it holds."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet101, squeezenet1_0

from histill.core.errors import Exit, HistillError
from histill.nets.encoders import Encoder, build_encoder
from histill.nets.segmenters import SegmenterSettings, build_segmenter
from histill.nets.weights import load_into, trunk_part

NAMES = {"conv1.weight", "layer1.0.weight", "layer1.0.bias"}


def tensors(*keys: str) -> dict[str, Tensor]:
    return {key: torch.full((1,), float(i)) for i, key in enumerate(keys)}


def unbuilt(name: str) -> Encoder:
    with torch.device("meta"):
        return build_encoder(name, output_stride=32)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder.", "model.encoder.", "module.backbone.", "encoder.network."]
)
def test_wrappers_are_taken_off_and_other_parts_left_out(prefix: str) -> None:
    inside = tensors(*(prefix + name for name in sorted(NAMES)))
    others = tensors(
        "fc.weight", "head.0.weight", "module.classifier.weight", "decoder.conv1.weight", "aspp.conv1.bias"
    )
    part = trunk_part({**others, **inside}, NAMES)
    assert part == {key.removeprefix(prefix): value for key, value in inside.items()}


def test_what_is_of_the_trunks_own_parts_stays_to_be_refused() -> None:
    part = trunk_part(tensors("backbone.layer1.1.weight", *(f"backbone.{name}" for name in NAMES)), NAMES)
    assert part.keys() == {"layer1.1.weight", *NAMES}


def test_of_two_wrapped_trunks_the_one_that_fits_is_taken() -> None:
    weights = tensors("model.layer1.0.bias", *(f"encoder.{name}" for name in sorted(NAMES)))
    assert trunk_part(weights, NAMES) == {name: weights[f"encoder.{name}"] for name in NAMES}


@pytest.mark.parametrize("wrapper", ["", "module.", "backbone."])
def test_torchvisions_resnet101_is_stage_2s(wrapper: str) -> None:
    with torch.device("meta"):
        segmenter = build_segmenter(SegmenterSettings(encoder="resnet101"), 4)
        published = resnet101().state_dict()
    trunk = segmenter.encoder.trunk().state_dict()
    part = segmenter.encoder.fitting({f"{wrapper}{key}": value for key, value in published.items()})
    assert {key: value.shape for key, value in part.items()} == {key: value.shape for key, value in trunk.items()}
    assert {key: part[key] for key in trunk} == {key: published[key] for key in trunk}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("wrapper", ["", "backbone.", "encoder.network."])
def test_a_whole_segmenters_file_gives_its_trunk(suffix: str, wrapper: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    trunk = build_encoder("test_resnet", output_stride=32).trunk().state_dict()
    weights = {f"{wrapper}{key}": value for key, value in trunk.items()}
    weights |= {"decoder.conv1.weight": torch.ones(3), "aspp.conv1.weight": torch.ones(2), "fc.bias": torch.ones(1)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in weights.items()})
    else:
        save_file(weights, path)
    encoder = build_encoder("test_resnet", output_stride=16)
    encoder.start_from(str(path))
    assert all(torch.equal(value, trunk[key]) for key, value in encoder.trunk().state_dict().items())


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("resnet18", "resnet34", "layer1.2.conv1.weight"),
        ("resnet34", "resnet18", "missing: layer1.2.conv1.weight"),
        ("resnet18", "resnet26", "not known here"),
        ("resnet50", "wide_resnet50_2", "of another shape"),
        ("convnext_atto", "convnext_nano", "of another shape"),
    ],
)
def test_a_file_of_the_same_family_does_not_slip_in(name: str, other: str, told: str) -> None:
    encoder = unbuilt(name)
    with torch.device("meta"):
        weights = timm.create_model(other).state_dict()
    with pytest.raises(HistillError) as caught:
        load_into(encoder.trunk(), encoder.fitting(weights), other)
    assert caught.value.code == Exit.INPUT
    assert told in caught.value.what


@pytest.mark.parametrize("name", ["ghostnet_050", "rexnet_100", "convnext_atto", "densenet121"])
def test_a_network_that_loses_more_than_its_head_fits_too(name: str) -> None:
    encoder = unbuilt(name)
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    assert encoder.fitting(whole).keys() == encoder.trunk().state_dict().keys()


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_squeezenets_features_are_its_trunk(wrapper: str) -> None:
    encoder = unbuilt("squeezenet1_0")
    with torch.device("meta"):
        whole = {f"{wrapper}{key}": value for key, value in squeezenet1_0().state_dict().items()}
    assert encoder.fitting(whole).keys() == encoder.trunk().state_dict().keys()
