"""The cycle: draft, verify, accept, compact. Plain decoding is the same with nothing drafted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hivis import ops
from hivis.clock import PhaseClock
from hivis.drafters.base import Drafter
from hivis.errors import HivisError
from hivis.generation import CycleTrace, Emitted, Generation, Statistics
from hivis.handoff import Verdict, Verify
from hivis.policies.cost import default_policy
from hivis.policy import Outcome, Planner, Policy, TreePolicy
from hivis.sampling import SamplingParams, SamplingState
from hivis.targets.base import Inputs, Target
from hivis.tree import DraftTree


def generate(
    target: Target,
    inputs: Inputs,
    params: SamplingParams | None = None,
    drafter: Drafter | None = None,
    policy: Policy | None = None,
) -> Generation:
    """Generate a whole text. See :class:`Stream` for the arguments."""
    stream = Stream(target, inputs, params, drafter, policy)
    for _ in stream:
        pass
    return stream.result


@dataclass
class Stream:
    """Generates one text; iterate to get the new tokens, cycle by cycle, as they are accepted.

    The tokens are those of plain decoding on the same seed, whatever the drafter and the tree
    (``docs/lossless.md``). After the last ones, :attr:`result` holds the whole text and its
    statistics. A stream may be left at any time; target and drafter can be used again, which ends
    this one.

    Args:
        target: the loaded model.
        inputs: one prompt.
        params: how tokens are drawn and when to stop; greedy by default.
        drafter: proposes trees; ``None`` decodes plainly, one token a pass.
        policy: chooses the size and depth of the trees: a fixed :class:`hivis.policy.TreePolicy`,
            or one of ``hivis/policies/``. By default the cost model, which begins with a fixed
            size and goes on to what pays most for its time (``docs/policies.md``).
        until: is shown every token of the text in turn, and may end it there by saying true.
        traced: keep every cycle as it was in the statistics (more reads of device values).

    Raises:
        HivisError: the text would not fit the model's positions, the drafter was made for another
            target, the logits hold a NaN, or the target has begun another text meanwhile.
    """

    target: Target
    inputs: Inputs
    params: SamplingParams | None = None
    drafter: Drafter | None = None
    policy: Policy | None = None
    until: Callable[[int], bool] | None = None
    traced: bool = False
    _result: Generation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.params = self.params or SamplingParams()
        self.policy = self.policy or default_policy()
        check_context(self.target, self.inputs, self.params)
        if self.drafter is not None:
            self.drafter.bind(self.target.embedding, self.target.head)

    @property
    def result(self) -> Generation:
        """The finished text; only after the stream has been read to its end."""
        if self._result is None:
            raise HivisError("result: wanted a stream read to its end, got one still running")
        return self._result

    @torch.inference_mode()
    def __iter__(self) -> Iterator[list[int]]:
        params, target, drafter = self.params, self.target, self.drafter
        assert params is not None and self.policy is not None
        start = time.perf_counter()
        clock = PhaseClock(self.inputs.tokens.device)
        sampling = SamplingState.of(params, batch=1, device=self.inputs.tokens.device)
        emitted = Emitted(params, target.eos_token_ids, self.until)
        # A tree has to fit behind the last row that the text can reach.
        capacity = self.inputs.length + params.max_new_tokens
        capacity += 1 if drafter is None else self.policy.drafter_rows
        planner = self._planner(emitted.ends)

        with clock.phase("prefill"):
            rows = "none" if drafter is None else drafter.rows
            prefilled = target.prefill(self.inputs, rows, capacity)
            token = _draw_first(prefilled.logits, self.inputs.length, sampling)
            if drafter is not None and prefilled.prompt is not None:
                # -1 (logits with a NaN) is refused below, when it is read; any row will do here.
                drafter.prefill(prefilled.prompt, token.clamp(min=0), capacity)
        drafter_rows = 0 if drafter is None else drafter.rows_read
        cache = target.cache
        with clock.phase("read"):
            new = emitted.take(token.tolist())
        first_token_ms = (time.perf_counter() - start) * 1e3
        yield new

        accepted_lengths, tree_sizes, trace = [], [], []
        while not emitted.finished:
            if target.cache is not cache:
                raise HivisError(
                    "stream: wanted the target to itself, got another text begun on it"
                )
            position = cache.kv_len.long() + 1
            if drafter is not None and planner.wants_times:
                with clock.phase("measure"):
                    _measure(planner, target, drafter, token, position, sampling)
            with clock.phase("draft"):
                if drafter is None:
                    tree = DraftTree.root_only(token)
                else:
                    tree = drafter.grow(token, position, sampling, planner.choose())
            with clock.phase("verify"):
                verify = target.verify(tree)
            with clock.phase("accept"):
                verdict = accept(verify, tree, position, sampling)
            with clock.phase("compact"):
                cache.compact(verdict)
            if drafter is not None:
                with clock.phase("commit"):
                    drafter.commit(verify.hidden, tree, verdict)
            token = verdict.next_token
            with clock.phase("read"):
                drawn, outcome = _read(verdict, tree, planner.learns)
            planner.learn(outcome)
            new = emitted.take(drawn)
            if self.traced:
                trace.append(_trace(tree, verdict, new))
            accepted_lengths.append(len(new) - 1)
            tree_sizes.append((tree.nodes, tree.max_depth))
            yield new

        self._result = Generation(
            tuple(emitted.tokens),
            Statistics(
                cycles=len(accepted_lengths),
                accepted_lengths=tuple(accepted_lengths),
                prompt_rows=self.inputs.length,
                drafter_rows=drafter_rows,
                first_token_ms=first_token_ms,
                total_ms=(time.perf_counter() - start) * 1e3,
                phases_ms=clock.totals(),
                tree_sizes=tuple(tree_sizes),
                trace=tuple(trace),
            ),
        )

    def _planner(self, ends: tuple[int, ...]) -> Planner:
        """What plans this text's trees; without a drafter there is nothing to plan."""
        assert self.policy is not None
        if self.drafter is None:
            return Planner(TreePolicy())
        return self.policy.planner(self.target, self.drafter, self.inputs.tokens.device, ends)


def check_context(target: Target, inputs: Inputs, params: SamplingParams) -> None:
    """HivisError if prompt and new tokens exceed the model's positions."""
    if inputs.length + params.max_new_tokens > target.max_positions:
        raise HivisError(
            f"context: wanted at most {target.max_positions} positions, got "
            f"{inputs.length} of the prompt + {params.max_new_tokens} new tokens"
        )


def accept(verify: Verify, tree: DraftTree, position: Tensor, sampling: SamplingState) -> Verdict:
    """Walk ``tree``: at each node draw the target's token, step into the child that carries it.

    ``position`` ``[B]`` is the absolute position of the token drawn at the root.
    """
    path, path_len, next_token = ops.tree_accept(
        verify.logits, tree.tokens, tree.parents,
        sampling.seed, position, sampling.temperature, sampling.top_k, sampling.top_p,
        sampling.min_p, tree.max_depth,
    )  # fmt: skip
    return Verdict.of(tree, path, path_len, next_token)


def _draw_first(logits: Tensor, length: int, sampling: SamplingState) -> Tensor:
    """Draw the token after the prompt: a walk through a tree that is only a root."""
    root = DraftTree.root_only(torch.zeros_like(sampling.seed))
    position = torch.full_like(sampling.seed, length)
    return accept(Verify(logits.unsqueeze(1), logits), root, position, sampling).next_token


def _measure(
    planner: Planner, target: Target, drafter: Drafter, token: Tensor, position: Tensor,
    sampling: SamplingState,
) -> None:  # fmt: skip
    """Let ``planner`` time the pair. Nothing is compacted or committed, so no cache row stays."""

    def verify(tree: DraftTree) -> Verdict:
        return accept(target.verify(tree), tree, position, sampling)

    planner.measure(
        lambda shape: drafter.grow(token, position, sampling, shape), verify, token.device
    )


def _trace(tree: DraftTree, verdict: Verdict, emitted: list[int]) -> CycleTrace:
    """A cycle of one sequence, read from the device."""
    length = int(verdict.path_len[0])
    return CycleTrace(
        tokens=tuple(tree.tokens[0].tolist()),
        parents=tuple(tree.parents[0].tolist()),
        scores=None if tree.scores is None else tuple(tree.scores[0].tolist()),
        path=tuple(verdict.path[0, :length].tolist()),
        emitted=tuple(emitted),
    )


def _read(verdict: Verdict, tree: DraftTree, learns: bool) -> tuple[list[int], Outcome]:
    """The tokens of one cycle and how its tree did, in the cycle's only read of device values.

    That is one tensor. Where it takes scores along it is in float64, which holds token ids exactly.
    """
    steps = verdict.emitted.shape[1]
    if not learns or tree.scores is None:
        row = torch.cat([verdict.path_len.unsqueeze(1), verdict.emitted], 1)[0].tolist()
        return row[1 : 1 + row[0]], Outcome(tree.nodes, tree.max_depth, row[0])
    parts = (verdict.path_len.unsqueeze(1), verdict.emitted, verdict.path, tree.depths)
    whole = torch.cat(parts, 1).double()
    row = torch.cat([whole, tree.scores.double()], 1)[0].tolist()
    length, depths = int(row[0]), 1 + 2 * steps
    scores = depths + tree.nodes
    return [int(token) for token in row[1 : 1 + length]], Outcome(
        tree.nodes,
        tree.max_depth,
        length,
        path=tuple(int(node) for node in row[1 + steps : 1 + steps + length]),
        depths=tuple(int(depth) for depth in row[depths:scores]),
        scores=tuple(row[scores:]),
    )
