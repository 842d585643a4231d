"""Settings: strict models, strict YAML, one error for every fault with the nearest match.

Defaults stand in the method's `Config`; a recipe overrides them; flags override both.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histill.core.errors import Exit, HistillError


class Strict(BaseModel):
    """A frozen settings model: unknown keys are errors, types are not bent, a field's docstring is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Share = Annotated[float, Field(ge=0, lt=1)]
"""a number from 0 to just below 1"""

Settings = TypeVar("Settings", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases and duplicate keys, whose plain words mean what YAML 1.2 says they mean.

    PyYAML follows YAML 1.1, where 1e-3 is a text, 017 is 15, 1:30 is 90 and no is false.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            parser: Any = self  # PyYAML's stubs leave peek_event without types
            raise yaml.YAMLError(f"line {parser.peek_event().start_mark.line + 1}: aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise yaml.YAMLError(f"line {line}: the key '{key.value}' stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that `_Loader` reads back: no aliases, and quotes around texts that look like numbers to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_MEANINGS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
"""YAML 1.2's core schema: a tag, the plain words that have it, and the letters these begin with."""

_Loader.yaml_implicit_resolvers = {}
for _tag, _words, _first in _MEANINGS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_words})$"), _first)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping: safe, no aliases, no duplicate keys.

    Raises:
        HistillError: usage (2), with the line, if it cannot be read so.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise HistillError(f"not valid YAML: {what}", code=Exit.USAGE, subject=str(path)) from error
    except OSError as error:
        raise HistillError(
            f"cannot be read: {error.strerror}", code=Exit.INPUT, subject=str(path), mend="Check the path"
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HistillError("expected 'key: value' lines", code=Exit.USAGE, subject=str(path))
    return value


def parse_value(text: str, where: str) -> Any:
    """One value as a recipe would read it: 1e-3 is a number, no is a word. `where` is named in the error.

    Raises:
        HistillError: usage (2) if it is not valid YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mend = "Quote it, or close its brackets"
        raise HistillError(f"'{text}' is not a value", code=Exit.USAGE, subject=where, mend=mend) from error


def to_yaml(value: dict[str, Any]) -> bytes:
    """YAML in the given key order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def resolve(model: type[Settings], *layers: tuple[str, dict[str, Any]]) -> Settings:
    """Settings from layers, the later over the earlier; each layer is (where it comes from, nested values).

    Raises:
        HistillError: usage (2), naming every unknown key with its nearest match and every bad value.
    """
    merged = _nested_defaults(model)
    unknown: dict[str, str] = {}
    for _, layer in layers:
        unknown |= _unknown(model, layer, "")
        _merge(merged, layer)
    try:
        # JSON mode lets a list stand for a tuple and nothing else, as YAML has no tuples.
        settings = model.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        faults = list(unknown.values())
        for fault in error.errors():
            name = ".".join(str(step) for step in fault["loc"])
            if name not in unknown:
                # A validator of our own speaks for itself.
                text = (
                    fault["msg"].removeprefix("Value error, ")
                    if fault["type"] == "value_error"
                    else fault["msg"].lower()
                )
                faults.append(f"{name}: {text}" if name else text)
        where = " + ".join(where for where, layer in layers if layer) or "settings"
        raise HistillError("; ".join(faults), code=Exit.USAGE, subject=where, mend="Correct these settings") from None
    return settings


def _unknown(model: type[BaseModel], values: dict[str, Any], prefix: str) -> dict[str, str]:
    """What to say of each unknown key, by its dotted name."""
    faults: dict[str, str] = {}
    for key, value in values.items():
        name, field = f"{prefix}{key}", model.model_fields.get(str(key))
        if field is None:
            near = difflib.get_close_matches(str(key), model.model_fields, 1)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
            faults[name] = f"there is no setting '{name}'{hint}"
        elif isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            faults |= _unknown(field.annotation, value, f"{name}.")
    return faults


def _nested_defaults(model: type[BaseModel]) -> dict[str, Any]:
    # A group of settings that is given in part keeps the rest of its own default, not that of its class.
    fields = model.model_fields.items()
    return {key: field.default.model_dump(mode="json") for key, field in fields if isinstance(field.default, BaseModel)}


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
