"""A text on its way: tokens as they are accepted, and the text that they make certain."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from hivis.decode import Stream
from hivis.drafters.base import Drafter
from hivis.errors import HivisError
from hivis.generation import Generation
from hivis.policy import Policy
from hivis.sampling import SamplingParams
from hivis.targets.base import Inputs, Target
from hivis.text import TextPieces


@dataclass(frozen=True)
class TextGeneration(Generation):
    """A whole text. ``print`` shows its text.

    Attributes:
        text: the tokens' text, special tokens left out, cut before the stop string that ended it.
        finish: why it ended: ``"eos"``, ``"stop"`` (a stop string) or ``"length"``.
    """

    text: str
    finish: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Chunk:
    """What one cycle added to a text.

    Attributes:
        tokens: the new ones. The last is the target's own, those before it were drafted.
        pieces: the text that each of them made certain, often more or less than its own.
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class TextStream(Iterator[str]):
    """Pieces of a text as its tokens are accepted; :attr:`result` once they have all been read.

    The pieces joined are the text; none ends inside a character, or in what may become a stop
    string. Iterate over :meth:`chunks` instead to have the tokens too. A stream may be left at any
    time; the next text of the same model ends it.

    Attributes:
        text: what has been read so far.
        tokens: the tokens that it was made from.
    """

    def __init__(
        self, target: Target, inputs: Inputs, params: SamplingParams, drafter: Drafter | None,
        policy: Policy, pieces: TextPieces, traced: bool = False,
    ) -> None:  # fmt: skip
        self._pieces = pieces
        self._made: list[str] = []
        self._stream = Stream(target, inputs, params, drafter, policy, self._take, traced)
        ends = params.eos_token_ids
        self._ends = target.eos_token_ids if ends is None else ends
        self._chunks: Generator[Chunk, None, None] = self._run()
        self._result: TextGeneration | None = None
        self.inputs = inputs
        self.text = ""
        self.tokens: tuple[int, ...] = ()

    def __next__(self) -> str:
        for chunk in self._chunks:
            if chunk.text:
                return chunk.text
        raise StopIteration

    def chunks(self) -> Generator[Chunk, None, None]:
        """The same, cycle by cycle, with the tokens."""
        return self._chunks

    @property
    def result(self) -> TextGeneration:
        """The whole text; HivisError before the stream has been read to its end."""
        if self._result is None:
            raise HivisError("result: wanted a stream read to its end, got one that was not")
        return self._result

    def _take(self, token: int) -> bool:
        self._made.append(self._pieces.put(token))
        return self._pieces.stopped

    def _run(self) -> Generator[Chunk, None, None]:
        for tokens in self._stream:
            chunk = Chunk(tuple(tokens), tuple(self._made))
            self._made.clear()
            yield self._note(chunk)
        if rest := self._pieces.end():
            yield self._note(Chunk((), (rest,)))
        made = self._stream.result
        self._result = TextGeneration(made.tokens, made.statistics, self.text, self._finish())

    def _note(self, chunk: Chunk) -> Chunk:
        self.text += chunk.text
        self.tokens += chunk.tokens
        return chunk

    def _finish(self) -> str:
        if self._pieces.stopped:
            return "stop"
        return "eos" if self.tokens[-1] in self._ends else "length"
