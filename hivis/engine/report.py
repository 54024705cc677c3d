"""What the host gets to know of a cycle: one small tensor, read while the next cycle runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hivis.core.handoff import Acceptance
from hivis.core.policy import Outcome
from hivis.core.tree import DraftTree
from hivis.engine.results import CycleTrace, Step


@dataclass(frozen=True)
class CycleReport:
    """What the host gets to know of a cycle, in one small tensor.

    Attributes:
        values: ``[B, C]``, int64, or float64 (which holds token ids exactly) with scores among it.
        columns: name and width of each group of columns in ``values``, in order.
        nodes, depth: of the trees.
    """

    values: Tensor
    columns: tuple[tuple[str, int], ...]
    nodes: int
    depth: int

    @classmethod
    def of(cls, acceptance: Acceptance, tree: DraftTree, learns: bool, traced: bool) -> CycleReport:
        """``learns``: the planner wants to know how the trees did; ``traced``: keep all of them."""
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
        """What the cycle brought each sequence; ``values`` are :attr:`values`, on the host."""
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
        # How many of the emitted tokens the sequence keeps is not known here.
        return Step(drawn, outcome, CycleTrace(tokens, parents, scores, path, ()))


class InFlightCycle:
    """A cycle that was handed to the device, and whose report is on its way to the host."""

    def __init__(self, report: CycleReport) -> None:
        self._report, self._event = report, None
        # To pinned memory, so the host need not wait; a copy, as the next replay fills the report.
        self._values = report.values.to("cpu", non_blocking=True, copy=True)
        if report.values.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(report.values.device))

    def steps(self) -> list[Step]:
        """What the cycle brought each sequence. Waits for it."""
        if self._event is not None:
            self._event.synchronize()
        return self._report.steps(self._values)
