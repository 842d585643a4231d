"""The way in: verbs, help, and what every error looks like."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import SMALL, Histill

from histill import methods
from histill.cli.main import VERBS
from histill.core.errors import HistillError

HELP = """
import contextlib, io, sys
from histill.cli.main import VERBS, main
for verb in VERBS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([verb, "--help"])
    loaded = {"torch", "timm", "segmentation_models_pytorch", "matplotlib", "sklearn", "pandas"} & set(sys.modules)
    if code or "usage: histill " + verb not in said.getvalue() or loaded:
        sys.exit(f"{verb} --help: {code}, {loaded}\\n{said.getvalue()}")
"""


@pytest.mark.parametrize("asked", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_verb_and_a_way_to_begin(asked: tuple[str, ...], histill: Histill) -> None:
    said = histill(*asked)
    assert (said.code, said.err) == (0, "")
    for verb in VERBS:
        assert f"\n  {verb} " in said.out
    for line in ("histill import plain my.csv", "histill train mlps --train data.csv", "--debug"):
        assert line in said.out


def test_no_verbs_help_loads_torch() -> None:
    run = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_help_of_a_method_shows_its_account_and_all_its_settings(histill: Histill) -> None:
    said = histill("train", "mlps", "--help")
    assert said.code == 0
    for part in (
        "Medical Image Analysis 80:102487",
        "--drop_decay (0.985)",
        "--segment_augmentation.blur (0.5)",
        "--recipe",
    ):
        assert part in said.out
    assert histill("train", "mlsp", "--help").code == 2


def test_methods_are_listed_and_described(histill: Histill) -> None:
    said = histill("methods")
    assert said.code == 0
    own = sorted(path.stem for path in Path(methods.__file__).parent.glob("[!_]*.py"))
    assert [line.split()[0] for line in said.out.splitlines()] == own
    assert {"mlps", "wsisum"} < set(own)
    assert "Medical Image Analysis" in histill("methods", "mlps").out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["there is no verb 'trian'", "Did you mean 'train'?"]),
        (["xyzzy"], ["there is no verb 'xyzzy'", *VERBS]),
        (["methods", "mlsp"], ["there is no method 'mlsp'", "Did you mean 'mlps'?"]),
        (["train", "mlsp", "--train", "t.csv", "--run", "r"], ["there is no method 'mlsp'", "Did you mean 'mlps'?"]),
        (["import", "plian", "t.csv", "--to", "u.csv"], ["there is no importer 'plian'", "did you mean 'plain'?"]),
    ],
)
def test_what_is_not_there_is_named_with_its_nearest(arguments, parts, fails) -> None:  # type: ignore[no-untyped-def]
    fails(2, parts, *arguments)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("demo", "methods", "doctor")])
def test_a_verb_without_its_arguments_is_a_usage_error(verb: str, histill: Histill) -> None:
    said = histill(verb)
    assert said.code == 2
    assert "Missing" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["synth", "tissu", "d"],
        ["predict", "run", "images", "--to", "d", "--split", "tets"],
        ["predict", "run", "images", "--to"],
        ["predict", "run", "images", "--to", "d", "--accelarator", "cpu"],
        ["train", "mlps", "--train", "t.csv", "--run", "r", "--seed", "one"],
        ["evaluate", "a", "b", "c", "--to", "d"],
    ],
)
def test_a_bad_argument_is_a_usage_error(arguments: list[str], histill: Histill) -> None:
    said = histill(*arguments)
    assert said.code == 2
    assert said.err.strip()
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "mlps", "--train", "t.csv", "--run", "r", "--threads", "-1"], "--threads: -1 is less than 0"),
        (["train", "mlps", "--train", "t.csv", "--run", "r", "--workers", "-1"], "--workers: -1 is less than 0"),
        (["predict", "r", "i", "--to", "d", "--threads", "-2"], "--threads: -2 is less than 0"),
        (["predict", "r", "i", "--to", "d", "--max-quarantined", "many"], "'many' is not a share"),
        (["predict", "r", "i", "--to", "d", "--max-quarantined", "101%"], "'101%' is not a share"),
        (["evaluate", "p", "t.csv", "--to", "d", "--images", "-1"], "--images: -1 is less than 0"),
        (["synth", "tissue", "d", "--size", "0"], "--size: 0 is less than 1"),
        (["synth", "tissue", "d", "--test", "-1"], "--test: -1 is less than 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(arguments, part, fails) -> None:  # type: ignore[no-untyped-def]
    fails(2, part, *arguments)


def test_debug_shows_where_an_error_came_from(histill: Histill) -> None:
    with pytest.raises(HistillError, match="there is no verb"):
        histill("trian", "--debug")


def test_a_bug_says_so_in_one_line(histill: Histill, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: list[str]) -> int:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("histill.cli.methods.run", broken)
    said = histill("methods")
    assert said.code == 1
    assert said.err == ("histill: a bug: ZeroDivisionError: division by zero. Run again with --debug and report it\n")
    with pytest.raises(ZeroDivisionError):
        histill("methods", "--debug")


def test_the_version(histill: Histill) -> None:
    assert histill("--version").out.strip()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "histill", *map(str, arguments)]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def test_the_process_ends_with_the_code() -> None:
    assert command("--version").returncode == 0
    run = command("train", "mlps", "--train", "nothing.csv")
    assert run.returncode == 2
    assert run.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_that_is_told_to_end_does(number: signal.Signals, code: int, made: Path, tmp_path: Path) -> None:
    arguments = ["train", "mlps", "--train", str(made / "table/data.csv"), "--run", str(tmp_path / "run"), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "histill", *arguments, "--classify.epochs", "500"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "classify epoch 1:" in line:
            os.kill(process.pid, number)
            break
    said = process.communicate()[1]
    assert process.returncode == code
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["seed"] == 0
