"""The folder is the registry, and listing it is cheap."""

import subprocess
import sys

import pytest

from histill import methods
from histill.core.errors import Exit, HistillError

LISTING = """
import sys
from histill import methods
print({name: methods.about(name).splitlines()[0] for name in methods.names()})
heavy = {"torch", "timm", "segmentation_models_pytorch"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_names_and_accounts_come_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in methods.names())


def test_names_are_sorted_and_the_folders_own() -> None:
    names = methods.names()
    assert names == sorted(names)
    assert {"mlps", "cam", "supervised"} <= set(names)
    assert "__init__" not in names


@pytest.mark.parametrize("ask", [methods.find, methods.about])
def test_an_unknown_name_gets_the_nearest(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(HistillError) as caught:
        ask("mlp")
    assert caught.value.code == Exit.USAGE
    assert "'mlps'" in caught.value.mend
    with pytest.raises(HistillError, match="no method 'zzz'") as caught:
        ask("zzz")
    assert "supervised" in caught.value.mend
