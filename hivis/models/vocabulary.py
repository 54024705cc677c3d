"""What the text of single tokens depends on, as a tokenizer tells it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Kinds of tokens.

    Attributes:
        bytes: those that stand for one byte, a run of which is decoded as a whole.
        special: those that are left out of a text.
    """

    bytes: frozenset[int]
    special: frozenset[int]


# Looking through a large vocabulary takes a tenth of a second: once is enough.
_known: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


def vocabulary(tokenizer: Any) -> Vocabulary:
    """That of a tokenizer, as it was when it was first asked for."""
    if tokenizer not in _known:
        added = tokenizer.added_tokens_decoder.items()
        _known[tokenizer] = Vocabulary(
            frozenset(i for piece, i in tokenizer.get_vocab().items() if _BYTE.fullmatch(piece)),
            frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special},
        )
    return _known[tokenizer]
