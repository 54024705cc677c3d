"""A draft tree as an SVG drawing, from left to right, with the accepted path as the top line.

Every leaf has its own line, and a node is on the line of its first child. The accepted child comes
first, so the path is the top line and can be read as text. The edges to other children go down
beside their parent; between its first and its last child there are only its descendants, so no two
edges cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hivis.engine.results import CycleTrace
from hivis.page.labels import columns, escape, label

#: In pixels: a column of text (12 px monospaced), a line, the gap between levels.
COLUMN, LINE, GAP = 7.25, 22, 26
#: In pixels: the padding of a node, the space above the first line for probabilities, the margin.
PAD, TOP, MARGIN = 6, 26, 2
#: The index of a node that is in no draft: the target's own token at the end of the path.
OWN = -1


@dataclass(frozen=True)
class TreeLayout:
    """The places of a tree's nodes.

    Attributes:
        line: of each node, 0 at the top.
        depth: of each node, 0 at the root.
        children: of each node, from the top down.
        lines: the number of lines.
    """

    line: dict[int, int]
    depth: dict[int, int]
    children: dict[int, list[int]]
    lines: int


def lay_out(
    tokens: Sequence[int], parents: Sequence[int], path: Sequence[int], own: bool
) -> TreeLayout:
    """Place all nodes except padding, and after the path the target's ``own`` token, if any."""
    accepted = set(path)
    children: dict[int, list[int]] = {0: []}
    for node in range(1, len(tokens)):
        if tokens[node] >= 0:
            children[node] = []
            children[parents[node]].append(node)
    for below in children.values():
        below.sort(key=lambda node: node not in accepted)
    if own:
        children[path[-1]].insert(0, OWN)
        children[OWN] = []
    line, depth, lines = {}, {0: 0}, 0
    waiting = [0]
    while waiting:  # depth first, from the top down
        node = waiting.pop()
        line[node] = lines
        if not children[node]:
            lines += 1
        for child in reversed(children[node]):
            depth[child] = depth[node] + 1
            waiting.append(child)
    return TreeLayout(line, depth, children, lines)


class TreeDrawing:
    """The drawing of one cycle's tree.

    Args:
        texts: the text of every token, by token id.
    """

    def __init__(self, trace: CycleTrace, texts: dict[int, str]) -> None:
        self._trace = trace
        self._kept = len(trace.emitted)
        own = self._kept == len(trace.path)
        self._layout = lay_out(trace.tokens, trace.parents, trace.path, own)
        self._tokens = dict(enumerate(trace.tokens)) | ({OWN: trace.emitted[-1]} if own else {})
        self._labels = {node: label(texts[self._tokens[node]]) for node in self._layout.line}
        width = {node: 2 * PAD + COLUMN * columns(text) for node, text in self._labels.items()}
        self._right: dict[int, float] = {}  # of each level, the right edge of its widest node
        left = float(MARGIN)
        self._left: list[float] = []
        for level in range(max(self._layout.depth.values()) + 1):
            self._left.append(left)
            widest = max(width[node] for node, d in self._layout.depth.items() if d == level)
            self._right[level] = left + widest
            left += widest + GAP
        self._node_width = width

    def svg(self, about: str) -> str:
        """The SVG element, with ``about`` as its description for screen readers."""
        width = math.ceil(max(self._right.values())) + MARGIN
        height = TOP + LINE * self._layout.lines
        return (
            f'<svg role="img" aria-label="{escape(about)}" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">'
            + "".join(self._edges())
            + "".join(map(self._node, self._layout.line))
            + "</svg>"
        )

    def _x(self, node: int) -> float:
        return self._left[self._layout.depth[node]]

    def _y(self, node: int) -> int:
        return TOP + LINE * self._layout.line[node] + LINE // 2 - 2

    def _on_path(self, node: int) -> bool:
        return node == OWN or node in self._trace.path[: self._kept + 1]

    def probability(self, node: int) -> float | None:
        """The drafter's probability of this node after its parent; ``None`` if it has no scores."""
        scores = self._trace.scores
        if scores is None or node <= 0:
            return None
        difference = scores[node] - scores[self._trace.parents[node]]
        return 0.0 if math.isnan(difference) else math.exp(min(0.0, difference))

    def _edges(self) -> list[str]:
        """One SVG path for each kind of edge: accepted, and others by their probability."""
        kinds: dict[str, list[str]] = {}
        for parent, below in self._layout.children.items():
            for child in below:
                kinds.setdefault(self._kind(child), []).append(self._edge(parent, child))
        # In sorted order "ea" and "eo", of the accepted path, come last and so are drawn on top.
        return [f'<path class="{kind}" d="{"".join(kinds[kind])}"/>' for kind in sorted(kinds)]

    def _kind(self, child: int) -> str:
        if child == OWN:
            return "eo"
        if self._on_path(child):
            return "ea"
        probability = self.probability(child)
        if probability is None:
            return "e1"
        return "e2" if probability >= 0.5 else "e1" if probability >= 0.1 else "e0"

    def _edge(self, parent: int, child: int) -> str:
        x, y = self._x(parent) + self._node_width[parent], self._y(parent)
        to, down = self._x(child), self._y(child)
        if y == down:
            return f"M{x:.0f},{y}H{to:.0f}"
        trunk = self._right[self._layout.depth[parent]] + GAP / 2 - 3
        return f"M{trunk - 6:.0f},{y}q6,0 6,6V{down - 6}q0,6 6,6H{to:.0f}"

    def _node(self, node: int) -> str:
        x, y, width = self._x(node), self._y(node), self._node_width[node]
        text = f'<text x="{x + PAD:.0f}" y="{y + 4}">{escape(self._labels[node])}</text>'
        kind = self._node_kind(node)
        box = ""
        if kind != "n":
            box = (
                f'<rect x="{x:.0f}" y="{y - 9}" width="{width:.0f}" height="18" rx="5"/>'
                + self._above(node)
            )
        title = f"<title>{escape(self._description(node))}</title>"
        return f'<g class="{kind}" data-n="{node}">{title}{box}{text}</g>'

    def _node_kind(self, node: int) -> str:
        """r: root; a: accepted; o: the target's own; x: accepted after the end; n: not accepted."""
        if node in (0, OWN):
            return "r" if node == 0 else "o"
        if node not in self._trace.path:
            return "n"
        return "a" if self._on_path(node) else "x"

    def _above(self, node: int) -> str:
        probability = self.probability(node)
        if probability is None:
            return ""
        middle = self._x(node) + self._node_width[node] / 2
        shown = f"{probability:.2f}"
        return f'<text class="p" x="{middle:.0f}" y="{self._y(node) - 13}">{shown}</text>'

    def _description(self, node: int) -> str:
        token = f"token {self._tokens[node]}"
        if node == OWN:
            return f"drawn by the target itself, {token}"
        if node == 0:
            return f"the root, emitted before this cycle, {token}"
        parts = [token]
        scores, probability = self._trace.scores, self.probability(node)
        if scores is not None and probability is not None:
            path = math.exp(min(0.0, scores[node])) if not math.isnan(scores[node]) else 0.0
            parts = [f"p {probability:.3g}", f"whole path {path:.3g}", token]
        if self._node_kind(node) == "x":
            parts.append("accepted, but after the end of the output")
        return ", ".join(parts)
