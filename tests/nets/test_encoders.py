"""Trunks: their taps, their input, their start weights, what is frozen."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import SqueezeNet1_0_Weights

from histill.core.errors import Exit, HistillError
from histill.nets.encoders import Encoder, OutputStride, build_encoder
from histill.nets.weights import load_into

SIZES = [(112, 112), (96, 128), (67, 93)]
# name, output stride, how the trunk rounds; None where its stem is not padded
TRUNKS: list[tuple[str, OutputStride, Any]] = [
    ("squeezenet1_0", 8, None),
    ("squeezenet1_0", 16, None),
    ("resnet18", 32, math.ceil),
    ("resnet18", 16, math.ceil),
    ("vgg11_bn", 32, math.floor),
    ("test_convnext", 32, math.floor),
    ("test_mambaout", 32, math.ceil),  # channels last inside
]


@pytest.fixture(scope="module")
def built() -> dict[tuple[str, int], Encoder]:
    return {(name, stride): build_encoder(name, output_stride=stride).eval() for name, stride, _ in TRUNKS}


@pytest.mark.parametrize(("name", "output_stride", "rounded"), TRUNKS)
def test_taps_have_the_channels_and_strides_they_say(
    name: str, output_stride: int, rounded: Any, built: dict[tuple[str, int], Encoder]
) -> None:
    encoder = built[name, output_stride]
    assert encoder.strides[-1] == output_stride
    for h, w in SIZES:
        with torch.no_grad():
            maps = encoder(torch.rand(1, 3, h, w))
        assert [each.shape[1] for each in maps] == list(encoder.channels)
        for each, stride in zip(maps, encoder.strides, strict=True):
            for side, size in zip(each.shape[-2:], (h, w), strict=True):
                if rounded is None:
                    assert 0 <= size / stride - side <= 3.5
                elif size % 32 == 0:
                    assert side == size / stride
                else:
                    assert math.floor(size / stride) <= side <= math.ceil(size / stride)


@pytest.mark.parametrize(("name", "output_stride"), [("squeezenet1_0", 8), ("resnet18", 32), ("test_mambaout", 32)])
def test_every_tap_lies_on_the_way_to_the_last_map(
    name: str, output_stride: int, built: dict[tuple[str, int], Encoder]
) -> None:
    maps = built[name, output_stride](torch.rand(2, 3, 64, 64))
    for gradient in torch.autograd.grad(maps[-1].sum(), maps):
        assert bool((gradient != 0).any())


def test_maps_of_a_channels_last_trunk_are_its_own(built: dict[tuple[str, int], Encoder]) -> None:
    encoder = built["test_mambaout", 32]
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        own = encoder.trunk()((images - encoder.mean) / encoder.std)
        for mine, its in zip(encoder(images), own, strict=True):
            torch.testing.assert_close(mine, its.permute(0, 3, 1, 2))


def test_an_encoder_normalises_its_input_itself() -> None:
    encoder = build_encoder("resnet18", taps=["layer1"], output_stride=32).eval()
    images = torch.rand(1, 3, 32, 32)
    by_hand = torch.empty_like(images)
    for c, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        by_hand[:, c] = (images[:, c] - mean) / std
    with torch.no_grad():
        (found,), (expected, *_) = encoder(images), encoder.trunk()(by_hand)[1:]
    torch.testing.assert_close(found, expected)
    assert not [key for key in encoder.state_dict() if key in ("mean", "std")]


def test_chosen_taps_come_in_order() -> None:
    encoder = build_encoder("squeezenet1_0", taps=["fire5", "fire8"], output_stride=16)
    assert (encoder.taps, encoder.channels, encoder.strides) == (("fire5", "fire8"), (256, 512), (8, 8))
    assert [each.shape[1] for each in encoder(torch.rand(1, 3, 48, 48))] == [256, 512]


@pytest.mark.parametrize(
    ("name", "taps", "told"),
    [
        ("resnet8", (), "resnet18"),
        ("no such thing at all", (), "list_models"),
        ("squeezenet1_0", ("fire99",), "fire9"),
        ("resnet18", ("layer9",), "layer4"),
        ("resnet18", ("layer3", "layer2"), "layer2, layer3"),
        ("resnet18", ("layer3", "layer3"), "layer2, layer3"),
    ],
)
def test_unknown_names_are_usage_errors_that_name_the_right_ones(name: str, taps: tuple[str, ...], told: str) -> None:
    with pytest.raises(HistillError) as caught:
        build_encoder(name, taps=taps, output_stride=32)
    assert caught.value.code == Exit.USAGE
    assert told in caught.value.mend


def test_a_trunk_that_cannot_be_dilated_says_so() -> None:
    with pytest.raises(HistillError, match="output stride 8") as caught:
        build_encoder("vgg11_bn", output_stride=8)
    assert caught.value.code == Exit.USAGE


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(data_root: Path) -> Path:
    return data_root / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"


def test_squeezenet_computes_what_plain_numpy_computes(data_root: Path, published: Path) -> None:
    script = published.with_name("squeezenet_numpy_forward.py")
    spec = importlib.util.spec_from_file_location("squeezenet_numpy_forward", script)
    assert spec is not None
    assert spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    encoder = build_encoder("squeezenet1_0", taps=["fire9"], output_stride=16)
    encoder.start_from(str(published))
    encoder.eval()
    path = next((data_root / "glas" / "images" / "test").glob("*.png"))
    image = np.array(Image.open(path).convert("RGB"))[:113, :96]
    with torch.no_grad():
        (found,) = encoder(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    expected = oracle.fwd(oracle.prep(image)[None])
    np.testing.assert_allclose(found.mean(dim=(2, 3)).numpy(), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.1


def test_none_loads_nothing() -> None:
    encoder = build_encoder("squeezenet1_0", output_stride=16)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.start_from("none")
    assert not encoder.pretrained
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("test_resnet", ".pth"),
        ("test_resnet", ".safetensors"),
        ("test_convnext", ".safetensors"),
        ("test_mambaout", ".pth"),
        ("vgg11_bn", ".safetensors"),
    ],
)
def test_a_published_file_with_its_head_fits_the_trunk(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = timm.create_model(name, num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in whole.state_dict().items()}}, path)
    else:
        save_file(whole.state_dict(), path)
    encoder = build_encoder(name, output_stride=32)
    encoder.start_from(str(path))
    assert encoder.pretrained
    whole, encoder = whole.eval(), encoder.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        normal = (images - encoder.mean) / encoder.std
        last = whole.forward_intermediates(normal, intermediates_only=True, output_fmt="NCHW")[-1]
        torch.testing.assert_close(encoder(images)[-1], last, rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_refused(published: Path) -> None:
    encoder = build_encoder("resnet18", output_stride=32)
    with pytest.raises(HistillError, match="another architecture") as caught:
        encoder.start_from(str(published))
    assert caught.value.code == Exit.INPUT
    assert not encoder.pretrained


@pytest.mark.parametrize("name", ["squeezenet1_0", "resnet18"])
def test_without_the_hub_the_two_ways_out_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder(name, output_stride=32)

    def offline(*args: object, **options: object) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(SqueezeNet1_0_Weights, "get_state_dict", offline)
    with pytest.raises(HistillError, match="hub") as caught:
        encoder.start_from("imagenet")
    assert caught.value.code == Exit.INPUT
    assert "path" in caught.value.mend
    assert "none" in caught.value.mend
    assert not encoder.pretrained


@pytest.mark.parametrize(("name", "told"), [("squeezenet1_0", "imagenet"), ("resnet18", "a1_in1k")])
def test_an_unknown_name_of_weights_is_no_fault_of_the_hub(name: str, told: str) -> None:
    with pytest.raises(HistillError, match="no weights 'nonne'") as caught:
        build_encoder(name, output_stride=32).start_from("nonne")
    assert caught.value.code == Exit.USAGE
    assert told in caught.value.mend


# --- freezing ---------------------------------------------------------------------------------------------------------


def loaded(name: str) -> Encoder:
    encoder = build_encoder(name, output_stride=32)
    encoder.pretrained = True
    return encoder


def learning(encoder: Encoder) -> set[str]:
    return {name for name, parameter in encoder.trunk().named_parameters() if parameter.requires_grad}


def test_nothing_random_is_frozen() -> None:
    encoder = build_encoder("resnet18", output_stride=32)
    everything = learning(encoder)
    encoder.freeze(through="layer2", norms=True)
    encoder.train()
    assert learning(encoder) == everything
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize(
    ("name", "through", "frozen"),
    [
        ("resnet18", "layer2", ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("squeezenet1_0", "fire4", ("0.", "3.", "4.", "5.")),
        ("test_convnext", "stages.0", ("stem_0.", "stem_1.", "stages_0.")),
    ],
)
def test_all_up_to_a_tap_is_frozen_and_nothing_after(name: str, through: str, frozen: tuple[str, ...]) -> None:
    encoder = loaded(name)
    everything = learning(encoder)
    encoder.freeze(through=through, norms=False)
    assert everything - learning(encoder) == {each for each in everything if each.startswith(frozen)}
    assert learning(encoder)


def test_frozen_norms_stay_in_eval_however_often_the_whole_is_set_to_train() -> None:
    encoder = loaded("resnet18")
    encoder.freeze(through="", norms=True)
    whole = nn.Sequential(encoder, nn.BatchNorm2d(3)).train()
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(module.training for module in norms)
    assert whole[1].training
    before = norms[0].running_mean.clone()
    encoder(torch.rand(2, 3, 64, 64))
    assert torch.equal(norms[0].running_mean, before)


def test_freezing_through_an_unknown_tap_is_refused() -> None:
    for name in ("resnet18", "squeezenet1_0"):
        with pytest.raises(HistillError, match="no tap 'x'"):
            loaded(name).freeze(through="x", norms=False)


def test_a_file_without_batch_counts_fits_too() -> None:
    network = nn.BatchNorm2d(2)
    load_into(network, {key: value for key, value in network.state_dict().items() if "num_batches" not in key}, "x")


@pytest.mark.parametrize(
    ("name", "tap", "deeper"), [("squeezenet1_0", "fire5", "fire8"), ("resnet18", "layer2", "layer4")]
)
def test_a_trunk_ends_with_its_deepest_tap(name: str, tap: str, deeper: str) -> None:
    whole = build_encoder(name, output_stride=32).eval()
    cut = build_encoder(name, taps=[tap], output_stride=32).eval()
    both = build_encoder(name, taps=[tap, deeper], output_stride=32).eval()
    own = cut.trunk().state_dict()
    assert 0 < len(own) < len(both.trunk().state_dict())
    cut.trunk().load_state_dict({key: whole.trunk().state_dict()[key] for key in own})
    both.trunk().load_state_dict({key: whole.trunk().state_dict()[key] for key in both.trunk().state_dict()})
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(cut(images)[0], both(images)[0])
    cut.pretrained = True
    with pytest.raises(HistillError, match=f"no tap '{deeper}'"):
        cut.freeze(through=deeper, norms=False)
