"""Settings: strict, with every fault and its mend in one error."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from histill.core.config import Strict, read_yaml, resolve, to_yaml
from histill.core.errors import Exit, HistillError


class Optimiser(Strict):
    learning_rate: float = 0.1
    decay: float = 0.0


class Inner(Strict):
    optimiser: Optimiser = Optimiser()


class Settings(Strict):
    epochs: int = 20
    """passes over the training samples"""
    taps: tuple[str, ...] = ("b4", "bn7")
    sizes: tuple[int, int] = (1, 2)
    kind: Literal["cam", "mil"] = "cam"
    name: str = ""
    names: dict[str, str] = Field(default_factory=dict)
    inner: Inner = Inner()


def failing(values: dict[str, Any]) -> str:
    with pytest.raises(HistillError) as caught:
        resolve(Settings, ("recipe.yaml", values))
    assert caught.value.code == Exit.USAGE
    assert caught.value.subject == "recipe.yaml"
    return caught.value.what


def read(text: str, folder: Path) -> dict[str, Any]:
    (folder / "a.yaml").write_text(text)
    return read_yaml(folder / "a.yaml")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_later_layers_go_over_earlier_ones_key_by_key() -> None:
    recipe = {"epochs": 5, "inner": {"optimiser": {"learning_rate": 1}}, "names": {"a": "b"}}
    flags = {"inner": {"optimiser": {"decay": 0.5}}, "epochs": 7, "names": {"c": "d"}}
    settings = resolve(Settings, ("recipe.yaml", recipe), ("flags", flags))
    assert settings.epochs == 7
    assert settings.inner.optimiser == Optimiser(learning_rate=1.0, decay=0.5)
    assert settings.names == {"a": "b", "c": "d"}
    assert settings.taps == ("b4", "bn7")
    # The layers themselves are left as they were.
    assert recipe == {"epochs": 5, "inner": {"optimiser": {"learning_rate": 1}}, "names": {"a": "b"}}
    assert flags == {"inner": {"optimiser": {"decay": 0.5}}, "epochs": 7, "names": {"c": "d"}}


def test_defaults_are_the_settings_of_no_layer() -> None:
    assert resolve(Settings) == Settings()


def test_a_list_stands_for_a_tuple() -> None:
    assert resolve(Settings, ("recipe.yaml", {"taps": ["b5"], "sizes": [3, 4]})).taps == ("b5",)
    assert failing({"sizes": [1, 2, 3]}).startswith("sizes")


def test_an_unknown_key_is_named_with_its_nearest_match() -> None:
    assert failing({"epoch": 3}) == "there is no setting 'epoch'; did you mean 'epochs'?"
    nested = failing({"inner": {"optimiser": {"learning_rat": 3}}})
    assert nested == "there is no setting 'inner.optimiser.learning_rat'; did you mean 'inner.optimiser.learning_rate'?"
    assert failing({"zzz": 1}) == "there is no setting 'zzz'"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"epochs": "20"}, "epochs"),
        ({"epochs": 2.0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"taps": "b4"}, "taps"),
        ({"taps": [1]}, "taps.0"),
        ({"kind": "mill"}, "kind"),
        ({"name": 3}, "name"),
        ({"inner": 3}, "inner"),
        ({"inner": {"optimiser": {"decay": float("nan")}}}, "inner.optimiser.decay"),
        ({"inner": {"optimiser": {"decay": float("inf")}}}, "inner.optimiser.decay"),
    ],
)
def test_types_are_not_bent(values: dict[str, Any], name: str) -> None:
    assert failing(values).startswith(f"{name}: ")


def test_all_faults_come_at_once() -> None:
    with pytest.raises(HistillError) as caught:
        resolve(
            Settings, ("recipe.yaml", {"epoch": 1, "name": 2}), ("flags", {"inner": {"optimizer": {}}, "kind": "x"})
        )
    for part in ("'epochs'", "'inner.optimiser'", "name: ", "kind: "):
        assert part in caught.value.what
    assert caught.value.what.count(";") == 5
    assert caught.value.subject == "recipe.yaml + flags"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().epochs = 3  # type: ignore[misc]


def test_help_is_a_field_docstring() -> None:
    assert Settings.model_fields["epochs"].description == "passes over the training samples"


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a:\n  b: 2\n  b: 3", "line 3: the key 'b' stands twice"),
        ("a: &x 1\nb: *x", "line 2: aliases are not allowed"),
        ("a: &a [*a]", "line 1: aliases are not allowed"),
        ("? [a, b]\n: 1", "line 1: a key is a word"),
        ("- a", "expected 'key: value' lines"),
        ("a", "expected 'key: value' lines"),
        ("a: [", "not valid YAML"),
        ("a: !!python/name:os.system x", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HistillError, match=message) as caught:
        read(text, tmp_path)
    assert caught.value.code == Exit.USAGE
    assert caught.value.subject.endswith("a.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(HistillError, match="cannot be read") as caught:
            read_yaml(path)
        assert caught.value.code == Exit.INPUT
    (tmp_path / "latin.yaml").write_bytes("a: ä".encode("latin-1"))
    with pytest.raises(HistillError, match="not valid YAML"):
        read_yaml(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *[("1e-3", 0.001), ("1.5E+2", 150.0), ("-.5", -0.5), ("1.", 1.0), (".inf", float("inf")), ("1", 1), ("-3", -3)],
        *[("0", 0), ("0.1", 0.1), ("true", True), ("False", False), ("null", None), ("~", None), ("", None)],
        # PyYAML alone reads 15, 90, False, a date and 10.5.
        *[("017", "017"), ("1:30", "1:30"), ("no", "no"), ("2024-01-02", "2024-01-02"), ("1_0.5", "1_0.5")],
        *[("1.2.3", "1.2.3"), ("nano", "nano"), ("'1'", "1"), ("1e", "1e"), ("<<", "<<"), ("=", "=")],
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(word: str, value: Any, tmp_path: Path) -> None:
    got = read(f"a: {word}", tmp_path)["a"]
    assert got == value
    assert type(got) is type(value)


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    assert read("", tmp_path) == {}
    assert read("# nothing yet\n", tmp_path) == {}


# YAML takes these for the ends of lines.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
words = st.sampled_from(
    ["1e3", "1e-3", "no", "017", "1:30", "~", "null", "true", "2024-01-02", "<<", "=", "", "- a", "ä"]
)
values = st.recursive(
    scalars | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(words | texts, values, max_size=4))
def test_yaml_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_bytes(to_yaml(value))
    assert read_yaml(path) == value


def test_yaml_of_a_value_that_stands_twice_has_no_alias(tmp_path: Path) -> None:
    shared = ["a"]
    (tmp_path / "a.yaml").write_bytes(to_yaml({"b": shared, "a": shared}))
    assert list(read_yaml(tmp_path / "a.yaml")) == ["b", "a"]
