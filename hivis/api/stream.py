"""Output as it is generated: tokens as they are accepted, and the text that they make certain."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from hivis.api.detokenize import TextPieces
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.engine import Engine
from hivis.engine.generate import Stream
from hivis.engine.results import Generation
from hivis.errors import HivisError


@dataclass(frozen=True)
class TextGeneration(Generation):
    """A whole output. ``print`` shows its text.

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
    """What one cycle added to the output.

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
    """Turns tokens into text while they are drawn: what a stream or a batch shows every token to.

    Args:
        pieces: decodes them.
        ends: tokens that end the sequence.
    """

    def __init__(self, pieces: TextPieces, ends: tuple[int, ...]) -> None:
        self._pieces, self._ends = pieces, ends
        self._new: list[str] = []
        #: The text that is certain so far and was taken.
        self.text = ""

    def __call__(self, token: int) -> bool:
        """Take a token; whether the output ends there by a stop string."""
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
        """The output of ``made``, all of whose tokens were taken."""
        if self._pieces.stopped:
            finish = "stop"
        else:
            finish = "eos" if made.tokens[-1] in self._ends else "length"
        return TextGeneration(made.tokens, made.statistics, self.text, finish)


class TextStream(Iterator[str]):
    """Pieces of text as tokens are accepted; :attr:`result` once they have all been read.

    The pieces joined are the output; none ends inside a character, or in what may become a stop
    string. Iterate over :meth:`chunks` instead to have the tokens too. A stream may be left at any
    time; the next sequence of the same model ends it.

    Args:
        engine: what the tokens are generated with.
        inputs, params: the prompt, and how tokens are drawn.
        writer: turns them into text.
        traced: keep every cycle as it was in the statistics.
        prepare_ms: what making ``inputs`` took.

    Attributes:
        tokens: what has been read so far.
        past: the same, cycle by cycle, with the text.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: Inputs,
        params: SamplingParams,
        writer: Writer,
        traced: bool = False,
        prepare_ms: float = 0.0,
    ) -> None:
        self._writer, self._prepare_ms = writer, prepare_ms
        self._stream = Stream(engine, inputs, params, writer, traced)
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
        """The text of the tokens read so far."""
        return self._writer.text

    @property
    def result(self) -> TextGeneration:
        """The whole output; HivisError before the stream has been read to its end."""
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
