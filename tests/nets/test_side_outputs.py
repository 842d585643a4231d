"""Side outputs and their fusion, on several trunks."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from histill.core.errors import Exit, HistillError
from histill.nets.encoders import build_encoder
from histill.nets.side_outputs import SideOutputs, SideOutputSettings, build_side_outputs

TRUNKS = {
    "vgg16_bn": (("features.5", "features.12", "features.22"), (64, 128, 256), (1, 2, 4)),
    "squeezenet1_0": (("conv1", "fire4", "fire8"), (96, 256, 512), (2, 4, 8)),
    "resnet18": (("act1", "layer1", "layer2"), (64, 64, 128), (2, 4, 8)),
}


def network(encoder: str = "squeezenet1_0", **values: object) -> SideOutputs:
    torch.manual_seed(0)
    settings = {"encoder": encoder, "weights": "none", **values}
    return build_side_outputs(SideOutputSettings.model_validate(settings)).eval()


@pytest.mark.parametrize("name", TRUNKS)
def test_sides_are_the_trunks_first_maps_and_the_last_output_is_their_sum(name: str) -> None:
    net = network(name)
    assert (net.encoder.taps, net.encoder.channels, net.encoder.strides) == TRUNKS[name]
    images = torch.rand(2, 3, 48, 80)
    with torch.no_grad():
        found = net(images)
        maps = net.encoder(images)
        sides = []
        for side, each in zip(net.sides, maps, strict=True):
            weight, bias = side.get_parameter("weight"), side.get_parameter("bias")
            logits = (each * weight.view(1, -1, 1, 1)).sum(dim=1, keepdim=True) + bias
            grown = F.interpolate(logits, size=(48, 80), mode="bilinear", align_corners=False)
            sides.append((1 / (1 + torch.exp(-grown)))[:, 0])
    assert found.shape == (2, 4, 48, 80)
    for i, side in enumerate(sides):
        torch.testing.assert_close(found[:, i], side, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:, 3], 0.3 * sides[0] + 0.3 * sides[1] + 0.4 * sides[2], rtol=1e-4, atol=1e-5)
    assert found.std() > 0


@pytest.mark.parametrize("name", TRUNKS)
def test_every_weight_learns_and_nothing_deeper_is_carried_along(name: str) -> None:
    net = network(name).train()
    net(torch.rand(2, 3, 32, 32)).sum().backward()
    assert [key for key, value in net.named_parameters() if value.grad is None] == []


def test_a_fused_map_is_never_above_1() -> None:
    net = network(fusion=(0.1, 0.6, 0.1, 0.2))
    assert float(net.weights.sum(dim=0)) > 1  # in float32
    with torch.no_grad():
        for side in net.sides:
            side.get_parameter("bias").fill_(200)
        assert bool((net(torch.rand(1, 3, 32, 32))[:, -1] <= 1).all())


def test_taps_and_weights_are_a_choice() -> None:
    net = network(taps=("fire4", "fire8"), fusion=(0.25, 0.75))
    assert net.encoder.taps == ("fire4", "fire8")
    found = net(torch.rand(1, 3, 32, 32))
    assert found.shape == (1, 3, 32, 32)
    torch.testing.assert_close(found[:, 2], 0.25 * found[:, 0] + 0.75 * found[:, 1])


def test_under_autocast_outputs_are_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network()(torch.rand(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"fusion": (0.3, 0.3, 0.3)}, "sum to 0.9"),
        ({"fusion": (0.5, 0.5), "taps": ("fire4",)}, "2 weights for 1 taps"),
        ({"fusion": (0.2,) * 5}, "5 weights for 4 taps"),
        ({"taps": ("fire4", "fire8", "fire10")}, "no tap 'fire10'"),
        ({"taps": ("fire8", "fire4", "fire9")}, "shallow to deep"),
    ],
)
def test_settings_that_fit_no_trunk_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(HistillError) as caught:
        network(**values)
    assert told in str(caught.value)
    assert caught.value.code == Exit.USAGE


def test_start_weights_are_the_files_as_far_as_the_trunk_goes(tmp_path: object) -> None:
    whole = build_encoder("squeezenet1_0", output_stride=32)
    path = f"{tmp_path}/whole.npz"
    np.savez(path, **{f"features.{key}": value.numpy() for key, value in whole.trunk().state_dict().items()})
    settings = SideOutputSettings(encoder="squeezenet1_0", weights=path)
    net = build_side_outputs(settings)
    net.start(settings)
    own = net.encoder.trunk().state_dict()
    assert 0 < len(own) < len(whole.trunk().state_dict())
    for key, value in own.items():
        assert torch.equal(value, whole.trunk().state_dict()[key])


def test_the_published_vgg_holds_all_that_its_first_stages_need() -> None:
    with torch.device("meta"):
        published = timm.create_model("vgg16_bn").state_dict()
    encoder = network("vgg16_bn").encoder
    own = encoder.trunk().state_dict()
    part = encoder.fitting(dict(published))
    assert {key: value.shape for key, value in part.items()} == {key: value.shape for key, value in own.items()}
