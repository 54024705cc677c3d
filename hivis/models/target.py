"""Any Hugging Face VLM as a Target. What differs between families is in
``models/families/base.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hivis.core.handoff import DrafterPrompt, VerifyResult
from hivis.core.target import Inputs, TargetPrefill
from hivis.core.tree import DraftTree
from hivis.models.compiled import Compiled
from hivis.models.decoder import HuggingFaceDecoder
from hivis.models.eos import eos_of_model
from hivis.models.families.base import Family

#: Rows that the sizes of caches differ by at least where a size has to be compiled for.
COMPILED_ROW_MULTIPLE = 512


class HuggingFaceTarget(HuggingFaceDecoder):
    """A loaded Hugging Face VLM behind the Target protocol (see ``core/target.py``)."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__(model, family)
        self.eos_token_ids = eos_of_model(model)
        self._verify: Callable[..., tuple[Tensor, Tensor]] = self._verify_rows

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """From now on let ``torch.compile`` make the pass over a tree.

        It takes its time (a minute or more for a large model) for every size of trees, number of
        sequences, and size of the cache, which is kept to few. If it fails there is a warning, and
        the model's own layers go on.
        """
        self.row_multiple = max(self.row_multiple, COMPILED_ROW_MULTIPLE)
        self._verify = Compiled(self._verify_rows, backend)

    @torch.inference_mode()
    def prefill(
        self, inputs: Inputs, rows: Literal["none", "text", "all"], capacity: int
    ) -> TargetPrefill:
        self._forget(capacity)
        seen = self.family.look(self.model, inputs.features)
        embeddings = self.family.embed(self.model, inputs, seen)
        if rows == "none" or not self.family.shares_tower:
            seen = None
        text = self.family.text_rows(self.model, inputs.tokens)
        wanted = None if rows == "all" else only_last(inputs.length)
        if rows == "text":
            # The last row always is, for its logits.
            wanted = [*text[:-1].tolist(), True]
        positions = self.family.positions(self.model, inputs)
        hidden = self._read(embeddings, capacity, positions, wanted)
        logits = self.logits(hidden[:, -1])
        if rows == "none":
            return TargetPrefill(logits, None)
        tokens, visual, spans = inputs.tokens, ~text.unsqueeze(0), None
        if rows == "text":
            embeddings, hidden = embeddings[:, text], hidden[:, : int(text.sum())]
            tokens, visual = tokens[:, text], visual[:, text]
        else:
            spans = self.family.spans(self.model, tokens, inputs.features)
        prompt = DrafterPrompt(
            embeddings, hidden, inputs.length, tokens, visual, inputs.features, seen, spans
        )
        return TargetPrefill(logits, prompt)

    @torch.inference_mode()
    def verify(self, tree: DraftTree) -> VerifyResult:
        return VerifyResult(*self._verify(tree.tokens, tree.depths, tree.ancestors))

    def _verify_rows(self, tokens: Tensor, depths: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, N, V]`` and hidden states ``[B, N, E]`` of a whole tree."""
        hidden = self._run(tokens, depths, words)
        return self._head(hidden), hidden


def only_last(rows: int) -> list[bool]:
    """Of ``rows`` rows only the last one, whose logits are what a prefill is for."""
    return [False] * (rows - 1) + [True]
