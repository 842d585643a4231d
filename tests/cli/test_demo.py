"""The demo, made tiny: it leaves one page that shows everything, and begun again it does nothing twice."""

import re
from pathlib import Path

import pytest

from histill.cli import demo
from histill.cli.main import main

SCHEDULE = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "classifier": {"encoder": "squeezenet1_0", "weights": "none", "taps": ["fire6", "fire8", "fire9"]},
        "classify": SCHEDULE,
        "segmenter": {"encoder": "squeezenet1_0", "weights": "none", "channels": 8, "separable": True},
        "segment": SCHEDULE,
        "select": "labels",
    }
    monkeypatch.setattr(demo, "SLIDES", (3, 448, 384))
    monkeypatch.setattr(demo, "PATCHES_A_SLIDE", 8)
    monkeypatch.setattr(demo, "SIZE", 64)
    monkeypatch.setattr(demo, "MPP", 2.0)
    monkeypatch.setattr(demo, "OF_MLPS", {**demo.OF_MLPS, "attention_warmup": 0, "drop_decay": 0.9})
    monkeypatch.setattr(demo, "SETTINGS", settings)


@pytest.mark.usefixtures("tiny")
def test_the_demo_leaves_a_page_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--to", str(tmp_path / "out")]) == 0
    assert "look at:" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    for word in ("synthetic", "mlps against cam", "Pseudo-masks", "The best slides", "not seen: the truth", ".geojson"):
        assert word in page
    assert page.count("data:image/") > 5
    assert not re.search(r'(src|href)="https?:', page)

    masks = sorted((tmp_path / "out" / "mlps-slides" / "masks").glob("*.ome.tif"))
    before = {path: path.stat().st_mtime_ns for path in [*masks, tmp_path / "out/mlps/model/model.safetensors"]}
    assert len(masks) == 1
    assert main(["demo", "--to", str(tmp_path / "out")]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "out" / "index.html").read_text() == page


def test_the_demos_own_settings_are_valid() -> None:
    from histill.core.config import resolve
    from histill.methods import find

    for name in demo.METHODS:
        settings = {**demo.SETTINGS, **(demo.OF_MLPS if name == "mlps" else {})}
        resolve(find(name).Config, ("the demo", settings))
