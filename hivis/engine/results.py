"""What generating a sequence gives: its tokens, and what they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hivis.core.policy import Outcome
from hivis.core.sampling import SamplingParams
from hivis.errors import HivisError


@dataclass(frozen=True)
class CycleTrace:
    """One cycle as it was: the draft tree, and the way that the target took through it.

    Attributes:
        tokens: of the N nodes; the root, node 0, is the token emitted last before this cycle.
        parents: the node above each, -1 at the root.
        scores: path log-probabilities by the drafter, 0 at the root; ``None`` if it has none.
        path: the accepted nodes, the root first.
        emitted: the tokens that this cycle added to the sequence: those of the path below the root,
            and the one that the target drew after it; fewer where the sequence ended within them.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    scores: tuple[float, ...] | None
    path: tuple[int, ...]
    emitted: tuple[int, ...]


@dataclass(frozen=True)
class Statistics:
    """What a sequence took.

    Attributes:
        cycles: verify passes.
        accepted_lengths: drafted tokens accepted, cycle by cycle (the extra token not counted). Of
            the last cycle only what the sequence kept counts, so that the sum over the cycles of
            accepted length + 1 is the number of tokens after the first.
        tree_sizes: N (the root included) and depth of the tree of every cycle.
        prompt_rows: rows of the prompt.
        kept_rows: those of them that were in the target's cache already, from an earlier turn.
        drafter_rows: rows the drafter itself prefilled (0 without one): an image that it
            compresses counts with the rows that are left of it.
        first_token_ms: to the first emitted token, from the beginning of the prefill.
        total_ms: to the last token. Of a stream that includes what its reader did in between.
        prepare_ms: what tokenizer and image processor took before that, if they were part of it.
        phases_ms: the same by phase: prefill, draft, verify, accept, compact, commit, read; cycle
            (one that was replayed as a whole) and capture (before that); and measure, where a
            policy measured its times. Empty for a sequence of a batch, whose phases are those of
            all its sequences (:attr:`hivis.engine.batch.Batch.phases_ms`).
        trace: every cycle as it was, if that was asked for.
    """

    cycles: int
    accepted_lengths: tuple[int, ...]
    prompt_rows: int
    drafter_rows: int
    first_token_ms: float
    total_ms: float
    phases_ms: dict[str, float]
    tree_sizes: tuple[tuple[int, int], ...] = ()
    trace: tuple[CycleTrace, ...] = ()
    kept_rows: int = 0
    prepare_ms: float = 0.0

    @property
    def accepted_length(self) -> float:
        """Mean number of drafted tokens accepted in a cycle."""
        return sum(self.accepted_lengths) / max(1, self.cycles)

    @property
    def tokens_per_cycle(self) -> float:
        """Accepted length + 1: every cycle also emits the token drawn at the end of the path."""
        return self.accepted_length + 1 if self.cycles else 0.0


@dataclass(frozen=True)
class Generation:
    """A whole sequence: its new tokens (the closing EOS included) and what they took."""

    tokens: tuple[int, ...]
    statistics: Statistics


@dataclass(frozen=True)
class PrefillResult:
    """What reading a prompt gave: the first token, and rows as in :class:`Statistics`."""

    token: int
    prompt_rows: int
    kept_rows: int
    drafter_rows: int


@dataclass(frozen=True)
class Step:
    """What one cycle brought one sequence: tokens, how its tree did, and if asked its trace."""

    drawn: list[int]
    outcome: Outcome
    trace: CycleTrace | None


class SequenceProgress:
    """A sequence in progress: its tokens so far, cut where plain decoding would have stopped, and
    what they took.

    Args:
        params: when to stop.
        model_eos: the tokens that end a sequence if ``params`` does not say.
        until: is shown every token in turn, and may end the sequence there by returning true.
    """

    def __init__(
        self,
        params: SamplingParams,
        model_eos: tuple[int, ...],
        until: Callable[[int], bool] | None = None,
    ) -> None:
        eos = model_eos if params.eos_token_ids is None else params.eos_token_ids
        self._eos = frozenset(eos)
        self.ends = tuple(sorted(self._eos))
        self._limit = params.max_new_tokens
        self._until = until
        self._start = time.perf_counter()
        self._first_ms = self._total_ms = 0.0
        self._cycles: list[tuple[int, int, int]] = []  # accepted length, nodes and depth
        self._trace: list[CycleTrace] = []
        self._broken = False
        self.tokens: list[int] = []
        self.finished = False

    def begin(self, begun: PrefillResult) -> list[int]:
        """Take the first token; returns what was taken."""
        self._begun = begun
        taken = self._take([begun.token])
        self._first_ms = self._elapsed_ms()
        return taken

    def add(self, step: Step) -> list[int]:
        """Take the tokens of a cycle, up to the sequence's end; returns those that were taken."""
        taken = self._take(step.drawn)
        self._cycles.append((len(taken) - 1, step.outcome.nodes, step.outcome.depth))
        if step.trace is not None:
            self._trace.append(replace(step.trace, emitted=tuple(taken)))
        return taken

    def result(self, phases_ms: dict[str, float]) -> Generation:
        """The sequence as a whole, now that it is finished."""
        return Generation(
            tuple(self.tokens),
            Statistics(
                cycles=len(self._cycles),
                accepted_lengths=tuple(length for length, _, _ in self._cycles),
                prompt_rows=self._begun.prompt_rows,
                kept_rows=self._begun.kept_rows,
                drafter_rows=self._begun.drafter_rows,
                first_token_ms=self._first_ms,
                total_ms=self._total_ms,
                phases_ms=phases_ms,
                tree_sizes=tuple((nodes, depth) for _, nodes, depth in self._cycles),
                trace=tuple(self._trace),
            ),
        )

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._start) * 1e3

    def check(self) -> None:
        """HivisError if the sequence cannot go on."""
        if self._broken:
            raise HivisError("logits: wanted a finite candidate, got NaN or none at all")

    def _take(self, drawn: list[int]) -> list[int]:
        taken: list[int] = []
        for token in drawn:
            if token < 0:  # the tokens before it are good
                self._broken = True
                break
            taken.append(token)
            ends = self._until is not None and self._until(token)
            if ends or token in self._eos or len(self.tokens) + len(taken) == self._limit:
                self.finished = True
                break
        self.tokens += taken
        self._total_ms = self._elapsed_ms()
        return taken
