"""The walk through a draft tree, and what the host gets to know of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hivis import ops
from hivis.core.handoff import Acceptance, VerifyResult
from hivis.core.policy import Outcome
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.engine.results import CycleTrace, Step


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
    """Draw the token after the prompt: a walk through a tree that is only a root."""
    # The root is no token of the text, so nothing may be penalized on its account.
    logits = sampling.penalize(logits.unsqueeze(1), sampling.seed.new_empty(1, 1, 0))
    root = DraftTree.root_only(torch.zeros_like(sampling.seed))
    position = torch.full_like(sampling.seed, length)
    return accept(
        VerifyResult(logits, logits), root, position, replace(sampling, seen=None)
    ).next_token


@dataclass(frozen=True)
class CycleReport:
    """What the host gets to know of a cycle, in one small tensor.

    Attributes:
        values: ``[B, C]``, int64, or float64 (which holds token ids exactly) with scores among it.
        columns: name and width of what lies side by side in there.
        nodes, depth: of the trees.
    """

    values: Tensor
    columns: tuple[tuple[str, int], ...]
    nodes: int
    depth: int

    @classmethod
    def of(cls, acceptance: Acceptance, tree: DraftTree, learns: bool, traced: bool) -> CycleReport:
        """``learns``: a policy wants to know how the trees did; ``traced``: all of them is kept."""
        parts = {"length": acceptance.path_len.unsqueeze(1), "emitted": acceptance.emitted}
        scores = tree.scores if learns or traced else None
        if scores is not None or traced:
            parts |= {"path": acceptance.path, "depths": tree.depths}
        if traced:
            parts |= {"tokens": tree.tokens, "parents": tree.parents}
        values = torch.cat(list(parts.values()), 1)
        if scores is not None:
            parts["scores"] = scores
            values = torch.cat([values.double(), scores.double()], 1)
        columns = tuple((name, part.shape[1]) for name, part in parts.items())
        return cls(values, columns, tree.nodes, tree.max_depth)

    def steps(self, values: Tensor) -> list[Step]:
        """What the cycle brought each text; ``values`` are those of :attr:`values`, on the host."""
        return [self._step(row) for row in values.tolist()]

    def _step(self, row: list[float]) -> Step:
        found, at = {}, 0
        for name, width in self.columns:
            found[name] = row[at : at + width]
            at += width
        length = int(found["length"][0])
        drawn = [int(token) for token in found["emitted"][:length]]
        if "path" not in found:
            return Step(drawn, Outcome(self.nodes, self.depth, length), None)
        path = tuple(int(node) for node in found["path"][:length])
        depths = tuple(int(level) for level in found["depths"])
        scores = tuple(found["scores"]) if "scores" in found else None
        outcome = Outcome(self.nodes, self.depth, length, path, depths, scores)
        if "tokens" not in found:
            return Step(drawn, outcome, None)
        tokens = tuple(int(token) for token in found["tokens"])
        parents = tuple(int(node) for node in found["parents"])
        # What the text kept of the emitted tokens is not known here.
        return Step(drawn, outcome, CycleTrace(tokens, parents, scores, path, ()))


class InFlightCycle:
    """A cycle that was handed to the device, and whose report is on its way to the host."""

    def __init__(self, report: CycleReport) -> None:
        self._report, self._event = report, None
        # To pinned memory, so nobody waits; a copy, since the next replay fills the report anew.
        self._values = report.values.to("cpu", non_blocking=True, copy=True)
        if report.values.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(report.values.device))

    def steps(self) -> list[Step]:
        """What the cycle brought each text. Waits for it."""
        if self._event is not None:
            self._event.synchronize()
        return self._report.steps(self._values)
