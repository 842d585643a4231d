"""Where the tissues lie on a made-up slide, in micrometres. All of it is synthetic.

A slide is planned on a coarse grid, where the large outlines are drawn: how deep a point lies in its piece of tissue,
in the tumour, in fat. Fine fields then fray these outlines and break the tumour into nests. Everything is a signed
depth in micrometres, above 0 inside, and follows from the seed, the slide's name and size and the point alone: the
same tissue at any spacing, however it is cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.fields import Field, Places, Texture, bilinear
from histill.data.synthetic.foci import Foci, grown, measuring_parts
from histill.data.synthetic.scene import FAT, GLAND, LYMPHOCYTES, NECROSIS, STROMA, TUMOUR, WHITE

Steps = NDArray[np.float64]

PITCH = 20.0
"""Micrometres between two points of the plan."""

TEXTURES: dict[str, tuple[float, float]] = {
    "fray": (25, 0.3),
    "edge": (9, 0.3),
    "nests": (48, 0.25),
    "lumps": (170, 0.0),
    "strands": (85, 0.1),
    "septa": (170, 0.1),
    "swarm": (55, 0.2),
    "holes": (70, 0.0),
    "cracks": (260, 0.1),
    "regions": (700, 0.0),
    "thick": (260, 0.0),
    "bend y": (90, 0.0),
    "bend x": (90, 0.0),
}
"""Scale in micrometres and roughness of each fine field."""

PAINTED = (FAT, GLAND, TUMOUR, NECROSIS, LYMPHOCYTES, WHITE)
"""Upon stroma, in this order; the last that holds a point has it."""

TABLE = 256
"""Domains, and cells of `strays`, take their draws from a table that wraps round."""

FOCUS_EDGE = 200.0
"""As `Habit.edge`, of small foci."""

USUAL_SHARE = 0.02
"""Slides without tumour are inflamed where foci of this share would lie."""

STRAY_PITCH = 4.0
"""Micrometres between two draws that decide whether a lymphocyte lies outside a swarm."""


@dataclass(frozen=True)
class Habit:
    """What one slide's tissue is like.

    Attributes:
        edge: how wide the tumour's edge is, in micrometres: in 0.45 of it, nests become sheets.
        solid: how deep the inner tumour stands above the field that breaks it into nests, in micrometres.
        necrosis: depth in the tumour from which it dies, in micrometres.
        inflamed: how densely lymphocytes lie along the tumour, 0 to 1.
        strays: how far lymphocytes stray from swarms, in micrometres.
        septa: half the width of the strands between fat lobules, in micrometres.
    """

    edge: float
    solid: float
    necrosis: float
    inflamed: float
    strays: float
    septa: float


@dataclass(frozen=True)
class Window:
    """A part of a slide on a regular grid.

    Attributes:
        depth: for each painted tissue how deep a point lies in it, float32 [rows, columns] micrometres.
        label: the tissue that has the point, uint8 [rows, columns].
        strays: True where a lymphocyte is shown if its centre lies there, bool [rows, columns].
        thick: how much thicker the section is than on average, in deviations, float32 [rows, columns].
    """

    depth: dict[int, Field]
    label: NDArray[np.uint8]
    strays: NDArray[np.bool_]
    thick: Field


class Anatomy:
    """The plan of one made-up slide, asked for windows of it."""

    def __init__(
        self, seed: int, name: str, width: float, height: float, *, tumour: float | None = None, empty: bool = False
    ) -> None:
        """Plan a slide; the first of a data set takes a second.

        Args:
            seed: of the data set.
            name: of the slide.
            width: of the slide in micrometres.
            height: of the slide in micrometres.
            tumour: the share of the tissue's area that a few small foci of it cover, 0 for none, None for tumour as it
                grows: all other tissues are laid out as if there were none, and lymphocytes gather around foci whether
                they are tumour or not, so that the rest of a slide does not tell.
            empty: glass alone.
        """
        self.empty = empty
        rng = generator(seed, "anatomy", name)
        self._textures = {what: texture.moved(rng) for what, texture in _textures(seed).items()}
        self._strays = rng.standard_exponential((TABLE, TABLE), np.float32)
        self._painted = tuple(tissue for tissue in PAINTED if tumour != 0 or tissue != TUMOUR)
        foci = None if tumour is None else Foci(generator(seed, "foci", name), tumour or USUAL_SHARE)
        self._plan = _Planner(rng, width, height, foci, healthy=tumour == 0)
        if tumour:
            self._fit(tumour, measuring_parts(width, height))

    def _fit(self, share: float, parts: list[tuple[Steps, Steps]]) -> None:
        """Move the tumour's outlines until it covers a share of the tissue."""
        plan = self._plan
        near, still = [], np.zeros(2, np.int64)
        for part in parts:
            if plan.at("inflamed", *part).max() > -FOCUS_EDGE:
                near.append(part)
            else:  # farther from all foci than they can reach
                still += self._counts(*part)

        def share_at(by: float) -> float:
            plan.grow(by)
            tumour, tissue = sum((self._counts(*part) for part in near), still)
            return float(tumour / max(tissue, 1))

        plan.grow(grown(share_at, share, FOCUS_EDGE / 2))

    def _counts(self, y: Steps, x: Steps) -> NDArray[np.int64]:
        """How many of the points are tumour, and how many are tissue, [2]."""
        label = self.window(y, x).label
        return np.array([np.count_nonzero(label == TUMOUR), np.count_nonzero(label != WHITE)])

    def window(self, y: Steps, x: Steps) -> Window:
        """The tissues where rows at `y` and columns at `x` micrometres cross; evenly spaced."""
        shape = len(y), len(x)
        if self.empty or self._plan.outside(y, x):
            away = np.full(shape, -1e3, np.float32)
            depth = dict.fromkeys(PAINTED, away) | {WHITE: -away}
            return Window(depth, np.full(shape, WHITE, np.uint8), np.zeros(shape, bool), np.zeros(shape, np.float32))
        depth = self._depths(y, x)
        label = np.full(shape, STROMA, np.uint8)
        for tissue in self._painted:
            label[depth[tissue] > 0] = tissue
        rows, columns = (np.floor(axis / STRAY_PITCH).astype(np.intp) % TABLE for axis in (y, x))
        stray = self._plan.habit.strays * self._strays[np.ix_(rows, columns)]
        strays = (depth[LYMPHOCYTES] + stray > 0) & ~np.isin(label, (WHITE, FAT))
        return Window(depth, label, strays, self._textures["thick"].at(y, x))

    def _depths(self, y: Steps, x: Steps) -> dict[int, Field]:
        """How deep points lie in each painted tissue, if no other were there."""
        plan, habit = self._plan, self._plan.habit
        piece, tumour, inflamed = (plan.at(name, y, x) for name in ("piece", "tumour", "inflamed"))
        fray, edge, nests, lumps, swarm, strands, septa, holes, cracks, regions = (
            self._textures[name].at(y, x)
            for name in "fray edge nests lumps swarm strands septa holes cracks regions".split()
        )
        depth = {}
        # Lobules between strands.
        depth[FAT] = np.minimum(plan.at("fat", y, x) + 8 * fray, 110 * np.abs(septa) - habit.septa)
        depth[GLAND] = plan.at("gland", y, x) + 22 * strands
        # Buds ahead of the tumour's edge, nests behind it, sheets in its depth.
        stages = np.array([-0.22, -0.04, 0.03, 0.2, 0.45]) * habit.edge
        bias = np.interp(tumour, stages, [-130, -42, -8, 10, habit.solid]).astype(np.float32)
        depth[TUMOUR] = 30 * nests + bias + 9 * lumps
        depth[NECROSIS] = np.minimum(tumour - habit.necrosis + 0.12 * habit.edge * lumps + 14 * nests, tumour)
        # Swarms along the tumour's edge, follicles anywhere; around nests rather than in them.
        front = np.exp(-np.square((inflamed + 0.03 * habit.edge) / (0.1 * habit.edge)))
        crowd = np.maximum(26 * (swarm - 2.3 + 2.2 * habit.inflamed * front), plan.at("follicles", y, x) + 9 * fray)
        depth[LYMPHOCYTES] = np.minimum.reduce([crowd, 10 - depth[TUMOUR], piece - 12])
        # Beyond the piece; vessels in stroma; cracks where the section tore.
        vessels = np.minimum.reduce([34 * (holes - 2.5), -depth[TUMOUR], -depth[FAT], -depth[GLAND], piece - 40])
        torn = np.minimum(2.4 - 110 * np.abs(cracks) + 1.6 * edge, 40 * (regions - 1.25))
        depth[WHITE] = np.maximum.reduce([-(piece + 9 * fray + 2.5 * edge), vessels, torn])
        return depth

    def region(self, y: float, x: float) -> float:
        """A slow field, mean 0 and deviation 1, by which neighbouring domains are alike."""
        return float(self._textures["regions"].at(np.array([y]), np.array([x]))[0, 0])

    def bent(self, y: Steps, x: Steps) -> tuple[Field, Field]:
        """Rows and columns of points in micrometres, pushed about so that straight lines become wavy."""
        down = y[:, None].astype(np.float32) + 30 * self._textures["bend y"].at(y, x)
        across = x[None, :].astype(np.float32) + 30 * self._textures["bend x"].at(y, x)
        return down, across


@lru_cache(maxsize=1)
def _textures(seed: int) -> dict[str, Texture]:
    """The fine fields of a data set; each slide shows another part of them."""
    return {
        what: Texture.draw(scale, generator(seed, "texture", what), rough=rough)
        for what, (scale, rough) in TEXTURES.items()
    }


class _Planner:
    """The large outlines on a grid of `PITCH` micrometres, as signed depths."""

    def __init__(
        self, rng: np.random.Generator, width: float, height: float, foci: Foci | None = None, *, healthy: bool = False
    ) -> None:
        self._pitch = max(PITCH, max(width, height) / 3000)
        self.size = float(np.clip(0.16 * np.sqrt(width * height), 250, 1300))  # of the large structures
        y = np.arange(0, height + self._pitch, self._pitch)
        x = np.arange(0, width + self._pitch, self._pitch)
        piece = self._pieces(rng, y, x, width, height)
        inside = piece > 0
        slow = [Texture.draw(scale * self.size, rng, side=256) for scale in (0.9, 0.8, 0.9, 0.35)]
        tumour, gland, fat, ragged = (texture.at(y, x) for texture in slow)
        shares = rng.dirichlet([5, 1.4, 1.4, 4]) * 0.95  # tumour, gland, fat; the rest is stroma
        fat += np.clip(1.2 - piece / self.size, 0, 1.2)  # towards the rim

        def covering(field: Field, share: float, of: NDArray[np.bool_]) -> Field:
            values = field[of]
            level = np.quantile(values, 1 - np.clip(share, 0, 1)) if len(values) else np.inf
            return self._signed(of & (field > level))

        self._maps = {"piece": piece}
        nowhere = np.full_like(piece, -1e3)
        lesion = nowhere
        if foci is None:
            lesion = covering(tumour + 0.25 * ragged - 0.2 * (piece < 0.1 * self.size), shares[0], inside)
        self._maps["tumour"] = lesion
        free = inside & (self._maps["tumour"] < -0.05 * self.size)
        self._maps["gland"] = covering(gland, shares[1] / (1 - shares[0]), free)
        free &= self._maps["gland"] < -0.03 * self.size
        self._maps["fat"] = covering(fat, shares[2] / max(1 - shares[0] - shares[1], 0.1), free)
        self._maps["follicles"] = self._follicles(rng, y, x, piece, width, height)
        self.habit = Habit(
            edge=self.size,
            solid=float(rng.uniform(12, 60)),
            necrosis=float(rng.uniform(0.22, 0.55)) * self.size,
            inflamed=float(rng.beta(1.5, 1.5)),
            strays=float(rng.uniform(4, 16)),
            septa=float(rng.uniform(5, 14)),
        )
        if foci is not None:
            lesion = self._signed(foci.outlines(y, x, piece))
            self._maps["tumour"] = nowhere if healthy else lesion
            # Sheets rather than nests; only the largest foci die in their depth.
            self.habit = replace(
                self.habit,
                edge=FOCUS_EDGE,
                solid=float(foci.rng.uniform(35, 60)),
                necrosis=float(foci.rng.uniform(0.6, 1.07)) * max(300.0, float(lesion.max())),
            )
        self._maps["inflamed"] = lesion

    def grow(self, by: float) -> None:
        """Move the tumour's outlines out by some micrometres from where its foci were drawn."""
        self._maps["tumour"] = self._maps["inflamed"] + np.float32(by)

    def at(self, name: str, y: Steps, x: Steps) -> Field:
        """One of the plan's maps where rows and columns at these micrometres cross."""
        return bilinear(self._maps[name], Places.of(y / self._pitch), Places.of(x / self._pitch))

    def outside(self, y: Steps, x: Steps) -> bool:
        """Whether no tissue can lie in this window."""
        return bool((self.at("piece", y[:: max(1, len(y) // 32)], x[:: max(1, len(x) // 32)]) < -120).all())

    def _signed(self, inside: NDArray[np.bool_]) -> Field:
        """How deep each point lies inside, in micrometres; below 0 outside."""
        if inside.all() or not inside.any():
            return np.full(inside.shape, 1e3 if inside.any() else -1e3, np.float32)
        into, out_of = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (inside, ~inside))
        return np.asarray(cv2.GaussianBlur((into - out_of) * self._pitch, (0, 0), 1.5), np.float32)

    def _pieces(self, rng: np.random.Generator, y: Steps, x: Steps, width: float, height: float) -> Field:
        """One to several pieces of tissue, each in its own part of the glass."""
        wide, high = (rng.choice([1, 1, 2, 3]), 1) if width >= height else (1, rng.choice([1, 1, 2, 3]))
        margin = 0.06 * min(width, height)
        rough, fine = Texture.draw(0.9 * self.size, rng, side=256), Texture.draw(0.2 * self.size, rng, side=256)
        frayed = 0.22 * rough.at(y, x) + 0.05 * fine.at(y, x)
        room_y, room_x = (height - 2 * margin) / high, (width - 2 * margin) / wide
        best = np.full((len(y), len(x)), -np.inf, np.float32)
        for row in range(high):
            for column in range(wide):
                half = np.array([room_y, room_x]) * rng.uniform(0.40, 0.47, 2)
                middle = margin + np.array([(row + 0.5) * room_y, (column + 0.5) * room_x])
                middle += rng.normal(0, 0.015, 2) * (room_y, room_x)
                power, turn = rng.uniform(2, 3.2), rng.normal(0, 0.12)
                down, across = (y[:, None] - middle[0]), (x[None, :] - middle[1])
                turned = np.cos(turn) * down + np.sin(turn) * across, np.cos(turn) * across - np.sin(turn) * down
                away = sum(np.abs(part / side) ** power for part, side in zip(turned, half, strict=True))
                best = np.maximum(best, 1 - np.asarray(away ** (1 / power), np.float32))
        rim = np.minimum(np.minimum(y, height - y)[:, None], np.minimum(x, width - x)[None, :]) / min(width, height)
        return self._signed((best + frayed * 0.6 > 0.06) & (rim > 0.02))

    def _follicles(
        self, rng: np.random.Generator, y: Steps, x: Steps, piece: Field, width: float, height: float
    ) -> Field:
        """Round aggregates of lymphocytes, here and there."""
        best = np.full(piece.shape, -1e3, np.float32)
        drawn = rng.random((400, 3))  # all at once: how many are used hangs on the slide's size
        number = round(1.1e-6 * self._pitch**2 * np.count_nonzero(piece > 0))
        for down, across, large in drawn[:number]:
            middle, radius = (down * height, across * width), (0.05 + 0.11 * large) * self.size
            rows = np.flatnonzero(np.abs(y - middle[0]) < 2 * radius)
            columns = np.flatnonzero(np.abs(x - middle[1]) < 2 * radius)
            if not len(rows) or not len(columns):
                continue
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            away = np.hypot(y[rows, None] - middle[0], 0.8 * (x[None, columns] - middle[1]))
            best[part] = np.maximum(best[part], np.maximum(radius - away, -1e3))
        return best
