"""How sure a measure is: patients are drawn again, with replacement, and the measure taken each time.

Cases of one patient resemble each other, so whole patients are drawn. A measure over a set follows from sums over
patients (of confusion matrices, or of values and their counts), so one matrix product gives it for every draw. The
interval is the 2.5th to the 97.5th percentile of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histill.core.report import Number
from histill.core.seeds import generator

DRAWS = 2000
NOT_SHOWN = "not shown"


@dataclass(frozen=True, eq=False)
class Resampling:
    """How often each patient counts: once each (row 0: the measure itself), then as drawn.

    Attributes:
        patient: intp [n], the patient of each case.
        weights: float64 [1 + draws, p]; a single row where there are fewer than two patients: then nothing can be said
            about other patients, and there is no interval.
    """

    patient: NDArray[np.intp]
    weights: NDArray[np.float64]

    @property
    def patients(self) -> int:
        """The number of patients."""
        return int(self.weights.shape[1])

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over the cases, patient by patient as drawn.

        Args:
            values: [n, ...], one entry per case; no nan.

        Returns:
            float64 [1 + draws, ...].
        """
        by_patient = np.zeros((self.patients, *values.shape[1:]))
        np.add.at(by_patient, self.patient, values)
        flat = self.weights @ by_patient.reshape(self.patients, -1)
        return flat.reshape(len(self.weights), *values.shape[1:])  # [1 + draws, ...]

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means over the cases, nan left out; every case of a drawn patient counts alike.

        Args:
            values: float64 [n, ...]; nan where a case has no value.

        Returns:
            float64 [1 + draws, ...]; nan where no case has a value.
        """
        sums, counts = self.sums(np.nan_to_num(values)), self.sums(~np.isnan(values))
        means = np.full(sums.shape, np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means


def resample(patients: Sequence[str], *, seed: int = 0, draws: int = DRAWS) -> Resampling:
    """Draw patients with replacement, as many as there are, `draws` times.

    The draws depend on the seed and the number of patients; the order of the cases changes nothing.

    Args:
        patients: the patient of each case.
        seed: the evaluation's seed.
        draws: how often to draw.
    """
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    count = len(names)
    once = np.ones((1, count))
    if count < 2:
        return Resampling(patient, once)
    drawn = generator(seed, "bootstrap", count).multinomial(count, np.full(count, 1 / count), size=draws)
    return Resampling(patient, np.concatenate([once, drawn]))


def number(replicates: NDArray[np.float64], n: int) -> Number:
    """A measure with its 95 % interval.

    Draws in which the measure is not defined (a rare class whose patients were not drawn) are left out of the
    percentiles.

    Args:
        replicates: float64 [1 + draws]; the first is the measure itself.
        n: number of cases.
    """
    value, draws = float(replicates[0]), replicates[1:][~np.isnan(replicates[1:])]
    if np.isnan(value) or draws.size == 0:
        return Number(value, n)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Number(value, n, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """A - B over the same cases, and what it shows.

    Attributes:
        number: A - B with its 95 % interval.
        verdict: "A beats B", "B beats A" (with their names), or "not shown".
    """

    number: Number
    verdict: str


def paired(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    n: int,
    *,
    names: tuple[str, str] = ("A", "B"),
    better: Literal["higher", "lower"] = "higher",
) -> Difference:
    """Compare two predictions of the same cases, draw by draw.

    One beats the other if the 95 % interval of their difference lies wholly on its side of 0. An interval that holds
    0, or no interval at all, shows nothing.

    Args:
        a: float64 [1 + draws], A's measure, from one `Resampling`.
        b: float64 [1 + draws], B's measure, from the same one.
        n: number of cases.
        names: what A and B are called.
        better: which way the measure is better; `lower` for distances.
    """
    difference = number(a - b, n)
    return Difference(difference, verdict(difference, names=names, better=better))


def verdict(
    difference: Number, *, names: tuple[str, str] = ("A", "B"), better: Literal["higher", "lower"] = "higher"
) -> str:
    """What an interval of A - B shows: "A beats B", "B beats A" or "not shown"; see `paired`."""
    first, second = names if better == "higher" else names[::-1]
    if difference.low is not None and difference.low > 0:
        return f"{first} beats {second}"
    if difference.high is not None and difference.high < 0:
        return f"{second} beats {first}"
    return NOT_SHOWN
