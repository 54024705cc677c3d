"""The cycle: draft, verify, accept, compact, commit; run as it is, or replayed from a capture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from hivis import ops
from hivis.core.clock import PhaseClock
from hivis.core.handoff import Acceptance, VerifyResult
from hivis.core.policy import Planner
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan
from hivis.engine.cuda_graphs import Graphs, capturer_for
from hivis.engine.engine import Engine
from hivis.engine.report import CycleReport, InFlightCycle

T = TypeVar("T")


def accept(
    verify: VerifyResult, tree: DraftTree, position: Tensor, sampling: SamplingState
) -> Acceptance:
    """Walk ``tree``: at each node draw the target's token, step into the child that carries it.

    ``position`` ``[B]`` is the absolute position of the token drawn at the root.
    """
    logits = verify.logits
    if sampling.seen is not None:
        logits = sampling.penalize(logits, tree.paths())
    found = ops.tree_accept(
        logits,
        tree.tokens,
        tree.parents,
        sampling.seed,
        position,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        tree.max_depth,
    )
    return Acceptance(*found)


def draw_first(logits: Tensor, length: int, sampling: SamplingState) -> Tensor:
    """Draw the token after the prompt: a walk through a tree that is only a root.

    Args:
        logits: ``[B, V]``, of the prompt's last row.
        length: P, the rows of the prompt.

    Returns:
        ``[B]`` int64.
    """
    # The root is no token of the sequence, so nothing may be penalized on its account.
    logits = sampling.penalize(logits.unsqueeze(1), sampling.seed.new_empty(1, 1, 0))
    root = DraftTree.root_only(torch.zeros_like(sampling.seed))
    position = torch.full_like(sampling.seed, length)
    return accept(
        VerifyResult(logits, logits), root, position, replace(sampling, seen=None)
    ).next_token


class Cycles:
    """Runs the cycles of the sequences that lie in the caches of target and drafter.

    Args:
        engine: what they are run with; without a drafter a cycle is a step of plain decoding.
        traced: keep every cycle as it was.

    Attributes:
        clock: is told the phases.
        accept: walks the tree, as :func:`accept` does.
    """

    def __init__(self, engine: Engine, traced: bool) -> None:
        self.target, self.drafter, self.traced = engine.target, engine.drafter, traced
        self._capturer = capturer_for(engine.device, engine.graphs)
        self.clock = PhaseClock(engine.device)
        self.accept = accept

    def launch(self, planner: Planner, sampling: SamplingState) -> InFlightCycle:
        """Hand a cycle to the device."""
        plan, learns = planner.choose(), planner.learns

        def work() -> CycleReport:
            return self.advance(sampling, plan, learns)

        # To be captured, the sizes of the trees have to be known before they grow.
        if not self._captures or plan.governor is not None:
            return InFlightCycle(work())
        name = self._name("cycle", sampling, plan, learns)
        return InFlightCycle(self._graphs.run(name, work, self.clock))

    def advance(self, sampling: SamplingState, plan: GrowthPlan, learns: bool) -> CycleReport:
        """One cycle, without a look at the device, on tensors that have their place in the caches:
        so this is what can be captured."""
        target, drafter, clock, cache = self.target, self.drafter, self.clock, self.target.cache
        token, position = self._root()
        with clock.phase("draft"):
            if drafter is None:
                tree = DraftTree.root_only(token)
            else:
                tree = drafter.grow(token, position, sampling, plan)
        with clock.phase("verify"):
            verify = target.verify(tree)
        with clock.phase("accept"):
            acceptance = self.accept(verify, tree, position, sampling)
        with clock.phase("compact"):
            cache.compact(acceptance)
        if drafter is not None:
            with clock.phase("commit"):
                drafter.commit(verify.hidden, tree, acceptance)
        with clock.phase("read"):
            report = CycleReport.of(acceptance, tree, learns, self.traced)
            # Last, for the tree may look at the token's own place.
            sampling.mark_seen(acceptance.emitted)
            cache.set_entry("token", acceptance.next_token)
        return report

    def measure(self, planner: Planner, sampling: SamplingState) -> None:
        """Let the planner time the pair. Nothing is compacted or committed: no cache row stays."""
        target, drafter = self.target, self.drafter
        assert drafter is not None
        replays = planner.ahead and self._captures

        def run(name: Hashable, work: Callable[[], T]) -> T:
            # What is replayed in a cycle is timed as a replay.
            return self._graphs.replay(name, work) if replays else work()

        def draft(plan: GrowthPlan) -> DraftTree:
            def work() -> DraftTree:
                return drafter.grow(*self._root(), sampling, plan)

            return run(self._name("draft", sampling, plan), work)

        def verify(tree: DraftTree) -> Acceptance:
            def work() -> tuple[DraftTree, Acceptance]:
                _, position = self._root()
                return tree, self.accept(target.verify(tree), tree, position, sampling)

            return run(("verify", id(tree)), work)[1]

        planner.measure(draft, verify, target.embedding.device)

    @property
    def _captures(self) -> bool:
        """Whether cycles can be captured: what the drafter keeps has to lie in a cache."""
        kept = self.drafter is None or hasattr(self.drafter, "cache")
        return self._capturer is not None and kept

    def _root(self) -> tuple[Tensor, Tensor]:
        """The last emitted token and the position of the one that it is followed by, ``[B]``."""
        cache = self.target.cache
        return cache.entries["token"], cache.kv_len.long() + 1

    @property
    def _graphs(self) -> Graphs:
        """What was captured on the target's cache, of this sequence or of earlier ones that had the
        same memory."""
        capturer = self._capturer
        assert capturer is not None
        return self.target.cache.get_or_make(Graphs, lambda: Graphs(capturer))

    def _name(
        self, part: str, sampling: SamplingState, plan: GrowthPlan, learns: bool = False
    ) -> Hashable:
        """All on which the operations of a cycle depend, beside what lies in the target's cache."""
        sequences = self.target.cache.batch_size
        penal = sampling.seen is not None
        if self.drafter is None:
            return part, sequences, sampling.greedy, penal, self.traced
        buffers = self.drafter.cache.buffer_id
        return part, sequences, sampling.greedy, penal, self.traced, buffers, plan, learns
