"""Made-up nuclei: outline, membrane, chromatin and nucleoli, drawn many at a time onto a tile that wraps round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.data.synthetic.fields import Field, smooth


@dataclass(frozen=True)
class Kind:
    """What the nuclei of one kind of cell look like. Lengths in micrometres, amounts in optical density.

    Attributes:
        length: mean length of the long axis.
        spread: relative deviation of the length.
        aspect: mean of long over short axis.
        lumpy: relative deviation of the outline from an ellipse.
        bend: how far a long nucleus follows a curve, as a share of its length.
        body: haematoxylin inside.
        membrane: haematoxylin that the rim adds.
        clumps: deviation of the chromatin's haematoxylin.
        grain: size of the chromatin clumps.
        nucleoli: mean number of nucleoli.
        dark: share of nuclei that are shrunken and dark.
        eosin: eosin inside.
    """

    length: float
    spread: float = 0.12
    aspect: float = 1.15
    lumpy: float = 0.04
    bend: float = 0.0
    body: float = 1.2
    membrane: float = 0.3
    clumps: float = 0.25
    grain: float = 0.8
    nucleoli: float = 0.0
    dark: float = 0.0
    eosin: float = 0.25


TUMOUR = Kind(11.5, 0.18, 1.3, 0.06, body=0.66, membrane=0.80, clumps=0.24, grain=0.8, nucleoli=1.3, dark=0.10)
CROWDED = Kind(10.5, 0.16, 1.5, 0.06, body=1.30, membrane=0.45, clumps=0.28, grain=0.8, nucleoli=0.5, dark=0.18)
LYMPHOCYTE = Kind(6.8, 0.09, 1.10, 0.04, body=1.85, membrane=0.35, clumps=0.38, grain=0.9)
PLASMA = Kind(8.5, 0.12, 1.25, 0.04, body=1.35, membrane=0.45, clumps=0.35, grain=1.0)
FIBROBLAST = Kind(13.0, 0.28, 4.6, 0.05, bend=0.10, body=1.35, membrane=0.30, clumps=0.20, grain=0.7, dark=0.2)
PLUMP = Kind(10.5, 0.2, 2.1, 0.06, body=0.9, membrane=0.5, nucleoli=0.6)
BLAST = Kind(10.0, 0.15, 1.4, 0.06, body=0.7, membrane=0.55, nucleoli=0.7)
COLUMNAR = Kind(9.5, 0.12, 1.75, 0.04, body=1.20, membrane=0.50, clumps=0.25, grain=0.8, nucleoli=0.4, dark=0.08)
PERIPHERAL = Kind(9.0, 0.2, 3.6, 0.05, bend=0.1, body=1.6, membrane=0.2)
GHOST = Kind(9.5, 0.2, 1.3, 0.10, body=0.10, membrane=0.20, clumps=0.10, grain=1.2, eosin=0.65)
PYKNOTIC = Kind(4.2, 0.3, 1.3, 0.12, body=2.1, membrane=0.0, clumps=0.2, eosin=0.5)
DUST = Kind(1.7, 0.4, 1.2, 0.15, body=1.7, membrane=0.0, clumps=0.1, eosin=0.5)

# Not nuclei, but drawn like them.
CHANNEL = Kind(19.0, 0.35, 2.4, 0.08, bend=0.1, body=0.02, membrane=0.12, clumps=0.01, eosin=0.05)
ERYTHROCYTE = Kind(6.2, 0.1, 1.25, 0.06, body=0.03, membrane=0.06, clumps=0.02, eosin=1.25)


@dataclass(frozen=True)
class Canvas:
    """A square tile in the making, which wraps round.

    Attributes:
        amounts: haematoxylin and eosin, float32 [side, side, 2].
        offset: from each pixel to the centre of the object that it belongs to, int16 [side, side, 2].
        owned: whether a pixel belongs to an object at all, bool [side, side].
        centres: True at the centre of each nucleus, bool [side, side].
        mpp: micrometres per pixel.
    """

    amounts: Field
    offset: NDArray[np.int16]
    owned: NDArray[np.bool_]
    centres: NDArray[np.bool_]
    mpp: float

    @staticmethod
    def blank(side: int, mpp: float) -> Canvas:
        """A canvas with no stain and no objects."""
        return Canvas(
            np.zeros((side, side, 2), np.float32),
            np.zeros((side, side, 2), np.int16),
            np.zeros((side, side), bool),
            np.zeros((side, side), bool),
            mpp,
        )

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return len(self.owned)


def draw(
    canvas: Canvas,
    kind: Kind,
    points: NDArray[np.float64],
    angles: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    own: bool = True,
    within: bool = False,
) -> None:
    """Draw nuclei of one kind onto a canvas.

    Args:
        canvas: drawn on in place.
        kind: what they look like.
        points: their centres, row and column, [n, 2] in pixels.
        angles: direction of their long axes, [n] in radians from the column axis towards growing rows.
        rng: where shapes and chromatin come from.
        own: whether the pixels of a nucleus become an object of their own.
        within: whether nuclei end where the objects that are already there end.
    """
    if not len(points):
        return
    stain, cover = _stamps(kind, angles, points % 1, rng, canvas.mpp)  # [n, s, s], [n, s, s]
    stamps = np.stack([stain, np.full_like(stain, kind.eosin)], axis=-1)  # [n, s, s, 2]
    half, side = stain.shape[1] // 2, canvas.side
    steps = np.arange(-half, half + 1)
    corners = np.floor(points).astype(np.intp)
    toward = np.stack(np.meshgrid(-steps, -steps, indexing="ij"), axis=-1).astype(np.int16)  # [s, s, 2]
    canvas.centres[corners[:, 0] % side, corners[:, 1] % side] = True
    for (row, column), stamp, covered in zip(corners.tolist(), stamps, cover, strict=True):
        window: Any  # a plain slice is several times faster than the index that wraps round
        if min(row, column) >= half and max(row, column) < side - half:
            window = np.s_[row - half : row + half + 1, column - half : column + half + 1]
        else:
            window = np.ix_((row + steps) % side, (column + steps) % side)
        amounts, offset, owned = canvas.amounts[window], canvas.offset[window], canvas.owned[window]
        alpha = (covered * owned if within else covered)[..., None]  # [s, s, 1]
        canvas.amounts[window] = amounts + alpha * (stamp - amounts)
        if own:
            inside = covered > 0.2  # [s, s]
            canvas.offset[window] = np.where(inside[..., None], toward, offset)
            canvas.owned[window] = owned | inside


def _stamps(
    kind: Kind, angles: NDArray[np.float64], shift: NDArray[np.float64], rng: np.random.Generator, mpp: float
) -> tuple[Field, Field]:
    """Haematoxylin and coverage of n nuclei, each float32 [n, s, s]."""
    count = len(angles)

    def column(values: NDArray[np.float64]) -> Field:
        return values.astype(np.float32)[:, None, None]  # [n, 1, 1]

    length = kind.length * np.exp(rng.normal(0, kind.spread, count))
    aspect = np.maximum(kind.aspect * np.exp(rng.normal(0, 0.5 * kind.spread + 0.05, count)), 1)
    dark = rng.random(count) < kind.dark
    length = np.where(dark, 0.8 * length, length)
    long, short = column(length / 2), column(length / aspect / 2)
    half = int(np.ceil(1.15 * length.max() / 2 / mpp)) + 1
    steps = np.arange(-half, half + 1, dtype=np.float32)
    y = (steps[None, :, None] - column(shift[:, 0])) * mpp  # [n, s, 1] micrometres
    x = (steps[None, None, :] - column(shift[:, 1])) * mpp  # [n, 1, s]
    cosine, sine = column(np.cos(angles)), column(np.sin(angles))
    along = cosine * x + sine * y  # [n, s, s]
    across = cosine * y - sine * x - column(kind.bend * rng.normal(0, 1, count)) * along**2 / long  # [n, s, s]

    # The outline: an ellipse whose radius swings a little.
    around = np.arctan2(across / short, along / long)
    radius = 1 + sum(
        column(rng.normal(0, 2 * kind.lumpy / order, count))
        * np.cos(order * around + column(rng.uniform(0, 2 * np.pi, count)))
        for order in (2, 3, 5)
    )  # [n, s, s]
    inward = radius - np.hypot(along / long, across / short)  # 1 in the middle, 0 on the outline
    depth = inward * short  # micrometres from the outline, nearly
    cover = np.clip(depth / (1.2 * max(mpp, 0.35)) + 0.5, 0, 1)

    noise = smooth((256, 256), kind.grain / mpp, rng)
    rows = rng.integers(0, 256, (count, 1, 1)) + np.arange(2 * half + 1)[None, :, None]
    columns = rng.integers(0, 256, (count, 1, 1)) + np.arange(2 * half + 1)[None, None, :]
    chromatin = noise[rows % 256, columns % 256]  # [n, s, s]
    body = kind.body * np.exp(rng.normal(0, 0.14, count))
    stain = column(np.where(dark, body + 0.8, body)) + kind.clumps * chromatin
    stain += kind.membrane * np.exp(-(((depth - 0.5) / 0.55) ** 2))
    for number in range(3):
        present = rng.random(count) < np.clip(kind.nucleoli - number, 0, 0.9)
        place, turn = 0.5 * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
        away = (along / long - column(place * np.cos(turn))) ** 2 * long**2
        away = away + (across / short - column(place * np.sin(turn))) ** 2 * short**2
        stain += column(present * rng.uniform(0.8, 1.5, count)) * np.exp(-away / column(rng.uniform(0.5, 1.3, count)))
    return np.maximum(stain, 0.02).astype(np.float32), cover.astype(np.float32)
