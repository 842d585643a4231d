"""The lines below a picture that say what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from histill.core.labels import Colour
from histill.slides.base import RgbImage

INK: Colour = (43, 36, 56)
FAULT: Colour = (179, 38, 30)
GAP = 6
"""px between the pieces of an item, three times that between items"""
_ROW, _NARROWEST = 24, 340


@dataclass(frozen=True)
class Text:
    """A piece of a legend."""

    text: str
    ink: Colour = INK


Item = Sequence[Text | RgbImage]
"""Pieces that stay together: text, and pictures of 14 px height."""


def swatch(colour: Colour) -> RgbImage:
    """A square of a colour for a legend, uint8 [14, 14, 3]."""
    return np.full((14, 14, 3), colour, np.uint8)


def with_legend(picture: RgbImage, items: Sequence[Item]) -> RgbImage:
    """The picture, and below it the items side by side in as many rows as they need; at least 340 px wide."""
    height, width = picture.shape[0], max(picture.shape[1], _NARROWEST)
    font = ImageFont.load_default(14)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    wide = [
        [round(measure.textlength(p.text, font)) if isinstance(p, Text) else p.shape[1] for p in item] for item in items
    ]
    places, left, row = [], GAP, 0
    for each in wide:
        length = sum(each) + GAP * (len(each) - 1)
        if left > GAP and left + length > width:
            left, row = GAP, row + 1
        places.append((left, height + 4 + row * _ROW))
        left += length + 3 * GAP
    sheet = Image.new("RGB", (width, height + 4 + (row + 1) * _ROW), "white")
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (x, y), item, lengths in zip(places, items, wide, strict=True):
        for piece, length in zip(item, lengths, strict=True):
            if isinstance(piece, Text):
                draw.text((x, y + 1), piece.text, fill=piece.ink, font=font)
            else:
                sheet.paste(Image.fromarray(piece), (x, y + 3))
            x += length + GAP
    return np.asarray(sheet)
