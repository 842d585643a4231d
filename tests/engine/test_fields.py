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
from tiny_boxes import tiny_boxes
from torch import Tensor, nn

from histill.core.boxes import Boxes, boxes_json, read_boxes
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.journal import Journal
from histill.core.manifest import Manifest, write_manifest
from histill.core.storage import new_folder
from histill.data.images import read_image
from histill.data.pairs import boxes_of
from histill.engine.fields import FOLDER, read_fields, require_alike, with_fields
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
    samples[2] = replace(samples[2], id="record")
    samples[3], samples[4] = replace(samples[3], split="test"), replace(samples[4], split="val")
    write_manifest(tmp_path / "fields.csv", samples, other.card)
    return table, tmp_path / "fields.csv"


def test_rows_to_learn_from_come_without_what_is_said_of_them(both: tuple[Manifest, Path]) -> None:
    fields = read_fields(both[1])
    assert [each.id for each in fields.samples] == ["field 0", "field 1", "record"]
    assert {(each.boxes, each.mask, each.labels) for each in fields.samples} == {(None, None, ())}


def test_files_say_what_is_found_in_px_of_the_whole_image(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, fields = both[0], read_fields(both[1])
    shown: list[dict[str, Any]] = []
    detector = Whole().train()
    made = with_fields(table, fields, detector, 0.5, run_in(tmp_path, shown))  # type: ignore[arg-type]
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
    progress = [(each["what"], each["done"], each["of"]) for each in shown if each["event"] == "made"]
    assert progress == [(FOLDER, i, 3) for i in (1, 2, 3)]
    assert shown[-1]["text"] == "the teacher finds 6 objects in 3 of 3 fields without boxes"


def test_it_is_done_once(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, fields = both[0], read_fields(both[1])
    detector, run = Whole(), run_in(tmp_path, [])
    first, second = (with_fields(table, fields, detector, 0.5, run) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert len(detector.seen) == 3


def test_a_field_in_which_nothing_is_found_holds_nothing(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    table, shown = both[0], []  # type: ignore[var-annotated]
    made = with_fields(table, read_fields(both[1]), Whole(), 0.95, run_in(tmp_path, shown))  # type: ignore[arg-type]
    assert len(boxes_of(made.samples[-1], table.classes)) == 0
    assert (tmp_path / FOLDER / "boxes" / "record.json").read_bytes() == boxes_json(Boxes.of([], [], []), table.classes)
    assert shown[-1]["text"] == "the teacher finds 0 objects in 0 of 3 fields without boxes"


def test_a_box_thinner_than_a_pixel_tells_of_nothing(both: tuple[Manifest, Path], tmp_path: Path) -> None:
    class Thin(Whole):
        def detect(self, images: Tensor) -> list[Found]:
            corners = torch.tensor([[0.0, 0, 5, 1], [3, 3, 3 + 1e-4, 9], [0, 0, 9, 0.99]])
            return [Found(corners, torch.tensor([0, 1, 0]), torch.ones(3))]

    table = both[0]
    made = with_fields(table, read_fields(both[1]), Thin().eval(), 0.5, run_in(tmp_path, []))  # type: ignore[arg-type]
    assert boxes_of(made.samples[-1], table.classes).corners.tolist() == [[0, 0, 5, 1]]


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_make_the_same_files(both: tuple[Manifest, Path], size: int, tmp_path: Path) -> None:
    table, fields = both[0], read_fields(both[1])
    for place, processes in ((tmp_path / "one", 1), (tmp_path / "many", size)):
        place.mkdir()
        with_fields(table, fields, Whole(), 0.5, run_in(place, [], processes))  # type: ignore[arg-type]
    one, many = (
        {each.name: each.read_bytes() for each in (tmp_path / name / FOLDER / "boxes").iterdir()}
        for name in ("one", "many")
    )
    assert one == many
    assert len(one) == 3


@pytest.mark.parametrize(("mpp", "refused"), [("1.05", False), ("1.2", True), ("0.5", True), ("", False)])
def test_a_row_of_another_spacing_is_refused(both: tuple[Manifest, Path], mpp: str, refused: bool) -> None:
    table, path = both
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rpartition(",")[0] + f",{mpp}"
    path.write_text("\n".join(lines) + "\n")
    fields = read_fields(path)
    if not refused:
        require_alike(fields, table)
        return
    with pytest.raises(
        HistillError, match=rf"line 3 \(field 1\): it has {mpp} um/px, the images with boxes 1"
    ) as caught:
        require_alike(fields, table)
    assert caught.value.code == Exit.USAGE
    assert "line 2" not in str(caught.value)
    unknown = tuple(replace(each, mpp=None) for each in table.samples)
    require_alike(fields, replace(table, samples=unknown))


def test_a_field_too_large_for_one_piece_is_refused(
    both: tuple[Manifest, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, fields = both[0], read_fields(both[1])
    monkeypatch.setattr("histill.engine.fields.MOST_PIXELS_AT_ONCE", 64 * 64)
    require_alike(fields, table)
    monkeypatch.setattr("histill.engine.fields.MOST_PIXELS_AT_ONCE", 64 * 64 - 1)
    with pytest.raises(HistillError, match="64 x 64 pixels are more") as caught:
        require_alike(fields, table)
    assert caught.value.code == Exit.USAGE
    # The crop is small enough.
    assert "(field 1)" not in str(caught.value)


def test_a_table_of_test_rows_is_refused(both: tuple[Manifest, Path]) -> None:
    path = both[1]
    lines = [line for line in path.read_text().splitlines() if ",test," in line or line.startswith("id,")]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(HistillError, match="never learnt from") as caught:
        read_fields(path)
    assert caught.value.code == Exit.USAGE
