"""What is said of errors that others raise."""

from __future__ import annotations

import pytest

from hivis.errors import first_line


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
