"""A draft model that is being trained: it drafts with the weights that it learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from hivis.core.hub import resolve_model
from hivis.core.target import Inputs
from hivis.errors import HivisError
from hivis.models.draft_model import HuggingFaceDraft, load_draft_model
from hivis.models.families.base import Family
from hivis.models.families.text_model import TextModel
from hivis.models.processor import PromptProcessor
from hivis.models.supported import read_config
from hivis.models.target import HuggingFaceTarget


class TrainableDraft(HuggingFaceDraft):
    """A draft model in fp32 with a pass that gradients flow through.

    That pass has neither our cache nor our attention op: without a tree the model's attention is
    SDPA (see ``models/tree_attention.py``). Drafting in between changes no weight and leaves
    nothing behind that training would read.

    A VLM is trained on what a vision tower saw: the target's, which this model is without, or its
    own, which stays as it is. What was seen comes with the samples, and with the prompts that it
    drafts for in between.

    Args:
        own_tower: whether to keep the model's own tower.
        stored: dtype of the weights that :meth:`save` writes.
        tokenizer: goes with them; ``None`` to write weights and configuration alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        *,
        own_tower: bool = False,
        stored: torch.dtype = torch.float32,
        tokenizer: Any = None,
        vocab_size: int | None = None,
    ) -> None:
        sees = not isinstance(family, TextModel)
        if own_tower:
            cast(Any, model).model.vision_tower.requires_grad_(False)
        elif sees:
            cast(Any, model).model.vision_tower = None
        super().__init__(model, family, shares_vision=sees, vocab_size=vocab_size)
        self.own_tower = own_tower
        self._stored, self._tokenizer = stored, tokenizer

    @property
    def module(self) -> nn.Module:
        """What is trained requires gradients: language model, head and, of a VLM, the projector."""
        return self.model

    def hidden(self, tokens: Tensor, seen: Tensor | None, rows: Tensor) -> Tensor:
        """One causal pass over whole sequences.

        Args:
            tokens: ``[B, n]`` int64, padded on the right with anything but the placeholder; no row
                sees the padding.
            seen: ``[images, r, Ev]``, what a vision tower made of the images of all sequences, in
                order; ``None`` without an image.
            rows: ``[B, n]`` bool, whose hidden states are wanted.

        Returns:
            ``[R, e]`` hidden states of the R wanted rows, after the final norm.
        """
        if seen is not None:
            seen = seen.to(self.dtype)
        embeddings = self.family.embed(self.model, Inputs(self._ids(tokens), {}), seen)
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        out = self.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        return out.last_hidden_state[rows]

    def save(self, folder: Path) -> None:
        """Write the model as :func:`hivis.models.draft_model.load_draft_model` takes it."""
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = copy.deepcopy(self.model)
        model.to(device="cpu", dtype=self._stored).save_pretrained(folder)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(folder)


def load_trainable_draft(
    path: str | Path, target: HuggingFaceTarget, processor: PromptProcessor | None = None
) -> TrainableDraft:
    """The draft model at ``path`` to be trained for ``target``, which is not kept.

    Raises:
        HivisError: as :func:`hivis.models.draft_model.load_draft_model`; or it is a VLM whose
            images do not pass through a tower and a projector, one after the other.
    """
    folder = resolve_model(path, "draft model")
    draft = load_draft_model(folder, target, processor, dtype=torch.float32)
    own_tower = draft.rows == "all" and not draft.shares_vision
    if own_tower and not draft.family.shares_tower:
        raise HivisError(
            f"draft model {folder}: wanted a LLaVA-1.5 or a language model to train, got "
            f"{draft.model.config.model_type}"
        )
    tokenizer = None
    if processor is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    stored = read_config(folder).dtype
    return TrainableDraft(
        draft.model,
        draft.family,
        own_tower=own_tower,
        stored=stored or torch.float32,
        tokenizer=tokenizer,
        vocab_size=draft.vocab_size,
    )
