"""Reading a prompt of 4,096 rows takes hardly more memory than the weights and the slab."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from hivis.core.target import Inputs
from hivis.models.families.idefics3 import Idefics3
from hivis.models.families.llava import Llava
from hivis.models.families.llava_next import LlavaNext
from hivis.models.families.qwen_vl import QwenVL
from hivis.models.target import HuggingFaceTarget
from tests.helpers.memory import bytes_of, peak_of

ROWS, CAPACITY = 4096, 4096 + 64
HIDDEN, LAYERS, HEAD_DIM, VOCAB, SLOT = 512, 8, 64, 4000, 3999
SIZES: dict[str, Any] = dict(
    hidden_size=HIDDEN,
    intermediate_size=1408,
    num_hidden_layers=LAYERS,
    num_attention_heads=8,
    vocab_size=VOCAB,
    max_position_embeddings=5000,
)
CLIP = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=4,
    image_size=224,
    patch_size=14,
)


@cache
def target_of(kind: str) -> HuggingFaceTarget:
    """A random model of some 110 MB, with a slab of 136 MB (llava) or 34 MB in fp32."""
    torch.manual_seed(0)
    if kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 10000.0}
        vision = dict(
            depth=6,
            num_heads=4,
            hidden_size=128,
            intermediate_size=512,
            out_hidden_size=HIDDEN,
            patch_size=4,
            window_size=32,
            fullatt_block_indexes=[5],
        )
        config = Qwen2_5_VLConfig(
            vision_config=vision,
            image_token_id=SLOT,
            vision_start_token_id=SLOT - 1,
            vision_end_token_id=SLOT - 2,
            video_token_id=SLOT - 3,
            tie_word_embeddings=False,
            text_config=SIZES | {"num_key_value_heads": 2, "rope_parameters": rope},
        )
        return HuggingFaceTarget(Qwen2_5_VLForConditionalGeneration(config).eval(), QwenVL())
    heads = 8 if kind == "llava" else 2
    text = LlamaConfig(**SIZES, num_key_value_heads=heads, head_dim=HEAD_DIM)
    if kind == "smolvlm":
        vision = dict(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=256,
            patch_size=8,
        )
        smol = SmolVLMConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=SLOT,
            scale_factor=4,
            tie_word_embeddings=False,
        )
        return HuggingFaceTarget(SmolVLMForConditionalGeneration(smol).eval(), Idefics3())
    shared = dict(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=text,
        image_token_index=SLOT,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    if kind == "llava":
        return HuggingFaceTarget(LlavaForConditionalGeneration(LlavaConfig(**shared)), Llava())
    next_config = LlavaNextConfig(**shared, image_grid_pinpoints=[[448, 448]])
    return HuggingFaceTarget(LlavaNextForConditionalGeneration(next_config), LlavaNext())


def prompt(kind: str, shown: int) -> Inputs:
    """4,096 rows, in them as many images, one after the other."""
    torch.manual_seed(1)
    tokens = torch.randint(3, SLOT - 5, (1, ROWS))
    if not shown:
        return Inputs(tokens, {})
    if kind == "qwen2_5_vl":  # 64 x 64 patches, of which four make a row
        side, each = torch.full((shown, 1), 64), 32 * 32
        patches = torch.randn(shown * 4 * each, 3 * 2 * 4 * 4)
        grids = torch.cat([torch.ones_like(side), side, side], 1)
        features = {"pixel_values": patches, "image_grid_thw": grids}
    elif kind == "llava":
        each, features = 256, {"pixel_values": torch.randn(shown, 3, 224, 224)}
    elif kind == "llava_next":  # the whole, four tiles and a row at the end of each line
        each, sizes = 5 * 256 + 32, torch.full((shown, 2), 448)
        features = {"pixel_values": torch.randn(shown, 5, 3, 224, 224), "image_sizes": sizes}
    else:  # tiles of 32 x 32 patches, of which sixteen make a row
        each, features = 64, {"pixel_values": torch.randn(1, shown, 3, 256, 256)}
    for image in range(shown):
        start = 10 + image * (each + 2)
        tokens[0, start - 1] = SLOT - 1
        tokens[0, start : start + each] = SLOT
    return Inputs(tokens, features)


def share(target: HuggingFaceTarget, inputs: Inputs, rows: Any) -> float:
    """Peak memory of a prefill by what weights and slab take."""
    weights = bytes_of(*target.model.parameters())
    heads = target.language_model.config.num_key_value_heads
    slab = LAYERS * 2 * heads * CAPACITY * HEAD_DIM * 4
    target._forget()
    peak = peak_of(lambda: target.prefill(inputs, rows, CAPACITY))
    assert bytes_of(target.cache.kv) == slab < peak
    return (weights + peak) / (weights + slab)


@pytest.mark.parametrize(
    ("kind", "shown", "rows"),
    [
        ("llava", 0, "text"),
        ("llava", 15, "none"),
        ("llava", 15, "text"),
        ("qwen2_5_vl", 0, "text"),
        ("qwen2_5_vl", 3, "none"),
        ("qwen2_5_vl", 3, "text"),
        ("qwen2_5_vl", 3, "all"),
        ("llava_next", 3, "text"),
        ("smolvlm", 60, "text"),
    ],
)
def test_a_long_prompt_takes_a_fifth_more_than_weights_and_slab(kind, shown, rows):
    used = share(target_of(kind), prompt(kind, shown), rows)
    print(f"{kind}, {shown} images, rows {rows}: {used:.3f}")
    assert 1 < used <= 1.2


def test_a_prompt_read_in_one_pass_takes_more(monkeypatch):
    target = target_of("qwen2_5_vl")
    monkeypatch.setattr(target, "chunk", ROWS)
    assert share(target, prompt("qwen2_5_vl", 0), "none") > 1.5


def test_the_measure_counts_what_operators_need_inside():
    query, mask = torch.randn(1, 1, 64, 16), torch.ones(64, 64, dtype=torch.bool)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert peak_of(lambda: torch.empty(1000)) == 4000
    assert peak_of(lambda: [torch.empty(1000) for _ in range(3)][0]) == 12000
    with torch.inference_mode():
        plain, masked = (peak_of(lambda m=m: attend(query, query, query, m)) for m in (None, mask))
    assert masked >= plain + 64 * 64 * 4, "the mask in fp32"
