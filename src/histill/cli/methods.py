"""List the methods, or say what one of them is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from histill import methods
from histill.cli.console import parse


@dataclass
class Arguments:
    """List the methods, or say what one of them is."""

    name: Positional[Annotated[str, arg(metavar="METHOD")]] = ""
    """a method; left out, all are listed"""


def run(given: list[str]) -> int:
    """List or describe."""
    name = parse(Arguments, given, "methods").name
    if name:
        print(methods.about(name))
        print(f"\nIts settings: histill train {name} --help")
    else:
        for each in methods.names():
            print(f"{each:<12} {methods.about(each).partition(chr(10))[0]}")
    return 0
