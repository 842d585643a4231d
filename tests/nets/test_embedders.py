"""Encoders that make one vector of a tile: the published facts, how images are brought to them, and their weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms import v2

from histill.core.errors import Exit, HistillError
from histill.nets.embedders import FoundationEmbedder, build_embedder
from histill.nets.encoders import IMAGENET_MEAN, IMAGENET_STD
from histill.nets.foundations import FOUNDATIONS, Foundation, Sight

# The interface of a foundation model, in 0.1 million parameters: tokens, registers, gated layers.
TINY = Foundation(
    "Tiny",
    "nobody/tiny",
    "Apache-2.0",
    "test_vit",
    64,
    Sight((0.7, 0.6, 0.7), (0.2, 0.2, 0.2), 64, interpolation="bicubic"),
    arguments={"img_size": 64, "reg_tokens": 4, "init_values": 1e-5},
    swiglu=True,
)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 80, 80, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_what_is_said_of_published_models_holds_of_their_networks(name: str) -> None:
    told = FOUNDATIONS[name]
    with torch.device("meta"):
        # One block of the dozens: they are alike.
        embedder = FoundationEmbedder(name, replace(told, arguments={**told.arguments, "depth": 1}))
        vectors = embedder.vectors(torch.zeros(1, 3, told.sight.side or 0, told.sight.side or 0))
    assert vectors.shape == (1, told.width)
    assert told.licence
    assert not any(key.startswith("head.") for key in embedder.trunk().state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUNDATIONS)
def test_published_models_have_the_published_size(name: str) -> None:
    # In millions, as these models are known.
    millions = {"uni_v1": 303, "uni_v2": 681, "virchow": 631, "virchow2": 631, "hoptimus0": 1135, "gigapath": 1135}
    with torch.device("meta"):
        embedder = FoundationEmbedder(name, FOUNDATIONS[name])
    found = sum(each.numel() for each in embedder.trunk().parameters()) / 1e6
    assert found == pytest.approx(millions.get(name, 86), abs=1)


def test_the_class_token_and_the_mean_of_the_patches_without_registers(images: Tensor) -> None:
    small = images[..., :64, :64]
    plain = FoundationEmbedder("tiny", TINY).eval()
    both = FoundationEmbedder("tiny", replace(TINY, pooling="class + mean")).eval()
    with torch.inference_mode():
        x = (small - torch.tensor([0.7, 0.6, 0.7]).view(3, 1, 1)) / 0.2
        tokens = both.trunk().forward_features(x)  # type: ignore[operator]
        assert tokens.shape == (3, 1 + 4 + 16, 64)
        assert torch.allclose(plain(small), tokens[:, 0], atol=1e-6)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1)
        assert torch.allclose(both(small), expected, atol=1e-6)


@pytest.mark.parametrize("resized", [None, 72])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_images_are_resized_and_cut_as_torchvision_does(how: str, resized: int | None, images: Tensor) -> None:
    sight = Sight(side=64, resized=resized, interpolation=how)  # type: ignore[arg-type]
    embedder = FoundationEmbedder("tiny", replace(TINY, sight=sight))
    mode = v2.InterpolationMode.BICUBIC if how == "bicubic" else v2.InterpolationMode.BILINEAR
    theirs = v2.Compose([v2.Resize(resized or 64, interpolation=mode, antialias=True), v2.CenterCrop(64)])
    found = embedder._seen(images)
    assert found.shape == (3, 3, 64, 64)
    assert torch.allclose(found, theirs(images).clamp(0, 1), atol=1e-6)


def test_images_of_the_right_size_are_not_touched(images: Tensor) -> None:
    small = images[..., :64, :64]
    assert torch.equal(FoundationEmbedder("tiny", TINY)._seen(small), small)


def test_squeezenet_is_the_mean_of_its_last_map(images: Tensor) -> None:
    from torchvision.models import squeezenet1_0

    embedder = build_embedder("squeezenet1_0", "none")
    network = squeezenet1_0(weights=None)
    network.features.load_state_dict(embedder.trunk().state_dict())
    x = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.inference_mode():
        assert torch.allclose(embedder(images), network.features.eval()(x).mean((2, 3)), atol=1e-6)
        assert embedder(images).shape == (3, 512)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "resnet18"])
def test_any_timm_network_gives_its_pooled_features(name: str, images: Tensor, tmp_path: Path) -> None:
    whole = timm.create_model(name).eval()  # with its head, as files are published
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    embedder = build_embedder(name, str(tmp_path / "w.safetensors"))
    assert embedder.weights == "w.safetensors"
    told = whole.pretrained_cfg
    side = told["input_size"][-1] if told["fixed_input_size"] else 80
    x = images if side == 80 else F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    x = (x - torch.tensor(told["mean"]).view(3, 1, 1)) / torch.tensor(told["std"]).view(3, 1, 1)
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(x), pre_logits=True)
        assert torch.allclose(embedder(images), expected, atol=1e-5)


def test_a_published_file_is_loaded_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOUNDATIONS, "tiny", TINY)  # type: ignore[arg-type]
    # What published files hold: the network's own keys, bare.
    weights = {
        key: torch.rand_like(value) for key, value in FoundationEmbedder("tiny", TINY).trunk().state_dict().items()
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    embedder = build_embedder("tiny", str(tmp_path / "pytorch_model.bin"))
    assert all(torch.equal(value, weights[key]) for key, value in embedder.trunk().state_dict().items())
    assert not embedder.training
    assert not any(each.requires_grad for each in embedder.parameters())
    torch.save({**weights, "pos_embed": torch.zeros(1, 5, 64)}, tmp_path / "other.bin")
    with pytest.raises(HistillError, match="of another shape") as caught:
        build_embedder("tiny", str(tmp_path / "other.bin"))
    assert caught.value.code == Exit.INPUT


def test_the_hubs_weights_are_loaded_as_a_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOUNDATIONS, "tiny", TINY)  # type: ignore[arg-type]
    weights = {
        key: torch.rand_like(value) for key, value in FoundationEmbedder("tiny", TINY).trunk().state_dict().items()
    }
    asked = []

    def fetch(repository: str, *, weights_only: bool) -> dict[str, Tensor]:
        asked.append((repository, weights_only))
        return weights

    monkeypatch.setattr("timm.models.load_state_dict_from_hf", fetch)
    embedder = build_embedder("tiny")
    assert asked == [("nobody/tiny", True)]
    assert embedder.weights == "nobody/tiny"
    assert torch.equal(embedder.trunk().state_dict()["norm.weight"], weights["norm.weight"])


@pytest.mark.parametrize("name", ["tiny", "test_vit", "squeezenet1_0"])
def test_without_a_network_the_error_names_two_ways_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(FOUNDATIONS, "tiny", TINY)  # type: ignore[arg-type]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(HistillError) as caught:
        build_embedder(name)
    assert caught.value.code == Exit.INPUT
    assert "Either" in caught.value.mend
    assert "--weights FILE" in caught.value.mend
    assert ("accept its licence" in caught.value.mend) == (name == "tiny")


def test_names_that_are_none() -> None:
    with pytest.raises(HistillError, match="did you mean 'hoptimus0'") as caught:
        build_embedder("hoptimus")
    assert caught.value.code == Exit.USAGE
    with pytest.raises(HistillError, match="no weights 'imagenet' of phikon"):
        build_embedder("phikon", "imagenet")
    with pytest.raises(HistillError, match="no weights 'best' of resnet18"):
        build_embedder("resnet18", "best")


def test_random_weights_are_the_same_every_time_and_nobody_else_draws_otherwise() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = build_embedder("test_vit", "none")
    assert torch.equal(torch.rand(4), expected)
    assert build_embedder("test_vit", "none").digest == first.digest


def test_the_digest_tells_weights_and_ways_of_seeing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = FoundationEmbedder("tiny", TINY)
    other = FoundationEmbedder("tiny", replace(TINY, sight=replace(TINY.sight, interpolation="bilinear")))
    pooled = FoundationEmbedder("tiny", replace(TINY, pooling="class + mean"))
    before = embedder.digest
    assert len({before, other.digest, pooled.digest}) == 3
    assert before == FoundationEmbedder("tiny", TINY).digest
    with torch.no_grad():
        next(embedder.trunk().parameters()).view(-1)[0] += 1
    assert embedder.digest != before


def test_squeezenet_with_published_weights(data_root: Path) -> None:
    path = data_root / "weights" / "squeezenet1_0_imagenet_torchvision_keys.npz"
    embedder = build_embedder("squeezenet1_0", str(path))
    with np.load(path) as arrays:
        key, value = next(iter(embedder.trunk().state_dict().items()))
        name = next(each for each in arrays.files if each.endswith(key))
        assert np.array_equal(arrays[name], value.numpy())
