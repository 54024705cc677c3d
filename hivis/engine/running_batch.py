"""Texts that move on together: how they join and leave, one of them or several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from hivis.core.clock import PhaseClock
from hivis.core.drafter import Drafter
from hivis.core.kv_cache import KVCache
from hivis.core.policy import Planner, Policy
from hivis.core.sampling import SamplingParams, SamplingState, sampling_entries, seen_tokens
from hivis.core.target import Inputs, Target
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.engine.cuda_graphs import capturer_for, cycles_in_flight
from hivis.engine.cycle import Cycles
from hivis.engine.report import InFlightCycle, draw_first
from hivis.engine.results import PrefillResult, Step
from hivis.errors import HivisError

#: A cache has room for so many texts at first, and for a multiple of so many rows.
_FEW, _ROUND = 4, 64


class SequenceReplaced(HivisError):
    """The target, or the drafter, has begun a text of somebody else's."""


class RunningBatch:
    """The texts that a target is at, and the cycle that moves all of them on.

    What is known of a text lies in the caches of target and drafter, so a text joins the others by
    being read alone and copied into a cache of several, and leaves them by being dropped from it.

    Args:
        target, drafter, policy: see :class:`hivis.engine.generate.Stream`.
        slots: how many texts there may be at a time.
        traced: keep every cycle as it was.
        graphs: whether cycles are captured and replayed as CUDA graphs; by default where there is
            CUDA. Those of a policy that looks at the growing tree cannot be.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        policy: Policy,
        *,
        slots: int = 1,
        traced: bool = False,
        graphs: bool | None = None,
    ) -> None:
        self.target, self.drafter, self.policy = target, drafter, policy
        self.slots = slots
        self._device = target.embedding.device
        self._late = cycles_in_flight(self._device)
        self._underway: deque[InFlightCycle] = deque()
        self.cycles = Cycles(target, drafter, capturer_for(self._device, graphs), traced)
        self._models: list[Target | Drafter] = [target] if drafter is None else [target, drafter]
        self._caches: list[KVCache] = []
        self._params: list[SamplingParams] = []
        self._ends: list[tuple[int, ...]] = []
        self._planned_for: tuple[tuple[int, ...], int] = ((), 0)
        self._planner: Planner | None = None
        self._sampling: SamplingState

    @property
    def clock(self) -> PhaseClock:
        """Times the phases of all texts."""
        return self.cycles.clock

    @property
    def texts(self) -> int:
        """B."""
        return len(self._params)

    def rows(self, inputs: Inputs, params: SamplingParams) -> int:
        """Cache rows that a text may need: a tree has to fit behind the last row it can reach,
        and as many for each cycle that is under way when the text turns out to have ended."""
        tree = 1 if self.drafter is None else self.policy.drafter_rows
        return inputs.length + params.max_new_tokens + tree * (1 + self._late)

    @torch.inference_mode()
    def add(
        self, inputs: Inputs, params: SamplingParams, ends: tuple[int, ...], text: int | None = None
    ) -> PrefillResult:
        """Read a prompt and draw the first token of its text.

        Args:
            inputs: the prompt.
            params: how the text is drawn.
            ends: tokens that end it.
            text: the number of a text that has ended, whose place it takes; a new one by default.
        """
        text = self.texts if text is None else text
        if self.texts:
            self._check_alone()
        try:
            with self.clock.phase("prefill"):
                token, kept = self._read(inputs, params)
                self._join(text)
        except BaseException:
            self._take_back()  # the others can go on
            raise
        self._params[text : text + 1] = [params]
        self._ends[text : text + 1] = [ends]
        self._regroup()
        drafter_rows = 0 if self.drafter is None else self.drafter.rows_read
        with self.clock.phase("read"):
            return PrefillResult(int(token), inputs.length, kept, drafter_rows)

    @torch.inference_mode()
    def drop(self, text: int) -> None:
        """Forget a text that has ended. The last one takes its number."""
        self._check_alone()
        for cache in self._caches:
            cache.remove_sequence(text)
        self._take_back()
        self._params[text], self._ends[text] = self._params[-1], self._ends[-1]
        del self._params[-1], self._ends[-1]
        self._regroup()

    @torch.inference_mode()
    def cycle(self) -> list[Step]:
        """Move every text on by at least one token: what the oldest cycle under way has brought.

        Further cycles may be under way. Texts that have ended are in them, too: whoever drops one
        of several calls :meth:`settle` first.
        """
        self._check_alone()
        while len(self._underway) <= self._late:
            planner = self.planner
            if self.drafter is not None and planner.wants_times:
                with self.clock.phase("measure"):
                    self.cycles.measure(planner, self._sampling)
            self._underway.append(self.cycles.launch(planner, self._sampling))
        steps = self._oldest()
        for step in steps:
            self.planner.learn(step.outcome)
        return steps

    def settle(self) -> Iterator[list[Step]]:
        """What the cycles under way have brought, the oldest first; no further one is begun."""
        while self._underway:
            yield self._oldest()

    def _oldest(self) -> list[Step]:
        """What the oldest cycle under way has brought."""
        with self.clock.phase("read"):
            return self._underway.popleft().steps()

    @property
    def planner(self) -> Planner:
        """What plans the trees of these texts; without a drafter there is nothing to plan."""
        if self._planner is None:
            self._planner = Planner(GrowthPlan(TreeShape()))
            if self.drafter is not None:
                self._planner = self.policy.planner(
                    self.target, self.drafter, self._device, *self._planned_for
                )
        return self._planner

    def _read(self, inputs: Inputs, params: SamplingParams) -> tuple[Tensor, int]:
        """Prefill target and drafter with a text of their own: its first token ``[1]``, and how
        many rows the target had already."""
        target, drafter, capacity = self.target, self.drafter, self.rows(inputs, params)
        if drafter is not None:
            drafter.bind(target.embedding, target.head)
        prefilled = target.prefill(inputs, "none" if drafter is None else drafter.rows, capacity)
        cache = target.cache
        cache.set_entry("seen", seen_tokens(inputs.tokens, target.head.shape[0]))
        for name, entry in sampling_entries([params], self._device).items():
            cache.set_entry(name, entry)
        sampling = SamplingState.over(cache.entries, [params])
        token = draw_first(prefilled.logits, inputs.length, sampling)
        cache.set_entry("token", token)
        sampling.mark_seen(token.unsqueeze(1))
        if drafter is not None and prefilled.prompt is not None:
            # -1 (logits with a NaN) is refused when it is read; any row will do here.
            drafter.prefill(prefilled.prompt, token.clamp(min=0), capacity)
        return token, prefilled.kept

    def _join(self, text: int) -> None:
        """The text that was read just now goes to the others, in caches that are large enough."""
        if self.slots == 1:
            self._caches = [model.cache for model in self._models if hasattr(model, "cache")]
            return
        alone = [model.cache for model in self._models]
        caches = self._caches or [cache.for_sequences(0, 0) for cache in alone]
        for place, cache in enumerate(alone):
            caches[place] = self._roomy(caches[place], text, cache.rows)
            caches[place].copy_sequence(text, cache)
        self._caches = caches
        self._take_back()

    def _roomy(self, cache: KVCache, text: int, rows: int) -> KVCache:
        """``cache`` if a text of so many rows fits in there, else a larger one with its texts.

        Rows and slots grow by more than is asked for, so that texts seldom move.
        """
        room = cache.max_batch
        if text < room and rows <= cache.rows:
            return cache
        if text >= room:
            room = min(self.slots, max(_FEW, 2 * room))
        if rows > cache.rows:
            rows = -(-max(rows, cache.rows * 5 // 4) // _ROUND) * _ROUND
        return cache.resized(room, max(rows, cache.rows))

    def _take_back(self) -> None:
        for model, cache in zip(self._models, self._caches, strict=False):
            model.cache = cache

    def _regroup(self) -> None:
        """Take note that there are other texts than before."""
        ends = tuple(sorted({end for own in self._ends for end in own}))
        if self._planned_for != (ends, self.texts):
            self._planner, self._planned_for = None, (ends, self.texts)
        if self._params:
            self._sampling = SamplingState.over(self._caches[0].entries, self._params)

    def _check_alone(self) -> None:
        ours = zip(self._models, self._caches, strict=False)
        if not self._caches or any(model.cache is not cache for model, cache in ours):
            raise SequenceReplaced(
                "text: wanted target and drafter to itself, got another text begun"
            )


def check_context(target: Target, inputs: Inputs, params: SamplingParams) -> None:
    """HivisError if prompt and new tokens exceed the model's positions."""
    if inputs.length + params.max_new_tokens > target.max_positions:
        raise HivisError(
            f"context: wanted at most {target.max_positions} positions, got "
            f"{inputs.length} of the prompt + {params.max_new_tokens} new tokens"
        )
