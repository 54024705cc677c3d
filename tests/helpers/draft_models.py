"""Small models of one's own that draft: a LLaVA and a Llama, with random weights."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from hivis.drafters.draft_vlm import DraftVLM
from hivis.models.draft_model import HuggingFaceDraft, TextModel
from hivis.models.families.llava import Llava
from tests.helpers.small_llava import VOCAB, llava_config


def sharpened(model: Any) -> Any:
    """Random weights give flat logits; larger ones make a token depend on those before it."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.mul_(4.0)
    return model.eval()


@lru_cache
def small_llava(seed: int = 5) -> LlavaForConditionalGeneration:
    config = llava_config(heads=2, kv_heads=1, layers=2)
    config.text_config.hidden_size = 32
    torch.manual_seed(seed)
    return sharpened(LlavaForConditionalGeneration(config))


def small_llama(vocab: int = VOCAB, positions: int = 256) -> LlamaForCausalLM:
    torch.manual_seed(6)
    return sharpened(
        LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                vocab_size=vocab,
                max_position_embeddings=positions,
            )
        )
    )


def draft_model(kind: str, device: str = "cpu") -> HuggingFaceDraft:
    model, family = (small_llama(), TextModel()) if kind == "text" else (small_llava(), Llava())
    return HuggingFaceDraft(copy.deepcopy(model).to(device) if device != "cpu" else model, family)


def bound(model: HuggingFaceDraft, vocab: int = VOCAB) -> DraftVLM:
    drafter = DraftVLM(model)
    table = torch.empty(vocab, 1, device=model.device)
    drafter.bind(table, table)
    return drafter
