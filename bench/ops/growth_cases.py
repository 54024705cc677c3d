"""What the op benchmark times of growing a tree: one level, and the selection of the tree.

The peers do the same with as few of torch's own operations as possible. Where the noise is needed
they use the op that makes it, since torch has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.ops.cases import CUDA_CASES, SHORT, OpCase, Setting, on_cpu, on_cuda
from bench.ops.cuda_cases import copies_for
from bench.ops.goals_by_case import GOALS
from hivis import ops
from hivis.core.tree import WORD_BITS

DEPTH, LEVEL = 7, 2
#: Of the drafter's output: a 7B target's, and one that a CPU may serve.
WIDTHS = {"cuda": 4096, "cpu": 1024}


@dataclass(frozen=True)
class TreeLevel:
    """The state of a tree that is grown, and how its level 2 is grown once more."""

    k: int
    temperature: float
    state: tuple[Tensor, ...]  # of tree_grow_, in its order
    seed: Tensor
    position: Tensor
    warmth: Tensor
    ends: Tensor
    output: Tensor  # of a drafter at the nodes of level 1

    @classmethod
    def grown(cls, k: int, vocab: int, temperature: float, device: torch.device) -> TreeLevel:
        on = {"device": device}
        width = WIDTHS[device.type]
        rows = (DEPTH - 1, 1, k)
        words = -(-(DEPTH - 1) * k // WORD_BITS)
        pool = 1 + k + (DEPTH - 1) * k * k
        state = (
            torch.zeros(1, pool, **on),
            torch.zeros(1, pool, dtype=torch.int64, **on),
            torch.full((1, pool), -1, dtype=torch.int32, **on),
            torch.zeros(rows, dtype=torch.int32, **on),
            torch.zeros(rows, dtype=torch.int64, **on),
            torch.zeros(rows, dtype=torch.int64, **on),
            torch.zeros(rows, **on),
            torch.zeros((*rows, words), dtype=torch.int64, **on),
            torch.zeros((*rows, width), dtype=torch.bfloat16, **on),
        )
        output = torch.randn(1, k, width, **on).bfloat16()
        seed, position = torch.tensor([3], **on), torch.tensor([100], **on)
        level = cls(
            k,
            temperature,
            state,
            seed,
            position,
            torch.full((1,), temperature, **on),
            torch.tensor([2], **on),
            output,
        )
        for number in range(1, DEPTH + 1):
            level.grow(torch.randn(1, k if number > 1 else 1, vocab, **on) * 3, number)
        return level

    def grow(self, logits: Tensor, level: int = LEVEL) -> None:
        output = self.output[:, : logits.shape[1]]
        ops.tree_grow_(
            logits,
            self.seed,
            self.position,
            self.warmth,
            self.ends,
            output,
            *self.state,
            level,
            1.0,
            True,
        )

    def grown_scores(self, logits: Tensor) -> Tensor:
        self.grow(logits)
        first = 1 + self.k
        return self.state[0][:, first : first + self.k**2].clone()

    def in_torch(self, logits: Tensor) -> Tensor:
        """The level's scores in the pool's order; also computes what the next level needs."""
        k, above = self.k, LEVEL - 2
        if self.temperature > 0:
            noise = ops.shared_noise(self.seed, self.position + 1, 1, logits.shape[2])
            perturbed = torch.addcmul(noise, logits, (1 / self.warmth)[:, None, None])
            gains = torch.log_softmax(perturbed, -1)
        else:
            gains = torch.log_softmax(logits, -1, dtype=torch.float32)
        gain, candidates = gains.topk(k)
        paths = (gain.clamp_(max=0) + self.state[6][above].unsqueeze(2)).view(1, k * k)
        candidates = candidates.view(1, k * k)
        going = paths.masked_fill(candidates == self.ends, -torch.inf)
        _, index = going.topk(k)
        candidates.gather(1, index)
        slot = torch.div(index, k, rounding_mode="floor").unsqueeze(2)
        self.output.gather(1, slot.expand(-1, -1, self.output.shape[2]))
        words = self.state[7][above]
        words.gather(1, slot.expand(-1, -1, words.shape[2])) | words
        return paths


def grow_label(k: int, vocab: int, temperature: float) -> str:
    return f"K={k:<2} V={vocab:<6} T={temperature:g}"


def grow_case(
    setting: Setting, dtype: torch.dtype, k: int, vocab: int, temperature: float
) -> OpCase:
    touched = k * vocab * torch.empty((), dtype=dtype).element_size()
    copies = copies_for(touched, setting)
    logits = torch.randn(copies, 1, k, vocab, device=setting.device).mul_(3).to(dtype)
    level = TreeLevel.grown(k, vocab, temperature, setting.device)
    label = grow_label(k, vocab, temperature)
    return OpCase(
        f"{SHORT[dtype]} {label}",
        dtype,
        [lambda i=i: level.grow(logits[i]) for i in range(copies)],
        {"torch": [lambda i=i: level.in_torch(logits[i]) for i in range(copies)]},
        touched,
        outcomes={
            "ours": lambda: level.grown_scores(logits[0]),
            "torch": lambda: level.in_torch(logits[0]),
        },
        goals=GOALS.get(("tree_grow_", label), ()),
    )


@on_cpu
def tree_grow_(setting: Setting) -> Iterator[OpCase]:
    """Level 2 of a tree. Peer: log_softmax, topk, topk, and what the next level needs."""
    for dtype in setting.dtypes:
        for k, vocab in [(4, 2688), (10, 32000)] + ([] if setting.quick else [(10, 152064)]):
            for temperature in (0.0, 1.0):
                yield grow_case(setting, dtype, k, vocab, temperature)


def grow_cases_on_cuda(setting: Setting) -> Iterator[OpCase]:
    for k, vocab in [(10, 152064)] + ([] if setting.quick else [(10, 32000), (4, 32000)]):
        for temperature in (0.0, 1.0):
            yield grow_case(setting, torch.bfloat16, k, vocab, temperature)


CUDA_CASES["tree_grow_"] = grow_cases_on_cuda


def prune_in_torch(level: TreeLevel, nodes: int) -> Callable[[], tuple[Tensor, ...]]:
    """Sort, gather, and ancestors by pointer jumping; the index tables are made beforehand."""
    scores, tokens, parents = level.state[:3]
    device, k = scores.device, level.k
    depth_of = torch.tensor(
        [0] + [1] * k + [2 + i // (k * k) for i in range((DEPTH - 1) * k * k)], device=device
    )
    words = -(-nodes // WORD_BITS)
    index = torch.arange(nodes, device=device)
    bit = torch.ones_like(index) << (index % WORD_BITS)
    word = torch.arange(words, device=device)
    own = torch.where(word == (index // WORD_BITS).unsqueeze(1), bit.unsqueeze(1), 0)

    def prune() -> tuple[Tensor, ...]:
        order = scores.sort(dim=1, descending=True, stable=True).indices
        kept = order[:, :nodes].sort(dim=1).values
        above = parents.gather(1, kept).long()
        ups = torch.searchsorted(kept, above, right=True, out_int32=True) - 1
        seen, up = own.unsqueeze(0), ups.long().clamp_(min=0)
        rounds = DEPTH.bit_length()
        for done in range(1, rounds + 1):
            seen = seen | seen.gather(1, up.unsqueeze(2).expand(-1, -1, words))
            if done < rounds:
                up = up.gather(1, up)
        return tokens.gather(1, kept), ups, depth_of[kept], seen, scores.gather(1, kept)

    return prune


def prune_label(k: int, nodes: int) -> str:
    return f"K={k:<2} depth={DEPTH} N={nodes}"


def prune_case(setting: Setting, k: int, nodes: int) -> OpCase:
    level = TreeLevel.grown(k, 1000, 1.0, setting.device)
    peer = prune_in_torch(level, nodes)

    def ours() -> tuple[Tensor, ...]:
        return ops.tree_prune(*level.state[:3], k, DEPTH, nodes)

    def flat(call: Callable[[], tuple[Tensor, ...]]) -> Callable[[], Tensor]:
        return lambda: torch.cat([t.flatten().long() for t in call()[:4]])

    return OpCase(
        prune_label(k, nodes),
        setting.dtypes[0],
        [ours],
        {"torch": [peer]},
        level.state[0].numel() * 4 + nodes * (8 + 4 + 8 + 8 + 4),
        outcomes={"ours": flat(ours), "torch": flat(peer)},
        goals=GOALS.get(("tree_prune", prune_label(k, nodes)), ()),
    )


@on_cpu
@on_cuda
def tree_prune(setting: Setting) -> Iterator[OpCase]:
    """The tree of a full pool. Peer: a stable sort, searchsorted and some gathers."""
    for k, nodes in ((4, 16), (10, 60)):
        yield prune_case(setting, k, nodes)
