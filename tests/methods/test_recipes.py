"""Recipes are settings of their method; those of a paper say only what its defaults do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histill import methods
from histill.core.config import Strict, read_yaml, resolve

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def settings_of(recipe: Path) -> Strict:
    model = methods.find(recipe.stem.partition("-")[0]).Config
    return resolve(model, (recipe.name, read_yaml(recipe)))


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_settings_of_its_method(recipe: Path) -> None:
    found = dict(leaves(settings_of(recipe).model_dump(mode="json")))
    for key, value in leaves(read_yaml(recipe)):
        assert found[key] == value


@pytest.mark.parametrize("name", ["mlps-bcss", "mlps-luad"])
def test_the_papers_recipe_has_the_papers_numbers(name: str) -> None:
    recipe = next(each for each in RECIPES if each.stem == name)
    config = settings_of(recipe)
    defaults = dict(leaves(type(config)().model_dump(mode="json")))
    assert all(defaults[key] != value for key, value in leaves(read_yaml(recipe)))

    found = dict(leaves(config.model_dump(mode="json")))
    paper = {
        "classifier.encoder": "resnet38",
        "classifier.taps": ["b4_5", "b5_2", "bn7"],
        "classifier.output_stride": 8,
        "classifier.dropout": 0.5,
        "classifier.frozen_through": "b2_2",
        "classifier.frozen_norms": True,
        "attention_warmup": 3,
        "drop_decay": 0.985,
        "drop_floor": 0.65,
        "segmenter.encoder": "resnet101",
        "segmenter.decoder": "deeplabv3plus",
        "segmenter.output_stride": 16,
        "segmenter.atrous_rates": [6, 12, 18],
        "segment_augmentation.blur": 0.5,
        "tap_weights": [0.2, 0.2, 0.6],
        "gate": 0.1,
        "patch_size": 224,
    }
    for stage in ("classify", "segment"):
        paper |= {f"{stage}.optimizer": "sgd", f"{stage}.learning_rate": 0.01, f"{stage}.head_factor": 10.0}
        paper |= {f"{stage}.momentum": 0.9, f"{stage}.weight_decay": 5e-4, f"{stage}.power": 0.9}
        paper |= {f"{stage}.batch_size": 20, f"{stage}.epochs": 20}
        paper |= {f"{stage}_augmentation.flip": 0.5}
    assert {key: found[key] for key in paper} == paper
