"""From tokens to text, piece by piece. Text that was passed on never changes afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from hivis.errors import HivisError

_BROKEN = "\ufffd"
#: When the window has this many tokens, all but the last few are removed. These are decoded with
#: the next tokens, since a tokenizer may drop a space at the start of a text.
_LONG, _KEPT = 24, 6


class TextPieces:
    """Decodes tokens one by one; the joined pieces equal the text of all tokens decoded at once.

    Text is held back while a later token may still change it: the first bytes of a character, a run
    of byte tokens, and the possible start of a stop string.

    Args:
        decode: returns the text of tokens without the special ones.
        byte_tokens: tokens that stand for a byte, for tokenizers that decode a run of them together
            (an invalid byte then also spoils the characters before it).
        special_tokens: tokens that ``decode`` leaves out.
        stop: the text ends before the first of these strings; see :attr:`stopped`.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        byte_tokens: Collection[int] = (),
        special_tokens: Collection[int] = (),
        stop: Sequence[str] = (),
    ) -> None:
        for string in stop:
            if not isinstance(string, str) or not string:
                raise HivisError(f"stop: wanted strings that are not empty, got {string!r}")
        self._decode = decode
        self._bytes = frozenset(byte_tokens)
        self._special = frozenset(special_tokens)
        self._stop = tuple(stop)
        self._window: list[int] = []  # the last tokens; `_shown` characters of them are out
        self._shown = 0
        self._in_bytes = False
        self._held = ""  # the possible start of a stop string
        #: Whether a stop string was found. The text ends before it, and further tokens add nothing.
        self.stopped = False

    def put(self, token: int) -> str:
        """Add a token; returns the text that is now certain and was not before, often empty."""
        if self.stopped:
            return ""
        self._window.append(token)
        if token not in self._special:
            self._in_bytes = token in self._bytes
        if self._in_bytes:
            return ""
        text = self._decode(self._window)
        certain = len(text.rstrip(_BROKEN))
        new = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        if certain == len(text) and len(self._window) >= _LONG:
            self._forget()
        return self._pass_on(new)

    def end(self) -> str:
        """The text that is still held back, when no more tokens follow."""
        if self.stopped:
            return ""
        new = self._decode(self._window)[self._shown :]
        self._shown += len(new)
        return self._pass_on(new, last=True)

    def _forget(self) -> None:
        kept = self._window[-_KEPT:]
        text = self._decode(kept)
        if text.strip():
            self._window, self._shown = kept, len(text)

    def _pass_on(self, new: str, last: bool = False) -> str:
        """The held text and ``new``, up to where a stop string starts or may start."""
        text, self._held = self._held + new, ""
        found = [index for string in self._stop if (index := text.find(string)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if last:
            return text
        held = max((_overlap(text, string) for string in self._stop), default=0)
        certain = len(text) - held
        self._held = text[certain:]
        return text[:certain]


def _overlap(text: str, string: str) -> int:
    """The length of the longest suffix of ``text`` that is a prefix of ``string``."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
