"""A table, a trained run and its predictions, made once; and the command line, called in this process."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small import EVERYWHERE, SMALL, Histill, Said, call, write_table


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The command line changes how this process meets signals, and how many threads it computes with."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if threads:
        sys.modules["torch"].set_num_threads(threads)


@pytest.fixture
def histill(capsys: pytest.CaptureFixture[str]) -> Histill:
    """Run a command line: its exit code and what it wrote."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = call(*arguments)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def fails(histill: Histill) -> Callable[..., str]:
    """Run a command line that must end with a code and one message, holding some parts; returns the message."""

    def run(code: int, parts: str | list[str], *arguments: object) -> str:
        said = histill(*arguments)
        assert said.code == code, said
        assert "Traceback" not in said.err
        assert "a bug" not in said.err
        begins = [line for line in said.err.splitlines() if line.startswith("histill: ")]
        assert len(begins) == 1, said.err
        message = said.err[said.err.index("histill: ") :]
        for part in [parts] if isinstance(parts, str) else parts:
            assert part in message, message
        return message

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what is made once: table, run, predicted. Not to be changed."""
    place = tmp_path_factory.mktemp("made")
    write_table(place / "table")
    assert call("train", "mlps", "--train", place / "table/data.csv", "--run", place / "run", *SMALL) == 0
    assert call("predict", place / "run", place / "table/data.csv", "--to", place / "predicted", *EVERYWHERE) == 0
    return place


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    """The table's CSV in a copy of its folder, to be spoilt."""
    shutil.copytree(made / "table", tmp_path / "table")
    return tmp_path / "table" / "data.csv"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be spoilt."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def predicted(made: Path, tmp_path: Path) -> Path:
    """A copy of the predictions, to be spoilt."""
    shutil.copytree(made / "predicted", tmp_path / "predicted")
    return tmp_path / "predicted"
