"""What the pages say can be done: verbs, flags, files and names that they mention exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import histill
from histill.cli.main import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALL = re.compile(r"^(?:\S*/)?histill ([a-z]+)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not link.startswith(("http:", "https:")):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_verbs_and_recipes_are_there(page: Path) -> None:
    text = page.read_text()
    for verb, rest in CALL.findall(text):
        assert verb in VERBS, f"histill {verb}{rest}"
    for recipe in re.findall(r"recipes/[\w-]+\.yaml", text):
        assert (ROOT / recipe).exists() or "newpaper" in recipe, recipe


def test_flags_in_the_readme_are_flags() -> None:
    calls = dict(CALL.findall((ROOT / "README.md").read_text()))
    assert {"import", "train", "predict", "evaluate"} <= set(calls)
    for verb, rest in CALL.findall((ROOT / "README.md").read_text()):
        shown = subprocess.run(
            [sys.executable, "-m", "histill", verb, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flag in re.findall(r"--[a-z-]+", rest.partition("#")[0]):
            assert flag in shown, f"{verb} {flag}"


def test_names_in_the_python_page_exist() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    for name in re.findall(r"histill\.([a-z_]+)\(", text):
        assert callable(getattr(histill, name)), name
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(code, "docs/python.md", "exec")


def test_the_search_for_commands_finds_them() -> None:
    assert CALL.findall("histill nonsense --x\n  histill train") == [("nonsense", " --x")]
