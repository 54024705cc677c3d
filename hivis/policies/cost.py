"""CostPolicy: the tree that pays most for its time. See ``docs/policies.md``."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch

from hivis.core.policy import Outcome, Planner
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape, candidates
from hivis.errors import HivisError
from hivis.policies.calibration import Calibration
from hivis.policies.sizes import SIZES, SizedPlanner, check_sizes, looks_ahead
from hivis.policies.times import Times, convex, timed

#: Times are measured in ROUNDS rounds, one every SPACING cycles: a short answer never pays for
#: it, and a busy moment spoils no more than a round. They are used from round LEAST_ROUNDS on.
ROUNDS, SPACING, LEAST_ROUNDS = 6, 24, 2
#: When planning ahead, the largest tree is grown every PROBE cycles, to see what smaller ones miss.
PROBE = 16
#: The first FIRST_PROBES probes come one after another; what probes found fades over about
#: PROBE_MEMORY of them.
FIRST_PROBES, PROBE_MEMORY = 4, 8
#: Cycles after which the rate of tokens has forgotten them to 1/e.
RATE_MEMORY = 60.0


@dataclass(frozen=True)
class CostPolicy:
    """Grows and verifies what is worth its time, by measured times and calibrated acceptance.

    What is learned is kept for every pair of a target and a drafter as long as both exist, and goes
    on to their next sequence.

    Attributes:
        sizes: the N it may choose, root included, increasing.
        depth: the deepest level it may draft.
        top_k: how many nodes a level expands, and how many children each of them gets.
        sharpness: see :class:`hivis.core.tree_shape.TreeShape`.
        times: known times; ``None`` measures them after the pair's first cycles.
        ahead: whether the size is chosen before the tree is grown, from earlier cycles, and not
            from the scores of the growing tree. ``None``: on any device but a CPU.
        noise: see :class:`hivis.core.tree_shape.TreeShape`.
    """

    sizes: tuple[int, ...] = SIZES
    depth: int = 12
    top_k: int = 4
    sharpness: float = 1.0
    times: Times | None = None
    ahead: bool | None = None
    noise: bool = True
    _kept: dict[tuple[int, int, str, int], CostPlanner] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_sizes(self.sizes, self.depth, self.top_k, self.sharpness)
        if self.times is not None and not set(self.sizes) <= set(self.times.verify):
            raise HivisError(
                f"times: wanted those of verifying {self.sizes} nodes, "
                f"got {tuple(self.times.verify)}"
            )

    @property
    def drafter_rows(self) -> int:
        largest = TreeShape(self.sizes[-1], self.depth, self.top_k)
        return max(largest.drafter_rows, self.fallback.drafter_rows)

    @property
    def fallback(self) -> TreeShape:
        """What is grown until there are times, and with drafters that report no scores."""
        usual = TreeShape()
        depth = min(usual.depth, self.depth)
        nodes = min(usual.nodes, 1 + candidates(depth, self.top_k))
        return TreeShape(nodes, depth, self.top_k, self.sharpness, self.noise)

    def planner(
        self,
        target: object,
        drafter: object,
        device: torch.device,
        ends: tuple[int, ...] = (),
        sequences: int = 1,
    ) -> Planner:
        """The pair's own planner for this many sequences at a time, with what it has learned."""
        key = (id(target), id(drafter), str(device), sequences)
        planner = self._kept.get(key)
        if planner is None:
            planner = CostPlanner(self, looks_ahead(self.ahead, device), ends)
            try:
                for owner in (target, drafter):
                    weakref.finalize(owner, self._kept.pop, key, None).atexit = False
            except TypeError:  # it cannot say when it is gone: nothing is kept for it
                return planner
            self._kept[key] = planner
        planner.end_with(ends)
        return planner


class CostPlanner(SizedPlanner):
    """Plans for one target with one drafter.

    A tree is worth its estimated tokens, less what its time would have brought elsewhere: the time
    times the rate, the tokens per millisecond of the last cycles.
    """

    def __init__(self, policy: CostPolicy, ahead: bool, ends: tuple[int, ...]) -> None:
        super().__init__(
            policy.sizes, policy.depth, policy.top_k, policy.sharpness, ahead, ends, policy.noise
        )
        self.fallback = GrowthPlan(policy.fallback, ends)
        self.calibration = Calibration()
        self.times: Times | None = None
        self._cycles = 0
        self._blind = False
        self._gains: dict[tuple[int, int], float] = {}
        self._probes = 0
        self._best = (self.sizes[0], self.shallowest(self.sizes[0]))
        self._largest = (self.sizes[-1], self.shape.depth)
        self._fade = math.exp(-1 / RATE_MEMORY)
        self._rounds = 0
        self._ms_of: dict[str, float] = {}
        if policy.times is not None:
            self._rounds = ROUNDS
            self._start(policy.times)

    def end_with(self, ends: tuple[int, ...]) -> None:
        super().end_with(ends)
        self.fallback = replace(self.fallback, ends=ends)

    def _start(self, times: Times) -> None:
        self.times = times
        # As if a few cycles had been of the fallback's size and gone about half as well as hoped.
        usual = self.sizes[(len(self.sizes) - 1) // 2]
        depth = max(self.shallowest(usual), self.fallback.shape.depth)
        self._tokens, self._ms = 4 * 4.0, 4 * times.cycle(usual, depth)

    @property
    def rate(self) -> float:
        """Tokens per millisecond of the last cycles, by the measured times."""
        return self._tokens / max(self._ms, 1e-9)

    def choose(self) -> GrowthPlan:
        if self.times is None or self._blind:
            return self.fallback
        if not self.ahead:
            return self.plan
        probe_due = self._probes < FIRST_PROBES or self._cycles % PROBE == 0
        return self.sized(*(self._largest if probe_due else self._best))

    def learn(self, outcome: Outcome) -> None:
        self._cycles += 1
        if outcome.scores is None or outcome.depths is None or outcome.path is None:
            self._blind = True
            return
        # The root is not a guess.
        self.calibration.observe(outcome.scores[1:], {node - 1 for node in outcome.path[1:]})
        if self.times is None or outcome.nodes not in self.times.verify:
            return
        self._tokens = self._tokens * self._fade + outcome.emitted
        self._ms = self._ms * self._fade + self.times.cycle(outcome.nodes, outcome.depth)
        if self.ahead and (outcome.nodes, outcome.depth) == self._largest:
            self._note_gains(outcome.depths[1:], outcome.scores[1:])

    # While a tree grows.

    def go_on(self, level: int, best: list[list[float]]) -> bool:
        """A level adds at most one token, if the target gets as far as the nodes it expands."""
        assert self.times is not None
        rates = self.calibration.rates
        reach = sum([min(1.0, sum(rates(row))) for row in best]) / len(best)
        return reach > self.rate * self.times.level

    def pick(self, depth: int, ranked: list[list[float]]) -> int:
        assert self.times is not None
        sums = [[0.0, *accumulate(self.calibration.rates(row))] for row in ranked]
        rate, verify, rows = self.rate, self.times.verify, len(sums)

        def worth(nodes: int) -> float:
            return sum(gain[nodes - 1] for gain in sums) / rows - rate * verify[nodes]

        return max(self.fit(depth), key=worth)

    # Ahead of the tree.

    def _note_gains(self, depths: tuple[int, ...], scores: tuple[float, ...]) -> None:
        """What every size would have gained, by the nodes of a tree of the largest."""
        assert self.times is not None
        self._probes += 1
        share = 1 / min(self._probes, PROBE_MEMORY)
        rates = self.calibration.rates(scores)
        for depth in range(1, self.shape.depth + 1):
            within = (r for r, d in zip(rates, depths, strict=True) if d <= depth)
            sums = [0.0, *accumulate(sorted(within, reverse=True))]
            for nodes in self.fit(depth):
                gain = sums[min(nodes, len(sums)) - 1]
                before = self._gains.get((nodes, depth), 0.0)
                self._gains[nodes, depth] = before + share * (gain - before)
        cycle = self.times.cycle
        self._best = max(self._gains, key=lambda size: (1 + self._gains[size]) / cycle(*size))

    # The times.

    @property
    def wants_times(self) -> bool:
        if self._blind or self._rounds == ROUNDS:
            return False
        return self._cycles >= SPACING * (self._rounds + 1)

    def measure(
        self,
        draft: Callable[[GrowthPlan], DraftTree],
        verify: Callable[[DraftTree], object],
        device: torch.device,
    ) -> None:
        """One round: verify every N, draft the shallowest tree and the deepest.

        The fastest of all rounds counts, since disturbance only adds. A commit is taken for one
        more level.
        """
        low, high = self.shallowest(self.sizes[0]), self.shape.depth

        def note(name: str, call: Callable[[], DraftTree | object]) -> object:
            if not self._rounds:
                call()  # whatever is only made once
            result, ms = timed(call, device)
            self._ms_of[name] = min(ms, self._ms_of.get(name, math.inf))
            return result

        def grown(nodes: int, depth: int) -> DraftTree:
            return draft(self.sized(nodes, depth))

        note("low", lambda: grown(self.sizes[0], low))
        note("high", lambda: grown(self.sizes[0], high))
        for nodes in self.sizes:
            tree = grown(nodes, self.shallowest(nodes))
            note(str(nodes), functools.partial(verify, tree))
        self._rounds += 1
        if self._rounds >= LEAST_ROUNDS:
            self._start(self._measured(low, high))

    def _measured(self, low: int, high: int) -> Times:
        ms = self._ms_of
        first = ms["low"] / low
        level = max(0.0, ms["high"] - ms["low"]) / (high - low) if high > low else first
        rest = max(0.0, ms["low"] - (low - 1) * level) + level
        return Times(convex({n: ms[str(n)] for n in self.sizes}), level, rest)


@functools.cache
def default_policy() -> CostPolicy:
    """The policy where none is given: one for all pairs, as it keeps them apart."""
    return CostPolicy()
