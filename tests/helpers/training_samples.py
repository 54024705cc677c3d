"""Made-up captured answers, and the tables of a target that would have written them."""

from __future__ import annotations

import torch

from hivis.training.data.samples import Sample
from hivis.training.learners.losses import TargetTables

VOCAB, HIDDEN, SEEN = 40, 32, 6


def toy_target() -> TargetTables:
    make = torch.Generator().manual_seed(0)
    shape = (VOCAB, HIDDEN)
    return TargetTables(torch.randn(shape, generator=make), torch.randn(shape, generator=make))


def toy_samples(count: int, images: tuple[int, ...] = ()) -> list[Sample]:
    """Texts that count upwards, and hidden states that point at the next token.

    Sample i has ``images[i % len(images)]`` images of three rows each, at rows 1 to 3 and on.
    """
    target, samples = toy_target(), []
    make = torch.Generator().manual_seed(1)
    for i in range(count):
        start, length = (int(torch.randint(1, 30, (1,), generator=make)), 14 + i % 5)
        tokens = (start + torch.arange(length)) % VOCAB
        shown = images[i % len(images)] if images else 0
        tokens = torch.cat([tokens[:1], torch.zeros(3 * shown, dtype=torch.int64), tokens[1:]])
        rows = torch.arange(len(tokens))
        hidden = target.head[(tokens + 1) % VOCAB] * 0.7
        hidden = hidden + torch.randn(hidden.shape, generator=make) * 0.05
        visual = (rows >= 1) & (rows < 1 + 3 * shown)
        samples.append(
            Sample(
                tokens=tokens,
                visual=visual,
                answer=rows >= 4 + 3 * shown,
                spans=torch.tensor([[1 + 3 * p, 4 + 3 * p] for p in range(shown)]).view(-1, 2),
                greedy=i % 3 != 2,
                conversation=i,
                kept=torch.ones_like(visual),
                hidden=hidden,
                images=torch.randn(3 * shown, HIDDEN, generator=make) if images else None,
                seen=torch.randn(shown, 3, SEEN, generator=make) if images else None,
            )
        )
    return samples
