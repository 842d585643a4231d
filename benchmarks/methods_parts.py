"""What a finished run of glmkd holds besides its answer: each student's alone, and what both witnesses see.

All of it, on the test images, is kept beside the run, so that tables are quick to write again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from methods_jobs import Job, is_done

from histill.core.manifest import Manifest, read_manifest
from histill.core.masks import PseudoMask
from histill.core.record import fingerprint
from histill.core.storage import new_folder
from histill.data.images import MaskCache
from histill.data.predicted import open_predictions
from histill.data.tiles import Tiles
from histill.engine.images import apply_to_images
from histill.engine.run import Machine, build_fabric
from histill.engine.scoring import score_predictions
from histill.engine.training import Trained
from histill.methods import load
from histill.metrics.summary import ImageScore, score_image
from histill.pseudo.masks import MaskFolder

STUDENTS = {"global student": "global", "local student": "local"}
WITNESSES = {"global witness": 0, "local witness": 1}
"""Which of the maps that `witnesses` gives."""
PARTS = {"glmkd": (*STUDENTS, *WITNESSES)}
HARD = 0.5
"""From this value on a map is lesion."""
MACHINE = Machine(threads=1)


def part_scores(job: Job, part: str, path: Path, out: Path) -> list[ImageScore] | None:
    """The scores of a part of a finished run on the test images, else None."""
    if not is_done(job, path, out):
        return None
    folder = out / "runs" / job.name
    trained, test = load(folder / "run"), read_manifest(path).of_split("test")
    place = folder / f"parts-{trained.digest[:8]}"
    if part in STUDENTS:
        return _student_scores(trained, STUDENTS[part], test, place)
    return _witness_scores(trained, part, test, place / "witnesses")


def _student_scores(trained: Trained, which: str, test: Manifest, place: Path) -> list[ImageScore]:
    """One student predicts alone."""
    method: Any = trained.method
    method.config = method.config.model_copy(update={"students": which})
    alone = replace(trained, digest=fingerprint([trained.digest, which]))
    apply_to_images(alone, test, place / which, machine=MACHINE)
    return score_predictions(open_predictions(place / which), test).scores


def _witness_scores(trained: Trained, part: str, test: Manifest, folder: Path) -> list[ImageScore]:
    """What a witness saw, told the image label, as a mask."""
    masks = MaskFolder(folder, list(WITNESSES))
    if not folder.exists():
        with new_folder(folder) as making:
            _write_witnesses(trained, test, MaskFolder(making, list(WITNESSES)))
    truths = MaskCache(test.card)
    k = len(test.classes)
    return [score_image(each, truths.read(each), masks.labels(part, each), k) for each in test.samples]


def _write_witnesses(trained: Trained, test: Manifest, masks: MaskFolder) -> None:
    device = build_fabric(MACHINE).device
    method: Any = trained.method.to(device)
    lesion = test.classes.lesion
    samples = iter(test.samples)
    for batch in Tiles(test, 8).epoch(0, 0):
        soft = method.witnesses(batch.to(device)).cpu().numpy()  # [b, 2, h, w]
        for i in range(len(batch.ids)):
            sample = next(samples)
            h, w = int(batch.valid[i].any(1).sum()), int(batch.valid[i].any(0).sum())
            for tap, number in WITNESSES.items():
                seen = soft[i, number, :h, :w]
                labels = np.where(seen >= HARD, lesion, 1 - lesion).astype(np.uint8)  # [h, w]
                masks.add(tap, sample, PseudoMask(labels, np.abs(2 * seen - 1)), test.classes)
