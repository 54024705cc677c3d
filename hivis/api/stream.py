"""A text on its way: tokens as they are accepted, and the text that they make certain."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from hivis.api.detokenize import TextPieces
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.engine.generate import Stream
from hivis.engine.results import Generation
from hivis.errors import HivisError


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


class Writer:
    """Writes a text while its tokens are drawn: what a stream or a batch shows every token to.

    Args:
        pieces: turns tokens into text.
        ends: tokens that end it.
    """

    def __init__(self, pieces: TextPieces, ends: tuple[int, ...]) -> None:
        self._pieces, self._ends = pieces, ends
        self._new: list[str] = []
        #: What is certain of the text so far and was taken.
        self.text = ""

    def __call__(self, token: int) -> bool:
        """Write a token down; whether the text ends there by a stop string."""
        self._new.append(self._pieces.put(token))
        return self._pieces.stopped

    def take(self) -> tuple[str, ...]:
        """The text that each token since the last call made certain."""
        new = tuple(self._new)
        self._new.clear()
        self.text += "".join(new)
        return new

    def end(self) -> str:
        """What was held back, now that no token comes any more."""
        rest = self._pieces.end()
        self.text += rest
        return rest

    def whole(self, made: Generation) -> TextGeneration:
        """The text of ``made``, all of which was written down."""
        if self._pieces.stopped:
            finish = "stop"
        else:
            finish = "eos" if made.tokens[-1] in self._ends else "length"
        return TextGeneration(made.tokens, made.statistics, self.text, finish)


class TextStream(Iterator[str]):
    """Pieces of a text as its tokens are accepted; :attr:`result` once they have all been read.

    The pieces joined are the text; none ends inside a character, or in what may become a stop
    string. Iterate over :meth:`chunks` instead to have the tokens too. A stream may be left at any
    time; the next text of the same model ends it.

    Attributes:
        inputs, params: what it is made from, and how.
        tokens: what has been read so far.
        past: the same, cycle by cycle, with the text.
    """

    def __init__(
        self,
        target: Target,
        inputs: Inputs,
        params: SamplingParams,
        drafter: Drafter | None,
        policy: Policy,
        writer: Writer,
        traced: bool = False,
        prepare_ms: float = 0.0,
        graphs: bool | None = None,
    ) -> None:
        self._writer, self._prepare_ms = writer, prepare_ms
        self._stream = Stream(target, inputs, params, drafter, policy, writer, traced, graphs)
        self._chunks: Generator[Chunk, None, None] = self._run()
        self._result: TextGeneration | None = None
        self.inputs, self.params = inputs, params
        self.tokens: tuple[int, ...] = ()
        self.past: tuple[Chunk, ...] = ()

    def __next__(self) -> str:
        for chunk in self._chunks:
            if chunk.text:
                return chunk.text
        raise StopIteration

    def chunks(self) -> Generator[Chunk, None, None]:
        """The same, cycle by cycle, with the tokens."""
        return self._chunks

    @property
    def text(self) -> str:
        """That of the tokens read so far."""
        return self._writer.text

    @property
    def result(self) -> TextGeneration:
        """The whole text; HivisError before the stream has been read to its end."""
        if self._result is None:
            raise HivisError("result: wanted a stream read to its end, got one that was not")
        return self._result

    def _run(self) -> Generator[Chunk, None, None]:
        for tokens in self._stream:
            yield self._note(Chunk(tuple(tokens), self._writer.take()))
        if rest := self._writer.end():
            yield self._note(Chunk((), (rest,)))
        made = self._stream.result
        took = replace(made.statistics, prepare_ms=self._prepare_ms)
        self._result = self._writer.whole(replace(made, statistics=took))

    def _note(self, chunk: Chunk) -> Chunk:
        self.tokens += chunk.tokens
        self.past += (chunk,)
        return chunk
