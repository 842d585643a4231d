"""Boxes of images that have none: what a detector finds, in px of the whole image; once; the same for any processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from tiny_boxes import tiny_boxes
from torch import Tensor, nn

from histill.core.boxes import Boxes, boxes_json, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.journal import Journal
from histill.core.manifest import Manifest
from histill.core.storage import new_folder, safe_name
from histill.data.images import read_image
from histill.data.pairs import boxes_of, labelled
from histill.engine.found_boxes import with_found_boxes
from histill.nets.detector import Found

SCORES = (0.9, 0.5, 0.499)


class Whole(nn.Module):
    """Finds three boxes in whatever image it is shown, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def detect(self, images: Tensor) -> list[Found]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        h, w = images.shape[-2:]
        corners = torch.tensor([[0.0, 0, w, h], [1, 2, w - 1, h], [3, 3, 9, 9]])
        return [Found(corners, torch.tensor([0, 1, 0]), torch.tensor(SCORES))]


def run_in(folder: Path, shown: list[dict[str, Any]], size: int = 1) -> Any:
    """What stands for a run: `once` as so many processes go through it, one after the other."""
    made = SimpleNamespace(fabric=Fabric(accelerator="cpu", devices=1), journal=Journal(None, shown.append))

    def once(name: str, make: Callable[[Path], None], *, shared: bool = False) -> Path:
        if not (folder / name).exists():
            with new_folder(folder / name) as making:
                for rank in range(size):
                    made.turns = (rank, size)
                    make(making)
        return folder / name

    made.once = once
    return made


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    """Rows 1, 2 (a crop) and 4 have no boxes."""
    made = tiny_boxes(tmp_path / "table")
    samples = [replace(each, boxes=None if i in (1, 2, 4) else each.boxes) for i, each in enumerate(made.samples)]
    samples[2] = replace(samples[2], crop=Region(10, 20, 40, 30))
    return replace(made, samples=tuple(samples))


def test_rows_without_boxes_get_what_is_found_and_the_others_keep_theirs(table: Manifest, tmp_path: Path) -> None:
    detector, shown = Whole().train(), []
    found = with_found_boxes(table, detector, 0.5, run_in(tmp_path, shown), name="found")  # type: ignore[arg-type]
    assert [each.id for each in found.samples] == [each.id for each in table.samples]
    assert (found.digest, found.path) == (table.digest, table.path)
    for i, (before, after) in enumerate(zip(table.samples, found.samples, strict=True)):
        assert replace(after, boxes=None) == replace(before, boxes=None)
        if i not in (1, 2, 4):
            assert after.boxes == before.boxes
            continue
        w, h = (40, 30) if i == 2 else (64, 64)
        own = boxes_of(after, found.classes)
        np.testing.assert_array_equal(own.corners, np.float32([[0, 0, w, h], [1, 2, w - 1, h]]))
        assert own.classes.tolist() == [0, 1]
        whole = read_boxes(after.boxes, found.classes, (64, 64))  # type: ignore[arg-type]
        left, top = (10, 20) if i == 2 else (0, 0)
        np.testing.assert_array_equal(whole.corners, own.corners + np.float32([left, top, left, top]))
        np.testing.assert_allclose(whole.scores, SCORES[:2])  # type: ignore[arg-type]
    for i, seen in zip((1, 2, 4), detector.seen, strict=True):
        pixels = read_image(table.samples[i].path, table.samples[i].crop)
        torch.testing.assert_close(seen[0], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert [(each["done"], each["of"]) for each in shown] == [(1, 3), (2, 3), (3, 3)]


def test_it_is_done_once(table: Manifest, tmp_path: Path) -> None:
    detector, run = Whole(), run_in(tmp_path, [])
    first, second = (with_found_boxes(table, detector, 0.5, run, name="found") for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert len(detector.seen) == 3


def test_an_image_in_which_nothing_is_found_holds_nothing(table: Manifest, tmp_path: Path) -> None:
    found = with_found_boxes(table, Whole(), 0.95, run_in(tmp_path, []), name="found")  # type: ignore[arg-type]
    assert len(boxes_of(found.samples[1], found.classes)) == 0
    file = tmp_path / "found" / f"{safe_name('tile 1')}.json"
    assert file.read_bytes() == boxes_json(Boxes.of([], [], []), found.classes)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_make_the_same_files(table: Manifest, size: int, tmp_path: Path) -> None:
    for place, processes in ((tmp_path / "one", 1), (tmp_path / "many", size)):
        place.mkdir()
        with_found_boxes(table, Whole(), 0.5, run_in(place, [], processes), name="found")  # type: ignore[arg-type]
    one, many = (
        {each.name: each.read_bytes() for each in (tmp_path / name / "found").iterdir()} for name in ("one", "many")
    )
    assert one == many
    assert len(one) == 3


def test_the_rows_that_have_boxes(table: Manifest) -> None:
    assert [each.id for each in labelled(table).samples] == [f"tile {i}" for i in (0, 3, 5, 6, 7)]
    with pytest.raises(HistillError, match="none of its 3 rows") as caught:
        labelled(table.choose(lambda sample: sample.boxes is None))
    assert caught.value.code == Exit.USAGE
