"""The wide ResNet-38: its shape as published, its blocks, its taps, its files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from params_files import params_file
from safetensors.torch import save_file
from torch import Tensor, nn

from histill.core.errors import Exit, HistillError
from histill.nets.classifier import ClassifierSettings, build_classifier
from histill.nets.encoders import ResNet38Encoder, build_encoder
from histill.nets.resnet38 import Bottleneck, ResNet38, WideBlock, mxnet_name
from histill.nets.segmenters import SegmenterSettings, build_segmenter

Array = NDArray[np.float64]
NARROWER = 16
# name: channels and side of its map for an image of 224 px, as published
MAPS = {
    "conv1a": (64, 224),
    **dict.fromkeys(("b2", "b2_1", "b2_2"), (128, 112)),
    **dict.fromkeys(("b3", "b3_1", "b3_2"), (256, 56)),
    **dict.fromkeys(("b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"), (512, 28)),
    **dict.fromkeys(("b5", "b5_1", "b5_2"), (1024, 28)),
    "b6": (2048, 28),
    "b7": (4096, 28),
    "bn7": (4096, 28),
}


@pytest.fixture(scope="module")
def whole() -> ResNet38:
    with torch.device("meta"):
        return ResNet38()


@pytest.fixture
def narrow() -> ResNet38Encoder:
    torch.manual_seed(3)
    encoder = ResNet38Encoder(narrower=NARROWER)
    for norm in norms(encoder):
        for numbers in (norm.weight, norm.running_var):
            nn.init.uniform_(numbers, 0.5, 1.5)
        for numbers in (norm.bias, norm.running_mean):
            nn.init.normal_(numbers, std=0.2)
    return encoder.eval()


def norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


# --- the network as published ---------------------------------------------------------------------------------------


def test_every_map_is_as_published(whole: ResNet38) -> None:
    maps = whole(torch.empty(2, 3, 224, 224, device="meta"), list(MAPS))
    assert [tuple(each.shape[1:]) for each in maps] == [(c, side, side) for c, side in MAPS.values()]
    assert whole.channels == {name: c for name, (c, _) in MAPS.items()}
    assert whole.strides == {name: 224 // side for name, (_, side) in MAPS.items()}


def test_the_number_of_parameters_is_known(whole: ResNet38) -> None:
    def block(inputs: int, middle: int, outputs: int) -> int:
        shortcut = 0 if inputs == outputs else inputs * outputs
        return 9 * (inputs * middle + middle * outputs) + shortcut + 2 * (inputs + middle)

    def bottleneck(inputs: int, outputs: int) -> int:
        a, b = outputs // 4, outputs // 2
        return inputs * a + 9 * a * b + b * outputs + inputs * outputs + 2 * (inputs + a + b)

    expected = 3 * 64 * 9 + block(64, 128, 128) + 2 * block(128, 128, 128)
    expected += block(128, 256, 256) + 2 * block(256, 256, 256)
    expected += block(256, 512, 512) + 5 * block(512, 512, 512)
    expected += block(512, 512, 1024) + 2 * block(1024, 512, 1024)
    expected += bottleneck(1024, 2048) + bottleneck(2048, 4096) + 2 * 4096
    assert sum(each.numel() for each in whole.parameters()) == expected == 105_070_912


@pytest.mark.parametrize(
    ("output_stride", "strided", "dilated"),
    [
        (8, {"b2", "b3", "b4"}, {"b5": 2, "b5_1": 2, "b5_2": 2, "b6": 4, "b7": 4}),
        (16, {"b2", "b3", "b4", "b5"}, {"b6": 2, "b7": 2}),
        (32, {"b2", "b3", "b4", "b5", "b6"}, {}),
    ],
)
def test_below_a_stride_of_32_stages_dilate_instead(
    output_stride: int, strided: set[str], dilated: dict[str, int]
) -> None:
    with torch.device("meta"):
        network = ResNet38(output_stride)
        (last,) = network(torch.empty(1, 3, 64, 96))
    assert last.shape == (1, 4096, 64 // output_stride, 96 // output_stride)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        block, _, layer = name.partition(".")
        # The first convolution after a change still looks at what the stage before it was dense in.
        dilation = dilated.get(block, 1) if module.kernel_size == (3, 3) and name != "b5.conv_branch2a" else 1
        assert module.dilation == (dilation, dilation), name
        stride = 2 if block in strided and layer in ("conv_branch2a", "conv_branch1") else 1
        assert module.stride == (stride, stride), name
        assert module.bias is None


# --- blocks against slow, obvious versions --------------------------------------------------------------------------


def convolved(x: Array, conv: nn.Module) -> Array:
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.detach().numpy().astype(float)
    size, step, apart = weight.shape[-1], conv.stride[0], conv.dilation[0]
    reach = apart * (size // 2)
    c, h, w = x.shape
    found = np.zeros((len(weight), -(-h // step), -(-w // step)))
    for d, i, j in np.ndindex(*found.shape):
        for n, k, m in np.ndindex(c, size, size):
            y, z = i * step + k * apart - reach, j * step + m * apart - reach
            if 0 <= y < h and 0 <= z < w:
                found[d, i, j] += weight[d, n, k, m] * x[n, y, z]
    return found


def activated(x: Array, norm: nn.Module) -> Array:
    numbers = {key: value.detach().numpy().astype(float) for key, value in norm.state_dict().items()}
    found = np.empty_like(x)
    for n in range(len(x)):
        standard = (x[n] - numbers["running_mean"][n]) / np.sqrt(numbers["running_var"][n] + 1e-5)
        found[n] = np.maximum(0, standard * numbers["weight"][n] + numbers["bias"][n])
    return found


def by_hand(x: Array, block: WideBlock | Bottleneck) -> Array:
    active = activated(x, block.bn_branch2a)
    branch = convolved(active, block.conv_branch2a)
    branch = convolved(activated(branch, block.bn_branch2b1), block.conv_branch2b1)
    if isinstance(block, Bottleneck):
        branch = convolved(activated(branch, block.bn_branch2b2), block.conv_branch2b2)
    return branch + (x if block.conv_branch1 is None else convolved(active, block.conv_branch1))


@pytest.mark.parametrize("name", ["b2", "b2_1", "b5", "b5_1", "b6"])
def test_a_block_computes_what_loops_compute(name: str) -> None:
    torch.manual_seed(7)
    block = ResNet38Encoder(narrower=64).trunk().get_submodule(name)
    assert isinstance(block, WideBlock | Bottleneck)
    for norm in norms(block):
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(1, block.bn_branch2a.num_features, 6, 5)
    with torch.no_grad():
        found = block.eval()(x)[0]
    expected = by_hand(x[0].numpy().astype(float), block)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


def test_the_last_map_is_activated_and_the_others_are_what_goes_on(narrow: ResNet38Encoder) -> None:
    images = torch.rand(2, 3, 48, 32)
    network = narrow.network
    with torch.no_grad():
        *_, b5, b5_1, b7, last = network(images, ["b5", "b5_1", "b7", "bn7"])
        torch.testing.assert_close(b5_1, network.get_submodule("b5_1")(b5))
        torch.testing.assert_close(last, network.bn7(b7).relu())
    assert float(b5.min()) < 0
    assert float(last.min()) == 0


def test_dropout_is_before_the_last_convolutions_and_in_training_alone(narrow: ResNet38Encoder) -> None:
    shares = {name: each.p for name, each in narrow.trunk().named_modules() if isinstance(each, nn.Dropout2d)}
    assert shares == {"b6.dropout_2b1": 0.3, "b6.dropout_2b2": 0.3, "b7.dropout_2b1": 0.5, "b7.dropout_2b2": 0.5}
    narrow.pretrained = True
    narrow.freeze(through="", norms=True)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        once, again = narrow(images), narrow(images)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
        dropped, otherwise = narrow.train()(images), narrow(images)
    assert all(torch.equal(a, b) for a, b in zip(dropped[:-1], once[:-1], strict=True))
    assert not torch.allclose(dropped[-1], otherwise[-1])


# --- as an encoder --------------------------------------------------------------------------------------------------


def test_by_name_it_has_the_papers_taps_at_the_papers_resolution() -> None:
    with torch.device("meta"):
        settings = ClassifierSettings(encoder="resnet38", weights="none")
        encoder = build_classifier(settings, 4).encoder
        maps = encoder(torch.empty(2, 3, 224, 224))
    assert (encoder.taps, encoder.channels) == (("b4_5", "b5_2", "bn7"), (512, 1024, 4096))
    assert encoder.strides == (8, 8, 8)
    assert [tuple(each.shape) for each in maps] == [(2, c, 28, 28) for c in (512, 1024, 4096)]


@pytest.mark.parametrize("settings", [{"output_stride": 8}, {}, {"decoder": "unet", "output_stride": 32}])
def test_decoders_take_its_maps(settings: dict[str, object]) -> None:
    with torch.device("meta"):
        segmenter = build_segmenter(SegmenterSettings.model_validate({"encoder": "resnet38", **settings}), 5).eval()
        assert segmenter(torch.empty(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_images_go_in_as_they_are(narrow: ResNet38Encoder) -> None:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(narrow(images)[-1], narrow.network(images)[-1])


def test_every_tap_lies_on_the_way_to_the_last_map(narrow: ResNet38Encoder) -> None:
    maps = narrow(torch.rand(1, 3, 32, 32))
    for gradient in torch.autograd.grad(maps[-1].sum(), maps):
        assert bool((gradient != 0).any())


def test_taps_are_any_blocks_in_order() -> None:
    encoder = ResNet38Encoder(["conv1a", "b4", "b7"], narrower=NARROWER)
    assert (encoder.channels, encoder.strides) == ((4, 32, 256), (1, 8, 8))
    with pytest.raises(HistillError, match="no tap 'b4_6'") as caught:
        ResNet38Encoder(["b4_6"], narrower=NARROWER)
    assert "b4_5, b5, b5_1" in caught.value.mend
    with pytest.raises(HistillError, match="no tap 'x'"):
        loaded(ResNet38Encoder(narrower=NARROWER)).freeze(through="x", norms=False)


def loaded(encoder: ResNet38Encoder) -> ResNet38Encoder:
    encoder.pretrained = True
    return encoder


def test_frozen_through_b2_2_as_published(narrow: ResNet38Encoder) -> None:
    encoder = loaded(narrow)
    encoder.freeze(through="b2_2", norms=True)
    encoder.train()
    learning = {name.partition(".")[0] for name, each in encoder.trunk().named_parameters() if each.requires_grad}
    assert learning == MAPS.keys() - {"conv1a", "b2", "b2_1", "b2_2"}
    frozen = {name.partition(".")[0] for name, each in encoder.trunk().named_parameters() if not each.requires_grad}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert len(list(norms(encoder))) == 37
    assert not any(norm.training for norm in norms(encoder))
    assert all(module.training for module in encoder.modules() if isinstance(module, nn.Dropout2d))


def test_nothing_of_it_is_on_the_hub() -> None:
    with pytest.raises(HistillError, match="no weights 'imagenet' of resnet38") as caught:
        ResNet38Encoder(narrower=NARROWER).start_from("imagenet")
    assert caught.value.code == Exit.USAGE
    assert ".params" in caught.value.mend


# --- its files ------------------------------------------------------------------------------------------------------


def published_names() -> dict[str, str]:
    """The authors' name of every array -> the name in the field's PyTorch files, spelt out without the code's rule."""
    blocks = {"2a": "b2", "2b1": "b2_1", "2b2": "b2_2", "3a": "b3", "3b1": "b3_1", "3b2": "b3_2", "4a": "b4"}
    blocks |= {"4b1": "b4_1", "4b2": "b4_2", "4b3": "b4_3", "4b4": "b4_4", "4b5": "b4_5", "5a": "b5", "5b1": "b5_1"}
    blocks |= {"5b2": "b5_2", "6a": "b6", "7a": "b7"}
    names = {"arg:conv1a_weight": "conv1a.weight"}
    found = [("bn7", "bn7")]
    for theirs, ours in blocks.items():
        branches = ["branch2a", "branch2b1", *(["branch2b2"] if theirs in ("6a", "7a") else [])]
        found += [(f"bn{theirs}_{branch}", f"{ours}.bn_{branch}") for branch in branches]
        if theirs.endswith("a"):
            branches.append("branch1")
        names |= {f"arg:res{theirs}_{branch}_weight": f"{ours}.conv_{branch}.weight" for branch in branches}
    for theirs, ours in found:
        names |= {f"arg:{theirs}_gamma": f"{ours}.weight", f"arg:{theirs}_beta": f"{ours}.bias"}
        names |= {
            f"aux:{theirs}_moving_mean": f"{ours}.running_mean",
            f"aux:{theirs}_moving_var": f"{ours}.running_var",
        }
    return names


def published(encoder: ResNet38Encoder) -> dict[str, NDArray[np.float32]]:
    """A network's numbers as the authors publish theirs, with the classification layer."""
    state = encoder.trunk().state_dict()
    arrays = {theirs: state[ours].numpy() for theirs, ours in published_names().items()}
    random = np.random.default_rng(0)
    arrays["arg:linear1000_weight"] = random.normal(size=(1000, 8)).astype("f4")
    arrays["arg:linear1000_bias"] = random.normal(size=1000).astype("f4")
    return arrays


def same(one: ResNet38Encoder, other: ResNet38Encoder) -> bool:
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        maps = zip(one.eval()(images), other.eval()(images), strict=True)
        return all(torch.equal(a, b) for a, b in maps)


def test_every_parameter_has_its_name(whole: ResNet38) -> None:
    keys = {key for key in whole.state_dict() if not key.endswith("num_batches_tracked")}
    names = {name.partition(":")[2]: key for name, key in published_names().items()}
    assert {mxnet_name(key): key for key in keys} == names


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_authors_file_fills_it(version: int, narrow: ResNet38Encoder, tmp_path: Path) -> None:
    path = tmp_path / "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
    path.write_bytes(params_file(published(narrow), version))
    fresh = ResNet38Encoder(narrower=NARROWER)
    assert not same(fresh, narrow)
    fresh.start_from(str(path))
    assert fresh.pretrained
    assert same(fresh, narrow)


def test_names_without_their_kind_are_known_too(narrow: ResNet38Encoder, tmp_path: Path) -> None:
    bare = {name.partition(":")[2]: array for name, array in published(narrow).items()}
    np.savez(tmp_path / "converted.npz", **bare)
    fresh = ResNet38Encoder(narrower=NARROWER)
    fresh.start_from(str(tmp_path / "converted.npz"))
    assert same(fresh, narrow)


def test_gammas_that_are_fixed_are_1(narrow: ResNet38Encoder, tmp_path: Path) -> None:
    arrays = {name: array for name, array in published(narrow).items() if not name.endswith("gamma")}
    (tmp_path / "w.params").write_bytes(params_file(arrays))
    narrow.start_from(str(tmp_path / "w.params"))
    assert all(bool((norm.weight == 1).all()) for norm in norms(narrow))


FAULTS = {
    "one is missing": (lambda a: a.pop("arg:res5b1_branch2a_weight"), "1 missing: b5_1.conv_branch2a.weight"),
    "a gamma is missing": (lambda a: a.pop("arg:bn7_gamma"), "1 missing: bn7.weight"),
    "one more": (lambda a: a.update({"arg:res4b6_branch2a_weight": np.ones(1)}), "not known here: arg:res4b6_branch2a"),
    "another shape": (lambda a: a.update({"arg:conv1a_weight": np.ones((2, 3, 3, 3))}), "conv1a.weight (2, 3, 3, 3)"),
    "twice": (lambda a: a.update({"bn7_beta": a["arg:bn7_beta"]}), "twice"),
    "bias": (lambda a: a.update({"arg:conv1a_bias": np.ones(4)}), "not known here: arg:conv1a_bias"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused_whole(fault: str, narrow: ResNet38Encoder, tmp_path: Path) -> None:
    change, told = FAULTS[fault]
    arrays = published(narrow)
    change(arrays)
    (tmp_path / "w.params").write_bytes(params_file(arrays))
    fresh = ResNet38Encoder(narrower=NARROWER)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(HistillError) as caught:
        fresh.start_from(str(tmp_path / "w.params"))
    assert caught.value.code == Exit.INPUT
    assert told in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())
    assert not fresh.pretrained


def test_a_file_of_the_fields_pytorch_kin_loads_without_its_head(narrow: ResNet38Encoder, tmp_path: Path) -> None:
    state: dict[str, Tensor] = {f"module.{key}": value for key, value in narrow.trunk().state_dict().items()}
    state["module.fc8.weight"] = torch.ones(4, 256, 1, 1)
    torch.save(state, tmp_path / "res38.pth")
    fresh = ResNet38Encoder(narrower=NARROWER)
    fresh.start_from(str(tmp_path / "res38.pth"))
    assert same(fresh, narrow)


def test_what_it_saves_it_reads(narrow: ResNet38Encoder, tmp_path: Path) -> None:
    save_file(narrow.trunk().state_dict(), tmp_path / "w.safetensors")
    fresh = ResNet38Encoder(narrower=NARROWER)
    fresh.start_from(str(tmp_path / "w.safetensors"))
    assert same(fresh, narrow)


def test_only_at_its_full_width_do_published_files_fit(narrow: ResNet38Encoder, tmp_path: Path) -> None:
    (tmp_path / "w.params").write_bytes(params_file(published(narrow)))
    with torch.device("meta"):
        encoder = build_encoder("resnet38", output_stride=8)
    with pytest.raises(HistillError, match="of another shape"):
        encoder.start_from(str(tmp_path / "w.params"))
