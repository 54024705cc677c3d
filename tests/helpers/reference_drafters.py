"""HiViS, EAGLE-2 and ViSpec drafters as plain formulas, in float64, without a cache.

They share nothing with hivis: a state is all rows read so far, and every answer is computed again
from them. Tensors carry the published names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class ReferenceDrafter:
    """One drafter after reading a prompt: rows that entered the layer, and their positions."""

    kind: str  # "hivis", "eagle" or "vispec"
    tensors: dict[str, Tensor]
    heads: int
    kv_heads: int
    theta: float
    eps: float
    embedding: Tensor
    head: Tensor
    rows: Tensor = field(init=False)
    positions: list[int] = field(init=False)
    feature: Tensor = field(init=False)  # [E], ViSpec's g
    following: int = field(init=False)  # the position of the next row

    def __post_init__(self) -> None:
        self.tensors = {name: tensor.double() for name, tensor in self.tensors.items()}
        self.embedding, self.head = self.embedding.double(), self.head.double()
        size = self.embedding.shape[1]
        self.rows, self.positions = torch.empty(0, size, dtype=torch.float64), []
        self.feature, self.following = torch.zeros(size, dtype=torch.float64), 0

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[name + ".weight"], self.tensors.get(name + ".bias"))

    def join(self, following: Tensor, hidden: Tensor, level: int) -> Tensor:
        """``[E]``: a row from the next token's embedding and a hidden state."""
        if self.kind == "hivis":
            residual = self.tensors["residual"]
            hidden = torch.cat([hidden, residual[min(level, len(residual) - 1)]])
        elif self.kind == "vispec":
            hidden = self.linear("img_fc", torch.cat([hidden, self.feature]))
        return self.linear("fc", torch.cat([following, hidden]))

    def append(self, row: Tensor, position: int) -> None:
        self.rows = torch.cat([self.rows, row[None]])
        self.positions.append(position)
        self.following = position + 1

    def read(
        self,
        embeddings: Tensor,
        hidden: Tensor,
        token: int,
        images: list[int],
        bracketed: bool = False,
    ) -> None:
        """A prompt ``[P, E]``; ``images`` has 0 at text and the image's number elsewhere.

        ``bracketed``: HiViS for Qwen, which hides <vision_start> to one behind <vision_end>.
        """
        embeddings, hidden = embeddings.double(), hidden.double()
        last = self.embedding[token]
        if self.kind == "hivis":
            kept = [row for row, image in enumerate(images) if not image]
            if bracketed:
                start = images.index(1) - 1
                end = start + images.count(1) + 2
                kept = [row for row in range(len(images)) if not start <= row <= end]
            for place, row in enumerate(kept):
                after = embeddings[kept[place + 1]] if place + 1 < len(kept) else last
                self.append(self.join(after, hidden[row], 0), row if bracketed else place)
            return
        # Shift by one, as the authors do: slot t has the embedding and the image of row t + 1.
        shifted = torch.cat([embeddings[1:], last[None]])
        seen = images[1:] + [0]
        open_image: list[Tensor] = []
        if self.kind == "vispec" and images[0]:
            open_image.append(embeddings[0])
        for slot in range(len(images)):
            if self.kind == "eagle" or not seen[slot]:
                if open_image:  # an image of the first row alone
                    self.see(open_image, slot)
                    open_image = []
                self.append(self.join(shifted[slot], hidden[slot], 0), slot)
                continue
            if images[slot] != seen[slot] and open_image:
                self.see(open_image, slot)
                open_image = []
            open_image.append(shifted[slot])
            if seen[slot + 1] != seen[slot]:
                self.see(open_image, slot + 1)
                open_image = []

    def see(self, image: list[Tensor], end: int) -> None:
        """Compress an image into rows that end before position ``end``; keep its feature."""
        *compressed, self.feature = self.adapt(torch.stack(image))
        for place, row in enumerate(compressed):
            self.append(row, max(end - len(compressed) + place, 0))

    def adapt(self, image: Tensor) -> Tensor:
        """``[n, E]`` -> ``[Q, E]``: one cross-attention of the learned queries."""
        query = self.tensors["imadpt.q"].transpose(0, 1)
        keys, values = (
            self.linear(f"imadpt.{part}_proj", image).unflatten(1, (self.heads, -1))
            for part in "kv"
        )
        out = F.scaled_dot_product_attention(query, keys.transpose(0, 1), values.transpose(0, 1))
        return self.linear("imadpt.o_proj", out.transpose(0, 1).flatten(1))

    def commit(self, tokens: list[int], hidden: Tensor) -> None:
        """Accepted rows: the token after each, and the target's hidden states ``[m, E]``."""
        for token, state in zip(tokens, hidden.double(), strict=True):
            self.append(self.join(self.embedding[token], state, 0), self.following)

    def layer(self, rows: Tensor, positions: list[int], mask: Tensor) -> Tensor:
        """``[R, E]`` after the decoder layer under a bool mask ``[R, R]``."""
        name = "layers.0."
        q, k, v = (
            self.linear(name + f"self_attn.{part}_proj", rows).unflatten(1, (count, -1))
            for part, count in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
        )
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        score = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[2] ** 0.5
        weight = torch.softmax(score.masked_fill(~mask, float("-inf")), -1)
        attended = torch.einsum("hnm,mhd->nhd", weight, v).flatten(1)
        x = rows + self.linear(name + "self_attn.o_proj", attended)
        normed = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.eps)
        normed = normed * self.tensors[name + "post_attention_layernorm.weight"]
        gate = F.silu(self.linear(name + "mlp.gate_proj", normed))
        return x + self.linear(
            name + "mlp.down_proj", gate * self.linear(name + "mlp.up_proj", normed)
        )

    def rotate(self, x: Tensor, positions: list[int]) -> Tensor:
        half = x.shape[2] // 2
        angle = torch.tensor(positions, dtype=torch.float64)[:, None, None]
        angle = angle / self.theta ** (torch.arange(half, dtype=torch.float64) / half)
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
            torch.ones_like(angle), angle
        )
        return torch.cat([turned.real, turned.imag], -1)

    def output(self) -> Tensor:
        """``[E]`` at the last row."""
        mask = torch.ones(len(self.rows), len(self.rows), dtype=torch.bool).tril()
        return self.layer(self.rows, self.positions, mask)[-1]

    def tree(self, root: int, nodes: int, depth: int, k: int) -> set[tuple[int, ...]]:
        """Every node as the path of its tokens, by EAGLE-2's definition (section 4)."""
        count = len(self.rows)
        rows, positions = self.rows, list(self.positions)
        mask = torch.ones(count, count, dtype=torch.bool).tril()
        outputs = self.layer(rows, positions, mask)
        frontier = [((root,), 0.0, count - 1)]
        pool: dict[tuple[int, ...], float] = {}
        for level in range(1, depth + 1):
            found = []
            for path, total, row in frontier:
                gain = torch.log_softmax(self.head @ outputs[row], 0)
                for token in gain.topk(k).indices.tolist():
                    found.append(((*path, token), total + float(gain[token]), row))
            pool |= {path: total for path, total, _ in found}
            frontier = []
            for path, total, above in sorted(found, key=lambda item: -item[1])[:k]:
                row = self.join(self.embedding[path[-1]], outputs[above], level)
                rows = torch.cat([rows, row[None]])
                positions.append(self.following + level - 1)
                mask = torch.cat(
                    [F.pad(mask, (0, 1)), F.pad(mask[above], (0, 1), value=True)[None]]
                )
                frontier.append((path, total, len(rows) - 1))
            outputs = self.layer(rows, positions, mask)
        best = sorted(pool, key=lambda path: -pool[path])[: nodes - 1]
        return {(root,), *best}
