"""Readers in child processes: the same pixels, and whatever a reader does harms neither the others nor the parent."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from unruly import SIDE, open_unruly

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides.limits import Limits, limits_supported
from histill.slides.worker import IN_FLIGHT, PIXELS_IN_FLIGHT, GuardedSlide, open_guarded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="readers are told by /proc")

SMALL = Limits(memory=1 << 30)
SHORT = Limits(wall=1)
Open = Callable[..., GuardedSlide]


def readers(parent: int | None = None) -> set[int]:
    """The living children of a process that read slides."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            reads = b"histill.slides.reader" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(owner) == (parent or os.getpid()) and reads and state != "Z":
            found.add(int(folder.name))
    return found


def gone(process: int, seconds: float = 10) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open a slide with deeds, by column; afterwards no reader is left."""
    before, slides = readers(), []

    def open_slide(deeds: dict[int | str, str] | None = None, limits: Limits = SMALL) -> GuardedSlide:
        path = tmp_path / "a slide ä.x"
        path.write_text(json.dumps(deeds or {}))
        slides.append(open_guarded(path, 0.5, limits=limits, opener=open_unruly))
        return slides[-1]

    yield open_slide
    for slide in slides:
        slide.close()
    assert readers() <= before


def at(column: int, side: int = 60) -> Region:
    """A region that begins in a column."""
    return Region(column * 100 + 20, 30, side, side)


def error_of(slide: GuardedSlide, column: int) -> HistillError:
    with pytest.raises(HistillError) as caught:
        slide.read_as(at(column), 60, 60)
    return caught.value


# --- what is read ---------------------------------------------------------------------------------------------------


def test_pixels_and_facts_are_those_of_direct_reading(opened: Open) -> None:
    slide = opened()
    direct = open_unruly(slide.path, 0.5)
    assert (slide.size, slide.mpp, slide.at(2.0)) == (direct.size, direct.mpp, direct.at(2.0))
    assert (slide.facts.levels, slide.facts.notes) == (direct.facts.levels, direct.facts.notes)
    for region in (at(0), at(3, 500), Region(-50, SIDE - 20, 100, 77), Region(SIDE + 5, 0, 9, 9)):
        for width, height in ((60, 60), (13, 200)):
            assert np.array_equal(slide.read_as(region, width, height), direct.read_as(region, width, height))
        for mpp in (0.5, 1.0, 2.3):
            assert np.array_equal(slide.read(region, mpp), direct.read(region, mpp))
    assert np.array_equal(slide.thumbnail(200), direct.thumbnail(200))
    assert np.array_equal(slide._read_level(1, 3, 4, 5, 6), direct._read_level(1, 3, 4, 5, 6))
    assert slide.read_as(at(0), 60, 60).flags.writeable


def test_a_large_answer_is_whole(opened: Open) -> None:
    slide = opened()
    pixels = slide.read_as(Region(0, 0, 300, 300), 4000, 3000)
    assert np.array_equal(pixels, open_unruly(slide.path).read_as(Region(0, 0, 300, 300), 4000, 3000))


def test_what_takes_long_is_asked_for_in_parts(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histill.slides.base.MOST_AT_ONCE", 100_000)
    monkeypatch.setattr("histill.slides.worker.MOST_A_REQUEST", 100_000)
    slide = opened()
    direct = open_unruly(slide.path)
    for longest in (500, 501, 90):
        assert np.array_equal(slide.thumbnail(longest), direct.thumbnail(longest))
    region = Region(1900, 7, 1000, 1200)
    assert np.array_equal(slide.read_as(region, 1000, 600), direct.read_as(region, 1000, 600))
    assert next(slide._tickets) > 20
    assert slide.read_as(region, 1, 1).shape == (1, 1, 3)


def test_a_reader_loads_no_torch_and_no_script(opened: Open, tmp_path: Path) -> None:
    assert opened().facts.properties == {"torch": "False", "main": "None"}
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nsys.path[:0] = sys.argv[2:]\nfrom pathlib import Path\n"
        "from unruly import open_unruly\nfrom histill.slides.worker import open_guarded\n"
        "print('once', flush=True)\n"
        "with open_guarded(Path(sys.argv[1]), opener=open_unruly) as slide: print(slide.facts.properties['main'])\n"
    )
    (tmp_path / "slide").write_text("{}")
    places = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, str(script), str(tmp_path / "slide"), *places]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "once\nNone\n"


def test_without_an_opener_it_is_open_slide(tmp_path: Path) -> None:
    pytest.importorskip("histill.slides.open")
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_guarded(tmp_path / "a.png", 0.5) as slide:
        assert np.array_equal(slide.read(Region(0, 0, 50, 40), 0.5), image)
    with pytest.raises(HistillError) as caught:
        open_guarded(tmp_path / "missing.svs")
    assert caught.value.code == Exit.INPUT


def test_what_libraries_print_is_no_answer(opened: Open) -> None:
    slide = opened({2: "chatter"})
    direct = open_unruly(slide.path)
    direct.deeds.clear()
    assert np.array_equal(slide.read_as(at(2), 60, 60), direct.read_as(at(2), 60, 60))


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_reader_killed_once_is_replaced(opened: Open) -> None:
    slide = opened({2: "die once"})
    direct = open_unruly(slide.path)
    first = readers()
    assert np.array_equal(slide.read_as(at(2), 60, 60), direct.read_as(at(2), 60, 60))
    assert len(readers()) == len(first)
    assert readers() != first


@pytest.mark.parametrize(
    ("deed", "limits", "says"),
    [
        ("die", SMALL, "twice its reader was killed (signal 9), as a system does that runs out of memory"),
        ("crash", SMALL, "twice its reader crashed (signal 11)"),
        ("sleep", SHORT, "twice its reader took longer than 1 s"),
        ("spin", Limits(cpu=0.1), "twice its reader used more than 0.1 s of processor time"),
        ("hog", SMALL, "reading it asked for more than 1 GiB of memory"),
        ("abort", SMALL, "twice its reader was killed: it asked for more than 1 GiB of memory"),
        ("leave", SMALL, "twice its reader ended by itself (exit code 3); its last words: the \ufffd last"),
        ("break", SMALL, "it cannot be read: RuntimeError: tile 7 is torn"),
    ],
)
def test_a_deadly_request_is_an_error_and_the_slide_goes_on(deed: str, limits: Limits, says: str, opened: Open) -> None:
    slide = opened({2: deed}, limits)
    error = error_of(slide, 2)
    assert error.what.startswith(says)
    assert (error.code, error.subject) == (Exit.INPUT, str(slide.path))
    assert error.mend
    assert "\n" not in str(error)
    if deed == "die":
        assert slide.path.with_name("deaths").read_text().count("\n") == 2
    if deed == "leave":
        assert error.__notes__ == ["what the reader said:\nfirst\nthe \ufffd last\n"]
    assert np.array_equal(slide.read_as(at(1), 60, 60), open_unruly(slide.path).read_as(at(1), 60, 60))


def test_an_error_of_the_house_crosses_as_it_is(opened: Open) -> None:
    error = error_of(opened({2: "refuse"}), 2)
    assert (error.what, error.code, error.subject, error.mend) == ("a bomb", Exit.UNSAFE, "tile 7", "Leave it")


@pytest.mark.parametrize(
    ("deed", "code", "says"),
    [
        ("refuse", Exit.UNSAFE, "a bomb"),
        ("break", Exit.INPUT, "it cannot be read: RuntimeError: tile 7 is torn"),
        ("die", Exit.INPUT, "twice its reader was killed (signal 9)"),
        ("sleep", Exit.INPUT, "twice its reader took longer than 0.2 s"),
    ],
)
def test_opening_is_guarded_too(deed: str, code: Exit, says: str, opened: Open) -> None:
    with pytest.raises(HistillError) as caught:
        opened({"open": deed}, Limits(wall=0.2 if deed == "sleep" else 60))
    assert caught.value.code == code
    assert caught.value.what.startswith(says)


def test_opening_is_tried_twice(opened: Open) -> None:
    assert opened({"open": "die once"}).size == (SIDE, SIDE)


def test_a_reader_that_cannot_start_is_not_the_slides_fault(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = opened({2: "die once"})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    outcomes = slide.read_many([(at(2), 60, 60)])
    with pytest.raises(HistillError, match="did not start") as caught:
        next(outcomes)
    assert caught.value.code == Exit.TEMPORARY
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HistillError, match=r"did not start: it ended by itself \(exit code 1\)") as caught:
        opened()
    assert caught.value.code == Exit.TEMPORARY


def test_a_file_that_changed_is_not_gone_on_with(opened: Open) -> None:
    slide = opened({2: "change"})
    with pytest.raises(HistillError, match="changed while it was read"):
        list(slide.read_many([(at(2), 60, 60), (at(1), 60, 60)]))
    assert "changed" in error_of(slide, 1).what


# --- many requests --------------------------------------------------------------------------------------------------


def test_many_come_in_order_with_errors_in_their_places(opened: Open) -> None:
    slide = opened({3: "break", 5: "die", 8: "die once", 9: "refuse"})
    direct = open_unruly(slide.path)
    direct.deeds.clear()
    outcomes = list(slide.read_many((at(column), 60, 40) for column in range(12)))
    wrong = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, HistillError)}
    assert {index: error.what[:16] for index, error in wrong.items()} == {
        3: "it cannot be rea",
        5: "twice its reader",
        9: "a bomb",
    }
    for column in set(range(12)) - set(wrong):
        assert np.array_equal(outcomes[column], direct.read_as(at(column), 60, 40))


@pytest.mark.parametrize("most", [IN_FLIGHT, 7])
def test_few_are_in_flight_and_others_may_be_asked_between(
    opened: Open, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PIXELS_IN_FLIGHT // 256**2 >= 64  # a batch of tiles as most encoders want them
    monkeypatch.setattr("histill.slides.worker.PIXELS_IN_FLIGHT", 60 * 60 * most if most > IN_FLIGHT else 1)
    slide = opened()
    direct = open_unruly(slide.path)
    asked: list[int] = []

    def requests() -> Iterator[tuple[Region, int, int]]:
        for column in range(12):
            asked.append(column)
            yield at(column), 60, 60

    for column, outcome in enumerate(slide.read_many(requests())):
        assert len(asked) == min(column + most, 12)
        assert np.array_equal(outcome, direct.read_as(at(column), 60, 60))
        assert np.array_equal(slide.thumbnail(20), direct.thumbnail(20))
    assert len(asked) == 12


def test_what_was_left_in_the_middle_mixes_with_nothing(opened: Open) -> None:
    slide = opened()
    for column in range(3):
        for outcome in slide.read_many((at(each), 60, 60) for each in range(10)):
            assert not isinstance(outcome, HistillError)
            break
        assert np.array_equal(slide.read_as(at(column), 50, 50), open_unruly(slide.path).read_as(at(column), 50, 50))
    gc.collect()
    assert slide._requests == {}


def test_threads_share_a_slide(opened: Open) -> None:
    slide = opened({7: "die once"})
    wrong: list[int] = []

    def read(column: int) -> None:
        expected = open_unruly(slide.path).read_as(at(column), 60, 60)
        for _ in range(20):
            if not np.array_equal(slide.read_as(at(column), 60, 60), expected):
                wrong.append(column)

    (slide.path.with_name("die once")).touch()  # of the direct reading, which would end this process
    threads = [threading.Thread(target=read, args=(column,)) for column in (6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- no reader is left ----------------------------------------------------------------------------------------------


def test_closing_ends_the_reader(opened: Open) -> None:
    slide = opened()
    (child,) = readers()
    slide.close()
    assert gone(child, 0.1)
    slide.close()
    with pytest.raises(ValueError, match="is closed"):
        slide.thumbnail(10)


def test_a_slide_forgotten_or_left_by_an_error_leaves_no_reader(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "slide"
    path.write_text("{}")
    slide = open_guarded(path, opener=open_unruly)
    (child,) = readers()
    del slide
    gc.collect()
    assert gone(child, 0.1)
    with contextlib.suppress(KeyboardInterrupt), opened():
        (child,) = readers()
        raise KeyboardInterrupt
    assert gone(child, 0.1)


PARENT = """
import sys, json, os, time
sys.path[:0] = json.loads(sys.argv[3])
from pathlib import Path
from unruly import open_unruly
from histill.core.geometry import Region
from histill.slides.worker import open_guarded

slide = open_guarded(Path(sys.argv[1]), opener=open_unruly)
print(slide._reader._process.pid, flush=True)
if sys.argv[2] == "busy":
    slide.read_as(Region(220, 0, 10, 10), 10, 10)
elif sys.argv[2] == "idle":
    time.sleep(60)
"""


def parent(tmp_path: Path, manner: str) -> tuple[subprocess.Popen[str], int]:
    """A process with a slide open, in a group of its own, and its reader."""
    path = tmp_path / "slide"
    path.write_text(json.dumps({2: "sleep"}))
    places = json.dumps([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), manner, places],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("manner", ["idle", "busy"])
def test_the_reader_of_a_killed_parent_ends(manner: str, tmp_path: Path) -> None:
    process, child = parent(tmp_path, manner)
    assert not gone(child, 0.2)
    process.kill()
    process.communicate()
    assert gone(child)


def test_the_reader_of_a_parent_that_ends_ends(tmp_path: Path) -> None:
    process, child = parent(tmp_path, "at once")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert gone(child, 0.1)


def test_ctrl_c_says_nothing_of_readers_and_leaves_none(tmp_path: Path) -> None:
    process, child = parent(tmp_path, "busy")
    assert os.getpgid(child) != os.getpgid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert said.count("Traceback") == 1  # the parent's own
    assert said.endswith("KeyboardInterrupt\n")
    assert gone(child, 0.1)


def test_an_interrupted_request_mixes_with_nothing(opened: Open) -> None:
    slide = opened({2: "nap"})

    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            slide.read_as(at(2), 60, 60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(slide.read_as(at(1), 50, 50), open_unruly(slide.path).read_as(at(1), 50, 50))


def test_a_forked_process_has_a_reader_of_its_own(opened: Open) -> None:
    slide = opened()
    expected, before = slide.read_as(at(1), 60, 60), readers()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if np.array_equal(slide.read_as(at(1), 60, 60), expected) else 2
            slide.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert readers() == before
    assert np.array_equal(slide.read_as(at(1), 60, 60), expected)


# --- what the system lacks ------------------------------------------------------------------------------------------


def test_what_the_system_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits_supported() is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "memory" in (limits_supported() or "")
    monkeypatch.setattr("histill.slides.limits.resource", None)
    assert "processor time" in (limits_supported() or "")
