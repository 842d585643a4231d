"""What every method offers, and what its card says of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import nn

from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.engine.run import Run

Task = Literal["segment", "classify", "summarize", "detect"]


@dataclass(frozen=True)
class Card:
    """A method in a few words.

    Attributes:
        name: its name on the command line.
        title: what it stands for.
        task: what it gives.
        needs: what it learns from, lesion labels being image labels of one class and a background; a method that does
            not need masks is never shown one, nor boxes.
        paper: how to cite it.
        ours: what is not the paper's, and why.
    """

    name: str
    title: str
    task: Task
    needs: Literal["image labels", "lesion labels", "masks", "boxes", "slide labels", "bags"]
    paper: str
    ours: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """A paper: its settings, its networks, how they learn, how they predict.

    What a method predicts from, and what, says which kind it is: see `TileMethod`, `BoxMethod` and `BagMethod`.

    Args:
        config: its settings, of its own `Config`.
        classes: of the data set it learns.
    """

    card: ClassVar[Card]
    Config: ClassVar[type[Strict]]
    samples: ClassVar[str] = "images"
    """what it calls the rows of its table"""

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__()
        self.classes = classes

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """What of the training samples is to be known whenever the method is built or used; JSON-like."""
        return {}

    @classmethod
    def more(cls, config: Strict) -> Manifest | None:
        """The rows of another table that are learnt from as well, with nothing known of them; None without one."""
        return None

    @classmethod
    def build(cls, config: Strict, classes: Classes, seen: dict[str, Any]) -> Self:
        """A method that has learned nothing yet; `seen` is what `look` gave."""
        return cls(config, classes)

    @abstractmethod
    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Learn from a table; `val` chooses between epochs. All that lasts goes through `run`."""
