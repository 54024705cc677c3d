"""Labels of single tokens, in which every character is visible; and escaped text."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import Any

#: The longest label, in columns.
LONGEST = 18
_SEEN = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
#: They join the characters beside them and are invisible alone.
_JOINERS = "\u200c\u200d"


def plural(number: int, noun: str) -> str:
    """The noun in the form that belongs to the number: ``token`` for 1, else ``tokens``."""
    return noun if number == 1 else noun + "s"


def token_texts(tokenizer: Any, tokens: Iterable[int], special: frozenset[int]) -> dict[int, str]:
    """The text of each token alone, including a space before it.

    A tokenizer may drop a space at the start of a text, so each token is decoded after another
    one. Tokens without text of their own (special tokens, single bytes) get the tokenizer's name.
    """

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    ahead = tokenizer.encode("a", add_special_tokens=False)[-1:]
    start = len(decode(ahead))
    found = {}
    for token in sorted(set(tokens)):
        name = tokenizer.convert_ids_to_tokens(token)
        text = "" if name is None else decode([*ahead, token])[start:]
        named = token in special or not text or (text == "\ufffd" and name.startswith("<0x"))
        found[token] = (name or f"#{token}") if named else text
    return found


def label(text: str) -> str:
    """A token's text with visible spaces, line breaks and control characters, shortened if long."""
    seen = "".join(_seen(character) for character in text)
    if seen and unicodedata.combining(seen[0]):
        seen = "◌" + seen
    if columns(seen) <= LONGEST:
        return seen
    while columns(seen) > LONGEST - 1:
        seen = seen[:-1]
    return seen + "…"


def _seen(character: str) -> str:
    if character in _SEEN:
        return _SEEN[character]
    kind = unicodedata.category(character)
    hidden = kind in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs") and character not in _JOINERS
    return f"U+{ord(character):04X}" if hidden else character


def columns(text: str) -> int:
    """The width of a text in a monospaced font, in columns."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or character in _JOINERS or character == "\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def escape(text: str) -> str:
    """``text`` as HTML, for between tags or in quotes; a parser returns the same text.

    HTML has no NUL and UTF-8 no unpaired surrogate, so these are replaced by visible signs.
    """
    text = "".join(
        "\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text
    )
    return html.escape(text.replace("\0", "␀")).replace("\r", "&#13;")
