"""What slide-level teachers say of slides, as something to learn: standardised, and joined if asked for.

WSISum, section "high-level reconstruction". Teachers differ in scale a hundredfold, so each is standardised first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from histill.core.errors import Exit, HistillError
from histill.core.manifest import Manifest
from histill.core.record import fingerprint
from histill.data.bag_batches import Vectors
from histill.data.bags import open_bag, slide_vectors

IN_BAGS = "bags"
"""Says that a teacher's vectors lie in the feature files themselves, as WSISum's do."""

JOINED = "components"
"""The name of the joined target."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Targets:
    """How raw vectors become targets; fitted to the training slides alone.

    Attributes:
        moments: of each teacher, mean and deviation of its numbers, float64 [2, k].
        directions: principal directions of all teachers side by side, float64 [components, sum of k]; None where each
            teacher is a target of its own.
        digest: of the vectors it was fitted to.
    """

    moments: Mapping[str, NDArray[np.float64]]
    directions: NDArray[np.float64] | None
    digest: str

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each target, by its name."""
        if self.directions is not None:
            return {JOINED: len(self.directions)}
        return {name: moments.shape[1] for name, moments in self.moments.items()}

    def of(self, raw: Vectors) -> dict[str, dict[str, Vector]]:
        """Targets from raw vectors; where they are joined, of slides of which every teacher says something."""
        apart = {
            name: {slide: (vector - self.moments[name][0]) / self.moments[name][1] for slide, vector in said.items()}
            for name, said in raw.items()
        }
        if self.directions is None:
            return {name: {s: v.astype(np.float32) for s, v in said.items()} for name, said in apart.items()}
        whole = {slide: np.concatenate([said[slide] for said in apart.values()]) for slide in _of_all(apart)}
        return {JOINED: {slide: (self.directions @ each).astype(np.float32) for slide, each in whole.items()}}


def fit_targets(raw: Vectors, target: Literal["heads", "components"], components: int) -> Targets:
    """Fit how vectors become targets.

    Args:
        raw: of the training slides, as `read_vectors` gives them; may be of no teacher.
        target: heads: each teacher by itself; components: the paper's, principal components of all side by side.
        components: how many at most; there are never more than slides less one.

    Raises:
        HistillError: input (4) if there are fewer than two slides to fit components to, or to standardise a teacher by.
    """
    digest = fingerprint({name: {s: v.tolist() for s, v in sorted(said.items())} for name, said in raw.items()})
    if target == "components" and raw:
        # Only what joined targets are made of: so their mean is 0.
        of_all = sorted(_of_all(raw))
        _require_two(len(of_all), "every teacher")
        raw = {name: {slide: said[slide] for slide in of_all} for name, said in raw.items()}
    moments = {}
    for name, said in raw.items():
        stacked = np.stack(list(said.values())).astype(np.float64)  # [slides, k]
        _require_two(len(stacked), f"teacher {name}")
        deviation = stacked.std(0)
        deviation[deviation <= 1e-6 * np.abs(stacked).max(0)] = 1
        moments[name] = np.stack([stacked.mean(0), deviation])
    apart = Targets(moments, None, digest)
    if target == "heads" or not raw:
        return apart
    told = apart.of(raw)
    slides = sorted(_of_all(told))
    whole = np.stack([np.concatenate([told[name][slide] for name in told]) for slide in slides]).astype(np.float64)
    # What several threads add up differs in the last bits.
    with threadpool_limits(limits=1):
        _, _, directions = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    return Targets(moments, directions[: min(components, len(slides) - 1)], digest)


def read_vectors(table: Manifest, teachers: Mapping[str, str]) -> dict[str, dict[str, Vector]]:
    """The vectors of a table's slides: teacher -> id of the sample -> [k]; slides a teacher is silent of are left out.

    Args:
        table: its samples' paths are feature files.
        teachers: name -> file or folder, see `data.bags.slide_vectors`; or `IN_BAGS`.

    Raises:
        HistillError: input (4) if a teacher says nothing of any of the slides, or vectors in bags differ in length, and
            as `slide_vectors`; usage (2) if vectors of a folder are to be told by names that several bags have.
    """
    found: dict[str, dict[str, Vector]] = {}
    for name, place in sorted(teachers.items()):
        if place == IN_BAGS:
            said = {sample.id: _in_bag(sample.path, name) for sample in table.samples}
        else:
            _require_own_names(table)
            by_stem = slide_vectors(Path(place), name)
            said = {sample.id: by_stem.get(sample.path.stem) for sample in table.samples}
        here = {slide: vector for slide, vector in said.items() if vector is not None}
        lengths = {len(vector): slide for slide, vector in here.items()}
        if len(lengths) > 1:
            differ = " and ".join(f"{length} numbers ({slide})" for length, slide in sorted(lengths.items())[:2])
            raise HistillError(
                f"teacher {name} says {differ}",
                code=Exit.INPUT,
                subject=str(table.path),
                mend="Give the vectors of one slide encoder",
            )
        if not here:
            raise HistillError(
                f"teacher {name} says nothing of any of the {len(table.samples)} slides",
                code=Exit.INPUT,
                subject=place,
                mend="Its files are named as the bags are: <slide>.h5, or <slide>_<teacher>.h5",
            )
        found[name] = here
    return found


def _in_bag(path: Path, name: str) -> Vector | None:
    with open_bag(path) as file:
        return file.facts.slide_vectors.get(name)


def _require_own_names(table: Manifest) -> None:
    paths: dict[str, Path] = {}
    for sample in table.samples:
        first = paths.setdefault(sample.path.stem, sample.path)
        if first != sample.path:
            raise HistillError(
                f"line {sample.line}: {first} and {sample.path} have one name, by which vectors are to be told",
                code=Exit.USAGE,
                subject=str(table.path),
                mend="Name each slide's file in its own way",
            )


def _of_all(said: Mapping[str, Mapping[str, object]]) -> set[str]:
    return set.intersection(*(set(each) for each in said.values()))


def _require_two(slides: int, who: str) -> None:
    if slides < 2:
        raise HistillError(
            f"{slides} training slide has what {who} says, and two are needed",
            code=Exit.INPUT,
            subject="teachers",
            mend="Give vectors of more slides, or leave the teacher out",
        )
