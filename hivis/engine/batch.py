"""Continuous batching: several sequences at a time, from a queue that keeps their slots filled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.engine import Engine
from hivis.engine.results import Generation, SequenceProgress, Step
from hivis.engine.running_batch import RunningBatch, SequenceReplaced
from hivis.errors import HivisError

T = TypeVar("T")


@dataclass(frozen=True)
class BatchRequest(Generic[T]):
    """A sequence to be generated.

    Attributes:
        inputs: its prompt.
        params: how tokens are drawn and when to stop.
        name: by which its caller knows it.
        until: is shown every token in turn, and may end the sequence there by returning true.
    """

    inputs: Inputs
    params: SamplingParams
    name: T
    until: Callable[[int], bool] | None = None


@dataclass
class _Slot(Generic[T]):
    """A request and how far it has come."""

    request: BatchRequest[T]
    progress: SequenceProgress
    failed: bool = False

    @property
    def finished(self) -> bool:
        return self.failed or self.progress.finished


@dataclass
class Batch(Generic[T]):
    """Generates the sequences of a queue, up to ``slots`` at a time; iterate to get each as it
    ends.

    Every sequence is that of :class:`hivis.engine.generate.Stream` alone, whatever its neighbors:
    prompts, images, lengths and settings may all differ. When one ends, the next of the queue
    takes its slot; when there is no next, the others go on among themselves.

    Args:
        engine: what they are generated with. All trees of a cycle have one size.
        queue: taken from whenever there is a free slot.
        slots: sequences at a time. Each holds as many rows of the cache as the longest so far.

    Raises:
        HivisError: a sequence would not fit the model's positions, or its logits hold a NaN. Then,
            and after any error of the queue or for want of memory, no more is taken from the queue,
            and the error is raised when the other sequences that had begun have been handed out.
        SequenceReplaced: the target or the drafter has begun another sequence meanwhile; at once.
    """

    engine: Engine
    queue: Iterable[BatchRequest[T]]
    slots: int = 4

    def __post_init__(self) -> None:
        slots = self.slots
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise HivisError(f"slots: wanted a whole number >= 1, got {slots!r}")
        self._running = RunningBatch(self.engine, slots=slots)
        self._taken: list[_Slot[T]] = []  # in the order of the running batch
        self._waiting = iter(self.queue)
        self._error: Exception | None = None
        self._made = self._make()

    @property
    def phases_ms(self) -> dict[str, float]:
        """Milliseconds by phase, of all sequences together: see ``Statistics.phases_ms``."""
        return self._running.clock.totals()

    def __iter__(self) -> Iterator[tuple[T, Generation]]:
        """The sequences that have not been handed out yet."""
        return self._made

    def _make(self) -> Iterator[tuple[T, Generation]]:
        taken = self._taken
        while len(taken) < self.slots and (slot := self._begin(len(taken))) is not None:
            taken.append(slot)
        while taken:
            yield from self._ended()
            if taken:
                self._advance(self._running.cycle())
            if any(slot.finished for slot in taken):
                # Sequences are about to change places: what is in flight was begun before that.
                for steps in self._running.settle():
                    self._advance(steps)
        if self._error is not None:
            raise self._error

    def _begin(self, index: int) -> _Slot[T] | None:
        """Read the prompt of the queue's next sequence into place ``index`` of the running batch;
        None if no sequence is to begin."""
        try:
            request = None if self._error else next(self._waiting, None)
            if request is None:
                return None
            self.engine.check_context(request.inputs, request.params)
            progress = SequenceProgress(
                request.params, self.engine.target.eos_token_ids, request.until
            )
            begun = self._running.add(request.inputs, request.params, progress.ends, index)
        except SequenceReplaced:
            raise
        except Exception as error:  # the queue's own, too little memory: the others can go on
            self._error = error
            return None
        slot = _Slot(request, progress)
        self._note(slot, progress.begin, begun)
        return slot

    def _advance(self, steps: list[Step]) -> None:
        for slot, step in zip(self._taken, steps, strict=True):
            if not slot.finished:
                self._note(slot, slot.progress.add, step)

    def _note(self, slot: _Slot[T], take: Callable[[Any], object], new: Any) -> None:
        """Let a sequence take what is new. It alone fails if it cannot go on."""
        try:
            take(new)
            slot.progress.check()
        except Exception as error:  # also of ``until``
            slot.failed = True
            self._error = self._error or error

    def _ended(self) -> Iterator[tuple[T, Generation]]:
        """Hand out the sequences that have ended, and give their places to others."""
        taken, index = self._taken, 0
        while index < len(taken):
            slot = taken[index]
            if not slot.finished:
                index += 1
                continue
            if not slot.failed:
                yield slot.request.name, slot.progress.result({})
            following = self._begin(index)
            if following is None:
                self._running.drop(index)
                following = taken.pop()
            if index < len(taken):
                taken[index] = following
