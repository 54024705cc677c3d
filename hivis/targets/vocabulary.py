"""What the text of single tokens depends on, as a tokenizer tells it."""

from __future__ import annotations

import re
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_tokens(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for one byte, a run of which is decoded as a whole."""
    return frozenset(i for piece, i in tokenizer.get_vocab().items() if _BYTE.fullmatch(piece))


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """Tokens that are left out of a text."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special}
