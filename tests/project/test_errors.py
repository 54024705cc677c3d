"""What is said of errors that others raise."""

from __future__ import annotations

import pytest

from hivis.errors import first_line, printable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n\n  behind empty lines \nmore"), "behind empty lines"),
        (ValueError(" \n "), "ValueError"),
        (MemoryError(), "MemoryError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(error: BaseException, line: str):
    assert first_line(error) == line


def test_what_a_terminal_would_obey_is_shown():
    assert printable("\x1b]0;title\x07\r\x9b2J\x7f") == "\\x1b]0;title\\x07\\x0d\\x9b2J\\x7f"
    assert printable("abc\u202etxt.exe") == "abc\\u202etxt.exe"
    whole = "two\nlines\tand a \u2764\ufe0f\u200d\U0001f525, 中文, \\x1b"
    assert printable(whole) == whole
