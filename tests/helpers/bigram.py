"""A toy drafting method, as a package outside hivis would bring one: a table of token pairs.

It drafts the most likely token after the last one, and after that the next, as a chain. What
follows what it learns from the target's answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hivis.core.handoff import Acceptance, DrafterPrompt
from hivis.core.sampling import SamplingState
from hivis.core.tree import DraftTree
from hivis.core.tree_shape import GrowthPlan
from hivis.drafters.registry import DrafterMethod, LoadRequest
from hivis.errors import HivisError
from hivis.training.data.samples import Columns, Sample
from hivis.training.learners.learner import LearnerRequest, Stage
from hivis.training.learners.losses import (
    LossWeights,
    RowLosses,
    TargetRows,
    TargetTables,
    head_losses,
)

WIDTH = 16


class BigramDrafter:
    """Drafts ``argmax(head @ table[token])`` again and again; both are ``[V, 16]``."""

    method = "bigram"
    rows = "text"
    rows_read = 0

    def __init__(self, table: Tensor, head: Tensor) -> None:
        self.table, self.head = table, head

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        if len(head) != len(self.table):
            raise HivisError(f"vocabulary: wanted {len(self.table)} tokens, got {len(head)}")

    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """There is nothing to read."""

    def grow(
        self, token: Tensor, position: Tensor, sampling: SamplingState, plan: GrowthPlan
    ) -> DraftTree:
        tokens, nodes = [token], plan.shape.nodes
        for _ in range(nodes - 1):
            logits = F.linear(self.table[tokens[-1]], self.head)
            tokens.append(logits.argmax(-1))
        parents = torch.arange(-1, nodes - 1).expand(len(token), -1)
        return DraftTree.from_parents(torch.stack(tokens, 1), parents, nodes - 1)

    def commit(self, hidden: Tensor, tree: DraftTree, acceptance: Acceptance) -> None:
        """There is nothing to keep."""

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"table": self.table.contiguous(), "head": self.head.contiguous()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"type": "bigram"}))


class BigramLearner:
    """Learns the table from the target's distributions at the rows of its answers."""

    columns = Columns("text")

    def __init__(self, target: TargetTables, updates: int, lr: float = 5e-2) -> None:
        self.target, self.updates, self.lr = target, updates, lr
        vocab = len(target.head)
        self.module = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(vocab, WIDTH) * 0.1) for name in ("table", "head")}
        )

    def stages(self) -> Sequence[Stage]:
        return (Stage("pairs", self.updates, self.lr, LossWeights(feature=0.0, soft=1.0)),)

    def description(self) -> dict[str, Any]:
        return {"width": WIDTH}

    def batch(self, samples: Sequence[Sample], stage: Stage) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([sample.tokens[sample.answer] for sample in samples])
        rows = [sample.hidden_at(sample.answer.nonzero().flatten()) for sample in samples]
        return tokens, torch.cat(rows).float()

    def losses(self, batch: tuple[Tensor, Tensor], stage: Stage) -> list[tuple[RowLosses, Tensor]]:
        tokens, hidden = batch
        wanted = TargetRows.of(hidden, self.target.head)
        found = head_losses(self.module["table"][tokens], self.module["head"], wanted)
        return [(found, torch.ones_like(found.first))]

    def drafter(self) -> BigramDrafter:
        return BigramDrafter(*(self.module[name].detach().clone() for name in ("table", "head")))

    def save(self, folder: Path) -> None:
        self.drafter().save(folder)


def load_bigram(request: LoadRequest) -> BigramDrafter:
    tensors = load_file(request.info.folder / "model.safetensors")
    return BigramDrafter(tensors["table"], tensors["head"])


def make_bigram(request: LearnerRequest) -> BigramLearner:
    return BigramLearner(request.target, **request.given("updates", "lr"))


@dataclass(frozen=True)
class BigramConfig:
    """All that whoever makes random weights has to know of a drafter."""

    vocab_size: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (self.vocab_size, WIDTH) for name in ("table", "head")}


def random_bigram(
    layer: Mapping[str, Any],
    hiding: Mapping[str, Any],
    weights: Callable[[BigramConfig], dict[str, Tensor]],
) -> BigramDrafter:
    tensors = weights(BigramConfig(layer["vocab_size"]))
    return BigramDrafter(tensors["table"], tensors["head"])


METHOD = DrafterMethod(
    name="bigram",
    title="Bigrams",
    summary="the most likely next token, again and again",
    load=load_bigram,
    type="bigram",
    learner=make_bigram,
    columns={"hidden": "text"},
    random=random_bigram,
)
