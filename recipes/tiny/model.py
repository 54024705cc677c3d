"""The architecture of the target and its initial weights."""

import copy
import math
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from recipes.tiny.scenes import CANVAS
from recipes.tiny.tokenizer import IMAGE, PATCH

LAYERS = 16
# The layers that are trained first; the others are added later as identities (`use_layers`).
FIRST_LAYERS = (0, 3, 6, 9, 12, 15)


def target_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """About 16 million parameters: a 4-layer CLIP tower and a 16-layer Llama."""
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=5,
        hidden_act="gelu",
        image_size=CANVAS,
        patch_size=PATCH,
        projection_dim=160,
    )
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=cast(int, tokenizer.convert_tokens_to_ids(IMAGE)),
        image_seq_length=(CANVAS // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _positions(width: int) -> Tensor:
    """Sines and cosines of row and column, [101,E]; row 0, for the class token, is zero."""
    grid = CANVAS // PATCH
    steps = torch.arange(grid, dtype=torch.float32)
    waves = steps[:, None] * torch.logspace(math.log10(2.5), -1, width // 4)
    line = torch.cat([waves.sin(), waves.cos()], dim=1)
    plane = torch.cat(
        [line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)], dim=-1
    ).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), plane])


def _start_local(tower: Any) -> None:
    """Initialize the tower so that patches attend to their neighbors, which is slow to learn.

    Position embeddings start as waves of about the size of the pixel embeddings, and in the first
    half of the layers keys start equal to queries, so that near positions attend to each other.
    """
    weight = tower.embeddings.position_embedding.weight
    weight.data.copy_(0.7 * _positions(weight.shape[1]))
    for layer in tower.encoder.layers[: len(tower.encoder.layers) // 2]:
        layer.self_attn.q_proj.weight.data.mul_(2.0)
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)


def make_target(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """A fresh target. The layers outside `FIRST_LAYERS` start as identities."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(target_config(tokenizer))
    for name, parameter in model.model.language_model.named_parameters():
        if parameter.dim() == 2 and "embed" not in name:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            # Residual branches add up: keep their sum as large as one branch.
            parameter.data.mul_((2 * len(FIRST_LAYERS)) ** -0.5)
            if int(name.split(".")[1]) not in FIRST_LAYERS:
                parameter.data.zero_()
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.5)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    for linear in (
        model.model.multi_modal_projector.linear_1,
        model.model.multi_modal_projector.linear_2,
    ):
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    _start_local(model.model.vision_tower)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=256,
    )
    return model


def use_layers(
    model: LlavaForConditionalGeneration, layers: nn.ModuleList, all_of_them: bool
) -> None:
    """Run with `FIRST_LAYERS` only, or with all layers. `layers` is the full list."""
    chosen = range(LAYERS) if all_of_them else FIRST_LAYERS
    model.model.language_model.layers = nn.ModuleList(layers[i] for i in chosen)
    model.model.language_model.config.num_hidden_layers = len(chosen)


def save_target(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write weights (bf16 safetensors), configuration, tokenizer and processor.

    Each file is replaced at once, so a reader never sees part of one.
    """
    part = out / "part"
    part.mkdir(parents=True, exist_ok=True)
    frozen: Any = copy.deepcopy(model)
    frozen.to(device="cpu", dtype=torch.bfloat16).save_pretrained(part)
    processor.save_pretrained(part)
    for file in sorted(part.iterdir()):
        os.replace(file, out / file.name)
    part.rmdir()
