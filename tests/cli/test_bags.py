"""Bags from the command line: a cohort, MIL and its attention, summaries by a run and by baselines, bad bags."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small import EVERYWHERE, Histill, tree

from histill.core.bags import Bag
from histill.data.bags import find_bags, read_bag
from histill.formats.trident import write_bag

Fails = Callable[..., str]
STRUCK = Path(__file__).with_name("struck.py")
WIDTH, SIDE, SLIDES = 8, 512, 16
MIL = (
    *("--head.hidden", "16", "--head.attention", "8", "--learn.epochs", "30", "--learn.learning_rate", "0.02"),
    *("--learn.batch_size", "4", "--learn.accumulate", "1", "--select", "last"),
)
WSISUM = (
    *("--autoencoder.width", "16", "--autoencoder.depth", "1", "--autoencoder.heads", "2"),
    *("--autoencoder.decoder_width", "8", "--autoencoder.decoder_depth", "1", "--autoencoder.decoder_heads", "2"),
    *("--learn.epochs", "2", "--learn.batch_size", "4", "--clusters", "5", "--tiles", "24"),
    *("--search.trials", "4", "--search.swaps", "8", "--search.at_once", "4"),
)


def bag(number: int, ill: bool) -> Bag:
    """A slide of 20 to 35 tiles in a grid; in an ill one the first three stand out in feature 0."""
    random = np.random.default_rng(number)
    n = 20 + number
    features = random.normal(0, 1, (n, WIDTH)).astype(np.float32)
    if ill:
        features[:3, 0] += 6
    coords = np.array([(x * SIDE, y * SIDE) for y in range(7) for x in range(6)][:n], np.int64)
    return Bag(slide=f"s{number}", features=features, coords=coords, tile_side=SIDE, mpp=0.25, slide_size=(4096, 4096))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags and CLAM's tables of them. Not to be changed."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["case_id,slide_id,label"]
    for number in range(SLIDES):
        ill = number % 2 == 1
        write_bag(folder / "features_e" / f"s{number}.h5", bag(number, ill))
        rows.append(f"p{number},s{number},{'ill' if ill else 'well'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    split = [f"s{i}" for i in range(SLIDES)]
    lines = [",train,val,test", *(f"{i},{a},{b},{c}" for i, (a, b, c) in enumerate(_columns(split)))]
    (folder / "splits_0.csv").write_text("\n".join(lines) + "\n")
    return folder


def _columns(ids: list[str]) -> list[tuple[str, str, str]]:
    train, val, test = ids[:8], ids[8:10], ids[10:]
    return [(each, *(part[i] if i < len(part) else "" for part in (val, test))) for i, each in enumerate(train)]


@pytest.fixture(scope="module")
def table(made: Path) -> Path:
    """The cohort's table."""
    from small import call

    to = made / "data.csv"
    command = (
        "import",
        "cohort",
        made / "labels.csv",
        "--bags",
        made / "features_e",
        "--splits",
        made / "splits_0.csv",
    )
    assert call(*command, "--classes", "well,ill", "--to", to) == 0
    return to


@pytest.fixture(scope="module")
def runs(made: Path, table: Path) -> Path:
    """A run of mil and one of wsisum."""
    from small import call

    assert call("train", "mil", "--train", table, "--run", made / "mil", *MIL, *EVERYWHERE) == 0
    assert call("train", "wsisum", "--train", made / "features_e", "--run", made / "wsisum", *WSISUM, *EVERYWHERE) == 0
    return made


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- cohort -----------------------------------------------------------------------------------------------------------


def test_a_cohort_is_a_table_of_bags(table: Path) -> None:
    rows = read(table)
    assert [row["split"] for row in rows] == 8 * ["train"] + 2 * ["val"] + 6 * ["test"]
    assert rows[1]["path"] == "features_e/s1.h5"
    assert (rows[1]["labels"], rows[1]["patient"]) == ("ill", "p1")


def test_a_cohort_wants_its_bags_and_others_want_none(made: Path, fails: Fails, tmp_path: Path) -> None:
    fails(2, "--bags", "import", "cohort", made / "labels.csv", "--to", tmp_path / "t.csv")
    fails(2, "--bags", "import", "plain", made / "labels.csv", "--bags", made, "--to", tmp_path / "t.csv")


# --- MIL --------------------------------------------------------------------------------------------------------------


def test_attention_finds_what_makes_a_slide_ill(runs: Path, table: Path, histill: Histill, tmp_path: Path) -> None:
    said = histill("predict", runs / "mil", table, "--split", "test", "--to", tmp_path / "out", *EVERYWHERE)
    assert said.code == 0, said.err
    rows = read(tmp_path / "out" / "predictions.csv")
    assert [row["id"] for row in rows] == [f"s{i}" for i in range(10, 16)]
    for row in rows:
        ill = int(row["id"][1:]) % 2 == 1
        assert float(row["p_well"]) + float(row["p_ill"]) == pytest.approx(1, abs=1e-6)
        assert (float(row["p_ill"]) > 0.5) == ill
        looked = read(tmp_path / "out" / row["attention"])
        weights = np.array([float(each["attention"]) for each in looked])
        assert weights.sum() == pytest.approx(1, abs=1e-4)
        assert (int(looked[7]["x"]), int(looked[7]["y"])) == (SIDE, SIDE)
        if ill:
            assert set(np.argsort(-weights)[:3]) == {0, 1, 2}
        objects = json.loads((tmp_path / "out" / "geojson" / f"{row['id']}.geojson").read_text())["features"]
        assert [each["properties"]["measurements"]["attention"] for each in objects] == pytest.approx(weights, rel=1e-4)
        assert (tmp_path / "out" / "pictures" / f"{row['id']}.jpg").stat().st_size > 1000

    said = histill("evaluate", tmp_path / "out", table, "--to", tmp_path / "report")
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["numbers"]["slides/AUC"]["value"] == 1
    assert report["numbers"]["slides/AUC"]["n"] == 6


def test_two_predictions_are_compared(runs: Path, table: Path, histill: Histill, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        histill("predict", runs / "mil", table, "--split", "test", "--to", tmp_path / folder, *EVERYWHERE)
    said = histill("evaluate", tmp_path / "a", table, "--to", tmp_path / "r", "--against", tmp_path / "b")
    assert said.code == 0, said.err
    difference = json.loads((tmp_path / "r" / "report.json").read_text())["numbers"]["difference/AUC"]
    assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)


def test_flags_of_pixels_say_nothing_of_bags(runs: Path, table: Path, fails: Fails, tmp_path: Path) -> None:
    fails(2, "--tile", "predict", runs / "mil", table, "--to", tmp_path, "--tile", "64")
    fails(2, "histill summarize", "predict", runs / "wsisum", table, "--to", tmp_path)


def test_a_folder_will_do_where_no_labels_are_needed(made: Path, fails: Fails, tmp_path: Path) -> None:
    fails(4, "there is no such table", "train", "mil", "--train", made / "features_e", "--run", tmp_path / "run")


# --- summaries --------------------------------------------------------------------------------------------------------


def test_a_summary_is_a_bag_of_real_tiles(runs: Path, table: Path, histill: Histill, tmp_path: Path) -> None:
    command = ("summarize", table, "--run", runs / "wsisum", "--budget", "6", "--to", tmp_path / "out", *EVERYWHERE)
    said = histill(*command)
    assert said.code == 0, said.err
    found = find_bags(tmp_path / "out")
    assert sorted(found) == sorted(f"s{i}" for i in range(SLIDES))
    for number in range(SLIDES):
        whole, summary = bag(number, number % 2 == 1), read_bag(found[f"s{number}"])
        listed = read(tmp_path / "out" / "kept" / f"s{number}.csv")
        kept = [int(row["row"]) for row in listed]
        assert kept == sorted(set(kept))
        assert len(kept) == 6
        np.testing.assert_array_equal(summary.features, whole.features[kept])
        assert summary.coords is not None
        assert whole.coords is not None
        np.testing.assert_array_equal(summary.coords, whole.coords[kept])
        assert [(int(row["x"]), int(row["y"])) for row in listed] == [
            tuple(each) for each in whole.coords[kept].tolist()
        ]
        assert (tmp_path / "out" / "pictures" / f"s{number}.jpg").is_file()
    rows = read(tmp_path / "out" / "summaries.csv")
    assert {(row["tiles"], row["kept"]) for row in rows} == {(str(20 + i), "6") for i in range(SLIDES)}
    labelled = read(tmp_path / "out" / "data.csv")
    assert [(row["labels"], row["split"]) for row in labelled] == [(r["labels"], r["split"]) for r in read(table)]

    before = tree(tmp_path / "out")
    assert f"{SLIDES} bags: {SLIDES} done before" in histill(*command).err
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("by", ["random", "cluster", "cluster-quota", "entropy", "location", "farthest"])
def test_a_baseline_needs_no_run(by: str, made: Path, histill: Histill, tmp_path: Path) -> None:
    said = histill("summarize", made / "features_e", "--by", by, "--budget", "25%", "--to", tmp_path, *EVERYWHERE)
    assert said.code == 0, said.err
    assert {row["kept"] for row in read(tmp_path / "summaries.csv")} == {
        str(round((20 + i) / 4)) for i in range(SLIDES)
    }


def test_what_a_bag_model_looks_at_is_a_summary(runs: Path, table: Path, histill: Histill, tmp_path: Path) -> None:
    command = ("summarize", table, "--by", "attention", "--run", runs / "mil", "--budget", "3", "--to", tmp_path)
    assert histill(*command, *EVERYWHERE).code == 0
    assert [int(row["row"]) for row in read(tmp_path / "kept" / "s11.csv")] == [0, 1, 2]


def test_a_bag_smaller_than_the_budget_keeps_all(made: Path, histill: Histill, tmp_path: Path) -> None:
    said = histill("summarize", made / "features_e", "--by", "random", "--budget", "25", "--to", tmp_path, *EVERYWHERE)
    assert said.code == 0
    assert [int(row["kept"]) for row in read(tmp_path / "summaries.csv")] == [
        min(25, int(row["tiles"])) for row in read(tmp_path / "summaries.csv")
    ]


@pytest.mark.parametrize("budget", ["0", "-3", "many", "0%", "120%"])
def test_what_is_no_budget(budget: str, made: Path, fails: Fails, tmp_path: Path) -> None:
    fails(2, "no budget", "summarize", made / "features_e", "--by", "random", f"--budget={budget}", "--to", tmp_path)


def test_runs_that_do_not_fit(runs: Path, made: Path, fails: Fails, tmp_path: Path) -> None:
    bags = made / "features_e"
    fails(2, "--by cluster", "summarize", bags, "--to", tmp_path)
    fails(2, "asks no run", "summarize", bags, "--to", tmp_path, "--by", "random", "--run", runs / "wsisum")
    fails(2, "there to classify", "summarize", bags, "--to", tmp_path, "--run", runs / "mil")
    fails(2, "there to summarize", "summarize", bags, "--to", tmp_path, "--by", "attention", "--run", runs / "wsisum")


# --- bad bags ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Path:
    """Thirty bags, of which one holds NaN."""
    folder = tmp_path / "broken" / "features_e"
    for number in range(30):
        write_bag(folder / f"s{number}.h5", bag(number % SLIDES, ill=False))
    with h5py.File(folder / "s7.h5", "r+") as file:
        file["features"][3, 2] = np.nan
    return folder


def test_a_bag_that_cannot_be_opened_does_not_stop_the_others(broken: Path, histill: Histill, tmp_path: Path) -> None:
    (broken / "s7.h5").write_bytes(b"cut off")
    said = histill("summarize", broken, "--by", "random", "--budget", "4", "--to", tmp_path / "out", *EVERYWHERE)
    assert said.code == 3
    assert [row["id"] for row in read(tmp_path / "out" / "summaries.csv") if row["status"] != "ok"] == ["s7"]


def test_a_bag_with_nan_is_put_aside_by_name(broken: Path, runs: Path, histill: Histill, tmp_path: Path) -> None:
    for command in (("--by", "cluster"), ("--run", runs / "wsisum")):
        to = tmp_path / command[0]
        said = histill("summarize", broken, *command, "--budget", "4", "--to", to, *EVERYWHERE)
        assert said.code == 3
        bad = {row["id"]: row["message"] for row in read(to / "summaries.csv") if row["status"] == "quarantined"}
        assert list(bad) == ["s7"]
        assert "s7.h5" in bad["s7"]
        assert "row 3" in bad["s7"]
        assert "s7" not in {row["id"] for row in read(to / "data.csv")}


def test_training_names_every_bad_bag_before_it_begins(broken: Path, fails: Fails, tmp_path: Path) -> None:
    said = fails(4, "row 3", "train", "wsisum", "--train", broken, "--run", tmp_path / "run", *WSISUM, *EVERYWHERE)
    assert "s7" in said
    assert not (tmp_path / "run").exists()


def test_features_of_another_encoder_are_refused(runs: Path, fails: Fails, tmp_path: Path) -> None:
    for number in range(3):
        other = Bag(slide=f"o{number}", features=np.ones((9, WIDTH + 1), np.float32), coords=np.zeros((9, 2), np.int64))
        write_bag(tmp_path / "bags" / f"o{number}.h5", other)
    said = fails(
        4, "cannot be read", "summarize", tmp_path / "bags", "--run", runs / "wsisum", "--to", tmp_path / "out"
    )
    assert "9 wide, those learnt from 8" in said


def test_killed_again_and_again_summaries_end_the_same(made: Path, histill: Histill, tmp_path: Path) -> None:
    command = ("summarize", made / "features_e", "--by", "cluster", "--budget", "4", *EVERYWHERE)
    assert histill(*command, "--to", tmp_path / "clean").code == 0
    arguments = [str(each) for each in (*command, "--to", tmp_path / "killed")]
    done = subprocess.run(
        [sys.executable, str(STRUCK), "5", *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes[-1] == 0
    assert codes[:-1]
    assert set(codes[:-1]) == {-9}
    clean, killed = tree(tmp_path / "clean"), tree(tmp_path / "killed")
    assert killed == clean
