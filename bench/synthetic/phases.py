"""The parts of a cycle, timed separately: the target's pass by N, and every phase.

The phases of a cycle in a CUDA graph cannot be timed, so each part is captured in a graph of its
own. A part starts from the state before a cycle and restores it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.common.timing import Call, time_graphs, time_together
from bench.synthetic.cycles import EAGER, GRAPH, RewindableLoop
from bench.synthetic.simulated_acceptance import FixedTree
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.tree_growth import Grower, NodeScores
from hivis.errors import first_line

#: Depth and expanded nodes of a tree of any N up to 256.
DEPTH, TOP_K = 6, 10
PASS = "verify {}"


def tree_of_size(nodes: int, device: torch.device) -> FixedTree:
    """A tree of this many nodes, of any depth."""
    return FixedTree.of(TreeShape(nodes, min(DEPTH, nodes - 1), TOP_K), device)


def phase_calls(rewindable: RewindableLoop) -> dict[str, Call]:
    """The phases of a drafted loop's next cycle, each as a call that can be repeated.

    ``growth`` is the part of ``draft`` outside the drafter: scores and shape of the tree, with a
    drafter that takes no time.
    """
    loop, target = rewindable.loop, rewindable.pair.target
    drafter = loop.engine.drafter
    assert drafter is not None
    rewindable.rewind()
    accept = rewindable.pair.replay.accept
    shape, cache = rewindable.pair.tree.shape, target.cache
    plan = GrowthPlan(shape)
    sampling, lengths, drafted = loop._sampling, cache.kv_len, drafter.cache.kv_len
    token, position = cache.entries["token"].clone(), lengths.long() + 1
    kept, drafter_kept = lengths.clone(), drafter.cache.kv_len.clone()
    tree = drafter.grow(token, position, sampling, plan)
    verify = target.verify(tree)
    acceptance = accept(verify, tree, position, sampling)

    grower = Grower(plan, 1, target.device)
    logits = verify.logits[:, :1].expand(-1, shape.top_k, -1).contiguous()
    output = verify.hidden[:, :1].expand(-1, shape.top_k, -1).contiguous()
    scores = NodeScores.of(sampling, position, shape)

    def answer(*_: object) -> tuple[Tensor, Tensor]:
        return logits, output

    def compact() -> None:
        cache.compact(acceptance)
        lengths.copy_(kept)

    def commit() -> None:
        drafter.commit(verify.hidden, tree, acceptance)
        drafted.copy_(drafter_kept)

    return {
        "draft": lambda: drafter.grow(token, position, sampling, plan),
        "growth": lambda: grower(plan, token, logits[:, 0], output[:, 0], scores, answer),
        "accept": lambda: accept(verify, tree, position, sampling),
        "compact": compact,
        "commit": commit,
    }


def pass_calls(rewindable: RewindableLoop, sizes: Sequence[int]) -> dict[str, Call]:
    """The target's pass over trees of these sizes; the pass over one node is a plain step's."""
    target = rewindable.pair.target
    token = target.cache.entries["token"].clone()

    def call(nodes: int) -> Call:
        if nodes == 1:
            tree = DraftTree.root_only(token)
        else:
            tree = tree_of_size(nodes, target.device).with_tokens(
                token.expand(1, nodes).contiguous()
            )
        return lambda: target.verify(tree)

    return {PASS.format(nodes): call(nodes) for nodes in sizes}


@torch.inference_mode()
def measure_parts(
    rewindable: RewindableLoop, sizes: Sequence[int], seconds: float
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Milliseconds by mode and part, medians of interleaved calls; and why parts failed."""
    calls = phase_calls(rewindable) | pass_calls(rewindable, sizes)
    device = rewindable.pair.device
    found = {EAGER: time_together(calls, device, seconds)}
    failed: dict[str, str] = {}
    if device.type == "cuda":
        times, failures = time_graphs({name: [call] for name, call in calls.items()}, None, seconds)
        found[GRAPH] = {name: time.us for name, time in times.items()}
        failed = {name: first_line(error) for name, error in failures.items()}
    rewindable.rewind()
    return {mode: {name: us / 1e3 for name, us in of.items()} for mode, of in found.items()}, failed
