"""histill train: settings, what it leaves behind, and going on."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import NETS, SMALL, SMALL_SUPERVISED, Histill, change_rows, failing_from, torn, tree, write_table

from histill.cli.train import settings_of
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.journal import Journal
from histill.core.storage import lock
from histill.methods import find
from histill.methods.mlps import Mlps

Fails = Callable[..., str]
MLPS = find("mlps").Config


def begin(folder: Path, table: Path, *more: object) -> list[object]:
    return ["train", "mlps", "--train", table, "--run", folder, *SMALL, *more]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_flags_become_nested_settings() -> None:
    flags = "--a.b 1 --a.c-d=x --e [1,2] --f true --g -3 --h=--i --j= --k 0.5".split()
    assert settings_of(flags) == {
        "a": {"b": 1, "c_d": "x"}, "e": [1, 2], "f": True, "g": -3, "h": "--i", "j": None, "k": 0.5
    }  # fmt: skip


def test_flags_mean_what_a_recipe_means() -> None:
    assert settings_of(["--a", "1e-3", "--b", "no"]) == {"a": 0.001, "b": "no"}


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--classify.epochs"], "'--classify.epochs' is not a setting with a value"),
        (["--classify.epochs", "--gate", "0"], "'--classify.epochs' is not a setting with a value"),
        (["classify.epochs", "3"], "'classify.epochs' is not a setting with a value"),
        (["--", "3"], "'--' is not a setting with a value"),
        (["--classify", "3", "--classify.epochs", "3"], "another flag gives a single value"),
        (["--tap_weights", "[1"], "--tap_weights: '[1' is not a value"),
    ],
)
def test_flags_that_say_nothing(flags: list[str], part: str) -> None:
    with pytest.raises(HistillError) as caught:
        settings_of(flags)
    assert caught.value.code == Exit.USAGE
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--clasify.epochs", "3"], ["flags", "no setting 'clasify'", "did you mean 'classify'?"]),
        (["--classify.epoch", "3"], ["did you mean 'classify.epochs'?"]),
        (["--classify.epochs", "many"], ["classify.epochs", "valid integer"]),
        (["--select", "best"], ["select", "'auto', 'masks', 'labels' or 'last'"]),
        (["--classify.epochs"], ["'--classify.epochs' is not a setting with a value"]),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], parts: list[str], fails: Fails, table: Path, tmp_path: Path) -> None:
    fails(2, parts, *begin(tmp_path / "run", table, *flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ("clasify: {epochs: 3}", 2, ["recipe.yaml", "did you mean 'classify'?"]),
        ("gate: 0.1\nselect: last\ngate: 0.2", 2, ["recipe.yaml", "line 3: the key 'gate' stands twice"]),
        ("classify: &a {epochs: 3}\nsegment: *a", 2, ["recipe.yaml", "line 2: aliases are not allowed"]),
        ("gate: !!python/object/apply:os.getcwd []", 2, ["recipe.yaml", "not valid YAML"]),
        ("- gate", 2, ["recipe.yaml", "expected 'key: value' lines"]),
        (None, 4, ["recipe.yaml", "cannot be read"]),
    ],
)
def test_a_wrong_recipe_is_named(
    text: str | None, code: int, parts: list[str], fails: Fails, table: Path, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    fails(code, parts, *begin(tmp_path / "run", table, "--recipe", tmp_path / "recipe.yaml"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "group", "kept"),
    [
        (["--classify.learning_rate", "0.001"], "classify", {"epochs": 20, "learning_rate": 0.001}),
        (["--segment.batch_size", "4"], "segment", {"epochs": 20, "batch_size": 4}),
        (["--segment_augmentation.flip", "0"], "segment_augmentation", {"blur": 0.5, "flip": 0}),
    ],
)
def test_a_group_given_in_part_keeps_the_rest_of_its_defaults(
    flag: list[str], group: str, kept: dict[str, float]
) -> None:
    found = getattr(resolve(MLPS, ("flags", settings_of(flag))), group).model_dump()
    assert {name: found[name] for name in kept} == kept


def test_flags_go_over_the_recipe_and_the_recipe_over_the_defaults(
    histill: Histill, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text("classify: {epochs: 2, batch_size: 4}\ngate: 1e-2\n")
    said = histill(
        *begin(tmp_path / "run", table), *("--recipe", tmp_path / "recipe.yaml", "--classify.batch_size", "3")
    )
    assert said.code == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_bytes())["config"]
    assert (config["classify"]["epochs"], config["classify"]["batch_size"]) == (1, 3)  # both flags of SMALL
    assert config["gate"] == 0.01
    assert config["drop_decay"] == 0.985


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (["--classifier.encoder", "nonsense"], 2, "no encoder 'nonsense'"),
        (["--classifier.taps", "[fire4,b,c]"], 2, "no tap 'b'"),
        (["--tap_weights", "[1,1,1,1]"], 2, "4 weights for 3 taps"),
        (["--classifier.weights", "nothing.safetensors"], 4, "no such weights file"),
    ],
)
def test_parts_that_do_not_exist(
    flags: list[str], code: int, part: str, fails: Fails, made: Path, tmp_path: Path
) -> None:
    fails(code, part, *begin(tmp_path / "run", made / "table/data.csv", *flags))
    assert torn(tmp_path) == []


def test_a_pickle_as_start_weights_is_refused_and_not_run(fails: Fails, made: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "it ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    flags = ["--classifier.weights", tmp_path / "evil.pth"]
    fails(5, ["evil.pth", "pickle"], *begin(tmp_path / "run", made / "table/data.csv", *flags))
    assert not (tmp_path / "it ran").exists()


# --- tables -----------------------------------------------------------------------------------------------------------


def test_nothing_to_learn_from(fails: Fails, table: Path, tmp_path: Path) -> None:
    change_rows(table, lambda rows: [row.update(split="test") for row in rows])
    fails(2, ["data.csv", "no row is of split train"], *begin(tmp_path / "run", table))


def test_one_label_an_image_and_no_background(fails: Fails, table: Path, tmp_path: Path) -> None:
    change_rows(table, lambda rows: [row.update(labels=row["labels"].split("|")[0]) for row in rows])
    message = fails(2, ["data.csv", "one label", "constant"], *begin(tmp_path / "run", table))
    assert "name the background class" in message


def test_an_image_without_a_label(fails: Fails, table: Path, tmp_path: Path) -> None:
    change_rows(table, lambda rows: [rows[i].update(labels="") for i in (1, 3)])
    fails(2, ["line 3 (s1) has no label", "line 5 (s3) has no label"], *begin(tmp_path / "run", table))


def test_supervised_needs_masks(fails: Fails, table: Path, tmp_path: Path) -> None:
    change_rows(table, lambda rows: rows[2].update(mask=""))
    fails(
        2, "line 4 (s2) has no mask",
        "train", "supervised", "--train", table, "--run", tmp_path / "run", *SMALL_SUPERVISED,
    )  # fmt: skip


def test_validation_with_other_classes(fails: Fails, table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other")
    other.with_suffix(".yaml").write_text("classes: [gland, stroma, fat]\n")
    fails(2, [str(other), "classes"], *begin(tmp_path / "run", table, "--val", other))


def test_test_rows_are_never_opened(histill: Histill, made: Path, table: Path, tmp_path: Path) -> None:
    for i in range(8, 14):
        (table.parent / f"{i}.png").write_bytes(b"not an image")
    assert histill(*begin(tmp_path / "run", table)).code == 0
    assert tree(tmp_path / "run") == tree(made / "run")


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_a_run_says_what_it_did_and_what_comes_next(histill: Histill, made: Path, tmp_path: Path) -> None:
    said = histill(*begin(tmp_path / "run", made / "table/data.csv"))
    assert said.code == 0
    assert f"model: {tmp_path / 'run' / 'model'}" in said.out
    assert f"histill predict {tmp_path / 'run'}" in said.out
    for part in ("6 images to learn from, 2 to choose with", "stage classify: 1 epochs", "segment epoch 1:"):
        assert part in said.err
    assert torn(tmp_path) == []
    assert tree(tmp_path / "run") == tree(made / "run")


def test_a_finished_run_is_not_done_again(histill: Histill, made: Path, run: Path) -> None:
    said = histill(*begin(run, made / "table/data.csv"))
    assert said.code == 0
    assert "stage classify: done before" in said.err
    assert "epoch 1" not in said.err
    assert tree(run) == tree(made / "run")


def test_other_settings_in_a_begun_folder_are_named(fails: Fails, made: Path, run: Path) -> None:
    before = tree(run)
    fails(
        2, ["begun with other settings", "config.gate: 0.1 then, 0.2 now", "seed: 0 then, 1 now", "another --run"],
        *begin(run, made / "table/data.csv", "--gate", "0.2", "--seed", "1"),
    )  # fmt: skip
    assert tree(run) == before


def test_a_changed_table_in_a_begun_folder_is_named(fails: Fails, run: Path, table: Path) -> None:
    change_rows(table, lambda rows: rows[0].update(labels="fat"))
    fails(2, ["begun with other settings", "table: "], *begin(run, table))


def test_another_process_in_the_folder(fails: Fails, made: Path, run: Path) -> None:
    with lock(run):
        fails(8, [str(run), "another histill works in this folder"], *begin(run, made / "table/data.csv"))
    assert tree(run) == tree(made / "run")


def test_a_file_in_place_of_the_folder(fails: Fails, made: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    fails(7, [str(tmp_path / "run"), "a file stands"], *begin(tmp_path / "run", made / "table/data.csv"))
    assert (tmp_path / "run").read_text() == "mine"


def test_a_read_only_disk(fails: Fails, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", failing_from(1, Path.mkdir, errno.EROFS))
    fails(7, [str(tmp_path / "run"), "read-only"], *begin(tmp_path / "run", made / "table/data.csv"))


@pytest.mark.parametrize(
    "nth", [1, 9, *(pytest.param(nth, marks=pytest.mark.slow) for nth in (2, 3, 4, 5, 7, 12, 15, 18, 21, 25, 30))]
)
def test_a_full_disk_and_then_room_again(
    nth: int, fails: Fails, histill: Histill, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_from(nth, os.fsync))
        fails(
            7, [str(tmp_path / "run"), "the disk is full", "goes on"], *begin(tmp_path / "run", made / "table/data.csv")
        )
    assert torn(tmp_path) == []
    assert histill(*begin(tmp_path / "run", made / "table/data.csv")).code == 0
    assert tree(tmp_path / "run") == tree(made / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_the_same_command_goes_on(
    number: signal.Signals, code: int, fails: Fails, histill: Histill, made: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    show = Journal.show

    def struck(self: Journal, event: str, **details: object) -> None:
        show(self, event, **details)
        if details.get("stage") == "segment":
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "show", struck)
        fails(code, "run the same command again to go on", *begin(tmp_path / "run", made / "table/data.csv"))
    assert torn(tmp_path) == []
    said = histill(*begin(tmp_path / "run", made / "table/data.csv"))
    assert said.code == 0
    assert "stage classify: done before" in said.err
    assert tree(tmp_path / "run") == tree(made / "run")


def test_a_loss_that_is_no_number(
    fails: Fails, histill: Histill, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begin(tmp_path / "run", made / "table/data.csv", "--classify.epochs", "2", "--attention_warmup", "1")
    loss = Mlps.classification_loss

    def spoilt(self: Mlps, batch):  # type: ignore[no-untyped-def]
        found = loss(self, batch)
        # Attention begins with the second epoch.
        factor = float("nan") if self.attention.threshold is not None and "s3" in batch.ids else 1.0
        return {name: value * factor for name, value in found.items()}

    with monkeypatch.context() as patch:
        patch.setattr(Mlps, "classification_loss", spoilt)
        message = fails(6, ["stage classify", "soft_margin", "not finite", "s3"], *command)
        state = (tmp_path / "run/stages/classify/state.pt").read_bytes()
        assert fails(6, "s3", *command) == message
    assert (tmp_path / "run/stages/classify/state.pt").read_bytes() == state
    assert torn(tmp_path) == []
    assert "from epoch 2 on" in histill(*command).err
    command[4:6] = ["--run", tmp_path / "clean"]
    assert histill(*command).code == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "clean")


def test_a_huge_learning_rate(fails: Fails, made: Path, tmp_path: Path) -> None:
    flags = ["--classify.epochs", "3", "--classify.learning_rate", "1.0e+30"]
    fails(6, "not finite", *begin(tmp_path / "run", made / "table/data.csv", *flags))
    assert not (tmp_path / "run" / "model").exists()
    assert torn(tmp_path) == []


@pytest.mark.parametrize("what", ["stages/segment/weights.safetensors", "pseudo-masks/fire9/s0.png", "model/README.md"])
def test_a_result_that_went_bad_is_made_again(what: str, histill: Histill, made: Path, run: Path) -> None:
    (run / what).write_bytes(b"?")
    said = histill(*begin(run, made / "table/data.csv"))
    assert said.code == 0
    assert "is made again" in said.err
    assert tree(run) == tree(made / "run")


def test_the_baselines_train(histill: Histill, made: Path, tmp_path: Path) -> None:
    flags = [*NETS, "--classify.epochs", "1", "--segment.epochs", "1", *SMALL[:6]]
    assert histill("train", "cam", "--train", made / "table/data.csv", "--run", tmp_path / "cam", *flags).code == 0
    said = histill(
        "train", "supervised", "--train", made / "table/data.csv", "--run", tmp_path / "up", *SMALL_SUPERVISED
    )
    assert said.code == 0
    assert torn(tmp_path) == []


@pytest.mark.slow
def test_workers_change_no_byte(histill: Histill, made: Path, tmp_path: Path) -> None:
    assert histill(*begin(tmp_path / "run", made / "table/data.csv", "--workers", "2")).code == 0
    assert tree(tmp_path / "run") == tree(made / "run")


@pytest.mark.slow
def test_a_run_may_be_moved(histill: Histill, made: Path, run: Path, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "elsewhere")
    assert histill(*begin(tmp_path / "elsewhere", made / "table/data.csv")).code == 0
    assert tree(tmp_path / "elsewhere") == tree(made / "run")
