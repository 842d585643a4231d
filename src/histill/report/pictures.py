"""Pictures for reports: class maps over images, strips of panels, bar charts. Arrays and numbers in, bytes out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from histill.core.labels import Classes
from histill.core.report import NOT_A_NUMBER, Number

SERIES_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
"""Okabe and Ito's colours, told apart by colour-blind readers too."""

_INK, _FAINT, _GRID = "#2b2438", "#6f6880", "#e4dfea"
_GAP = 10


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, uint8 [h, w, 3], as PNG: nothing is lost."""
    return _encoded(picture, "PNG", optimize=True)


def jpeg(picture: NDArray[np.uint8], quality: int = 88) -> bytes:
    """A picture, uint8 [h, w, 3], as JPEG: small, for photographs."""
    return _encoded(picture, "JPEG", quality=quality, subsampling=0)


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Classes, *, opacity: float = 0.4, line: int = 2
) -> NDArray[np.uint8]:
    """Paint a label map over its image: a translucent fill, and a full-coloured line inside each region's edge.

    The background and ignored pixels stay as they are.

    Args:
        image: uint8 [h, w, 3].
        labels: uint8 [h, w], classes or IGNORE.
        classes: their colours.
        opacity: of the fill, 0 to 1.
        line: width of the line in pixels.

    Returns:
        uint8 [h, w, 3].
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image {image.shape[:2]} and label map {labels.shape} differ in size")
    painted = image.astype(np.float32)
    kernel = np.ones((2 * line + 1, 2 * line + 1), np.uint8)
    for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        region = labels == index
        if name == classes.background or not region.any():
            continue
        painted[region] += opacity * (np.array(colour, np.float32) - painted[region])
        edge = region & (cv2.erode(region.astype(np.uint8), kernel) == 0)
        painted[edge] = colour
    return np.asarray(painted.round(), np.uint8)


def strip(
    image: NDArray[np.uint8],
    panels: Mapping[str, NDArray[np.uint8]],
    classes: Classes,
    *,
    height: int = 320,
    legend: bool = False,
) -> bytes:
    """Panels side by side, each under its name, such as ``image | truth | prediction``.

    Args:
        image: uint8 [h, w, 3]; the first panel.
        panels: by name: a label map uint8 [h, w], painted over the image, or a picture uint8 [h, w, 3].
        classes: of the label maps.
        height: of each panel in pixels.
        legend: whether to name the colours below.

    Returns:
        a JPEG.
    """
    pictures = {"image": _resized(image, 2 * height)}
    for name, panel in panels.items():
        if panel.ndim == 3:
            pictures[name] = _resized(panel, 2 * height)
        elif panel.shape != image.shape[:2]:
            raise ValueError(f"panel '{name}' {panel.shape} and image {image.shape[:2]} differ in size")
        else:
            labels = _resized(panel, 2 * height, cv2.INTER_NEAREST)
            pictures[name] = overlay(pictures["image"], labels, classes, line=4)
    # Painted at twice the size and reduced, so that lines are smooth.
    tiles = {name: _resized(picture, height) for name, picture in pictures.items()}
    width = sum(tile.shape[1] for tile in tiles.values()) + _GAP * (len(tiles) - 1)
    above, below = 26, 30 if legend else 0
    sheet = Image.new("RGB", (width, above + height + below), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for name, tile in tiles.items():
        draw.text((left + 1, 3), _fitted(draw, name, tile.shape[1]), fill=_INK, font=_font())
        sheet.paste(Image.fromarray(tile), (left, above))
        left += tile.shape[1] + _GAP
    if legend:
        _draw_legend(draw, (1, above + height + 9), classes, width)
    return jpeg(np.asarray(sheet))


def class_bars(series: Mapping[str, Mapping[str, Number]], *, label: str, limit: float | None = 1.0) -> bytes:
    """A bar chart of a measure by class, with its intervals, for one or several methods.

    Args:
        series: by method: by class: the measure. The classes of the first method are shown.
        label: what the measure is called.
        limit: the upper end of the axis; None: what the numbers need.

    Returns:
        a PNG, 1200 x 680 px.
    """
    # Here and not above: it takes a second to import, and most of the house does without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(next(iter(series.values())))
    figure = Figure(figsize=(6.0, 3.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    thickness = min(0.8 / len(series), 0.46)
    for place, (method, numbers) in enumerate(series.items()):
        colour = SERIES_COLOURS[place % len(SERIES_COLOURS)]
        for index, name in enumerate(names):
            number = numbers[name]
            x = index + (place - (len(series) - 1) / 2) * thickness
            shown = number.value if number.defined else 0.0
            axes.bar(
                x, shown, 0.9 * thickness, color=colour, alpha=0.88, label=method if index == 0 else None, zorder=2
            )
            top = shown
            if number.low is not None and number.high is not None:
                axes.vlines(x, number.low, number.high, color=_INK, linewidth=1.4, zorder=3)
                axes.plot([x, x], [number.low, number.high], "_", color=_INK, markersize=7, zorder=3)
                top = max(shown, number.high)
            text = f"{shown:.2f}" if number.defined else NOT_A_NUMBER
            axes.annotate(text, (x, top), (0, 3), textcoords="offset points", ha="center", color=_INK, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label, color=_FAINT)
    axes.set_ylim(0, limit if limit is None else 1.08 * limit)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", color=_GRID, linewidth=0.8, zorder=0)
    axes.tick_params(length=0, colors=_INK, labelsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=len(series), frameon=False, fontsize=10, labelcolor=_INK)
    buffer = io.BytesIO()
    # No name of the program, no time: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _encoded(picture: NDArray[np.uint8], format_name: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format_name, **options)
    return buffer.getvalue()


def _resized(picture: NDArray[np.uint8], height: int, how: int | None = None) -> NDArray[np.uint8]:
    """The picture at that height, [height, w'] or [height, w', 3], its shape kept."""
    h, w = picture.shape[:2]
    if how is None:
        how = cv2.INTER_AREA if height < h else cv2.INTER_CUBIC
    size = max(1, round(w * height / h)), height
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=how), np.uint8)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, cut short where it is wider than its panel."""
    if draw.textlength(text, _font()) <= width:
        return text
    while text and draw.textlength(text + "...", _font()) > width:
        text = text[:-1]
    return text + "..."


def _draw_legend(draw: ImageDraw.ImageDraw, at: tuple[int, int], classes: Classes, width: int) -> None:
    left, top = at
    for name, colour in _painted(classes):
        if left + 20 + draw.textlength(name, _font()) > width:
            break
        draw.rectangle((left, top + 1, left + 13, top + 14), fill=colour)
        draw.text((left + 19, top - 1), name, fill=_INK, font=_font())
        left += round(19 + draw.textlength(name, _font()) + 18)


def _painted(classes: Classes) -> Sequence[tuple[str, tuple[int, int, int]]]:
    """The classes that a picture shows in colour: all but the background."""
    return [pair for pair in zip(classes.names, classes.colours, strict=True) if pair[0] != classes.background]
