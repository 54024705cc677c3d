"""What a token looks like by itself, where nothing of it may be invisible."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import Any

#: Columns of the longest label.
LONGEST = 18
_SEEN = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
#: They join what stands beside them and have a look only there.
_JOINERS = "\u200c\u200d"


def token_texts(tokenizer: Any, tokens: Iterable[int], special: frozenset[int]) -> dict[int, str]:
    """The text of each token by itself, the space before it included.

    A tokenizer may drop a space at the start of a text; so each token is decoded behind another
    one. What is no text (special tokens, single bytes) is the tokenizer's own name of it.
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
    """A token's text with spaces, line breaks and control characters to be seen; cut if long."""
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
    """How many columns a text takes in a font of one width."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or character in _JOINERS or character == "\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def escape(text: str) -> str:
    """``text`` for a page, between tags or in quotes, so that a parser gives back just that.

    HTML has no NUL, and a lone half of a surrogate pair has no UTF-8: they become signs for them.
    """
    text = "".join(
        "\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text
    )
    return html.escape(text.replace("\0", "␀")).replace("\r", "&#13;")
