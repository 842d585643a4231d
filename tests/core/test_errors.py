"""The one error: its text, and its way through a pipe between processes."""

import pickle

from histill.core.errors import Exit, HistillError


def test_a_message_says_where_what_and_how_to_mend() -> None:
    error = HistillError("the disk is full", code=Exit.STORAGE, subject="a.json", mend="Free some space")
    assert str(error) == "a.json: the disk is full. Free some space"
    assert str(HistillError("2 faults\n  a\n  b\n", code=Exit.USAGE, mend="Mend")) == "2 faults\n  a\n  b\nMend"
    assert str(HistillError("no class is named", code=Exit.USAGE)) == "no class is named"


def test_an_error_survives_pickling() -> None:
    error = HistillError("what", code=Exit.UNSAFE, subject="where", mend="Mend")
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.what, twin.code, twin.subject, twin.mend) == ("what", Exit.UNSAFE, "where", "Mend")
    assert str(twin) == str(error)


def test_exit_codes_are_those_documented() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "BUG": 1,
        "USAGE": 2,
        "QUARANTINED": 3,
        "INPUT": 4,
        "UNSAFE": 5,
        "NUMBERS": 6,
        "STORAGE": 7,
        "BUSY": 8,
        "TEMPORARY": 75,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
