"""Several texts side by side, from a queue that keeps their places filled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.engine.results import Generation, SequenceProgress, Step
from hivis.engine.running_batch import RunningBatch, SequenceReplaced, check_context
from hivis.errors import HivisError
from hivis.policies.cost import default_policy

T = TypeVar("T")


@dataclass(frozen=True)
class BatchRequest(Generic[T]):
    """A text to be made.

    Attributes:
        inputs: its prompt.
        params: how tokens are drawn and when to stop.
        name: by which its caller knows it.
        until: is shown every token of the text in turn, and may end it there by saying true.
    """

    inputs: Inputs
    params: SamplingParams
    name: T
    until: Callable[[int], bool] | None = None


@dataclass
class _Slot(Generic[T]):
    wanted: BatchRequest[T]
    progress: SequenceProgress
    failed: bool = False

    @property
    def finished(self) -> bool:
        return self.failed or self.progress.finished


@dataclass
class Batch(Generic[T]):
    """Generates the texts of a queue, up to ``slots`` at a time; iterate to get each as it ends.

    Every text is that of :class:`hivis.engine.generate.Stream` alone, whatever its neighbors:
    prompts, images, lengths and settings may all differ. When one ends, the next of the queue
    takes its slot; when there is no next, the others go on among themselves.

    Args:
        target: the loaded model.
        queue: taken from whenever there is a free slot.
        slots: texts at a time. Each holds as many rows of the cache as the longest text so far.
        drafter, policy, graphs: see :class:`hivis.engine.generate.Stream`. All trees of a cycle are
            of one size.

    Raises:
        HivisError: a text would not fit the model's positions, or its logits hold a NaN. Then, and
            after any error of the queue or for want of memory, no more is taken from the queue, and
            the error comes when the other texts that had begun have all been handed out.
        AnotherText: the target or the drafter has begun another text meanwhile; at once.
    """

    target: Target
    queue: Iterable[BatchRequest[T]]
    slots: int = 4
    drafter: Drafter | None = None
    policy: Policy = field(default_factory=default_policy)
    graphs: bool | None = None

    def __post_init__(self) -> None:
        slots = self.slots
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise HivisError(f"slots: wanted a whole number >= 1, got {slots!r}")
        self._loop = RunningBatch(
            self.target, self.drafter, self.policy, slots=slots, graphs=self.graphs
        )
        self._texts: list[_Slot[T]] = []
        self._waiting = iter(self.queue)
        self._error: Exception | None = None
        self._made = self._make()

    @property
    def phases_ms(self) -> dict[str, float]:
        """Milliseconds by phase, of all texts together: see ``Statistics.phases_ms``."""
        return self._loop.clock.totals()

    def __iter__(self) -> Iterator[tuple[T, Generation]]:
        """The texts that have not been handed out yet."""
        return self._made

    def _make(self) -> Iterator[tuple[T, Generation]]:
        texts = self._texts
        while len(texts) < self.slots and (text := self._begin(len(texts))) is not None:
            texts.append(text)
        while texts:
            yield from self._ended()
            if texts:
                self._take(self._loop.cycle())
            if any(text.finished for text in texts):
                # Texts are about to change places: what is under way was begun before that.
                for steps in self._loop.settle():
                    self._take(steps)
        if self._error is not None:
            raise self._error

    def _begin(self, place: int) -> _Slot[T] | None:
        """Read the prompt of the queue's next text into a place; None if no text is to begin."""
        try:
            wanted = None if self._error else next(self._waiting, None)
            if wanted is None:
                return None
            check_context(self.target, wanted.inputs, wanted.params)
            progress = SequenceProgress(wanted.params, self.target.eos_token_ids, wanted.until)
            begun = self._loop.add(wanted.inputs, wanted.params, progress.ends, place)
        except SequenceReplaced:
            raise
        except Exception as error:  # the queue's own, too little memory: the others can go on
            self._error = error
            return None
        text = _Slot(wanted, progress)
        self._note(text, progress.begin, begun)
        return text

    def _take(self, steps: list[Step]) -> None:
        for text, step in zip(self._texts, steps, strict=True):
            if not text.finished:
                self._note(text, text.progress.add, step)

    def _note(self, text: _Slot[T], take: Callable[[Any], object], new: Any) -> None:
        """Let a text take what is new. It alone fails if it cannot go on."""
        try:
            take(new)
            text.progress.check()
        except Exception as error:  # also of ``until``
            text.failed = True
            self._error = self._error or error

    def _ended(self) -> Iterator[tuple[T, Generation]]:
        """Hand out the texts that have ended, and give their places to others."""
        texts, place = self._texts, 0
        while place < len(texts):
            text = texts[place]
            if not text.finished:
                place += 1
                continue
            if not text.failed:
                yield text.wanted.name, text.progress.result({})
            following = self._begin(place)
            if following is None:
                self._loop.drop(place)
                following = texts.pop()
            if place < len(texts):
                texts[place] = following
