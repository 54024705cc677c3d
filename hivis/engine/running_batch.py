"""Sequences that move on together, one of them or several: how they join, advance and leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from hivis.core.clock import PhaseClock
from hivis.core.drafter import Drafter
from hivis.core.kv_cache import KVCache
from hivis.core.policy import Planner
from hivis.core.sampling import SamplingParams, SamplingState, sampling_entries, seen_tokens
from hivis.core.target import Inputs, Target
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.engine.cuda_graphs import cycles_in_flight
from hivis.engine.cycle import Cycles, draw_first
from hivis.engine.engine import Engine
from hivis.engine.report import InFlightCycle
from hivis.engine.results import PrefillResult, Step
from hivis.errors import HivisError

#: A cache has room for this many sequences at first, and for a multiple of this many rows.
_FIRST_SLOTS, _ROW_MULTIPLE = 4, 64


class SequenceReplaced(HivisError):
    """The target, or the drafter, has begun a sequence outside of this batch."""


class RunningBatch:
    """The sequences in the caches of an engine's models, and the cycle that moves all of them on.

    What is known of a sequence lies in the caches of target and drafter. So a sequence joins the
    others by being read alone and copied into caches of several, and leaves by being removed there.

    Args:
        engine: what they are generated with.
        slots: how many sequences there may be at a time.
        traced: keep every cycle as it was.
    """

    def __init__(self, engine: Engine, *, slots: int = 1, traced: bool = False) -> None:
        self.engine, self.slots = engine, slots
        self.cycles = Cycles(engine, traced)
        self._in_flight: deque[InFlightCycle] = deque()
        self._max_in_flight = cycles_in_flight(engine.device)
        self._models: list[Target | Drafter] = [engine.target]
        if engine.drafter is not None:
            self._models.append(engine.drafter)
        self._caches: list[KVCache] = []
        self._params: list[SamplingParams] = []
        self._ends: list[tuple[int, ...]] = []
        self._planned_for: tuple[tuple[int, ...], int] = ((), 0)
        self._planner: Planner | None = None
        self._sampling: SamplingState

    @property
    def clock(self) -> PhaseClock:
        """Times the phases of all sequences."""
        return self.cycles.clock

    @property
    def sequences(self) -> int:
        """B."""
        return len(self._params)

    def rows(self, inputs: Inputs, params: SamplingParams) -> int:
        """Cache rows that a sequence may need.

        A tree has to fit behind the last row that the sequence can reach, and one more for each
        cycle that is in flight when the sequence turns out to have ended.
        """
        tree = 1 if self.engine.drafter is None else self.engine.policy.drafter_rows
        return inputs.length + params.max_new_tokens + tree * (1 + self._max_in_flight)

    @torch.inference_mode()
    def add(
        self,
        inputs: Inputs,
        params: SamplingParams,
        ends: tuple[int, ...],
        index: int | None = None,
    ) -> PrefillResult:
        """Read a prompt and draw the first token of its sequence.

        Args:
            inputs: the prompt.
            params: how the sequence is drawn.
            ends: tokens that end it.
            index: of a sequence that has ended, whose place it takes; a new place by default.
        """
        index = self.sequences if index is None else index
        if self.sequences:
            self._check_alone()
        try:
            with self.clock.phase("prefill"):
                token, kept = self._read(inputs, params)
                self._join(index)
        except BaseException:
            self._take_back()  # the others can go on
            raise
        self._params[index : index + 1] = [params]
        self._ends[index : index + 1] = [ends]
        self._regroup()
        drafter = self.engine.drafter
        drafter_rows = 0 if drafter is None else drafter.rows_read
        with self.clock.phase("read"):
            return PrefillResult(int(token), inputs.length, kept, drafter_rows)

    @torch.inference_mode()
    def drop(self, index: int) -> None:
        """Remove a sequence that has ended. The last one takes its index."""
        self._check_alone()
        for cache in self._caches:
            cache.remove_sequence(index)
        self._take_back()
        self._params[index], self._ends[index] = self._params[-1], self._ends[-1]
        del self._params[-1], self._ends[-1]
        self._regroup()

    @torch.inference_mode()
    def cycle(self) -> list[Step]:
        """Move every sequence on by at least one token: what the oldest cycle in flight brought.

        Further cycles may be in flight, also of sequences that have ended: before one of several is
        dropped or replaced, :meth:`settle` has to be called.
        """
        self._check_alone()
        while len(self._in_flight) <= self._max_in_flight:
            planner = self.planner
            if self.engine.drafter is not None and planner.wants_times:
                with self.clock.phase("measure"):
                    self.cycles.measure(planner, self._sampling)
            self._in_flight.append(self.cycles.launch(planner, self._sampling))
        steps = self._oldest()
        for step in steps:
            self.planner.learn(step.outcome)
        return steps

    def settle(self) -> Iterator[list[Step]]:
        """What the cycles in flight brought, the oldest first; no further one is begun."""
        while self._in_flight:
            yield self._oldest()

    def _oldest(self) -> list[Step]:
        """What the oldest cycle in flight brought."""
        with self.clock.phase("read"):
            return self._in_flight.popleft().steps()

    @property
    def planner(self) -> Planner:
        """What plans the trees of these sequences; without a drafter there is nothing to plan."""
        if self._planner is None:
            engine = self.engine
            self._planner = Planner(GrowthPlan(TreeShape()))
            if engine.drafter is not None:
                self._planner = engine.policy.planner(
                    engine.target, engine.drafter, engine.device, *self._planned_for
                )
        return self._planner

    def _read(self, inputs: Inputs, params: SamplingParams) -> tuple[Tensor, int]:
        """Prefill target and drafter with a sequence of their own: its first token ``[1]``, and how
        many rows the target had already."""
        target, drafter = self.engine.target, self.engine.drafter
        capacity = self.rows(inputs, params)
        if drafter is not None:
            drafter.bind(target.embedding, target.head)
        prefilled = target.prefill(inputs, "none" if drafter is None else drafter.rows, capacity)
        cache = target.cache
        cache.set_entry("seen", seen_tokens(inputs.tokens, target.head.shape[0]))
        for name, entry in sampling_entries([params], self.engine.device).items():
            cache.set_entry(name, entry)
        sampling = SamplingState.over(cache.entries, [params])
        token = draw_first(prefilled.logits, inputs.length, sampling)
        cache.set_entry("token", token)
        sampling.mark_seen(token.unsqueeze(1))
        if drafter is not None and prefilled.prompt is not None:
            # -1 (logits with a NaN) is refused when it is read; any row will do here.
            drafter.prefill(prefilled.prompt, token.clamp(min=0), capacity)
        return token, prefilled.kept

    def _join(self, index: int) -> None:
        """Copy the sequence that was just read to the others, in caches that are large enough."""
        if self.slots == 1:
            self._caches = [model.cache for model in self._models if hasattr(model, "cache")]
            return
        alone = [model.cache for model in self._models]
        caches = self._caches or [cache.for_sequences(0, 0) for cache in alone]
        for place, cache in enumerate(alone):
            caches[place] = self._with_room(caches[place], index, cache.rows)
            caches[place].copy_sequence(index, cache)
        self._caches = caches
        self._take_back()

    def _with_room(self, cache: KVCache, index: int, rows: int) -> KVCache:
        """``cache`` if sequence ``index`` of ``rows`` rows fits in there, else a larger one with
        its sequences.

        Rows and slots grow by more than is asked for, so that sequences seldom move.
        """
        slots = cache.max_batch
        if index < slots and rows <= cache.rows:
            return cache
        if index >= slots:
            slots = min(self.slots, max(_FIRST_SLOTS, 2 * slots))
        if rows > cache.rows:
            rows = -(-max(rows, cache.rows * 5 // 4) // _ROW_MULTIPLE) * _ROW_MULTIPLE
        return cache.resized(slots, max(rows, cache.rows))

    def _take_back(self) -> None:
        for model, cache in zip(self._models, self._caches, strict=False):
            model.cache = cache

    def _regroup(self) -> None:
        """Take note that there are other sequences than before."""
        ends = tuple(sorted({end for own in self._ends for end in own}))
        if self._planned_for != (ends, self.sequences):
            self._planner, self._planned_for = None, (ends, self.sequences)
        if self._params:
            self._sampling = SamplingState.over(self._caches[0].entries, self._params)

    def _check_alone(self) -> None:
        ours = zip(self._models, self._caches, strict=False)
        if not self._caches or any(model.cache is not cache for model, cache in ours):
            raise SequenceReplaced(
                "sequence: wanted target and drafter to itself, got another one begun"
            )
