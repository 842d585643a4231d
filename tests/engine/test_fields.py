"""Fields without boxes: what a detector finds there, in px of the whole image, once, the same for any processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from tiny_boxes import tiny_boxes
from torch import Tensor, nn

from histill.core.boxes import Boxes, boxes_json, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.journal import Journal
from histill.core.manifest import Manifest, write_manifest
from histill.core.storage import new_folder, safe_name
from histill.data.images import read_image
from histill.data.pairs import boxes_of
from histill.engine.fields import FOUND, digest_of_fields, open_fields, read_fields, with_fields
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
def both(tmp_path: Path) -> tuple[Manifest, Path]:
    """A table with boxes, and one of fields: three rows, of which the second is a crop; and one of each other split."""
    table, other = tiny_boxes(tmp_path / "table"), tiny_boxes(tmp_path / "other")
    samples = [replace(each, id=f"field {i}", split="") for i, each in enumerate(other.samples[:5])]
    samples[1] = replace(samples[1], crop=Region(10, 20, 40, 30))
    samples[3], samples[4] = replace(samples[3], split="test"), replace(samples[4], split="val")
    write_manifest(tmp_path / "fields.csv", samples, other.card)
    return table, tmp_path / "fields.csv"


def test_rows_to_learn_from_come_without_what_is_said_of_them(both: tuple[Manifest, Path]) -> None:
    fields = read_fields(both[1], both[0])
    assert [each.id for each in fields.samples] == ["field 0", "field 1", "field 2"]
    assert {(each.boxes, each.mask, each.labels) for each in fields.samples} == {(None, None, ())}


def test_files_say_what_is_found_in_px_of_the_whole_image(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, path = both
    shown: list[dict[str, Any]] = []
    detector, run = Whole().train(), run_in(tmp_path, shown)
    fields = open_fields(path, table, run)
    shown.clear()
    made = with_fields(table, fields, detector, 0.5, run)  # type: ignore[arg-type]
    assert made.samples[: len(table.samples)] == table.samples
    assert (made.digest, made.card) == (table.digest, table.card)
    for i, (before, after) in enumerate(zip(fields.samples, made.samples[len(table.samples) :], strict=True)):
        assert replace(after, boxes=None) == before
        w, h = (40, 30) if i == 1 else (64, 64)
        own = boxes_of(after, table.classes)
        np.testing.assert_array_equal(own.corners, np.float32([[0, 0, w, h], [1, 2, w - 1, h]]))
        assert own.classes.tolist() == [0, 1]
        assert after.boxes
        whole = read_boxes(after.boxes, table.classes, (64, 64))
        left, top = (10, 20) if i == 1 else (0, 0)
        np.testing.assert_array_equal(whole.corners, own.corners + np.float32([left, top, left, top]))
        np.testing.assert_allclose(whole.scores, SCORES[:2])  # type: ignore[arg-type]
        pixels = read_image(before.path)[top : top + h, left : left + w]
        torch.testing.assert_close(detector.seen[i][0], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert [(each["what"], each["done"], each["of"]) for each in shown] == [(FOUND, i, 3) for i in (1, 2, 3)]


def test_it_is_done_once(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, path = both
    detector, run, fields = Whole(), run_in(tmp_path, []), read_fields(path, table)
    first, second = (with_fields(table, fields, detector, 0.5, run) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert len(detector.seen) == 3


def test_a_field_in_which_nothing_is_found_holds_nothing(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, path = both
    made = with_fields(table, read_fields(path, table), Whole(), 0.95, run_in(tmp_path, []))  # type: ignore[arg-type]
    assert len(boxes_of(made.samples[-1], table.classes)) == 0
    file = tmp_path / FOUND / f"{safe_name('field 2')}.json"
    assert file.read_bytes() == boxes_json(Boxes.of([], [], []), table.classes)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_make_the_same_files(both: tuple[Manifest, Path], size: int, tmp_path: Path) -> None:
    table, path = both
    for place, processes in ((tmp_path / "one", 1), (tmp_path / "many", size)):
        place.mkdir()
        with_fields(table, read_fields(path, table), Whole(), 0.5, run_in(place, [], processes))  # type: ignore[arg-type]
    one, many = (
        {each.name: each.read_bytes() for each in (tmp_path / name / FOUND).iterdir()} for name in ("one", "many")
    )
    assert one == many
    assert len(one) == 3


def test_the_hash_follows_rows_and_images(both: tuple[Manifest, Path]) -> None:
    table, path = both
    first = digest_of_fields(path, table)
    assert digest_of_fields(path, table) == first
    image = read_fields(path, table).samples[0].path
    pixels = image.read_bytes()
    Image.new("RGB", (64, 64)).save(image)
    assert digest_of_fields(path, table) != first
    image.write_bytes(pixels)
    path.write_text(path.read_text().replace("field 0", "field 9"))
    assert digest_of_fields(path, table) != first


@pytest.mark.parametrize(("mpp", "refused"), [("1.05", False), ("1.2", True), ("0.5", True), ("", False)])
def test_another_spacing_is_refused(both: tuple[Manifest, Path], mpp: str, refused: bool) -> None:
    table, path = both
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row.rpartition(",")[0] + f",{mpp}" for row in rows)]) + "\n")
    if not refused:
        assert len(read_fields(path, table).samples) == 3
        return
    with pytest.raises(HistillError, match=f"have {mpp} um/px, those with boxes 1") as caught:
        read_fields(path, table)
    assert caught.value.code == Exit.USAGE


def test_a_table_of_test_rows_is_refused(both: tuple[Manifest, Path]) -> None:
    table, path = both
    lines = [line for line in path.read_text().splitlines() if ",test," in line or line.startswith("id,")]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(HistillError, match="never learnt from") as caught:
        read_fields(path, table)
    assert caught.value.code == Exit.USAGE


def test_images_that_cannot_be_read_are_told_at_once(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, path = both
    for sample in read_fields(path, table).samples[::2]:
        sample.path.write_bytes(sample.path.read_bytes()[:60])
    with pytest.raises(HistillError) as caught:
        open_fields(path, table, run_in(tmp_path, []))
    assert caught.value.code == Exit.INPUT
    assert "(field 0)" in str(caught.value)
    assert "(field 2)" in str(caught.value)
