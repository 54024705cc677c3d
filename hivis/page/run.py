"""The content of the page, collected from a finished generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hivis.api.model import several
from hivis.bundled import paths
from hivis.core.device import device_name
from hivis.core.sampling import SamplingParams
from hivis.drafters.registry import title_of
from hivis.engine.results import CycleTrace, Statistics
from hivis.errors import HivisError
from hivis.page.labels import token_texts

if TYPE_CHECKING:
    from hivis.api.model import ImageSources, Model, Prompt
    from hivis.api.stream import TextStream


@dataclass(frozen=True)
class Piece:
    """A token of the output.

    Attributes:
        token: its id.
        text: the text that became certain with it, often more or less than its own.
        drafted: whether the drafter proposed it; otherwise the target drew it itself.
    """

    token: int
    text: str
    drafted: bool


@dataclass(frozen=True)
class Cycle:
    """A cycle: its trace, and the tokens that it added to the output."""

    trace: CycleTrace
    pieces: tuple[Piece, ...]

    @property
    def drafted(self) -> int:
        """The number of its tokens that were drafted."""
        return sum(piece.drafted for piece in self.pieces)

    @property
    def nodes(self) -> int:
        """N, including the root but not the padding."""
        return sum(token >= 0 for token in self.trace.tokens)


@dataclass(frozen=True)
class Run:
    """A finished generation.

    Attributes:
        model, drafter: their names; ``drafter`` is ``None`` without one.
        device: names of device and dtype.
        prompt: ``(role, text)`` of each turn.
        images: the prompt's images, in order.
        first: the token of the prefill.
        cycles: the cycles, with the other tokens and the trees.
        rest: text that was held back until the end and belongs to no token.
        params: the sampling parameters.
        finish: ``"eos"``, ``"stop"`` or ``"length"``.
        statistics: of the generation.
        texts: the text of every token of output and trees alone, by token id.
        special: the ids of tokens that are left out of the output's text.
    """

    model: str
    drafter: str | None
    device: str
    prompt: tuple[tuple[str, str], ...]
    images: tuple[Image.Image, ...]
    first: tuple[Piece, ...]
    cycles: tuple[Cycle, ...]
    rest: str
    params: SamplingParams
    finish: str
    statistics: Statistics
    texts: dict[int, str]
    special: frozenset[int]

    @property
    def tokens(self) -> int:
        return len(self.first) + sum(len(cycle.pieces) for cycle in self.cycles)

    @property
    def has_drafts(self) -> bool:
        """Whether any tree has more nodes than its root."""
        return any(cycle.nodes > 1 for cycle in self.cycles)

    @property
    def text(self) -> str:
        pieces = [*self.first, *(piece for cycle in self.cycles for piece in cycle.pieces)]
        return "".join(piece.text for piece in pieces) + self.rest


def collect_run(model: Model, stream: TextStream, prompt: Prompt, images: ImageSources = ()) -> Run:
    """Collect a generation of ``model`` from its stream; see :func:`hivis.page.write_page`.

    Raises:
        HivisError: the stream was not read to its end or not traced, or an image cannot be read.
    """
    result = stream.result
    trace = result.statistics.trace
    if len(trace) != result.statistics.cycles:
        raise HivisError("stream: wanted one made with traced=True, got one without")
    first, *others = stream.past
    with_tokens = [chunk for chunk in others if chunk.tokens]
    cycles = tuple(
        Cycle(cycle, _pieces(chunk.tokens, chunk.pieces, len(cycle.path) - 1))
        for cycle, chunk in zip(trace, with_tokens, strict=True)
    )
    tokenizer = model.processor.processor.tokenizer
    special = model.processor.token_kinds.special
    shown = [token for cycle in trace for token in cycle.tokens if token >= 0]
    dtype = str(model.target.model.dtype).removeprefix("torch.")
    return Run(
        model=_model_name(model),
        drafter=None if model.drafter is None else title_of(model.drafter),
        device=f"{device_name(stream.inputs.tokens.device)}, {dtype}",
        prompt=_turns(model, prompt),
        images=tuple(_open(image) for image in several(images)),
        first=_pieces(first.tokens, first.pieces, 0),
        cycles=cycles,
        rest="".join(chunk.text for chunk in others if not chunk.tokens),
        params=stream.params,
        finish=result.finish,
        statistics=result.statistics,
        texts=token_texts(tokenizer, [*shown, *result.tokens], special),
        special=special,
    )


def _pieces(tokens: Sequence[int], texts: Sequence[str], drafted: int) -> tuple[Piece, ...]:
    """The tokens of a cycle. If the output ends within the accepted path, all are drafted."""
    pairs = enumerate(zip(tokens, texts, strict=True))
    return tuple(Piece(token, text, place < drafted) for place, (token, text) in pairs)


def _model_name(model: Model) -> str:
    name = str(getattr(model.target.model.config, "_name_or_path", "") or "")
    if name == str(paths.TARGET):
        return "the bundled model"
    # Only the name of a folder: its full path is private.
    return Path(name).name if Path(name).is_dir() else name or "unnamed model"


def _turns(model: Model, prompt: Prompt) -> tuple[tuple[str, str], ...]:
    if isinstance(prompt, str):
        return (("user", prompt),)
    if isinstance(prompt, Sequence):
        return tuple((turn[0], turn[1]) for turn in prompt)
    return (("prompt", model.processor.decode(prompt.tokens[0].tolist())),)


def _open(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except OSError as error:
        raise HivisError(f"image {source}: wanted one that can be read, got: {error}") from None
