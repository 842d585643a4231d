"""A data set's card: what a table's labels and masks mean, and where they come from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from histill.core.config import Strict
from histill.core.labels import Classes


class DatasetCard(Strict):
    """What a table's numbers mean."""

    classes: tuple[str, ...]
    """class names, in label order"""
    colours: tuple[tuple[int, int, int], ...] = ()
    """one RGB triple per class; left out, histill chooses"""
    background: str | None = None
    """the class that image labels never name, if there is one"""
    mask_values: dict[str, str] = Field(default_factory=dict)
    """what a mask's pixel value means, "255": gland; "ignore" says nothing. Left out: value i is class i"""
    exclude_white: bool = False
    """white background is no tissue of any class: left out of pseudo-masks"""
    split_source: Literal["patient", "official"] = "patient"
    """official: a patient may stand in two splits, and every report says so"""
    synthetic: bool = False
    """the images are made up"""
    source: str = ""
    """where the data came from, and how to cite it"""
    licence: str = ""
    """the data's licence"""

    def as_classes(self) -> Classes:
        """The classes with their colours."""
        return Classes(self.classes, self.colours, self.background)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        self.as_classes()
        if any(not 0 <= part <= 255 for colour in self.colours for part in colour):
            raise ValueError("colours are RGB triples of 0 to 255")
        for value, name in self.mask_values.items():
            if not (value.isdecimal() and int(value) <= 255):
                raise ValueError(f"mask_values: '{value}' is not a pixel value of 0 to 255")
            if name not in (*self.classes, "ignore"):
                raise ValueError(f"mask_values: '{name}' is neither one of {', '.join(self.classes)} nor ignore")
        return self
