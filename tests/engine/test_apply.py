"""Prediction of a table: records, reuse, quarantine."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from histill.core.card import DatasetCard
from histill.core.config import Strict
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.core.masks import read_indexed
from histill.core.record import faults, read_record
from histill.data.predicted import open_predictions
from histill.data.tiles import TileBatch
from histill.engine.images import apply_to_images as apply
from histill.engine.method import Card
from histill.engine.run import Machine, Run
from histill.engine.tile_method import TileMethod
from histill.engine.training import Trained

MACHINE = Machine(accelerator="cpu", precision="float32")


class Red(TileMethod):
    """Class b is as likely as the pixel is red."""

    card = Card("red", "red", "segment", "image labels", "none")
    Config = Strict

    def __init__(self) -> None:
        super().__init__(Strict(), Classes(("a", "b")))
        self.seen = torch.nn.Parameter(torch.zeros(1))
        self.count = 0

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Nothing."""

    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The red channel."""
        assert torch.is_inference_mode_enabled()
        self.count += 1
        red = batch.images[:, :1]
        return torch.cat([1 - red, red], dim=1)


def trained(digest: str = "d") -> Trained:
    return Trained(
        Red().eval(), digest, DatasetCard(classes=("a", "b")), {"mpp": None, "side": 32}, {"seed": 0}, ("a warning",)
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("journal.jsonl", ".lock")
    }


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def spoil(table: Manifest, number: int) -> None:
    path = table.samples[number].path
    path.write_bytes(path.read_bytes()[:40])


def test_every_image_gets_its_mask_its_record_and_its_row(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = apply(trained(), table, folder, machine=MACHINE, probabilities=True)
    assert (done.total, done.reused, done.quarantined) == (6, 0, {})
    for sample, row in zip(table.samples, rows(folder), strict=True):
        red = np.array(Image.open(sample.path))[..., 0]
        expected = (red / 255 > 0.5).astype(np.uint8)
        np.testing.assert_array_equal(read_indexed(folder / "masks" / f"{sample.id}.png"), expected)
        kept = np.load(folder / "probabilities" / f"{sample.id}.npz")["probabilities"]
        np.testing.assert_allclose(kept[1], red / 255, atol=1e-3)
        assert (row["id"], row["status"], row["mask"]) == (sample.id, "ok", f"masks/{sample.id}.png")
        assert int(row["b_px"]) == expected.sum()
        assert int(row["a_px"]) + int(row["b_px"]) == expected.size
        record = read_record(folder / "records" / f"{sample.id}.json")
        assert record is not None
        assert not faults(record, folder)
    index = json.loads((folder / "predictions.json").read_bytes())
    assert (index["method"], index["model"], index["warnings"]) == ("red", "d", ["a warning"])


def test_a_second_run_does_nothing_and_changes_nothing(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    apply(trained(), table, folder, machine=MACHINE)
    before = files(folder)
    again = trained()
    done = apply(again, table, folder, machine=MACHINE)
    assert done.reused == 6
    assert isinstance(again.method, Red)
    assert again.method.count == 0
    assert files(folder) == before


@pytest.mark.parametrize("change", ["mask", "image", "record", "model"])
def test_what_no_longer_holds_is_done_again(change: str, table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    apply(trained(), table, folder, machine=MACHINE)
    before = files(folder)
    if change == "mask":
        (folder / "masks" / "s1.png").write_bytes(b"?")
    elif change == "image":
        Image.fromarray(np.full((9, 9, 3), 255, np.uint8)).save(table.samples[1].path)
    elif change == "record":
        (folder / "records" / "s1.json").unlink()
    done = apply(trained("other" if change == "model" else "d"), table, folder, machine=MACHINE)
    assert done.reused == (0 if change == "model" else 5)
    if change in ("mask", "record"):
        assert files(folder) == before
    if change == "image":
        assert read_indexed(folder / "masks" / "s1.png").tolist() == [[1] * 9] * 9


def test_a_crop_is_predicted_as_the_picture_it_is(table: Manifest, tmp_path: Path) -> None:
    cut = replace(table, samples=(replace(table.samples[1], crop=Region(5, 3, 20, 17)),))
    apply(trained(), table, tmp_path / "whole", machine=MACHINE)
    apply(trained(), cut, tmp_path / "cut", machine=MACHINE)
    whole = read_indexed(tmp_path / "whole" / "masks" / "s1.png")
    np.testing.assert_array_equal(read_indexed(tmp_path / "cut" / "masks" / "s1.png"), whole[3:20, 5:25])


def test_a_bad_image_is_put_aside_and_the_others_are_as_ever(table: Manifest, tmp_path: Path) -> None:
    apply(trained(), table, tmp_path / "clean", machine=MACHINE)
    spoil(table, 2)
    folder = tmp_path / "out"
    done = apply(trained(), table, folder, machine=MACHINE)
    assert list(done.quarantined) == ["s2"]
    record = read_record(folder / "records" / "s2.json")
    assert record is not None
    assert record.status == "quarantined"
    assert str(table.samples[2].path) in record.message
    assert not (folder / "masks" / "s2.png").exists()
    clean, found = files(tmp_path / "clean"), files(folder)
    for name in clean:
        if "s2" not in name and not name.startswith("predictions"):
            assert found[name] == clean[name]
    assert [row["status"] for row in rows(folder)] == ["ok", "ok", "quarantined", "ok", "ok", "ok"]
    assert rows(folder)[2]["message"]


def test_what_was_made_of_an_image_before_it_went_bad_goes(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    apply(trained(), table, folder, machine=MACHINE, probabilities=True)
    spoil(table, 2)
    done = apply(trained(), table, folder, machine=MACHINE, probabilities=True)
    assert (done.reused, list(done.quarantined)) == (5, ["s2"])
    assert sorted(name for name in files(folder) if "s2" in name) == ["records/s2.json"]


def test_a_mended_image_is_done_on_the_next_run(table: Manifest, tmp_path: Path) -> None:
    good = table.samples[2].path.read_bytes()
    apply(trained(), table, tmp_path / "clean", machine=MACHINE)
    spoil(table, 2)
    folder = tmp_path / "out"
    apply(trained(), table, folder, machine=MACHINE)
    table.samples[2].path.write_bytes(good)
    done = apply(trained(), table, folder, machine=MACHINE)
    assert (done.reused, done.quarantined) == (5, {})
    assert files(folder) == files(tmp_path / "clean")


def test_too_many_bad_images_stop_the_run(table: Manifest, tmp_path: Path) -> None:
    for number in (0, 3):
        spoil(table, number)
    with pytest.raises(HistillError, match="2 of 6 images") as caught:
        apply(trained(), table, tmp_path / "out", machine=MACHINE, most_quarantined=0.2)
    assert caught.value.code == Exit.INPUT
    assert "mounted" in caught.value.mend
    done = apply(trained(), table, tmp_path / "out", machine=MACHINE, most_quarantined=0.5)
    assert sorted(done.quarantined) == ["s0", "s3"]


def test_ids_that_are_no_file_names_stay_inside_and_formulas_are_defused(table: Manifest, tmp_path: Path) -> None:
    odd = replace(table, samples=(replace(table.samples[0], id="=../../x"), replace(table.samples[1], id="A b")))
    folder = tmp_path / "out"
    apply(trained(), odd, folder, machine=MACHINE)
    assert len(list(folder.glob("masks/*.png"))) == 2
    assert [row["id"] for row in rows(folder)] == ["'=../../x", "A b"]
    assert not (tmp_path / "x.png").exists()


def test_none_may_be_bad_if_the_user_says_so(table: Manifest, tmp_path: Path) -> None:
    spoil(table, 2)
    with pytest.raises(HistillError, match="1 of 6 images"):
        apply(trained(), table, tmp_path / "out", machine=MACHINE, most_quarantined=0.0)
    assert [row["status"] for row in rows(tmp_path / "out")] == ["ok", "ok", "quarantined"]


def test_an_image_too_large_for_one_piece_is_put_aside(
    table: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histill.engine.images.MOST_PIXELS_AT_ONCE", 32 * 32)
    done = apply(trained(), table, tmp_path / "out", machine=MACHINE, most_quarantined=1.0)
    assert sorted(done.quarantined) == ["s1", "s4"]
    assert "crops" in done.quarantined["s1"]


def test_a_mask_counts_only_for_its_model_and_its_image(table: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    apply(trained(), table, folder, machine=MACHINE)
    one, other = table.samples[0], table.samples[3]
    assert open_predictions(folder).mask_of(one) is not None
    apply(trained("another"), replace(table, samples=(other,)), folder, machine=MACHINE)
    predictions = open_predictions(folder)
    assert predictions.record_of(other) is not None
    assert predictions.record_of(one) is None
    with pytest.raises(HistillError, match="not predicted by this model"):
        predictions.mask_of(one)
    other.path.write_bytes(one.path.read_bytes())
    with pytest.raises(HistillError, match="another than the one"):
        predictions.mask_of(other)
