"""Slides, a model that sees shades and what it says of them, made once; makes `findings` importable."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from findings import NAMES, begin
from scanned import Shade, tissue, write_run, write_slide
from small import call

from histill import methods


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests here every model's method is the one that sees shades."""
    monkeypatch.setattr(methods, "find", lambda name: Shade)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the method. Not to be changed."""
    return write_run(tmp_path_factory.mktemp("model") / "shade")


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six slides with names as users give them. Not to be changed."""
    place = tmp_path_factory.mktemp("in")
    for seed, name in enumerate(NAMES):
        write_slide(place / name, tissue(seed=seed))
    write_slide(place / ".hidden" / "s.tif", tissue())
    write_slide(place / "..tif.tif", tissue())
    (place / "notes.txt").write_text("no slide")
    return place


@pytest.fixture(scope="session")
def predicted(model: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of the folder. Not to be changed."""
    to = tmp_path_factory.mktemp("out") / "predicted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Shade)
        assert call(*begin(model, slides, to)) == 0
    return to


@pytest.fixture
def one(slides: Path, tmp_path: Path) -> Path:
    """A single slide, to be spoilt."""
    (tmp_path / "one").mkdir()
    return Path(shutil.copy(slides / "s.tif", tmp_path / "one" / "s.tif"))
