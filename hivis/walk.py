"""The walk through a draft tree, and what the host gets to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hivis import ops
from hivis.generation import CycleTrace, Step
from hivis.handoff import Verdict, Verify
from hivis.policy import Outcome
from hivis.sampling import SamplingState
from hivis.tree import DraftTree


def accept(verify: Verify, tree: DraftTree, position: Tensor, sampling: SamplingState) -> Verdict:
    """Walk ``tree``: at each node draw the target's token, step into the child that carries it.

    ``position`` ``[B]`` is the absolute position of the token drawn at the root.
    """
    logits = verify.logits
    if sampling.seen is not None:
        logits = sampling.penalise(logits, tree.paths())
    found = ops.tree_accept(
        logits, tree.tokens, tree.parents,
        sampling.seed, position, sampling.temperature, sampling.top_k, sampling.top_p,
        sampling.min_p, tree.max_depth,
    )  # fmt: skip
    return Verdict(*found)


def draw_first(logits: Tensor, length: int, sampling: SamplingState) -> Tensor:
    """Draw the token after the prompt: a walk through a tree that is only a root."""
    # The root is no token of the text, so nothing may be penalised on its account.
    logits = sampling.penalise(logits.unsqueeze(1), sampling.seed.new_empty(1, 1, 0))
    root = DraftTree.root_only(torch.zeros_like(sampling.seed))
    position = torch.full_like(sampling.seed, length)
    return accept(Verify(logits, logits), root, position, replace(sampling, seen=None)).next_token


def read_steps(verdict: Verdict, tree: DraftTree, learns: bool, traced: bool) -> list[Step]:
    """The tokens of one cycle and how its trees did, in the cycle's only read of device values.

    That is one tensor. Where it takes scores along it is in float64, which holds token ids exactly.
    """
    length, depth = verdict.path_len.unsqueeze(1), tree.max_depth
    if not (learns and tree.scores is not None):
        rows = torch.cat([length, verdict.emitted], 1).tolist()
        found = [(row[1 : 1 + row[0]], Outcome(tree.nodes, depth, row[0])) for row in rows]
    else:
        parts = (length, verdict.emitted, verdict.path, tree.depths)
        whole = torch.cat(parts, 1).double()
        rows = torch.cat([whole, tree.scores.double()], 1).tolist()
        found = [_outcome(row, verdict.emitted.shape[1], tree.nodes, depth) for row in rows]
    traces: Sequence[CycleTrace | None] = [None] * len(found)
    if traced:
        traces = [_trace(tree, verdict, text) for text in range(len(found))]
    return [
        Step(drawn, outcome, trace) for (drawn, outcome), trace in zip(found, traces, strict=True)
    ]


def _outcome(row: list[float], steps: int, nodes: int, depth: int) -> tuple[list[int], Outcome]:
    length, depths = int(row[0]), 1 + 2 * steps
    scores = depths + nodes
    return [int(token) for token in row[1 : 1 + length]], Outcome(
        nodes,
        depth,
        length,
        path=tuple(int(node) for node in row[1 + steps : 1 + steps + length]),
        depths=tuple(int(level) for level in row[depths:scores]),
        scores=tuple(row[scores:]),
    )


def _trace(tree: DraftTree, verdict: Verdict, text: int) -> CycleTrace:
    length = int(verdict.path_len[text])
    return CycleTrace(
        tokens=tuple(tree.tokens[text].tolist()),
        parents=tuple(tree.parents[text].tolist()),
        scores=None if tree.scores is None else tuple(tree.scores[text].tolist()),
        path=tuple(verdict.path[text, :length].tolist()),
        emitted=(),  # what the text kept of it is not known here
    )
