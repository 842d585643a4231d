"""What lies where in a made-up kidney tile: glomeruli, and what may be taken for one. Lengths in micrometres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.kidney_stain import KidneyLook, draw_kidney_look

Outline = NDArray[np.float64]

ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)

ARTERY, VEIN, INFILTRATE, BUNDLE = "artery", "vein", "infiltrate", "bundle"
"""What is round and no glomerulus: a vessel with a thick or a thin wall, a heap of lymphocytes, narrow tubules."""

RADII = {ARTERY: (22, 75), VEIN: (25, 80), INFILTRATE: (40, 95), BUNDLE: (65, 115)}
"""Between which the mean radius of each lies."""

PER_AREA = {ARTERY: 5.0, VEIN: 2.0, INFILTRATE: 1.6, BUNDLE: 2.2}
"""How many there are in a square millimetre of cortex."""


@dataclass(frozen=True)
class Donor:
    """Whom made-up kidney comes from.

    Attributes:
        name: stands for the patient.
        look: staining and scanning.
        radius: mean radius of the glomeruli.
        sclerosed: share of glomeruli that are scars.
        cellular: how densely nuclei lie in the tuft, 0 to 1.
        space: mean width of Bowman's space.
        fibrosis: width of the interstitium between tubules.
        glomeruli: how many in a square millimetre of cortex.
    """

    name: str
    look: KidneyLook
    radius: float
    sclerosed: float
    cellular: float
    space: float
    fibrosis: float
    glomeruli: float


def draw_donor(seed: int, name: str, stain: str) -> Donor:
    """A made-up donor, who follows from the seed and the name; `stain` is a key of `kidney_stain.STAINS`."""
    rng = generator(seed, "donor", name)
    return Donor(
        name,
        draw_kidney_look(seed, name, stain),
        radius=float(rng.uniform(90, 118)),
        sclerosed=float(rng.beta(1.2, 6)),
        cellular=float(rng.uniform(0.5, 0.95)),
        space=float(rng.uniform(6, 12)),
        fibrosis=float(rng.gamma(3, 0.9)),
        glomeruli=float(rng.uniform(7, 14)),
    )


@dataclass(frozen=True)
class Glomerulus:
    """One glomerulus.

    Attributes:
        capsule: Bowman's capsule, points x, y, float64 [p, 2].
        tuft: the outline of its capillaries, likewise.
        centre: x, y.
        pole: direction of the vascular pole in radians.
        sclerosed: whether it is a scar.
    """

    capsule: Outline
    tuft: Outline
    centre: tuple[float, float]
    pole: float
    sclerosed: bool

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 around the capsule; may reach beyond the tile."""
        (x0, y0), (x1, y1) = self.capsule.min(axis=0), self.capsule.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True)
class Distractor:
    """Something round that is no glomerulus.

    Attributes:
        kind: a key of `RADII`.
        outline: points x, y, float64 [p, 2].
        wall: of a vessel: thickness.
        filled: of a vessel: whether there is blood in it.
    """

    kind: str
    outline: Outline
    wall: float
    filled: bool


@dataclass(frozen=True)
class KidneyScene:
    """What lies where in a tile.

    Attributes:
        side: of the tile.
        glomeruli: those that touch the tile.
        distractors: what else is round.
        medulla: whether it is medulla: tubules run alongside, and there is no glomerulus.
        direction: in which tubules run, in radians.
        stretch: how many times as long as wide their sections are.
        edge: a line where the tissue ends, as (direction outwards, distance from the tile's centre), or None.
    """

    side: float
    glomeruli: tuple[Glomerulus, ...]
    distractors: tuple[Distractor, ...]
    medulla: bool
    direction: float
    stretch: float
    edge: tuple[float, float] | None


def draw_kidney_scene(donor: Donor, side: float, rng: np.random.Generator, *, cortex: bool = False) -> KidneyScene:
    """A tile of a donor's kidney, `side` micrometres wide; cortex from edge to edge, if that is asked for."""
    medulla = not cortex and bool(rng.random() < 0.12)
    edge = None
    if not cortex and rng.random() < 0.15:
        edge = float(rng.uniform(0, 2 * np.pi)), float(side * rng.uniform(0.1, 0.5))
    taken: list[tuple[float, float, float]] = []

    def place(radius: float) -> tuple[float, float] | None:
        """A centre that leaves room for a radius, perhaps beyond the tile's edge, or None."""
        for _ in range(12):
            x, y = rng.uniform(-0.8 * radius, side + 0.8 * radius, 2)
            free = all(np.hypot(x - u, y - v) > radius + other for u, v, other in taken)
            if free and (edge is None or _beyond((x, y), side, edge) < -radius - 15):
                taken.append((x, y, radius))
                return float(x), float(y)
        return None

    # A frame of 0.8 radii around the tile holds centres as well.
    area = ((side + 1.6 * donor.radius) / 1000) ** 2
    crowding = rng.gamma(3, 1 / 3)
    glomeruli: list[Glomerulus] = []
    for _ in range(0 if medulla else int(rng.poisson(crowding * donor.glomeruli * area))):
        sclerosed = bool(rng.random() < donor.sclerosed)
        # A section passes a ball anywhere: profiles are smaller than the ball.
        radius = donor.radius * np.sqrt(1 - rng.uniform(0, 0.72) ** 2) * np.exp(rng.normal(0, 0.06))
        radius *= rng.uniform(0.55, 0.8) if sclerosed else 1
        centre = place(1.2 * radius)
        if centre is not None:
            glomeruli.append(_glomerulus(donor, centre, float(radius), sclerosed, rng))
    distractors = [_arteriole(each, rng) for each in glomeruli if rng.random() < 0.45]
    for kind, often in PER_AREA.items():
        for _ in range(int(rng.poisson(often * area))):
            radius = float(np.exp(rng.uniform(*np.log(RADII[kind]))))
            centre = place(1.15 * radius)
            if centre is not None:
                wobble = 0.06 if kind in (ARTERY, BUNDLE) else 0.12
                outline = _around(centre, radius * _wobble(rng, (2, 3, 4), wobble), rng.uniform(1, 1.5), rng)
                wall = radius * rng.uniform(0.35, 0.62) if kind == ARTERY else rng.uniform(3, 6)
                distractors.append(Distractor(kind, outline, float(wall), bool(rng.random() < 0.5)))
    stretch = rng.uniform(2.2, 4) if medulla else rng.uniform(1, 1.6)
    return KidneyScene(
        side,
        tuple(each for each in glomeruli if _touches(each.capsule, side)),
        tuple(each for each in distractors if _touches(each.outline, side)),
        medulla,
        float(rng.uniform(0, np.pi)),
        float(stretch),
        edge,
    )


def _glomerulus(
    donor: Donor, centre: tuple[float, float], radius: float, sclerosed: bool, rng: np.random.Generator
) -> Glomerulus:
    pole = float(rng.uniform(0, 2 * np.pi))
    shape = _wobble(rng, (2, 3, 5), 0.09 if sclerosed else 0.035)
    stretch = rng.uniform(1, 1.22)
    # The tuft hangs on the vascular pole; its lobules make the space uneven everywhere else.
    away = np.clip((1 - np.cos(ANGLES - pole)) / 0.5, 0, 1)
    lobules = 1 + 0.55 * np.cos(rng.integers(5, 9) * (ANGLES - pole) + rng.uniform(0, 6)) * rng.uniform(0.4, 1)
    space = (2.0 if sclerosed else donor.space * np.exp(rng.normal(0, 0.3))) * away * lobules
    space *= 1 + 0.6 * np.cos(ANGLES - pole - np.pi + rng.normal(0, 0.6))
    inner = np.maximum(radius * shape - np.clip(space, 1.0, 0.35 * radius), 0.5 * radius)
    angle, across = rng.uniform(0, np.pi), 1 / np.sqrt(stretch)
    turn = np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = turn.T @ np.diag([np.sqrt(stretch), across]) @ turn
    unit = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)  # [p, 2]
    capsule, tuft = ((length[:, None] * unit) @ squeeze + centre for length in (radius * shape, inner))
    return Glomerulus(capsule, tuft, centre, pole, sclerosed)


def _arteriole(each: Glomerulus, rng: np.random.Generator) -> Distractor:
    """What supplies a glomerulus, where the section meets it: at the vascular pole, pressed against the capsule."""
    x, y = each.capsule[np.argmin(np.abs(np.angle(np.exp(1j * (ANGLES - each.pole)))))]
    radius = float(rng.uniform(12, 18))
    centre = x + 0.7 * radius * np.cos(each.pole), y + 0.7 * radius * np.sin(each.pole)
    outline = _around(centre, radius * _wobble(rng, (2, 3), 0.08), rng.uniform(1, 1.6), rng)
    return Distractor(ARTERY, outline, 0.55 * radius, bool(rng.random() < 0.5))


def _around(
    centre: tuple[float, float], radius: NDArray[np.float64], stretch: float, rng: np.random.Generator
) -> Outline:
    """A closed outline about a centre: radii, turned, longer one way than the other."""
    angle, long = rng.uniform(0, np.pi), np.sqrt(stretch)
    x, y = radius * np.cos(ANGLES) * long, radius * np.sin(ANGLES) / long
    return np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=-1) + centre


def _wobble(rng: np.random.Generator, orders: Sequence[int], much: float) -> NDArray[np.float64]:
    """Relative radii, float64 [p]: a circle that swings a little."""
    swings = [rng.normal(0, much * 2 / order) * np.cos(order * ANGLES + rng.uniform(0, 2 * np.pi)) for order in orders]
    radii: NDArray[np.float64] = np.clip(1 + np.sum(swings, axis=0), 0.7, 1.3)
    return radii


def _touches(outline: Outline, side: float) -> bool:
    return bool((outline.max(axis=0) > 0).all() and (outline.min(axis=0) < side).all())


def _beyond(point: tuple[float, float], side: float, edge: tuple[float, float]) -> float:
    """How far a point lies beyond the tissue's edge; negative inside."""
    direction, distance = edge
    x, y = point[0] - side / 2, point[1] - side / 2
    return float(np.cos(direction) * x + np.sin(direction) * y - distance)
