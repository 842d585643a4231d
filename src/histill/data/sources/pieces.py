"""Pieces cut out of slides: outlined regions, or patches of a grid, each with the classes it shows and its mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from histill.core.card import DatasetCard
from histill.core.config import Share, Strict
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import IGNORE, Classes
from histill.core.masks import LabelMap, label_png, rgb_png
from histill.core.seeds import generator
from histill.core.storage import safe_name, write_inside
from histill.data.truth import DrawnTruth, class_of
from histill.formats.outlines import Outline
from histill.slides.base import Slide
from histill.slides.tiling import lay_grid
from histill.slides.tissue import find_tissue
from histill.slides.worker import GuardedSlide

SMALLEST = 16
"""A region with a shorter side, in px of what is cut, shows nothing that could be learnt."""

MOST_UNREADABLE = 0.01
"""A slide of which a greater share of pieces cannot be read is at fault; fewer are left out and counted."""

Progress = Callable[[int, int], None]


class Cutting(Strict):
    """How slides are cut."""

    form: Literal["regions", "patches"]
    """regions: a piece for each outline; patches: tiles of one size"""
    at: PositiveFloat = 0.5
    """um/px of the pieces"""
    tile: PositiveInt = 224
    """side of a patch in px"""
    overlap: Share = 0.0
    """of neighbouring patches, as a share of their side"""
    least: Share = 0.05
    """a class that covers a smaller share of a piece is not named by its labels"""
    known: Annotated[float, Field(ge=0, le=1)] = 0.75
    """patches of which less is known are left out"""
    least_tissue: Annotated[float, Field(ge=0, le=1)] = 0.1
    """patches of background with less tissue are left out"""
    largest: Annotated[int, Field(ge=SMALLEST)] = 1024
    """longest side of a region in px; larger ones are cut into equal parts"""
    most: NonNegativeInt = 0
    """most pieces of a slide with the same labels, drawn at random; 0: all"""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a slide that becomes an image: where it is in map px, and what its labels say."""

    id: str
    x: int
    y: int
    w: int
    h: int
    labels: tuple[str, ...]


def piece_files(identity: str) -> tuple[str, str]:
    """The image and the mask of a piece, relative to its slide's folder."""
    name = f"{safe_name(identity)}.png"
    return f"images/{name}", f"masks/{name}"


@dataclass
class Plan:
    """What is cut out of a slide.

    Attributes:
        pieces: from top to bottom, or in the order of the outlines.
        left_out: how many were left out, by why.
    """

    pieces: list[Piece] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def plan_pieces(
    name: str, slide: Slide, outlines: Sequence[Outline], truth: DrawnTruth, card: DatasetCard, cutting: Cutting
) -> Plan:
    """Choose what is cut out of a slide, and what the labels of each piece say.

    A piece is labelled with the classes, other than the background, that cover enough of it. With the background alone
    it is labelled where there is nothing else at all: a little of a class is too much for that, and too little for the
    class's own name, so such pieces are left out.

    Args:
        name: of the slide; ids begin with it.
        slide: with a spacing.
        outlines: of the regions, in level-0 px.
        truth: what is known of the slide.
        card: the classes.
        cutting: how.
    """
    frame = slide.at(cutting.at)
    if cutting.form == "patches":
        plan = _patches(name, slide, frame, truth, card.as_classes(), cutting)
    else:
        plan = _regions(name, frame, truth, outlines, card, cutting)
    if cutting.most:
        plan.pieces = _drawn(name, plan, cutting.most)
    return plan


def write_pieces(
    slide: GuardedSlide,
    truth: DrawnTruth,
    plan: Plan,
    classes: Classes,
    at: float,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Write images and masks into a folder that is being made. What cannot be read goes from the plan.

    Args:
        slide: what is cut.
        truth: what is known of it.
        plan: see `plan_pieces`.
        classes: of the masks.
        at: um/px.
        folder: of the slide.
        progress: called with (pieces done, pieces in all).

    Raises:
        HistillError: input (4) if too much cannot be read; storage (7).
    """
    frame, pieces, plan.pieces = slide.at(at), plan.pieces, []
    unreadable: list[str] = []
    requests = ((frame.region(piece.x, piece.y, piece.w, piece.h), piece.w, piece.h) for piece in pieces)
    for done, (piece, image) in enumerate(zip(pieces, slide.read_many(requests), strict=True), 1):
        if isinstance(image, HistillError):
            unreadable.append(image.what)
        else:
            plan.pieces.append(piece)
            mask = truth.window(frame, piece.x, piece.y, piece.w, piece.h)
            for file, data in zip(piece_files(piece.id), (rgb_png(image), label_png(mask, classes)), strict=True):
                write_inside(folder, file, data)
        if progress is not None:
            progress(done, len(pieces))
    if len(unreadable) > MOST_UNREADABLE * len(pieces):
        raise HistillError(
            f"{len(unreadable)} of {len(pieces)} pieces cannot be read; the first: {unreadable[0]}",
            code=Exit.INPUT,
            subject=str(slide.path),
            mend="Copy the slide again, or take it out",
        )
    plan.left_out["that cannot be read"] += len(unreadable)


def named(shares: NDArray[np.float64], classes: Classes, least: float, own: int | None = None) -> tuple[str, ...]:
    """The labels of a piece; none where it would be wrong to say anything.

    Args:
        shares: of the piece that each class covers, [k].
        classes: names.
        least: see `Cutting`.
        own: a class that is named however little of it there is.
    """
    background = None if classes.background is None else classes.index(classes.background)
    others = [i for i in range(len(classes)) if i != background and shares[i] > 0]
    labels = tuple(classes.names[i] for i in others if shares[i] >= least or i == own)
    return (classes.background,) if classes.background and not others and shares[background] > 0 else labels


def _patches(name: str, slide: Slide, frame: Frame, truth: DrawnTruth, classes: Classes, cutting: Cutting) -> Plan:
    plan = Plan()
    side, step = cutting.tile, max(1, round(cutting.tile * (1 - cutting.overlap)))
    tissue = _tissue(slide, frame, cutting) if classes.background is not None else set()
    height, width = frame.shape
    for y in _starts(height, side, step):
        for x in _starts(width, side, step):
            shares = _shares(truth.window(frame, x, y, side, side), len(classes))
            known = float(shares.sum())
            labels = named(shares, classes, cutting.least)
            # Glass is background too, but not worth an image.
            if not known or (labels == (classes.background,) and (x, y) not in tissue):
                continue
            if known < cutting.known:
                plan.left_out["of which too little is known (--known)"] += 1
            elif not labels:
                plan.left_out["with less of a class than --least"] += 1
            else:
                plan.pieces.append(Piece(_corner(name, frame, x, y, side, side), x, y, side, side, labels))
    return plan


def _tissue(slide: Slide, frame: Frame, cutting: Cutting) -> set[tuple[int, int]]:
    """The corners of patches with enough tissue."""
    grid = lay_grid(
        frame, find_tissue(slide), side=cutting.tile, overlap=cutting.overlap, least_tissue=cutting.least_tissue
    )
    return {(x, y) for x, y in grid.corners.tolist()}


def _starts(length: int, side: int, step: int) -> range:
    """Where patches begin along an axis, as `slides.tiling` lays them: so many that the last reaches its end."""
    return range(0, max(0, length - side) + step, step)


def _shares(window: LabelMap, k: int) -> NDArray[np.float64]:
    """The share of a window that each class covers, [k]."""
    label = int(window[0, 0])
    if (window == label).all():  # as most are, and counting takes ten times as long
        shares = np.zeros(k)
        shares[label : label + 1] = 1
        return shares
    counted: NDArray[np.float64] = np.bincount(window.ravel(), minlength=256)[:k] / window.size
    return counted


def _regions(
    name: str, frame: Frame, truth: DrawnTruth, outlines: Sequence[Outline], card: DatasetCard, cutting: Cutting
) -> Plan:
    plan = Plan()
    classes = card.as_classes()
    height, width = frame.shape
    for number, outline in enumerate(outlines, 1):
        own = class_of(outline, card, Path(name))
        if own == IGNORE:
            continue
        left, top, right, bottom = np.array(outline.area.bounds) / frame.scale
        x, y = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        w, h = min(width, int(np.ceil(right))) - x, min(height, int(np.ceil(bottom))) - y
        if min(w, h) < SMALLEST:
            plan.left_out[f"of less than {SMALLEST} px a side"] += 1
            continue
        parts = list(_parts(x, y, w, h, cutting.largest))
        for part in parts:
            shares = _shares(truth.window(frame, *part), len(classes))
            labels = named(shares, classes, cutting.least, own if len(parts) == 1 else None)
            if not shares[own] or (len(parts) > 1 and shares[own] < cutting.least):
                plan.left_out["with little or nothing of their own class"] += 1
            elif not labels:
                plan.left_out["with less of a class than --least"] += 1
            else:
                identity = f"{name}_r{number}"
                whole = len(parts) == 1
                plan.pieces.append(Piece(identity if whole else _corner(identity, frame, *part), *part, labels))
    return plan


def _parts(x: int, y: int, w: int, h: int, largest: int) -> Iterator[tuple[int, int, int, int]]:
    """A rectangle cut into as few equal parts as are not too large."""
    tops = np.linspace(y, y + h, -(-h // largest) + 1).round().astype(int).tolist()
    lefts = np.linspace(x, x + w, -(-w // largest) + 1).round().astype(int).tolist()
    for top, bottom in pairwise(tops):
        for left, right in pairwise(lefts):
            yield left, top, right - left, bottom - top


def _corner(name: str, frame: Frame, x: int, y: int, w: int, h: int) -> str:
    """A name and where a piece begins in level-0 px."""
    region = frame.region(x, y, w, h)
    return f"{name}_x{region.x}_y{region.y}"


def _drawn(name: str, plan: Plan, most: int) -> list[Piece]:
    """At most so many pieces of each set of labels, drawn at random, in their order."""
    kept: set[int] = set()
    for labels in sorted({piece.labels for piece in plan.pieces}):
        alike = [i for i, piece in enumerate(plan.pieces) if piece.labels == labels]
        kept.update(alike[i] for i in generator(0, "cut", name, *labels).permutation(len(alike))[:most].tolist())
    plan.left_out["beyond --most"] += len(plan.pieces) - len(kept)
    return [plan.pieces[i] for i in sorted(kept)]
