"""What every test runs under: few threads, no screen, no network; and the real data, where they are."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before numpy, torch and matplotlib are imported, which read these once. One thread per process where pytest-xdist
# runs several, whose workers inherit what the first process set.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
os.environ |= {
    "OMP_NUM_THREADS": THREADS,
    "OPENBLAS_NUM_THREADS": THREADS,
    "MKL_NUM_THREADS": THREADS,
    "OMP_WAIT_POLICY": "PASSIVE",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
}

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

ROOT = Path(__file__).parents[1]
NO_DATA = "no real data"

# A deadline measures the machine, not the code. The fast tests try the same examples each time, so that a change is
# judged by what it changes; `make test-slow` draws new ones.
settings.register_profile("histill", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("histill")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real histology: HISTILL_DATA, else ../shared/data beside the repository.

    Without it the test is skipped, or fails where HISTILL_REQUIRE_DATA=1 says that it should be there.
    """
    folder = Path(os.environ.get("HISTILL_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "README.md").is_file():
        stop = pytest.fail if os.environ.get("HISTILL_REQUIRE_DATA") == "1" else pytest.skip
        stop(f"{NO_DATA} in {folder}: name its folder in HISTILL_DATA")
    return folder


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say right above the closing line how many tests had no real data: a skip is not to pass for a success."""
    yield
    skipped = sum(NO_DATA in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"{skipped} tests were skipped for want of real data: set HISTILL_DATA", red=True)
