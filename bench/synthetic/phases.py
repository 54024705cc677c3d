"""The parts of a cycle one by one: the target's pass by N, and every phase on its own.

In a CUDA graph a loop cannot be looked into, so its parts are captured alone. They begin where a
cycle begins and leave everything as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.common.timing import Call, time_graphs, time_together
from bench.synthetic.cycles import EAGER, GRAPH, Running
from bench.synthetic.simulated_acceptance import TreeForm
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan, TreeShape
from hivis.drafters.tree_growth import Grower, NodeScores
from hivis.errors import first_line

#: Depth and expanded nodes of a tree of any N: enough for 256.
DEPTH, TOP_K = 6, 10
PASS = "verify {}"


def shape_with(nodes: int, device: torch.device) -> TreeForm:
    """A tree of this many nodes, whatever its depth."""
    return TreeForm.of(TreeShape(nodes, min(DEPTH, nodes - 1), TOP_K), device)


def phase_calls(running: Running) -> dict[str, Call]:
    """The phases of a drafted loop's next cycle, each as a call that can be repeated.

    ``growth`` is what the loop itself does in ``draft``: scores and shape of the tree, with a
    drafter that answers at once.
    """
    loop, target = running.loop, running.pair.target
    drafter = loop.engine.drafter
    assert drafter is not None
    running.back()
    accept = running.pair.replay.accept
    shape, cache = running.pair.form.shape, target.cache
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


def pass_calls(running: Running, sizes: Sequence[int]) -> dict[str, Call]:
    """The target's pass over trees of these sizes; one node is a plain step's."""
    target = running.pair.target
    token = target.cache.entries["token"].clone()

    def call(nodes: int) -> Call:
        if nodes == 1:
            tree = DraftTree.root_only(token)
        else:
            tree = shape_with(nodes, target.device).carrying(token.expand(1, nodes).contiguous())
        return lambda: target.verify(tree)

    return {PASS.format(nodes): call(nodes) for nodes in sizes}


@torch.inference_mode()
def measure_parts(
    running: Running, sizes: Sequence[int], seconds: float
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Milliseconds by mode and part, medians of interleaved calls; and what failed, with why."""
    calls = phase_calls(running) | pass_calls(running, sizes)
    device = running.pair.device
    found = {EAGER: time_together(calls, device, seconds)}
    failed: dict[str, str] = {}
    if device.type == "cuda":
        times, failures = time_graphs({name: [call] for name, call in calls.items()}, None, seconds)
        found[GRAPH] = {name: time.us for name, time in times.items()}
        failed = {name: first_line(error) for name, error in failures.items()}
    running.back()
    return {mode: {name: us / 1e3 for name, us in of.items()} for mode, of in found.items()}, failed
