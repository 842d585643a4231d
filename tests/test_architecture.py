"""The rules of the house. Each check is also shown a small bad example, so that it is known to be able to fail."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import histill

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "src" / "histill"

# --- floors ---------------------------------------------------------------------------------------------------------


def lint_imports(repository: Path) -> str:
    """What import-linter says about the contracts of a repository's pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository / "src"), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout + run.stderr


def test_imports_go_down_the_floors() -> None:
    said = lint_imports(ROOT)
    assert "3 kept, 0 broken" in said, said


def test_imports_up_sideways_and_across_the_torch_line_are_seen(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    house = {
        "engine/loop.py": "",
        "core/up.py": "import histill.engine.loop",
        "pseudo/masks.py": "",
        "metrics/sideways.py": "import histill.pseudo.masks",
        "attic/undeclared.py": "",
        "methods/one.py": "",
        "methods/two.py": "import histill.methods.one",
        "nets/net.py": "import torch",
        "report/indirect.py": "import histill.nets.net",
        "slides/direct.py": "import timm",
        **{f"{room}/empty.py": "" for room in ("cli", "data", "losses", "formats", "selection")},
    }
    for name, source in house.items():
        path = tmp_path / "src" / "histill" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    (tmp_path / "src" / "histill" / "__init__.py").touch()

    said = lint_imports(tmp_path)

    assert "0 kept, 3 broken" in said, said
    for finding in (
        "histill.core.up -> histill.engine.loop",
        "histill.metrics.sideways -> histill.pseudo.masks",
        "histill.attic",
        "histill.methods.two -> histill.methods.one",
        "histill.report.indirect -> histill.nets.net",
        "histill.slides.direct -> timm",
    ):
        assert finding in said, said


# --- what an import costs -------------------------------------------------------------------------------------------

PROBE = """
import importlib, sys
for module in sys.argv[2:]:
    importlib.import_module(module)
    for heavy in sys.argv[1].split(","):
        if heavy in sys.modules:
            print(module, "imports", heavy)
            sys.exit()
"""


def first_heavy_import(modules: Iterable[str], heavy: Iterable[str]) -> str:
    """Import the modules in turn in a fresh interpreter; the first that brings in something heavy, or nothing."""
    command = [sys.executable, "-c", PROBE, ",".join(heavy), *modules]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def modules_of(*rooms: str) -> list[str]:
    """All modules in these rooms, by their dotted names."""
    paths = sorted(path for room in rooms for path in (HOUSE / room).rglob("*.py"))
    return [".".join(path.relative_to(HOUSE.parent).with_suffix("").parts) for path in paths]


def test_rooms_above_the_torch_line_never_load_torch() -> None:
    rooms = ("core", "slides", "formats", "metrics", "selection", "report", "viewer")
    assert "histill.core.errors" in modules_of(*rooms)
    assert first_heavy_import(modules_of(*rooms), ["torch", "timm"]) == ""


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = ["torch", "timm", "matplotlib", "sklearn", "scipy", "cv2", "pandas"]
    assert first_heavy_import(["histill.cli.main"], heavy) == ""


def test_the_face_imports_nothing() -> None:
    assert first_heavy_import(["histill"], ["numpy", "histill.core"]) == ""


def test_a_heavy_import_is_seen() -> None:
    assert first_heavy_import(["json", "fractions"], ["numpy", "decimal"]) == "fractions imports decimal"


def test_public_names_exist_and_type_checkers_see_the_same() -> None:
    tree = ast.parse((HOUSE / "__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == histill._HOMES
    for name in seen:
        assert name in dir(histill)
        assert getattr(histill, name).__module__.startswith("histill.")
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        histill.nonesuch  # noqa: B018


# --- faces, names, sizes --------------------------------------------------------------------------------------------


def talking_faces(house: Path) -> list[str]:
    """Package faces that hold more than a docstring, or none; the top one and the registry of methods may."""
    free = {house / "__init__.py", house / "methods" / "__init__.py"}
    faces = []
    for face in sorted(set(house.rglob("__init__.py")) - free):
        tree = ast.parse(face.read_text())
        if len(tree.body) != 1 or not ast.get_docstring(tree):
            faces.append(str(face.relative_to(house)))
    return faces


def nameless_files(house: Path) -> list[str]:
    """Files and folders whose name says nothing."""
    empty = {"utils", "util", "helpers", "helper", "common", "misc"}
    return [str(path.relative_to(house)) for path in sorted(house.rglob("*")) if path.stem in empty]


def long_files(house: Path, most: int = 400) -> list[str]:
    """Files in which a part wants a name of its own."""
    return [
        str(path.relative_to(house))
        for path in sorted(house.rglob("*.py"))
        if len(path.read_text().splitlines()) > most
    ]


def missing_companions(repository: Path) -> list[str]:
    """Methods without their page or their recipe; the baselines have no recipe."""
    missing = []
    for path in sorted((repository / "src" / "histill" / "methods").glob("[!_]*.py")):
        if not (repository / "docs" / "methods" / f"{path.stem}.md").is_file():
            missing.append(f"docs/methods/{path.stem}.md")
        if path.stem not in {"cam", "supervised"} and not list(repository.glob(f"recipes/*{path.stem}*.yaml")):
            missing.append(f"recipes/*{path.stem}*.yaml")
    return missing


def test_faces_are_docstrings() -> None:
    assert talking_faces(HOUSE) == []


def test_files_have_names_that_say_something() -> None:
    assert nameless_files(HOUSE) == []


def test_files_are_short() -> None:
    assert long_files(HOUSE) == []


def test_methods_have_a_page_and_a_recipe() -> None:
    assert missing_companions(ROOT) == []


def test_bad_files_are_seen(tmp_path: Path) -> None:
    house = tmp_path / "src" / "histill"
    for room in ("methods", "core", "nets", "losses"):
        (house / room).mkdir(parents=True)
    (house / "__init__.py").write_text("import json")
    (house / "methods" / "__init__.py").write_text("import json")
    (house / "core" / "__init__.py").write_text('"""Nouns."""\nfrom json import loads')
    (house / "nets" / "__init__.py").write_text('"""Only a docstring."""')
    (house / "losses" / "__init__.py").touch()
    (house / "core" / "utils.py").write_text("a = 1\n" * 400)
    (house / "core" / "masks.py").write_text("a = 1\n" * 401)
    for method in ("cam", "newpaper"):
        (house / "methods" / f"{method}.py").touch()

    assert talking_faces(house) == ["core/__init__.py", "losses/__init__.py"]
    assert nameless_files(house) == ["core/utils.py"]
    assert long_files(house) == ["core/masks.py"]
    assert missing_companions(tmp_path) == [
        "docs/methods/cam.md",
        "docs/methods/newpaper.md",
        "recipes/*newpaper*.yaml",
    ]


# --- nothing of the machine it was made on --------------------------------------------------------------------------

# Written so that these lines do not match themselves.
REGISTRY = re.compile(r"(p[y]pi|python[h]osted|[n]pmjs|(deb|security)[.][d]ebian)[.](org|com)")
PLACE = re.compile(r"(?<![\w.])/(work|farm|root)/[a-z]")


def traces(text: str) -> list[str]:
    """Registry hosts and paths of one machine that a text names."""
    return [match[0] for pattern in (REGISTRY, PLACE) for match in pattern.finditer(text)]


def test_no_file_names_a_registry_or_a_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    assert "pyproject.toml" in names
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    found = {str(path): traces(path.read_text(errors="ignore")) for path in files}
    assert {path: marks for path, marks in found.items() if marks} == {}


def test_traces_are_seen() -> None:
    host, place = "py" + "pi.org", "/" + "work/x"
    assert traces(f"see https://{host}/simple") == [host]
    assert traces(f"open('{place}y')") == [place]
    assert traces(f"docs{place} and https://histill.org/{place[1:]}, or /workshop, ./work/x") == []


# --- one writer -----------------------------------------------------------------------------------------------------

WRITER = HOUSE / "core" / "storage.py"
ALWAYS = {
    *"write_text write_bytes touch mkdir rmdir unlink symlink_to hardlink_to".split(),
    *"imwrite VideoWriter save_file save_model save_pretrained tofile".split(),
}
"""Methods and functions that write, whatever they are called on."""
OS = {
    f"os.{name}"
    for name in "open write replace rename renames remove removedirs unlink mkdir makedirs rmdir link symlink".split()
}
READING_SHUTIL = {"shutil.disk_usage", "shutil.get_terminal_size", "shutil.which"}
OPENERS = {"open", "fdopen", "File", "ZipFile", "TarFile", "GzipFile", "memmap", "open_memmap"}
"""Calls that write if their mode says so."""
SAVERS = {"save", "savez", "savez_compressed", "savetxt", "savefig"}
"""Calls that write to their target: a file, unless it is a buffer in memory or a handle of the one writer."""
TARGETS = {"BytesIO", "StringIO", "open_new"}
IN_MEMORY = {"safetensors.torch.save", "safetensors.numpy.save"}


def full_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: np -> numpy, replace -> os.replace."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of what is called; only its last part where it hangs on a value."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}"
    return ""


def makes_target(node: ast.expr | None, names: dict[str, str]) -> bool:
    """Whether an expression makes a buffer in memory or opens a handle of the one writer."""
    return isinstance(node, ast.Call) and full_name(node.func, names).rpartition(".")[2] in TARGETS


def safe_targets(tree: ast.Module, names: dict[str, str]) -> set[str]:
    """The names bound to buffers and handles."""
    safe = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and makes_target(node.value, names):
            safe |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.withitem) and makes_target(node.context_expr, names):
            safe |= {node.optional_vars.id} if isinstance(node.optional_vars, ast.Name) else set()
    return safe


def writes(call: ast.Call, names: dict[str, str], safe: set[str]) -> bool:
    """Whether a call writes a file, as far as its text tells."""
    name = full_name(call.func, names)
    last = name.rpartition(".")[2]
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if name.startswith("histill.core.storage.") or name in IN_MEMORY | READING_SHUTIL:
        return False
    if last in ALWAYS or name in OS or name.startswith("shutil."):
        return True
    if last in {"replace", "rename"}:  # of a path has one argument; that of a string has two, others have keywords
        return len(arguments) == 1 and (not call.keywords or call.keywords[0].arg == "target")
    if any(isinstance(node, ast.Name) and node.id in safe for node in arguments):
        return False
    if last in SAVERS:
        return True
    if last in OPENERS:
        told = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
        told += call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:2]
        modes = [node.value for node in told if isinstance(node, ast.Constant)]
        computed = isinstance(call.func, ast.Name) and len(modes) < len(told)
        return computed or any(re.fullmatch("[rbt]*[wax+][rbtwax+]*", str(mode)) for mode in modes)
    return False


def forbidden_writes(source: str) -> list[str]:
    """The calls in a source that write files, which only the one writer may."""
    tree = ast.parse(source)
    names = full_names(tree)
    safe = safe_targets(tree, names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and writes(node, names, safe)]
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in sorted(calls, key=lambda call: call.lineno)]


def test_only_storage_writes() -> None:
    found = {
        str(path.relative_to(HOUSE)): forbidden_writes(path.read_text())
        for path in sorted(HOUSE.rglob("*.py"))
        if path != WRITER
    }
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, 'r+b')",
        "open(path, how)",
        "path.open('x')",
        "io.open(path, 'wb')",
        "Path(name).write_text('a')",
        "(folder / 'a').write_bytes(b'')",
        "path.touch()",
        "path.parent.mkdir(parents=True)",
        "path.rename(other)",
        "path.replace(target=other)",
        "path.unlink(missing_ok=True)",
        "os.replace(a, b)",
        "os.makedirs(a, exist_ok=True)",
        "from os import remove as gone; gone(a)",
        "import shutil as s; s.rmtree(a)",
        "from shutil import copyfile; copyfile(a, b)",
        "np.save(path, array)",
        "from numpy import savez_compressed; savez_compressed(path, a=array)",
        "torch.save(state, path)",
        "image.save(path)",
        "Image.fromarray(array).save(folder / 'a.png')",
        "import cv2; cv2.imwrite(name, array)",
        "figure.savefig('a.png')",
        "from safetensors.torch import save_file; save_file(state, path)",
        "h5py.File(path, 'w')",
        "zipfile.ZipFile(path, mode='w')",
        "buffer = folder / 'a.png'\nimage.save(buffer)",
    ],
)
def test_a_write_is_seen(line: str) -> None:
    assert len(forbidden_writes(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'rb')",
        "path.open()",
        "Image.open(path)",
        "gzip.open(path, 'rt')",
        "name.replace('a', 'b')",
        "dataclasses.replace(sample, path=path)",
        "frame.rename(columns={'a': 'b'})",
        "shutil.disk_usage(path)",
        "import histill.core.storage as storage; storage.write_bytes(path, b'')",
        "from histill.core import storage; storage.write_bytes(path, b'')",
        "from histill.core.storage import write_bytes; write_bytes(path, b'')",
        "buffer = io.BytesIO()\nimage.save(buffer, 'PNG')\nnp.savez(buffer, a=array)\ntorch.save(state, buffer)",
        "with BytesIO() as buffer:\n    figure.savefig(buffer, format='png')",
        "with open_new(path) as handle:\n    image.save(handle, 'PNG')",
        "buffer = io.BytesIO()\nzipfile.ZipFile(buffer, 'w')",
        "import safetensors.numpy\nsafetensors.numpy.save(state)",
    ],
)
def test_reading_and_writing_to_memory_are_free(line: str) -> None:
    assert forbidden_writes(line) == []
